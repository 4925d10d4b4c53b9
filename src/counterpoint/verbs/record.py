"""What a run leaves: its record, its cost, its corpus, its model, its report."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.world import alone
from counterpoint.data.arrays import Arrays
from counterpoint.data.identity import content_ids
from counterpoint.encoders.cross import save_cross
from counterpoint.encoders.folder import save
from counterpoint.evaluation.portrait import portrait
from counterpoint.evaluation.report import Story, render
from counterpoint.evaluation.tasks import Classification, Measured, Retrieval, Task
from counterpoint.training.machine import describe, peak_memory
from counterpoint.types import Embeddings, same_sample
from counterpoint.verbs import folder
from counterpoint.verbs.answers import FILE, write_answers
from counterpoint.verbs.cross import CrossJob
from counterpoint.verbs.job import Job
from counterpoint.verbs.stage import mark_of

SCHEMA = 1
MOVED, NEIGHBOURS = 4, 3  # examples shown of each kind, and results of each
VERSIONS = ("counterpoint", "torch", "transformers", "sentence-transformers", "polars", "numpy")
FROM_PLAN = (
    "recipe",
    "model",
    "device",
    "precision",
    "batch",
    "micro",
    "lr",
    "metric",
    "accumulate",
    "schedule",
    "trained",
    "lengths",
    "negatives",
    "arguments",
)


def write(job: Job | CrossJob, scratch: Path, searches: Sequence[Mapping[str, Any]] = ()) -> None:
    """Everything that a finished job knows, into a folder."""
    with job.screen.stage("writing the run"), alone():  # one process of several writes
        run, cost = record_of(job), cost_of(job)
        if isinstance(job, CrossJob):
            save_cross(job.encoder, scratch / "model")
        else:
            save(job.encoder, scratch / "model")
        folder.write_json(scratch / "metrics.json", job.metrics)
        write_answers(
            scratch / FILE, job.task, {"before": job.measured_before, "after": job.measured_after, **job.beside}
        )
        folder.write_json(scratch / "run.json", run)
        folder.write_json(scratch / "cost.json", cost)
        folder.write_json(scratch / "health.json", {"schema": SCHEMA, **job.health.record()})
        if isinstance(job, Job) and has_corpus(job):
            write_corpus(scratch / "corpus.parquet", job)
        (scratch / "report.html").write_text(report_of(job, run, cost, searches), encoding="utf-8")


def record_of(job: Job | CrossJob) -> dict[str, Any]:
    """run.json: enough to repeat the run."""
    samples, split, plan = job.prepared.samples, job.prepared.split, asdict(job.plan)
    typed = shlex.join(["counterpoint", *sys.argv[1:]]) if Path(sys.argv[0]).name == "counterpoint" else None
    return {
        "schema": SCHEMA,
        "command": typed or "counterpoint.fit(...)",
        "settings": asdict(job.run),
        "begun": {**job.begun, "rows": mark_of(job.rows)},
        **{name: plan[name] for name in FROM_PLAN},
        "recipe_why": job.plan.why,
        "seed": job.run.seed,
        "batch_split": job.plan.split,
        "steps": len(job.history.loss),
        "skipped_steps": job.history.skipped,
        "resumed_after": job.history.resumed,
        "best_step": job.history.best_step,
        "roles": dict(samples.columns),
        "unused": list(samples.unused),
        "rows": len(samples),
        "data": samples.source,
        "split": {"how": split.how, "unit": split.unit, "sizes": split.sizes},
        "findings": [
            {"code": f.code, "level": f.level, "message": f.message, "count": f.count} for f in job.prepared.findings
        ],
        "prompts": job.encoder.prompts,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
        "next": next_commands(job),
    }


def cost_of(job: Job | CrossJob) -> dict[str, Any]:
    """cost.json: what the clock and the machine decide."""
    return {
        "schema": SCHEMA,
        "seconds": {name: round(s, 2) for name, s in job.screen.seconds.items()},
        "training_seconds": round(job.history.seconds, 2),
        "processor_seconds": round(time.process_time(), 2),
        "steps_per_second": round(len(job.history.loss) / max(job.history.seconds, 1e-9), 4),
        "peak_memory_bytes": peak_memory(),
        "machine": describe(),
    }


def candidates_of(task: Task) -> Sequence[str]:
    """The texts that a task ranks or votes with, in the order of its vectors."""
    if isinstance(task, Retrieval):
        return task.candidates
    return task.known if isinstance(task, Classification) else ()


def has_corpus(job: Job) -> bool:
    """Whether the test ranked or voted with texts that a search can find."""
    return job.measured_after.vectors is not None and len(candidates_of(job.task)) > 0


def write_corpus(path: Path, job: Job) -> None:
    """The candidates with their vectors in half precision, for `counterpoint search`; of arrays also the rows they are in."""
    assert job.measured_after.vectors is not None
    half = job.measured_after.vectors.numpy().astype(np.float16)
    keys = candidates_of(job.task)
    table = pl.DataFrame({"text": [job.items.show(key) for key in keys], "vector": half.astype(np.float32)})
    if isinstance(job.items, Arrays):
        table = table.with_columns(pl.Series("rows", job.items.rows_of(keys)))
    table.with_columns(pl.col("vector").cast(pl.Array(pl.Float32, half.shape[1]))).write_parquet(path)


def next_commands(job: Job | CrossJob) -> list[str]:
    """Lines that a person can type or paste to go on."""
    if isinstance(job, CrossJob):
        code = f"from sentence_transformers import CrossEncoder as C; C('{job.out / 'model'}').predict([('a query', 'a text')])"
        filtered = f"--out mined.parquet --filter {shlex.quote(str(job.out))}"
        return [f"counterpoint mine {shlex.quote(job.plan.model)} DATA {filtered}", f'python -c "{code}"']
    out, corpus = job.out, has_corpus(job)
    if isinstance(job.items, Arrays):
        lines = [f"counterpoint search {out} {job.items.rows_of(candidates_of(job.task)[:1])[0]}"] if corpus else []
        shape = (2, *job.items.shape)
        code = f"import counterpoint, numpy; print(counterpoint.load('{out}').encode(numpy.zeros({shape})).shape)"
        return [*lines, f'python -c "{code}"']
    lines = [f'counterpoint search {out} "your words"'] if corpus else []
    return [
        *lines,
        f"python -c \"import counterpoint; print(counterpoint.load('{out}').encode(['some text']).shape)\"",
        f"python -c \"from sentence_transformers import SentenceTransformer as S; S('{out / 'model'}')\"",
    ]


def examples(job: Job | CrossJob) -> list[dict[str, Any]]:
    """The queries whose first positive moved most, up and down, and those where it stands lowest, with their first results."""
    task, old, new = job.task, job.measured_before, job.measured_after
    if not isinstance(task, Retrieval) or isinstance(job, CrossJob):
        return []
    gain = 1 / new.ranks - 1 / old.ranks
    order = np.argsort(-gain, kind="stable")
    picked = {int(i): "up" for i in order[:MOVED] if gain[i] > 0} | {
        int(i): "down" for i in order[::-1][:MOVED] if gain[i] < 0
    }
    lowest = [int(i) for i in np.argsort(-new.ranks, kind="stable") if new.ranks[i] > 1 and i not in picked]
    picked |= dict.fromkeys(lowest[:MOVED], "low")
    show = job.items.show
    return [
        {
            "kind": kind,
            "query": show(task.queries[i]),
            "positive": show(task.candidates[task.positives[i][0]]),
            "before": int(old.ranks[i]),
            "after": int(new.ranks[i]),
            "found_before": before,
            "found_after": after,
        }
        for (i, kind), before, after in zip(
            picked.items(), *(first_results(task, m, list(picked), show) for m in (old, new)), strict=True
        )
    ]


def first_results(
    task: Retrieval, measured: Measured, at: Sequence[int], show: Callable[[str], str]
) -> list[list[dict[str, Any]]]:
    """The nearest candidates of some queries: text, and whether it is a positive."""
    if measured.anchors is None or measured.vectors is None or not len(at):
        return [[] for _ in at]
    asked = Embeddings.of(measured.anchors[list(at)], id=content_ids([task.queries[i] for i in at]))
    candidates = Embeddings.of(measured.vectors, id=content_ids(task.candidates))
    found = neighbours(asked, candidates, NEIGHBOURS, rule=same_sample).index.tolist()
    return [
        [{"text": show(task.candidates[c]), "positive": c in task.positives[i]} for c in row if c >= 0]
        for i, row in zip(at, found, strict=True)
    ]


def report_of(
    job: Job | CrossJob, run: Mapping[str, Any], cost: Mapping[str, Any], searches: Sequence[Mapping[str, Any]]
) -> str:
    """The report of a finished run."""
    ranked = isinstance(job.task, Retrieval)
    seen = (
        portrait(job.task, job.measured_before, job.measured_after, job.items.show, seed=job.run.seed)
        if isinstance(job, Job)
        else {}
    )
    return render(
        Story(
            run={**run, "settings": run["arguments"]},
            metrics=job.metrics,
            cost=cost,
            loss=job.history.loss,
            dev=job.history.dev,
            ranks=(job.measured_before.ranks.tolist(), job.measured_after.ranks.tolist()) if ranked else None,
            examples=examples(job),
            searches=searches,
            token_lengths=job.plan.token_counts,
            health=job.health.record(),
            space=seen,
        )
    )
