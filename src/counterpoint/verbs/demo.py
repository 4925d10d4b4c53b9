"""`demo`: the main job on real data that every Python installation has, offline."""

from __future__ import annotations

from pathlib import Path

import torch

from counterpoint._ops.neighbours import neighbours
from counterpoint.bundled import MINILM
from counterpoint.data.python_code import mine_functions, split_by_package
from counterpoint.encoders.text import embed
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.types import Embeddings
from counterpoint.verbs import folder
from counterpoint.verbs.console import Screen
from counterpoint.verbs.fit import Job, Trained, out_of_memory, room, show_verdict
from counterpoint.verbs.settings import Run

SEARCHES = (
    "read settings from a configuration file",
    "wait until all threads have finished",
    "remove duplicates but keep the order",
)
# A rate that lifts MiniLM within two minutes on two cores, and lengths that let it see enough of the code.
RATE, LENGTHS = 8e-5, {"anchor": 48, "positive": 96}


def demo(
    *, out: str | None = None, seconds: float | None = 120, steps: int | None = None, seed: int = 0, quiet: bool = False
) -> Trained:
    """Mine (docstring, function) pairs from this interpreter's packages, train on most, and measure on the rest.

    Args:
        out: the run folder; None: runs/demo-<n>.
        seconds: time budget of training.
        steps: updates; with seconds=None the result is the same each time.
        seed: decides the split, the order and the resamples.
        quiet: print nothing.
    """
    screen = Screen(quiet=quiet)
    with screen.stage("mining Python functions", total=1.0) as bar:
        frame = split_by_package(mine_functions(seed=seed, tick=lambda share: bar(done=share)), seed=seed)
    held = frame.filter(frame["split"] == "test")
    screen.say(
        f"{len(frame):,} (docstring, function) pairs from {frame['package'].n_unique()} packages of this Python; "
        f"{held['package'].n_unique()} packages are held out for the test"
    )
    run = Run(
        recipe="pairs",
        model=MINILM,
        out=out or str(folder.next_name("demo", "", Path("runs"))),
        steps=steps,
        minutes=seconds / 60 if seconds else None,
        lr=RATE,
        dropout=0.0,
        seed=seed,
        lengths=LENGTHS,
        roles={"anchor": "docstring", "positive": "code", "group": "package", "split": "split"},
        evaluations=3,
    )
    job = Job(frame, run, screen, corpus=held["code"].to_list())
    with folder.writing(job.out, needed=room(job)) as scratch, out_of_memory(job):
        old = show_searches(job, job.before(), "before training")
        job.train()
        job.after()
        new = show_searches(job, job.measured_after, "after training")
        pairs = zip(SEARCHES, old, new, strict=True)
        searches = [{"query": words, "before": before, "after": after} for words, before, after in pairs]
        trained = job.write(scratch, searches)
    show_verdict(trained, screen)
    return trained


def show_searches(job: Job, measured: Measured, when: str, k: int = 3) -> list[list[str]]:
    """The first lines of the k functions that each search finds among the held-out packages."""
    assert isinstance(job.task, Retrieval)
    assert measured.vectors is not None
    words = Embeddings.of(embed(job.encoder, SEARCHES, precision=job.plan.precision))
    found = neighbours(words, Embeddings.of(measured.vectors, id=-1 - torch.arange(len(measured.vectors))), k)
    results = [[job.task.candidates[i] for i in row] for row in found.index.tolist()]
    job.screen.say(f"three searches {when}:")
    for query, texts in zip(SEARCHES, results, strict=True):
        job.screen.say(f"  {query}", style="bold")
        for text in texts:
            job.screen.say(f"      {signature(text)}", style="cyan")
    return results


def signature(code: str) -> str:
    """The line of a function that names it.

    >>> signature("@cache\\ndef f(x):\\n    return x")
    'def f(x):'
    """
    lines = code.splitlines()
    return next((line.strip() for line in lines if line.lstrip().startswith(("def ", "async def "))), lines[0])[:100]
