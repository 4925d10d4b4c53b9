"""`demo`: the main job on real data that every Python installation has, offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from counterpoint._ops.neighbours import neighbours
from counterpoint.bundled import MINILM
from counterpoint.data.identity import content_ids
from counterpoint.data.python_code import mine_functions, split_by_package
from counterpoint.encoders.text import embed
from counterpoint.evaluation.tasks import DEPTH, Measured, Retrieval
from counterpoint.types import Embeddings, same_sample
from counterpoint.verbs import folder, record
from counterpoint.verbs.console import Screen
from counterpoint.verbs.fit import Trained, finishing, show_verdict
from counterpoint.verbs.job import Job
from counterpoint.verbs.settings import Run

SEARCHES = 3  # docstrings of held-out functions, drawn by the seed, whose function the demo looks for before and after
WORDS = (5, 12)  # of such a docstring, so that it reads like a search
SHOWN = 3
# A rate that lifts MiniLM within two minutes on two cores, lengths that let it see enough of the code, and a batch that
# keeps the whole demo within 2.5 GB.
RATE, LENGTHS, BATCH = 8e-5, {"anchor": 48, "positive": 80}, 48


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
        batch=BATCH,
        dropout=0.0,
        seed=seed,
        lengths=LENGTHS,
        roles={"anchor": "docstring", "positive": "code", "group": "package", "split": "split"},
        evaluations=3,
    )
    job = Job(frame, run, screen, corpus=held["code"].to_list())
    with finishing(job) as scratch:
        queries = pick_searches(job, seed)
        old = show_searches(job, queries, job.before(), "before training")
        job.train(scratch, resumable=False)
        job.after()
        new = show_searches(job, queries, job.measured_after, "after training")
        searches = [{"query": words, "before": old[words], "after": new[words]} for words in old]
        record.write(job, scratch, searches)
    return show_verdict(Trained(job.out, job.metrics), screen)


def pick_searches(job: Job, seed: int) -> list[int]:
    """A few test queries of a handful of words, drawn by the seed and by nothing else."""
    assert isinstance(job.task, Retrieval)
    order = np.random.default_rng(seed).permutation(len(job.task.queries))
    short = [int(q) for q in order if WORDS[0] <= len(job.task.queries[q].split()) <= WORDS[1]]
    return short[:SEARCHES]


def show_searches(job: Job, queries: list[int], measured: Measured, when: str) -> dict[str, list[str]]:
    """What each search finds among the held-out functions, shown with a mark at the one it describes."""
    assert isinstance(job.task, Retrieval)
    assert measured.vectors is not None
    texts = [job.task.queries[q] for q in queries]
    words = Embeddings.of(embed(job.encoder, texts, precision=job.plan.precision), id=content_ids(texts))
    candidates = Embeddings.of(measured.vectors, id=content_ids(job.task.candidates))
    found = neighbours(words, candidates, SHOWN, rule=same_sample).index.tolist()
    job.screen.say(f"{len(queries)} searches {when}, in the words of held-out docstrings; * is the function described:")
    for q, row in zip(queries, found, strict=True):
        rank = int(measured.ranks[q])
        job.screen.say(
            f"  {job.task.queries[q]}   (found at place {rank if rank <= DEPTH else f'over {DEPTH}'})", style="bold"
        )
        for i in row:
            mark = "*" if i in job.task.positives[q] else " "
            job.screen.say(f"    {mark} {signature(job.task.candidates[i])}", style="cyan")
    return {words: [job.task.candidates[i] for i in row] for words, row in zip(texts, found, strict=True)}


def signature(code: str) -> str:
    """The line of a function that names it.

    >>> signature("@cache\\ndef f(x):\\n    return x")
    'def f(x):'
    """
    lines = code.splitlines()
    return next((line.strip() for line in lines if line.lstrip().startswith(("def ", "async def "))), lines[0])[:100]
