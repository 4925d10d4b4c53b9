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

from counterpoint._ops.world import alone, rank
from counterpoint.errors import Refusal
from counterpoint.training.feed import Feed, stream
from counterpoint.training.health import Health
from counterpoint.training.journal import Note, silent
from counterpoint.training.method import Method, Stepped, step
from counterpoint.training.processes import Split, first, same
from counterpoint.training.rates import Shape, groups, linear, optimizer_of, set_rates
from counterpoint.training.rates import rate as rate_at
from counterpoint.training.sharded import apart
from counterpoint.training.state import History, Running, Saving, last_of
from counterpoint.training.stopping import stalled


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        steps: updates at most.
        seconds: wall-clock budget; None: none. Progress is whichever of the two is further.
        lr: peak learning rate, > 0.
        warmup: share of the run in which the rate rises from 0; it then follows the shape.
        weight_decay: AdamW's, on matrices only.
        clip: largest norm of the gradient.
        evaluations: how often dev is measured, the end included.
        patience: dev measurements without a new best before the run ends; None: it goes to its end.
        accumulate: batches an update, each with negatives of its own.
        shape: of the rate after warm-up, see `rates`.
        layer_decay: factor of the rate from a layer to the one below it, in (0, 1].
        head: rate of parts beside the encoder, as a multiple of `lr`; None: 1.
    """

    steps: int
    lr: float
    seconds: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    evaluations: int = 4
    patience: int | None = None
    accumulate: int = 1
    shape: Shape = linear
    layer_decay: float = 1.0
    head: float | None = None

    def rate(self, progress: float) -> float:
        """The learning rate at a progress in [0, 1).

        >>> [Schedule(steps=10, lr=1.0).rate(p) for p in (0.0, 0.05, 0.1, 1.0)]
        [0.0, 0.5, 1.0, 0.0]
        """
        return rate_at(progress, peak=self.lr, warmup=self.warmup, shape=self.shape)

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
    """AdamW over the groups of `rates`."""
    decays = {"weight_decay": schedule.weight_decay, "layer_decay": schedule.layer_decay}
    return optimizer_of(apart(groups(dict(method.modules.items()), **decays, head=schedule.head)), schedule.lr)


def seed_step(generator: torch.Generator, seed: int, number: int) -> None:
    """Random numbers of a step: the views' are the same on every process, those of dropout are not."""
    generator.manual_seed(_mixed(seed, number, 0))
    torch.manual_seed(_mixed(seed, number, 1 + rank()))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def examined(
    health: Health, run: Running, done: Stepped, seconds: float, *, say: Callable[[str], None]
) -> Refusal | None:
    """Let health look at a step; what it finds is said. A refusal, where the run cannot recover."""
    with alone():
        found = health.observe(
            step=run.place.step, sets=done.sets, outcome=done.outcome, norm=done.norm, seconds=seconds
        )
    for finding in found:
        say(str(finding))
    stops = [f for f in found if f.level == "stop"]
    return Refusal("a run that can recover", stops[0].says, remedy=stops[0].remedy) if stops else None


def train(
    method: Method,
    feed: Feed,
    schedule: Schedule,
    *,
    split: Split,
    seed: int,
    autocast: torch.autocast,
    dev: Callable[[], float] | None = None,
    saving: Saving | None = None,
    stop: Callable[[], bool] = lambda: False,
    health: Health | None = None,
    say: Callable[[str], None] = lambda line: None,
    tick: Callable[[int, float, float], None] = lambda step, progress, loss: None,
    note: Note = silent,
) -> History:
    """Train in place and leave the weights of the step that was best on dev.

    Args:
        method: what to train.
        feed: where batches come from.
        schedule: how long and how fast.
        split: rows an update, and how they are dealt out to processes and micro-batches.
        seed: decides the order of the data, the views and dropout.
        autocast: precision of the encoders.
        dev: the number to raise; None keeps the last step.
        saving: when and where checkpoints are written; a run goes on from the last one that is there.
        stop: whether a signal asks for the end; asked once a step, and one process is enough.
        health: watches the run on process 0; what it finds is said, and may end the run.
        say: where a line for a person goes.
        tick: called after each step with its number, the progress in [0, 1] and the loss.
        note: called after each step with its number and loss, rate, gradient, seconds; and after each measurement of dev.

    Raises:
        Refusal: the loss is not finite several steps in a row, or health says that the run cannot recover.
        Stopped: a signal asked for it; the last step is saved.
    """
    run = Running(method, optimizer_for(method, schedule), health)
    found = last_of(saving, say) if saving else None
    if found:
        run.restore(found, say)
    elif dev:
        run.keep_if_best(same(dev()))
    method.modules.train()
    generator, clock, updates = (
        torch.Generator(),
        Clock(run.place.seconds),
        stream(feed, run.place, schedule.accumulate),
    )
    while True:
        progress = schedule.progress(run.place.step, run.place.seconds)
        if dev and progress >= run.place.due / schedule.evaluations:
            with clock.paused():
                run.keep_if_best(same(dev()))
            run.place.due = math.floor(progress * schedule.evaluations) + 1
            note(run.place.step, {"dev": run.history.dev[-1][1]})
        if progress >= 1 or stalled(run.history.dev, schedule.patience):
            break
        batches, number = next(updates), run.place.step + 1
        rate = schedule.rate(schedule.progress(number - 0.5, run.place.seconds))
        set_rates(run.optimizer, rate)
        seed_step(generator, seed, number)
        done = step(
            method,
            [feed.take(split.own(at), run.place.tables) for at in batches],
            run.optimizer,
            generator=generator,
            autocast=autocast,
            clip=schedule.clip,
            micro=split.micro,
            beside=lambda: (clock.seconds() if first() else 0.0, float(stop()), float(run.sick is not None)),
        )
        before, (seconds, asked, ill) = run.place.seconds, done.beside
        run.note(done, seconds)
        note(number, {"loss": done.loss, "rate": rate, "gradient": done.norm, "seconds": seconds})
        tick(number, schedule.progress(number, seconds), done.loss)
        if ill:
            raise run.sick or Refusal("a run that can recover", "one that process 0 ended")
        if health and first():
            run.sick = examined(health, run, done, seconds - before, say=say)
        if saving and (asked or run.due(saving)):
            run.save(saving, say)
        if asked:
            raise Stopped(f"step {number}")
    if saving and run.saved[0]:
        run.save(saving, say)
    return run.finish()
