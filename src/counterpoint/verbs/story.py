"""What a run leaves for people: the report's story, the corpus to search, the commands to go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from torch import Tensor

from counterpoint.evaluation.report import Story, render
from counterpoint.evaluation.tasks import Classification, Retrieval, Task

if TYPE_CHECKING:
    from counterpoint.verbs.fit import Job

MOVED = 4  # examples shown in each direction


def candidates_of(task: Task) -> Sequence[str]:
    """The texts that a task ranks or votes with, in the order of its vectors."""
    if isinstance(task, Retrieval):
        return task.candidates
    return task.known if isinstance(task, Classification) else ()


def write_corpus(path: Path, task: Task, vectors: Tensor) -> None:
    """The candidates with their vectors in half precision, for `counterpoint search`."""
    half = vectors.numpy().astype(np.float16)
    table = pl.DataFrame({"text": list(candidates_of(task)), "vector": half.astype(np.float32)})
    table.with_columns(pl.col("vector").cast(pl.Array(pl.Float32, vectors.shape[1]))).write_parquet(path)


def next_commands(out: Path, *, corpus: bool) -> list[str]:
    """Lines that a person can type or paste to go on."""
    lines = [f'counterpoint search {out} "your words"'] if corpus else []
    return [
        *lines,
        f"python -c \"import counterpoint; print(counterpoint.load('{out}').encode(['some text']).shape)\"",
        f"python -c \"from sentence_transformers import SentenceTransformer as S; S('{out / 'model'}')\"",
    ]


def examples(job: Job) -> list[dict[str, Any]]:
    """The queries whose first positive moved most, down and up."""
    task, old, new = job.task, job.measured_before, job.measured_after
    if not isinstance(task, Retrieval):
        return []
    gain = 1 / new.ranks - 1 / old.ranks
    order = np.argsort(-gain, kind="stable")
    picked = [i for i in order[:MOVED] if gain[i] > 0] + [i for i in order[::-1][:MOVED] if gain[i] < 0]
    return [
        {
            "query": task.queries[i],
            "positive": task.candidates[task.positives[i][0]],
            "before": int(old.ranks[i]),
            "after": int(new.ranks[i]),
            "top_before": task.candidates[old.top[i]] if old.top[i] >= 0 else "",
            "top_after": task.candidates[new.top[i]] if new.top[i] >= 0 else "",
        }
        for i in picked
    ]


def tell(job: Job, record: Mapping[str, Any], cost: Mapping[str, Any], searches: Sequence[Mapping[str, Any]]) -> str:
    """The report of a finished run."""
    ranked = isinstance(job.task, Retrieval)
    ranks = (job.measured_before.ranks.tolist(), job.measured_after.ranks.tolist()) if ranked else None
    return render(
        Story(
            run={**record, "settings": record["arguments"]},
            metrics=job.metrics,
            cost=cost,
            loss=job.history.loss,
            dev=job.history.dev,
            ranks=ranks,
            examples=examples(job),
            searches=searches,
            token_lengths=job.plan.token_counts,
        )
    )
