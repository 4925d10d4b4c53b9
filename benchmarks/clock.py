"""The trainer of sentence-transformers under a clock, so that both sides can be given the same seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformerTrainer


class Clock:
    """Seconds from just before the first batch is read to the end of the last step."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.started: float | None = None
        self.seconds = 0.0

    def start(self) -> None:
        """The first call counts."""
        self.started = time.monotonic() if self.started is None else self.started

    def progress(self) -> float:
        """The share of the limit that has passed, at most 1."""
        passed = 0.0 if self.started is None else time.monotonic() - self.started
        return min(1.0, passed / self.limit) if self.limit else 0.0

    def step(self) -> bool:
        """Note the end of a step; whether the time is up."""
        assert self.started is not None
        self.seconds = time.monotonic() - self.started
        return self.limit is not None and self.seconds >= self.limit


def timed_trainer(limit: float | None, warmup: float, **given: Any) -> tuple[SentenceTransformerTrainer, Clock]:
    """Their trainer with a clock; with a limit, warm-up and decay follow the clock as in our own timed runs."""
    import torch
    from sentence_transformers import SentenceTransformerTrainer
    from transformers import TrainerCallback

    from counterpoint.training.loop import Schedule

    clock, shape = Clock(limit), Schedule(steps=1, lr=1.0, warmup=warmup)

    class Watch(TrainerCallback):
        """Starts the clock, and stops the training when it has run down."""

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Before the first batch."""
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """After each update."""
            control.should_training_stop = clock.step() or control.should_training_stop

    class Trainer(SentenceTransformerTrainer):
        """Theirs, but for the schedule of a timed run."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            """A line up and a line down over time, or their own over steps."""
            if limit is None:
                return super().create_scheduler(num_training_steps, optimizer)
            known: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(known, lambda _: shape.rate(clock.progress()))
            return self.lr_scheduler

    return Trainer(**given, callbacks=[Watch()]), clock
