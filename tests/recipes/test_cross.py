"""What cross-encoder recipes have to pass: gradients, order, caching, learning, and that both losses rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.cross import judge_pairs, load_cross
from counterpoint.encoders.text import autocast
from counterpoint.recipes import cross
from counterpoint.training.cached import cached
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.verbs.recipes import CROSS, arguments_of

from ..conftest import toy_rows

RECIPES = cross.__all__


def rows(count: int = 64) -> Rows:
    data = toy_rows(count)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}
    frame["negative"] = [[data[(i + 7) % count]["doc"], data[(i + 9) % count]["doc"]] for i in range(count)]
    return Rows.of(pl.DataFrame(frame))


def method(name: str, folder: Path, data: Rows) -> Method:
    torch.manual_seed(0)
    return getattr(cross, name)(load_cross(str(folder)), data, negatives=3)


def run(m: Method, batch: dict, precision: str = "fp32") -> tuple[float, dict[str, torch.Tensor]]:
    m.modules.zero_grad()
    with autocast("cpu", precision):
        sets = m.encode(m.modules, m.views(batch, torch.Generator().manual_seed(0)))
    outcome = m.objective(m.modules, sets)
    outcome.loss.backward()
    return float(outcome.loss.detach()), {n: p.grad for n, p in m.modules.named_parameters()}


def test_the_front_door_knows_them() -> None:
    assert list(CROSS) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finite_and_every_parameter_gets_gradient(name: str, precision: str, tiny: Path) -> None:
    data = rows()
    loss, gradients = run(method(name, tiny, data), data.take(np.arange(8)), precision)
    assert np.isfinite(loss)
    silent = [n for n, g in gradients.items() if g is None or not torch.isfinite(g).all() or g.abs().max() < 1e-9]
    unseen = ("key.bias", "classifier.bias")  # what all scores of a softmax share does not change it
    assert [n for n in silent if not n.endswith(unseen)] == []
    assert name == "cross_encoder_listwise" or not any(n.endswith("classifier.bias") for n in silent)


@pytest.mark.parametrize("name", RECIPES)
def test_the_order_of_a_batch_does_not_matter(name: str, tiny: Path) -> None:
    data, order = rows(), np.random.default_rng(0).permutation(12)
    m = method(name, tiny, data)
    m.modules.eval()
    straight, shuffled = (run(m, data.take(at)) for at in (np.arange(12), order))
    assert straight[0] == pytest.approx(shuffled[0], rel=1e-5)
    assert all(torch.allclose(g, shuffled[1][n], atol=1e-5) for n, g in straight[1].items())


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("micro", [1, 5, 1000])
def test_cached_is_plain(name: str, micro: int, tiny: Path) -> None:
    data = rows()
    m = method(name, tiny, data)
    m.modules.eval()
    loss, plain = run(m, data.take(np.arange(8)))
    views = m.views(data.take(np.arange(8)), torch.Generator().manual_seed(0))
    m.modules.zero_grad()
    _, outcome = cached(
        m.modules, views, encode=m.encode, objective=m.objective, micro=micro, autocast=autocast("cpu", "fp32")
    )
    assert float(outcome.loss.detach()) == pytest.approx(loss, rel=1e-5)
    assert all(torch.allclose(p.grad, plain[n], atol=1e-6) for n, p in m.modules.named_parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_rows_of_a_batch_split_over_processes_give_the_same_rows(name: str, tiny: Path) -> None:
    """Each process takes a slice of every batch and draws what one process would have drawn for it."""
    data = rows()
    m = method(name, tiny, data)
    whole = m.views(data.take(np.arange(8)), torch.Generator().manual_seed(5))["pair"]
    parts = [m.views(data.take(at), torch.Generator().manual_seed(5))["pair"] for at in np.split(np.arange(8), 4)]
    assert whole["other"] == [text for part in parts for text in part["other"]]


def test_it_learns_which_texts_belong_together(tiny: Path) -> None:
    """Four topics: the right answer shares no word with the query, so only training can tell.

    That the list-wise one learns is seen in tests/verbs/test_cross.py.
    """
    topics = np.random.default_rng(0).integers(4, size=200)
    frame = {
        "anchor": [f"q{i} w{n % 90}" for n, i in enumerate(topics)],
        "positive": [[f"d{i} w{n % 70}"] for n, i in enumerate(topics)],
        "negative": [[f"d{j} w{n % 50}" for j in range(4) if j != i] for n, i in enumerate(topics)],
    }
    data = Rows.of(pl.DataFrame(frame))
    torch.manual_seed(0)
    m = cross.cross_encoder(load_cross(str(tiny)), data, negatives=3, positive_weight=3.0)  # as three negatives weigh
    m.modules["encoder"].set_dropout(0.0)
    feed = plain(data.take, shuffled(len(data), batch=16, seed=0))
    train(m, feed, Schedule(steps=300, lr=1e-3), split=Split(16, 1), seed=0, autocast=autocast("cpu", "fp32"))
    left, right = zip(*[(f"q{i} w95", f"d{j} w96") for i in range(4) for j in range(4)], strict=True)
    score = judge_pairs(m.model(m.modules), left, right).reshape(4, 4)
    assert score.argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", RECIPES)
def test_arguments_survive_a_round_trip_through_text(name: str) -> None:
    defaults = arguments_of(getattr(cross, name), {})
    assert arguments_of(getattr(cross, name), {k: str(v) for k, v in defaults.items()}) == defaults
