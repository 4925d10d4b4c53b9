"""What the report shows of single queries: those that moved most and those that stand lowest, with what is near them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from counterpoint.evaluation.tasks import Retrieval
from counterpoint.verbs.job import Job
from counterpoint.verbs.record import MOVED, NEIGHBOURS, examples


def job(n: int = 60) -> Job:
    generator = torch.Generator().manual_seed(0)
    task = Retrieval(
        [f"query {i}" for i in range(n - 1)] + ["candidate 3"],  # the last is also a candidate
        [[i, (i + 1) % n] for i in range(n)],
        [f"candidate {i}" for i in range(n)],
        np.arange(n),
    )
    candidates = torch.nn.functional.normalize(torch.randn(n, 6, generator=generator))
    made = object.__new__(Job)  # the stages of a run need a model; its answers do not
    made.task, made.items = task, SimpleNamespace(show=lambda key: f"<{key}>")
    for name in ("measured_before", "measured_after"):
        queries = torch.nn.functional.normalize(candidates + 0.5 * torch.randn(n, 6, generator=generator))
        found = task.measure(lambda _, role, queries=queries: queries if role == "anchor" else candidates)
        setattr(made, name, found)
    return made


def test_queries_that_moved_most_and_those_that_stand_lowest() -> None:
    done = job()
    shown = examples(done)
    old, new = done.measured_before.ranks, done.measured_after.ranks
    gain = dict(zip((f"<{q}>" for q in done.task.queries), 1 / new - 1 / old, strict=True))
    kinds = {kind: [e for e in shown if e["kind"] == kind] for kind in ("up", "down", "low")}
    assert [len(of) for of in kinds.values()] == [MOVED] * 3
    assert len({e["query"] for e in shown}) == 3 * MOVED
    assert sorted(gain[e["query"]] for e in kinds["up"]) == sorted(sorted(gain.values())[-MOVED:])
    assert sorted(gain[e["query"]] for e in kinds["down"]) == sorted(sorted(gain.values())[:MOVED])
    moved = {e["query"] for of in ("up", "down") for e in kinds[of]}
    others = [rank for q, rank in zip(gain, new, strict=True) if q not in moved]
    assert [e["after"] for e in kinds["low"]] == sorted(others, reverse=True)[:MOVED]


def test_first_results_are_the_nearest_with_positives_marked() -> None:
    done = job()
    for e in examples(done):
        i = [f"<{q}>" for q in done.task.queries].index(e["query"])
        assert e["positive"] == f"<candidate {i}>"
        for measured, key in ((done.measured_before, "found_before"), (done.measured_after, "found_after")):
            scores = measured.anchors[i] @ measured.vectors.T
            if done.task.queries[i] == "candidate 3":
                scores[3] = -2  # its own text is not found
            nearest = scores.topk(NEIGHBOURS).indices.tolist()
            assert [hit["text"] for hit in e[key]] == [f"<candidate {c}>" for c in nearest]
            assert [hit["positive"] for hit in e[key]] == [c in done.task.positives[i] for c in nearest]
            rank = e[key.replace("found_", "")]
            assert [hit["positive"] for hit in e[key]].count(True) == 0 or rank <= NEIGHBOURS
