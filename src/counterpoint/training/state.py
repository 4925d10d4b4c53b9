"""What changes while a model trains, what of it a checkpoint holds, and when one is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from counterpoint._ops.processes import all_max
from counterpoint._ops.world import count
from counterpoint.errors import Refusal
from counterpoint.training import checkpoint
from counterpoint.training.checkpoint import Checkpoint
from counterpoint.training.health import Health
from counterpoint.training.method import Method, Stepped
from counterpoint.training.processes import first
from counterpoint.training.sharded import any_divided, gathered, load_state
from counterpoint.training.symptoms import Limits


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
    resumed: list[int] = field(default_factory=list)


@dataclass
class Place:
    """Where a run is: steps done, epoch, batches taken of it, what was made before it, seconds, bad steps in a row."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tables: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    bad: int = 0
    due: int = 1
    best: float = -math.inf


@dataclass(frozen=True)
class Saving:
    """When and where checkpoints are written.

    Args:
        folder: of the checkpoints.
        minutes: between two of them.
        steps: between two of them; None: by time alone.
    """

    folder: Path
    minutes: float = 10.0
    steps: int | None = None


def last_of(saving: Saving, say: Callable[[str], None]) -> Checkpoint | None:
    """The last whole checkpoint, the same one on all processes.

    Raises:
        Refusal: on every process, where they find different ones; or all are damaged.
    """
    found = checkpoint.latest(saving.folder, say)
    step = found.numbers["place"]["step"] if found else 0
    most, least = all_max(torch.tensor([step, -step])).tolist()
    if most != -least:
        remedy = "give --out on a disk that all machines share"
        came = f"those of steps {-least} and {most}"
        raise Refusal("one checkpoint for all processes", came, where=str(saving.folder), remedy=remedy)
    return found


def snapshot(method: Method) -> dict[str, Tensor]:
    """A copy of all weights; where they are divided over processes, process 0 has it."""
    return {name: tensor.detach().cpu().clone() for name, tensor in gathered(method.modules.state_dict()).items()}


@dataclass
class Running:
    """A run between two steps: all that changes, and all that a checkpoint holds."""

    method: Method
    optimizer: torch.optim.Optimizer
    health: Health | None = None
    history: History = field(default_factory=History)
    place: Place = field(default_factory=Place)
    best_weights: dict[str, Tensor] | None = None
    saved: tuple[int, float] = (0, 0.0)  # step and seconds of the last checkpoint
    sick: Refusal | None = None  # why the run is to end, for the next step to tell all processes

    def _names(self) -> dict[int, str]:
        return {id(p): name for name, p in self.method.modules.named_parameters()}

    def keep_if_best(self, score: float) -> None:
        """Note a measurement of dev; copy the weights where it is the best so far."""
        self.history.dev.append((self.place.step, score))
        score = -math.inf if math.isnan(score) else score  # what is no number beats nothing, and is beaten
        if score > self.place.best or self.best_weights is None:
            self.place.best, self.best_weights, self.history.best_step = score, snapshot(self.method), self.place.step

    def checkpoint(self) -> Checkpoint:
        """Everything, as tensors and numbers."""
        h, place = self.history, {k: v for k, v in vars(self.place).items() if k != "tables"}
        lists = {
            name: torch.tensor(getattr(h, name), dtype=torch.float64) for name in ("loss", "gradient", "negatives")
        }
        tensors = {
            **checkpoint.named("modules", gathered(self.method.modules.state_dict())),
            **checkpoint.named("optimizer", gathered(checkpoint.optimizer_tensors(self.optimizer, self._names()))),
            **checkpoint.named("best", self.best_weights or {}),
            **checkpoint.named("tables", self.place.tables),
            **checkpoint.named("history", lists),
            **checkpoint.named("health", self.health.state_dict() if self.health else {}),
        }
        if not math.isfinite(self.place.best):
            place["best"] = None
        whole = {"dev": h.dev, "best_step": h.best_step, "skipped": h.skipped, "resumed": h.resumed}
        return Checkpoint(tensors, {"place": place, "history": whole, "processes": count()})

    def restore(self, found: Checkpoint, say: Callable[[str], None]) -> None:
        """Go on from a checkpoint."""
        load_state(self.method.modules, found.under("modules"))
        checkpoint.load_optimizer(self.optimizer, self._names(), found.under("optimizer"))
        self.best_weights = found.under("best") or None
        place, whole = dict(found.numbers["place"]), found.numbers["history"]
        place["best"] = -math.inf if place["best"] is None else place["best"]
        self.place = Place(**place, tables=found.under("tables"))
        lists = {name: values.tolist() for name, values in found.under("history").items()}
        self.history = History(**{**lists, **whole, "dev": [(n, x) for n, x in whole["dev"]]})
        self.history.resumed.append(self.place.step)
        if self.health and (known := found.under("health")):
            self.health.load_state_dict(known)
        self.saved = self.place.step, self.place.seconds
        say(f"going on after step {self.place.step}")
        before = found.numbers["processes"]
        if before != count():
            say(
                f"it began on {before} processes and goes on with {count()}: the same batches, other random numbers of dropout"
            )

    def note(self, done: Stepped, seconds: float) -> None:
        """One more step.

        Raises:
            Refusal: several in a row were not finite.
        """
        self.place.step, self.place.seconds = self.place.step + 1, seconds
        self.place.bad = 0 if done.taken else self.place.bad + 1
        self.history.skipped += not done.taken
        negatives = done.outcome.notes.get("negatives", torch.zeros(0))
        self.history.loss.append(done.loss)
        self.history.gradient.append(done.norm)
        self.history.negatives.append(float(negatives.mean()) if len(negatives) else 0.0)
        if self.place.bad >= Limits.bad:
            came = f"a loss of {done.loss} and a gradient of {done.norm} for {self.place.bad} steps"
            raise Refusal("a finite loss", came, remedy="lower --lr, or use --precision fp32")

    def finish(self) -> History:
        """Leave the best weights in place."""
        self.history.seconds = self.place.seconds
        if self.best_weights is not None:
            load_state(self.method.modules, self.best_weights)
        else:
            self.history.best_step = self.place.step
        return self.history

    def save(self, saving: Saving, say: Callable[[str], None]) -> None:
        """Write a checkpoint; a disk that is full costs the checkpoint, not the run."""
        self.saved = self.place.step, self.place.seconds
        if not (first() or any_divided(self.method.modules)):
            return
        state = self.checkpoint()
        if not first():
            return
        try:
            checkpoint.write(saving.folder, self.place.step, state)
        except (OSError, SafetensorError) as error:
            kept = checkpoint.steps(saving.folder)
            last = f"the last one is {kept[-1].name}" if kept else "there is none yet"
            say(f"the checkpoint of step {self.place.step} could not be written ({error}); {last}; training goes on")

    def due(self, saving: Saving) -> bool:
        """Whether it is time for a checkpoint."""
        step, seconds = self.saved
        by_steps = saving.steps is not None and self.place.step - step >= saving.steps
        return by_steps or self.place.seconds - seconds >= 60 * saving.minutes
