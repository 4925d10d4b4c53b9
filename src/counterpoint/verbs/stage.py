"""The training stage of a job: what it begins with, where it is written, and the loop with everything around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from counterpoint._ops.world import count
from counterpoint.data.batches import Rows
from counterpoint.encoders.text import autocast
from counterpoint.interrupts import politely
from counterpoint.training import journal, rates
from counterpoint.training.feed import Feed
from counterpoint.training.health import Health
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split, first, first_decides, same
from counterpoint.training.sharded import sharded
from counterpoint.training.state import History, Saving
from counterpoint.verbs import folder
from counterpoint.verbs.console import Screen
from counterpoint.verbs.plan import Plan
from counterpoint.verbs.prepare import files_of
from counterpoint.verbs.settings import Run


@runtime_checkable
class Trainable(Protocol):
    """What the stage reads of a job."""

    run: Run
    plan: Plan
    method: Method
    screen: Screen

    @property
    def encoder(self) -> nn.Module:
        """What is trained."""


def begun_of(data: object, run: Run) -> dict[str, Any]:
    """What a run begins with, in plain values: its files and its settings."""
    settings = {name: value for name, value in asdict(run).items() if name != "out"}
    paths = [Path(data)] if isinstance(data, str | Path) else files_of(data)
    source = [str(path.resolve()) for path in paths] if paths else None
    return json.loads(json.dumps({"data": source, "settings": settings}, default=str))


def out_of(run: Run, begun: dict[str, Any], source: str, recipe: str) -> Path:
    """The run folder: the one that was named, or a name that is free or whose unfinished run began with just this.

    Raises:
        Refusal: it exists, or cannot be made.
    """
    named = run.out or folder.next_name(
        source.split(".", maxsplit=1)[0], Path(recipe.rpartition(":")[2]).name, begun=begun
    )
    out = Path(same(str(named)))
    first_decides(lambda: folder.refuse_existing(out))
    return out


def mark_of(rows: Rows) -> str:
    """A mark of the content of training rows: other rows, another mark."""
    digest = hashlib.blake2b(digest_size=16)
    columns = [rows.ids, rows.relation.anchor_id, rows.relation.candidate_id, rows.relation.grade]
    for column in (*columns, *([rows.labels] if rows.labels is not None else [])):
        digest.update(column.numpy().tobytes())
    return digest.hexdigest()


def schedule_of(run: Run, plan: Plan) -> Schedule:
    """The schedule of a plan."""
    return Schedule(
        plan.steps,
        plan.lr,
        60 * plan.minutes if plan.minutes else None,
        evaluations=run.evaluations,
        patience=run.patience,
        accumulate=run.accumulate,
        shape=getattr(rates, run.schedule),
        layer_decay=run.layer_decay,
        head=run.head_lr / plan.lr if run.head_lr else None,
    )


@contextmanager
def notes(scratch: Path, tensorboard: bool) -> Iterator[journal.Note]:
    """Where each step is noted: steps.jsonl in a run's folder, and TensorBoard events where they are asked for."""
    with ExitStack() as stack:
        places = []
        if first():
            places.append(stack.enter_context(journal.lines(scratch / "steps.jsonl")))
        if first() and tensorboard:
            places.append(stack.enter_context(journal.events(scratch)))
        yield journal.both(*places)


def train_stage(
    job: Trainable, feed: Feed, *, dev: Callable[[], float] | None, scratch: Path, resumable: bool = True
) -> tuple[History, Health]:
    """Train; the weights of the best step stay. Returns what happened, and how healthy it was.

    Args:
        job: what is trained, and how.
        feed: where batches come from.
        dev: the number to raise; None keeps the last step.
        scratch: folder of the run; what each step says goes there.
        resumable: write checkpoints there too, and go on from the last one; a first signal then ends well.
    """
    run, plan, screen = job.run, job.plan, job.screen
    saving = Saving(scratch / folder.CHECKPOINTS, run.save_minutes, run.save_steps) if resumable else None
    schedule = schedule_of(run, plan)
    health = Health(job.method, on_sick="stop" if run.on_sick == "stop" else "warn")
    with (
        sharded(job.method.modules) if run.shard else nullcontext(),
        politely() if resumable else nullcontext(lambda: False) as stop,
        notes(scratch, run.tensorboard) as note,
        screen.stage("training", total=1.0) as bar,
    ):
        h = train(
            job.method,
            feed,
            schedule,
            split=Split(plan.batch, count(), run.micro),
            seed=run.seed,
            autocast=autocast(next(job.encoder.parameters()).device.type, plan.precision),
            dev=dev,
            saving=saving,
            stop=stop,
            health=health,
            say=lambda line: screen.say(f"  {line}", style="yellow"),
            tick=lambda n, progress, loss: bar(done=progress, note=f"step {n}, loss {loss:.3f} {health.note()}"),
            note=note,
        )
    if len(h.loss) < schedule.steps and schedule.seconds is None:
        screen.say(f"  dev has not improved {schedule.patience} times in a row: stopped early", style="dim")
    screen.say(f"  {len(h.loss)} steps in {h.seconds:.0f} s of training; kept step {h.best_step}", style="dim")
    return h, health
