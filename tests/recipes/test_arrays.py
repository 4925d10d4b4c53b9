"""The contract of recipes, on arrays: every recipe that is not of text alone; and what SCARF promises."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.data.roles import assign
from counterpoint.encoders.mlp import MLP, Sizes
from counterpoint.encoders.text import autocast, load
from counterpoint.errors import Refusal
from counterpoint.recipes import arrays, text
from counterpoint.training.cached import cached
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.verbs.recipes import arguments_of

RECIPES = {name: getattr(module, name) for module in (text, arrays) for name in module.__all__}
SCARF = (
    "Bahri, Jiang, Tay, Metzler: SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption, "
    "arXiv:2106.15147, 2021"
)


def rows(count: int = 64, seed: int = 0) -> Rows:
    """Arrays of shape 2 x 5 around one of eight centres; a positive shares the centre, not the noise."""
    draw = np.random.default_rng(seed)
    label = np.arange(count) % 8
    centres = draw.normal(size=(8, 2, 5))

    def near(which: np.ndarray) -> np.ndarray:
        return centres[which] + 0.7 * draw.normal(size=(count, 2, 5))

    columns = {"x": near(label), "positive": near(label), "negative": near((label + 3) % 8)}
    samples = assign(pl.DataFrame({name: pl.Series(array) for name, array in columns.items()} | {"y": label}))
    return Rows.of(samples.frame, samples.items)


def method(name: str, data: Rows, dropout: float = 0.1, **settings: float) -> Method:
    torch.manual_seed(0)
    encoder = MLP((2, 5), Sizes(hidden=32, depth=2, width=16, dropout=dropout))
    return RECIPES[name](encoder.fitted(data.items.take(data.anchors)), data, **settings)


def loss_and_gradients(m: Method, batch: dict, precision: str = "fp32") -> tuple[float, dict[str, torch.Tensor]]:
    m.modules.zero_grad()
    with autocast("cpu", precision):
        sets = m.encode(m.modules, m.views(batch, torch.Generator().manual_seed(0)))
    outcome = m.objective(m.modules, sets)
    outcome.loss.backward()
    return float(outcome.loss.detach()), {n: p.grad for n, p in m.modules.named_parameters()}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finite_and_every_parameter_gets_gradient(name: str, precision: str) -> None:
    data = rows()
    loss, gradients = loss_and_gradients(method(name, data), data.take(np.arange(16)), precision)
    assert np.isfinite(loss)
    assert [n for n, g in gradients.items() if g is None or not torch.isfinite(g).all() or g.abs().max() == 0] == []


@pytest.mark.parametrize("name", RECIPES)
def test_the_order_of_a_batch_does_not_matter(name: str) -> None:
    data, order = rows(), np.random.default_rng(0).permutation(12)
    m = method(name, data, dropout=1e-7)
    straight, shuffled = (loss_and_gradients(m, data.take(at))[0] for at in (np.arange(12), order))
    assert straight == pytest.approx(shuffled, rel=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_encode_is_row_wise(name: str) -> None:
    data = rows()
    m = method(name, data)
    m.modules.eval()
    views = m.views(data.take(np.arange(6)), torch.Generator().manual_seed(0))
    whole = m.encode(m.modules, views)
    for key, view in views.items():
        assert view["array"].shape[1:] == (2, 5), "the shape of a row is kept"
        for i in range(len(view["array"])):
            one = {key: {k: (v[i : i + 1] if k in ("array", "id", "label", "row") else v) for k, v in view.items()}}
            alone = m.encode(m.modules, one)[key]
            assert torch.allclose(alone.z[0], whole[key].z[i], atol=1e-5)
            assert alone.id[0] == whole[key].id[i]


@pytest.mark.parametrize("name", RECIPES)
def test_cached_gradients_are_those_of_the_whole_batch(name: str) -> None:
    data = rows()
    m = method(name, data, dropout=1e-7)
    m.modules.eval()
    _, expected = loss_and_gradients(m, data.take(np.arange(12)))
    expected = {n: g.clone() for n, g in expected.items()}
    m.modules.zero_grad()
    views = m.views(data.take(np.arange(12)), torch.Generator().manual_seed(0))
    cached(m.modules, views, encode=m.encode, objective=m.objective, micro=5, autocast=autocast("cpu", "fp32"))
    for n, p in m.modules.named_parameters():
        assert torch.allclose(p.grad, expected[n], rtol=1e-3, atol=1e-6), n


@pytest.mark.parametrize("name", RECIPES)
def test_learns_on_sixty_steps(name: str) -> None:
    data = rows(256)
    m = method(name, data, **({"temperature": 0.1} if name == "scarf" else {}))  # at 1 a loss of 32 rows is above 1.6
    schedule = Schedule(steps=60, lr=3e-3)
    history = train(
        m,
        plain(data.take, shuffled(len(data), batch=32, seed=0)),
        schedule,
        split=Split(32, 1),
        seed=0,
        autocast=autocast("cpu", "fp32"),
    )
    share = 0.97 if name == "scarf" else 0.9  # what a row keeps says its centre, hardly which row it is
    assert np.mean(history.loss[-10:]) < share * np.mean(history.loss[:10])


def test_the_arguments_of_scarf_survive_text_and_are_the_papers() -> None:
    defaults = arguments_of(arrays.scarf, {})
    assert defaults == {"temperature": 1.0, "rate": 0.6, "head": 256, "depth": 2}
    assert arguments_of(arrays.scarf, {k: str(v) for k, v in defaults.items()}) == defaults


@pytest.mark.proves(reference=SCARF, fact="closed-form")
def test_scarf_costs_what_the_cosines_of_clean_and_corrupted_rows_say() -> None:
    data = rows()
    m = method("scarf", data, dropout=0.0)
    views = m.views(data.take(np.arange(7)), torch.Generator().manual_seed(0))
    changed = (views["first"]["array"] != views["second"]["array"]).flatten(1)
    assert changed.sum(1).max() == 6  # fewer where a row is its own donor
    with torch.no_grad():
        clean, other = (
            torch.nn.functional.normalize(m.modules["head"](m.modules["encoder"](views[v]["array"])), dim=1)
            for v in ("first", "second")
        )
        expected = torch.nn.functional.cross_entropy(clean @ other.T / 1.0, torch.arange(7))
        found = m.objective(m.modules, m.encode(m.modules, views)).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_new_values_of_scarf_come_from_the_training_rows_of_the_same_feature() -> None:
    data = rows()
    m = method("scarf", data)
    views = m.views(data.take(np.arange(64)), torch.Generator().manual_seed(0))
    pool = data.items.take(data.anchors)
    for j in range(10):
        first, second = (views[v]["array"].flatten(1)[:, j] for v in ("first", "second"))
        assert torch.isin(second, pool.flatten(1)[:, j]).all()
        assert len(second[second != first].unique()) > 15, "of many rows"
    assert m.model(m.modules) is m.modules["encoder"]


def test_scarf_refuses_texts_and_numbers_out_of_range(tiny: object) -> None:
    texts = Rows.of(pl.DataFrame({"anchor": ["a", "b"]}))
    with pytest.raises(Refusal, match="simcse"):
        arrays.scarf(load(str(tiny)), texts)
    for wrong in ({"rate": 0.0}, {"rate": 1.5}, {"head": 0}, {"depth": 0}):
        with pytest.raises(Refusal, match="rate in"):
            arrays.scarf(MLP((2, 5)), rows(), **wrong)


def test_a_batch_in_two_parts_draws_what_the_whole_draws() -> None:
    data = rows()
    for name in RECIPES:
        m = method(name, data)
        whole, *parts = (
            m.views(data.take(at), torch.Generator().manual_seed(3))
            for at in (np.arange(8), np.arange(3), np.arange(3, 8))
        )
        for key, view in whole.items():
            found = torch.cat([part[key]["id"] for part in parts])
            assert sorted(found.tolist()) == sorted(view["id"].tolist())
            total = torch.cat([part[key]["array"] for part in parts]).sum()
            assert total.item() == pytest.approx(view["array"].sum().item(), rel=1e-4, abs=1e-4)
