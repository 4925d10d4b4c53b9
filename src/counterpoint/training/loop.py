"""The loop: batches in an order that the seed decides, a schedule, evaluation on dev, the best step kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from counterpoint.data.deal import Order
from counterpoint.data.orders import endless
from counterpoint.errors import Refusal
from counterpoint.training.method import Method, step
from counterpoint.types import Batch

BAD_STEPS = 5  # losses in a row that are not finite before a run ends


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


def optimizer_for(method: Method, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed."""
    parameters = [p for p in method.modules.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=fused)


def snapshot(method: Method) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().cpu().clone() for name, tensor in method.modules.state_dict().items()}


def train(
    method: Method,
    take: Callable[[np.ndarray], Batch],
    order: Order,
    schedule: Schedule,
    *,
    seed: int,
    autocast: torch.autocast,
    micro: int | None = None,
    dev: Callable[[], float] | None = None,
    tick: Callable[[int, float, float], None] = lambda step, progress, loss: None,
) -> History:
    """Train in place and leave the weights of the step that was best on dev.

    Args:
        method: what to train.
        take: row numbers -> batch.
        order: epoch -> the row numbers of one batch after another.
        schedule: how long and how fast.
        seed: decides the views and dropout.
        autocast: precision of the encoders.
        micro: rows of each set that the encoders see at a time; the loss sees the whole batch. None: all at once.
        dev: the number to raise; None keeps the last step.
        tick: called after each step with its number, the progress in [0, 1] and the loss.

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
    for number, at in enumerate(endless(order), start=1):
        progress = _progress(schedule, number - 0.5, time.monotonic() - started - paused)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(progress)
        outcome, norm = step(
            method, take(at), optimizer, generator=generator, autocast=autocast, clip=schedule.clip, micro=micro
        )
        loss = float(outcome.loss.detach())
        bad = 0 if math.isfinite(loss) else bad + 1
        if bad >= BAD_STEPS:
            raise Refusal("a finite loss", f"{loss} for {bad} steps", remedy="lower --lr, or use --precision fp32")
        history.loss.append(loss)
        history.gradient.append(norm)
        history.negatives.append(float(outcome.notes["negatives"].mean()) if "negatives" in outcome.notes else 0.0)
        progress = _progress(schedule, number, time.monotonic() - started - paused)
        tick(number, progress, loss)
        if dev and (progress >= due / schedule.evaluations or progress >= 1):
            due = math.floor(progress * schedule.evaluations) + 1
            before = time.monotonic()
            score = dev()
            history.dev.append((number, score))
            if score > best:
                best, best_weights, history.best_step = score, snapshot(method), number
            paused += time.monotonic() - before
        if progress >= 1:
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
