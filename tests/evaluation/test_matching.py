"""Pair classification on vectors whose right answers are known, and as MTEB scores them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from counterpoint.evaluation.matching import PairClassification
from counterpoint.evaluation.verdict import difference, summarise, value_of

VECTORS = {"q": [1.0, 0.0], "a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.6, 0.8], "d": [0.0, 1.0]}
TASK = PairClassification(["q"] * 4, list("abcd"), np.array([True, False, True, False]), np.arange(4))


def embed(keys: Sequence[str], _role: str) -> torch.Tensor:
    return torch.tensor([VECTORS[key] for key in keys])


def test_a_hand_sized_case() -> None:
    found = TASK.measure(embed)
    assert found.values["ap"] == pytest.approx(np.array([[1, 1], [0.8, 0], [0.6, 1], [0, 0]]))
    assert value_of(found.values["ap"], "ap") == pytest.approx((1 + 2 / 3) / 2)
    assert value_of(found.values["auroc"], "auroc") == 0.75
    assert TASK.sizes() == (4, 1)


def test_all_numbers_are_those_of_mteb() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mteb.abstasks.pair_classification import AbsTaskPairClassification as Theirs

    draw = np.random.default_rng(0)
    together = draw.random(200) < 0.4
    score = torch.from_numpy(np.round(draw.normal(size=200) + together, 1)).float()
    task = PairClassification([""] * 200, [""] * 200, together, np.arange(200))
    found = summarise(task.by_scores(score))
    theirs = Theirs._compute_metrics_values(
        type("", (), {n: getattr(Theirs, n) for n in dir(Theirs) if n.startswith("_find")})(),
        score.tolist(),
        together.astype(int),
        True,
    )
    ours = {"ap": "ap", "accuracy": "accuracy@best", "f1": "f1@best"}
    assert {name: found[mine]["value"] for name, mine in ours.items()} == pytest.approx(
        {name: theirs[name] for name in ours}, abs=1e-6
    )


def test_the_sides_are_read_in_their_roles() -> None:
    asked: list[tuple[str, str]] = []
    TASK.measure(lambda keys, role: asked.append((keys[0], role)) or embed(keys, role))
    assert asked == [("q", "anchor"), ("a", "positive")]


def test_a_model_that_scores_pairs_is_asked_the_same() -> None:
    found = TASK.scored(lambda left, right: (embed(left, "") * embed(right, "")).sum(1))
    assert (found.values["ap"] == TASK.measure(embed).values["ap"]).all()


def test_differences_are_paired() -> None:
    draw = np.random.default_rng(0)
    together = np.arange(100) % 2 == 0
    task = PairClassification([""] * 100, [""] * 100, together, np.arange(100))
    old = task.by_scores(torch.from_numpy(draw.normal(size=100) + together))
    new = task.by_scores(torch.from_numpy(draw.normal(size=100) + 3 * together))
    change = difference(old, new)["auroc"]
    values = [value_of(m.values["auroc"], "auroc") for m in (old, new)]
    assert change.value == pytest.approx(values[1] - values[0])
    assert change.low > 0
    same = difference(old, old)["ap"]
    assert (same.low, same.high) == (0, 0)
