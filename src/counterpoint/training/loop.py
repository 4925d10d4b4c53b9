"""The loop: batches in an order that the seed decides, a schedule, evaluation on dev, the best step kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from counterpoint.errors import Refusal
from counterpoint.training.accumulate import in_groups
from counterpoint.training.journal import Note, silent
from counterpoint.training.method import Method, step
from counterpoint.training.rates import Shape, groups, linear, optimizer_of, rate, set_rates
from counterpoint.training.stopping import stalled
from counterpoint.types import Batch

BAD_STEPS = 5  # losses in a row that are not finite before a run ends


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
        return rate(progress, peak=self.lr, warmup=self.warmup, shape=self.shape)


@dataclass
class History:
    """What happened: per step and per evaluation. `best_step` is 0 when no step beat the start on dev."""

    loss: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    negatives: list[float] = field(default_factory=list)
    dev: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    seconds: float = 0.0
    skipped: int = 0


def orders(n: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of one batch after another, for ever: a fresh shuffle each epoch, the last short batch left out.

    >>> [b.tolist() for b, _ in zip(orders(3, 3, 0), range(2))]
    [[2, 0, 1], [2, 1, 0]]
    """
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(n)
        for start in range(0, n - batch + 1, batch):
            yield order[start : start + batch]


def optimizer_for(method: Method, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW over the groups of `rates`."""
    decays = {"weight_decay": schedule.weight_decay, "layer_decay": schedule.layer_decay}
    return optimizer_of(groups(dict(method.modules.items()), **decays, head=schedule.head), schedule.lr)


def snapshot(method: Method) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().cpu().clone() for name, tensor in method.modules.state_dict().items()}


def train(
    method: Method,
    take: Callable[[np.ndarray], Batch],
    rows: int,
    schedule: Schedule,
    *,
    batch: int,
    seed: int,
    autocast: torch.autocast,
    micro: int | None = None,
    dev: Callable[[], float] | None = None,
    tick: Callable[[int, float, float], None] = lambda step, progress, loss: None,
    note: Note = silent,
) -> History:
    """Train in place and leave the weights of the step that was best on dev.

    Args:
        method: what to train.
        take: row numbers -> batch.
        rows: how many rows there are.
        schedule: how long and how fast.
        batch: rows an update, at most `rows`.
        seed: decides the order of the data, the views and dropout.
        autocast: precision of the encoders.
        micro: rows of each set that the encoders see at a time; the loss sees the whole batch. None: all at once.
        dev: the number to raise; None keeps the last step.
        tick: called after each step with its number, the progress in [0, 1] and the loss.
        note: called after each step with its number and loss, rate, gradient, seconds; and dev where it was measured.

    Raises:
        Refusal: the loss is not finite several steps in a row.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer, history = optimizer_for(method, schedule), History()
    best, best_weights = (dev(), snapshot(method)) if dev else (-math.inf, None)
    history.dev += [(0, best)] if dev else []
    method.modules.train()
    started, paused, bad, due = time.monotonic(), 0.0, 0, 1
    for number, at in enumerate(in_groups(orders(rows, batch, seed), schedule.accumulate), start=1):
        progress = _progress(schedule, number - 0.5, time.monotonic() - started - paused)
        set_rates(optimizer, schedule.rate(progress))
        first, *also = (take(rows_of_one) for rows_of_one in at)
        outcome, norm = step(
            method, first, optimizer, generator=generator, autocast=autocast, clip=schedule.clip, micro=micro, also=also
        )
        loss = float(outcome.loss.detach())
        bad = 0 if math.isfinite(loss) else bad + 1
        if bad >= BAD_STEPS:
            raise Refusal("a finite loss", f"{loss} for {bad} steps", remedy="lower --lr, or use --precision fp32")
        history.loss.append(loss)
        history.gradient.append(norm)
        history.negatives.append(float(outcome.notes["negatives"].mean()) if "negatives" in outcome.notes else 0.0)
        seconds = time.monotonic() - started - paused
        noted = {"loss": loss, "rate": schedule.rate(progress), "gradient": norm, "seconds": seconds}
        progress = _progress(schedule, number, seconds)
        tick(number, progress, loss)
        if dev and (progress >= due / schedule.evaluations or progress >= 1):
            due = math.floor(progress * schedule.evaluations) + 1
            before = time.monotonic()
            score = dev()
            history.dev.append((number, score))
            if score > best:
                best, best_weights, history.best_step = score, snapshot(method), number
            noted["dev"] = score
            paused += time.monotonic() - before
        note(number, noted)
        if progress >= 1 or stalled(history.dev, schedule.patience):
            break
    history.seconds = time.monotonic() - started - paused
    if best_weights is not None:
        method.modules.load_state_dict(best_weights)
    else:
        history.best_step = len(history.loss)
    return history


def _progress(schedule: Schedule, steps: float, seconds: float) -> float:
    """The share of the run that is done, by steps or by time, whichever is further."""
    timed = seconds / schedule.seconds if schedule.seconds else 0.0
    return min(1.0, max(steps / schedule.steps, timed))
