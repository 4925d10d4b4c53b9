"""Draws against the bias of looks, and what they change in SimCSE."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import chisquare

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.recipes.propensity import debcse, nearest, negative_of, positive_of, sampled
from counterpoint.recipes.text import simcse
from counterpoint.training.method import Method
from counterpoint.types import Embeddings, Outcome
from counterpoint.views.propensity import inverse_propensity, surface

from ..conftest import toy_rows

TEXTS = [row["query"] for row in toy_rows(40)]
DATA = Rows.of(pl.DataFrame({"anchor": TEXTS}))


def made(recipe: Any, folder: Path, **settings: Any) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), DATA, **settings)


def run(method: Method, count: int = 12) -> tuple[dict[str, Any], dict[str, Embeddings], Outcome]:
    torch.manual_seed(1)
    method.modules.train()
    views = method.views(DATA.take(np.arange(count)), torch.Generator().manual_seed(0))
    sets = method.encode(method.modules, views)
    return views, sets, method.objective(method.modules, sets)


@pytest.mark.proves(row=30, fact="closed-form")
@pytest.mark.parametrize("propensity", [[0.3, 0.3, 0.3, 0.3], [0.1, 0.2, 0.4, 1.0]])
def test_candidates_are_drawn_by_the_inverse_of_their_propensity(propensity: list[float]) -> None:
    drawn = torch.rand(4000, generator=torch.Generator().manual_seed(0)).tolist()
    counts = Counter(inverse_propensity(propensity, where) for where in drawn)
    shares = 1 / np.array(propensity)
    expected = 4000 * shares / shares.sum()
    assert chisquare([counts[k] for k in range(4)], expected).pvalue > 0.01


def test_looks_are_shared_words_and_edits() -> None:
    assert surface("a b c d", "a b c x") == pytest.approx((3 / 5 + 3 / 4) / 2)
    assert surface("a b c", "c b a") == pytest.approx((1 + 1 / 3) / 2)
    assert surface("", "") == 1.0
    with pytest.raises(ValueError, match="above 0"):
        inverse_propensity([0.0], 0.5)


def test_positives_look_unlike_and_negatives_alike() -> None:
    texts = ["a b c d", "a b c e", "w x y z"]
    numbers = (np.arange(200) + 0.5) / 200
    positives = Counter(positive_of(texts, 0, [1, 2], where) for where in numbers)
    negatives = Counter(negative_of(texts, 0, [1, 2], where) for where in numbers)
    alike = surface(texts[0], texts[1])
    assert positives[2] / positives[1] == pytest.approx(alike / 0.05, rel=0.3)
    assert positives[1] > positives[0] > 0
    assert negatives[1] / negatives[2] == pytest.approx(1 / (1 - alike), rel=0.1)


@pytest.mark.proves(row=30, fact="closed-form")
def test_without_candidates_debcse_is_simcse(tiny: Path) -> None:
    plain, other = run(made(simcse, tiny)), run(made(debcse, tiny, near=0, pool=0))
    assert other[2].loss.item() == pytest.approx(plain[2].loss.item(), rel=1e-6)


def test_what_was_drawn_attracts_and_what_is_near_does_not_repel(tiny: Path) -> None:
    method = made(debcse, tiny, near=3, least=-1.0, pool=4)
    known = torch.nn.functional.normalize(load(str(tiny)).eval()(TEXTS), dim=1)
    cosine = (known @ known.T).fill_diagonal_(-2).detach()
    near = cosine.topk(3, 1).indices.tolist()
    views, sets, outcome = run(method)
    candidates = [TEXTS.index(text) for text in views["candidate"]["text"]]
    positives, negatives = candidates[:12], candidates[12:]
    assert all(k in (i, *near[i]) for i, k in enumerate(positives))
    assert any(k != i for i, k in enumerate(positives))
    owners = views["candidate"]["row"][12:].tolist()
    assert len(negatives) > 6
    assert all(k != i and k not in near[i] for i, k in zip(owners, negatives, strict=True))
    q, d = (torch.nn.functional.normalize(sets[name].z, dim=1) for name in ("anchor", "candidate"))
    costs = []
    for i in range(12):
        there = [j for j, k in enumerate(candidates) if j == i or (k != i and k not in near[i])]
        costs.append((q[i] @ d[there].T / 0.05).logsumexp(0) - q[i] @ d[i] / 0.05)
    assert outcome.loss.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-4)


def test_neighbours_of_many_rows_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.nn.functional.normalize(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    wanted = (z @ z.T).fill_diagonal_(-2).topk(2, 1).indices.tolist()
    monkeypatch.setattr("counterpoint.recipes.propensity.BLOCK", 4)
    assert nearest(z, 2, -1.0) == wanted


def test_each_row_draws_for_itself_and_never_its_own_text() -> None:
    texts = [f"a{i} b{i}" for i in range(30)] * 2
    rows = Rows.of(pl.DataFrame({"anchor": texts}))
    drawn = [
        sampled(texts, [[] for _ in texts], rows.take(np.arange(60)), torch.Generator().manual_seed(seed), pool=2)
        for seed in range(4)
    ]
    for views in drawn:
        owners, found = views["candidate"]["row"][60:].tolist(), views["candidate"]["text"][60:]
        assert len(set(found)) > 10
        assert all(texts[i] != text for i, text in zip(owners, found, strict=True))


def test_positive_and_negative_have_a_draw_each(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a b c d", "a b c x", "y z", "v w", "p q"]
    rows = Rows.of(pl.DataFrame({"anchor": texts}))
    fixed = torch.tensor([[0.0, 0.999, 0.5, 0.7, 0.9]]).double()
    monkeypatch.setattr("counterpoint.recipes.propensity.uniform", lambda *_: fixed)
    views = sampled(texts, [[1], [0], [], [], []], rows.take(np.arange(1)), torch.Generator(), pool=3)
    far = [2, 3, 4]
    wanted = [texts[positive_of(texts, 0, [1], 0.0)], texts[negative_of(texts, 0, far, 0.999)]]
    assert views["candidate"]["text"] == wanted
    assert texts[negative_of(texts, 0, far, 0.0)] != wanted[1]
