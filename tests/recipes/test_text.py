"""What every text recipe has to pass, and what each of them alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.text import autocast, load
from counterpoint.errors import Refusal
from counterpoint.recipes import text
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.types import Embeddings
from counterpoint.verbs.recipes import arguments_of

from ..conftest import make_tiny_model, toy_rows

RECIPES = text.__all__


def rows(count: int = 64) -> Rows:
    data = toy_rows(count)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}
    frame["negative"] = [[data[(i + 7) % count]["doc"]] for i in range(count)]
    frame["label"] = [r["query"].split()[0] for r in data]
    return Rows.of(pl.DataFrame(frame))


def method(name: str, folder: Path, train_rows: Rows) -> Method:
    torch.manual_seed(0)
    return getattr(text, name)(load(str(folder)), train_rows)


def loss_and_gradients(m: Method, batch: dict, precision: str = "fp32") -> tuple[float, dict[str, torch.Tensor]]:
    m.modules.zero_grad()
    with autocast("cpu", precision):
        sets = m.encode(m.modules, m.views(batch, torch.Generator().manual_seed(0)))
    outcome = m.objective(m.modules, sets)
    outcome.loss.backward()
    return float(outcome.loss.detach()), {n: p.grad for n, p in m.modules.named_parameters()}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finite_and_every_parameter_that_is_used_gets_gradient(name: str, precision: str, tiny: Path) -> None:
    data = rows()
    loss, gradients = loss_and_gradients(method(name, tiny, data), data.take(np.arange(16)), precision)
    assert np.isfinite(loss)
    silent = [n for n, g in gradients.items() if g is None or not torch.isfinite(g).all() or g.abs().max() == 0]
    assert [n for n in silent if "pooler" not in n] == []


@pytest.mark.parametrize("name", RECIPES)
def test_the_order_of_a_batch_does_not_matter(name: str, tmp_path: Path) -> None:
    folder = make_tiny_model(
        tmp_path / "dry", dropout=1e-7
    )  # dropout that never strikes: the views must still differ in id
    data, order = rows(), np.random.default_rng(0).permutation(12)
    m = method(name, folder, data)
    straight, shuffled = (loss_and_gradients(m, data.take(at))[0] for at in (np.arange(12), order))
    assert straight == pytest.approx(shuffled, rel=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_encode_is_row_wise(name: str, tiny: Path) -> None:
    data = rows()
    m = method(name, tiny, data)
    m.modules.eval()
    views = m.views(data.take(np.arange(6)), torch.Generator().manual_seed(0))
    whole = m.encode(m.modules, views)
    for key, view in views.items():
        for i in range(len(view["text"])):
            one = {key: {k: (v[i : i + 1] if k in ("text", "id", "label", "row") else v) for k, v in view.items()}}
            alone = m.encode(m.modules, one)[key]
            assert torch.allclose(alone.z[0], whole[key].z[i], atol=1e-5)
            assert alone.id[0] == whole[key].id[i]


@pytest.mark.parametrize("name", RECIPES)
def test_learns_on_sixty_steps(name: str, tiny: Path) -> None:
    data = rows(256)
    m = method(name, tiny, data)
    schedule = Schedule(steps=60, lr=3e-3)
    feed = plain(data.take, shuffled(len(data), batch=32, seed=0))
    history = train(m, feed, schedule, split=Split(32, 1), seed=0, autocast=autocast("cpu", "fp32"))
    assert np.mean(history.loss[-5:]) < 0.8 * np.mean(history.loss[:5])


@pytest.mark.parametrize("name", RECIPES)
def test_arguments_survive_a_round_trip_through_text(name: str) -> None:
    defaults = arguments_of(getattr(text, name), {})
    assert arguments_of(getattr(text, name), {k: str(v) for k, v in defaults.items()}) == defaults


def test_only_the_encoder_is_saved(tiny: Path) -> None:
    m = method("simcse", tiny, rows())
    assert "head" in m.modules
    assert m.model(m.modules) is m.modules["encoder"]


def test_every_listed_positive_in_the_batch_attracts(tiny: Path) -> None:
    frame = pl.DataFrame({"anchor": ["q1", "q2", "q1"], "positive": [["d1"], ["d2"], ["d2"]]})
    data = Rows.of(frame)
    m = method("pairs", tiny, data)
    sets = m.encode(m.modules, m.views(data.take(np.arange(3)), torch.Generator()))
    notes = m.objective(m.modules, sets).notes
    assert notes["negatives"].tolist() == [0, 1, 0]  # q1 owns d1 and both copies of d2; q2 only d2


def test_hard_negatives_are_candidates_of_the_whole_batch(tiny: Path) -> None:
    data = rows()
    for name, expected in (("pairs", 7), ("pairs_with_negatives", 15)):
        m = method(name, tiny, data)
        sets = m.encode(m.modules, m.views(data.take(np.arange(8)), torch.Generator()))
        assert m.objective(m.modules, sets).notes["negatives"].max() == expected


def test_simcse_without_dropout_is_refused(tiny: Path) -> None:
    encoder = load(str(tiny))
    encoder.set_dropout(0.0)
    with pytest.raises(Refusal, match="dropout"):
        text.simcse(encoder, rows())


@pytest.mark.proves(row=80, fact="closed-form")
def test_without_contradictions_supervised_simcse_is_the_pair_loss_in_one_direction(tiny: Path) -> None:
    data = rows()
    empty = replace(data, negatives=[[] for _ in data.negatives])
    encoder = load(str(tiny)).eval()
    batch = empty.take(np.arange(10))
    one = text.simcse_supervised(encoder, empty, head=False)
    two = text.pairs(encoder, empty, directions="forward")
    losses = [
        m.objective(m.modules, m.encode(m.modules, m.views(batch, torch.Generator()))).loss.item() for m in (one, two)
    ]
    assert losses[0] == losses[1]


def test_equal_views_of_simcse_cost_what_their_similarities_say(tiny: Path) -> None:
    encoder = load(str(tiny))
    data = rows()
    m = text.simcse(encoder, data, head=False)
    encoder.eval()  # no dropout: both views equal
    sets = m.encode(m.modules, m.views(data.take(np.arange(5)), torch.Generator()))
    z = torch.nn.functional.normalize(sets["first"].z, dim=1)
    expected = torch.nn.functional.cross_entropy(z @ z.T / 0.05, torch.arange(5))
    assert m.objective(m.modules, sets).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert isinstance(sets["first"], Embeddings)
