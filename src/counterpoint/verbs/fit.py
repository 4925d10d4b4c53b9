"""`fit`: from data to a trained model, a verdict, and a folder that holds all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.errors import Refusal
from counterpoint.evaluation.verdict import BETTER
from counterpoint.interrupts import asked_by
from counterpoint.training.loop import Stopped
from counterpoint.training.processes import first, first_decides, same
from counterpoint.verbs import folder, record
from counterpoint.verbs.console import Screen
from counterpoint.verbs.cross import CrossJob
from counterpoint.verbs.job import Job
from counterpoint.verbs.others import FORGOTTEN, lines_of
from counterpoint.verbs.recipes import CROSS
from counterpoint.verbs.settings import Run
from counterpoint.verbs.stage import mark_of

NO_MEMORY = ("can't allocate memory", "out of memory")  # torch on the CPU, on accelerators
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL",
)  # what gloo and NCCL say of a peer
REPORT, SPARE = 6e6, 1.2  # bytes of a report with its script; room on the disk beyond what will be written


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder and what it says of itself."""

    path: Path
    metrics: dict[str, Any]

    @property
    def verdict(self) -> str:
        """better, no difference shown, or worse."""
        return self.metrics["verdict"]


def fit(data: object, *, dry_run: bool = False, quiet: bool = False, **settings: Any) -> Trained | None:
    """Train an embedding model on data and prove whether it is better than what you had.

    Args:
        data: a csv, tsv, jsonl, parquet, npz or npy file; a polars or pandas frame; a `datasets.Dataset`; a list of dicts; a dict
            of columns; a numpy array of anchors.
        dry_run: print the plan and stop; returns None.
        quiet: print nothing.
        settings: the fields of `counterpoint.verbs.settings.Run`, such as recipe, model, out, steps, batch, lr, seed.

    Returns:
        The finished run: `path`, `metrics`, `verdict`.

    Raises:
        Refusal: for input that cannot be used; nothing is left behind.
    """
    run = Run(**settings)
    job = (CrossJob if run.recipe in CROSS else Job)(data, run, Screen(quiet=quiet))
    if dry_run:
        return None
    trained = carry_out(job)
    return show_verdict(trained, job.screen) if first() else None


def carry_out(job: Job | CrossJob) -> Trained:
    """All stages of a job, into its folder."""
    with finishing(job) as scratch:
        first_decides(lambda: folder.begin(scratch, job.begun, mark_of(job.rows)))
        job.before()
        job.train(scratch)
        job.after()
        if first():
            record.write(job, scratch)
    return Trained(job.out, job.metrics)


def room(job: Job | CrossJob) -> int:
    """Bytes on disk that the run will need, with a fifth to spare: weights, corpus vectors, report."""
    weights = sum(p.numel() * p.element_size() for p in job.encoder.parameters())
    return int(SPARE * (weights + 2 * getattr(job.encoder, "width", 0) * job.task.sizes()[1] + REPORT))


@contextmanager
def finishing(job: Job | CrossJob) -> Iterator[Path]:
    """The folder that the job writes into: whole at the end, or gone; a failed allocation is one line with what would fit."""
    with ExitStack() as stack:
        scratch = first_decides(lambda: stack.enter_context(folder.writing(job.out, needed=room(job))))
        try:
            yield Path(same(str(scratch)))
        except Stopped as stopped:
            job.screen.say(f"counterpoint: stopped by {asked_by()} after {stopped}: {folder.how_to_go_on(job.out)}")
            raise
        except (MemoryError, RuntimeError) as error:  # torch's own out-of-memory errors are RuntimeErrors
            if any(words in str(error) for words in LOST):
                remedy = f"its own message says why; {folder.how_to_go_on(job.out)}"
                raise Refusal("all processes at work", "one that is gone", remedy=remedy) from error
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in NO_MEMORY):
                raise
            batch, micro = job.plan.batch, job.plan.micro
            remedy = (
                f"--batch {batch // 2} takes about half" if batch >= 4 else "use a smaller model or shorter --length"
            )
            if micro is None and batch >= 4:
                remedy += f"; --micro {min(64, batch // 2)} keeps the batch and its gradient"
            elif micro is not None and micro > 1:
                remedy = f"--micro {micro // 2} takes about half"
            raise Refusal(
                f"memory for a batch of {batch}", "none left", where=f"--batch {batch}", remedy=remedy
            ) from error


def show_verdict(trained: Trained, screen: Screen) -> Trained:
    """One verdict, the numbers behind it, and what to do next."""
    metrics = trained.metrics
    colour = {BETTER: "bold green"}.get(metrics["verdict"], "bold yellow")
    screen.say()
    screen.say(f"{metrics['verdict']}: {metrics['sentence']}", style=colour)
    names = {"bm25": "BM25", "raw": "numbers", "pca": "PCA", "random": "random"} | {x: x for x in ("before", "after")}
    for row, name in names.items():
        if row in metrics:
            screen.say(f"  {name:<7}" + "  ".join(f"{m} {v['value']:.3f}" for m, v in metrics[row].items()))
    for line in lines_of(metrics):
        screen.say(f"  also   {line}", style="bold yellow" if line.endswith(FORGOTTEN) else None)
    screen.say(f"  {metrics['queries']:,} test queries, {metrics['candidates']:,} candidates")
    if "had" in metrics:
        screen.say(
            f"  before: {metrics['had']}"
            + ("; random: the encoder with its first weights" if "random" in metrics else "")
        )
    screen.say(f"report  {trained.path / 'report.html'}")
    for line in folder.read_json(trained.path / "run.json")["next"]:
        screen.say(f"next    {line}")
    return trained
