"""The loop: batches in an order that the seed decides, a schedule, evaluation on dev, the best step kept, checkpoints.

Everything random in a step is a function of the seed and the step's number, so a run that goes on from a checkpoint draws
what it would have drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from counterpoint._ops.world import rank
from counterpoint.training import checkpoint
from counterpoint.training.feed import Feed, stream
from counterpoint.training.method import Method, step
from counterpoint.training.processes import Split, first, same
from counterpoint.training.state import History, Running, Saving


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        steps: updates at most.
        seconds: wall-clock budget; None: none. Progress is whichever of the two is further.
        lr: peak learning rate, > 0.
        warmup: share of the run in which the rate rises from 0; it then falls to 0 in a straight line.
        weight_decay: AdamW's, on matrices only.
        clip: largest norm of the gradient.
        evaluations: how often dev is measured, the end included.
    """

    steps: int
    lr: float
    seconds: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    evaluations: int = 4

    def rate(self, progress: float) -> float:
        """The learning rate at a progress in [0, 1).

        >>> [Schedule(steps=10, lr=1.0).rate(p) for p in (0.0, 0.05, 0.1, 1.0)]
        [0.0, 0.5, 1.0, 0.0]
        """
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * (1 - progress) / (1 - self.warmup)

    def progress(self, steps: float, seconds: float) -> float:
        """The share of the run that is done, by steps or by time, whichever is further.

        >>> Schedule(steps=10, lr=1.0, seconds=60.0).progress(1, 30.0)
        0.5
        """
        timed = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(steps / self.steps, timed))


class Clock:
    """Seconds of training: those before, and those since, without pauses."""

    def __init__(self, before: float) -> None:
        self._from = time.monotonic() - before

    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._from

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside takes no time."""
        started = time.monotonic()
        yield
        self._from += time.monotonic() - started


class Stopped(Exception):
    """A run ended early because a signal asked for it; its last step is in a checkpoint."""


def optimizer_for(method: Method, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed."""
    parameters = [p for p in method.modules.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def seed_step(generator: torch.Generator, seed: int, number: int) -> None:
    """Random numbers of a step: the views' are the same on every process, those of dropout are not."""
    generator.manual_seed(_mixed(seed, number, 0))
    torch.manual_seed(_mixed(seed, number, 1 + rank()))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def train(
    method: Method,
    feed: Feed,
    schedule: Schedule,
    *,
    split: Split,
    seed: int,
    autocast: torch.autocast,
    accumulate: int = 1,
    dev: Callable[[], float] | None = None,
    saving: Saving | None = None,
    stop: Callable[[], bool] = lambda: False,
    tick: Callable[[int, float, float], None] = lambda step, progress, loss: None,
) -> History:
    """Train in place and leave the weights of the step that was best on dev.

    Args:
        method: what to train.
        feed: where batches come from.
        schedule: how long and how fast.
        split: rows an update, and how they are dealt out to processes and micro-batches.
        seed: decides the order of the data, the views and dropout.
        autocast: precision of the encoders.
        accumulate: batches an update; each has only its own negatives.
        dev: the number to raise; None keeps the last step.
        saving: when and where checkpoints are written; a run goes on from the last one that is there.
        stop: whether a signal asks for the end; asked once a step, and one process is enough.
        tick: called after each step with its number, the progress in [0, 1] and the loss.

    Raises:
        Refusal: the loss is not finite several steps in a row.
        Stopped: a signal asked for it; the last step is saved.
    """
    run = Running(method, optimizer_for(method, schedule))
    found = checkpoint.latest(saving.folder, saving.say) if saving else None
    if saving and found:
        run.restore(found, saving.say)
    elif dev:
        run.keep_if_best(same(dev()))
    method.modules.train()
    generator, clock, updates = torch.Generator(), Clock(run.place.seconds), stream(feed, run.place, accumulate)
    while True:
        progress = schedule.progress(run.place.step, run.place.seconds)
        if dev and progress >= run.place.due / schedule.evaluations:
            with clock.paused():
                run.keep_if_best(same(dev()))
            run.place.due = math.floor(progress * schedule.evaluations) + 1
        if progress >= 1:
            break
        batches, number = next(updates), run.place.step + 1
        set_rate(run.optimizer, schedule.rate(schedule.progress(number - 0.5, run.place.seconds)))
        seed_step(generator, seed, number)
        done = step(
            method,
            [feed.take(split.own(at), run.place.tables) for at in batches],
            run.optimizer,
            generator=generator,
            autocast=autocast,
            clip=schedule.clip,
            micro=split.micro,
            beside=lambda: (clock.seconds() if first() else 0.0, float(stop())),
        )
        seconds, asked = done.beside
        run.note(done, seconds)
        tick(number, schedule.progress(number, seconds), done.loss)
        if saving and (asked or run.due(saving)):
            run.save(saving)
        if asked:
            raise Stopped(f"step {number}")
    if saving and run.saved[0]:
        run.save(saving)
    return run.finish()
