"""Gradient caching: the gradient of plain autograd through the same micro-batches with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.lean import lean
from counterpoint.data.batches import Rows
from counterpoint.encoders.text import autocast, load
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.recipes import text
from counterpoint.training import cached as module
from counterpoint.training.cached import cached, part_of, pieces, random_state, same_random
from counterpoint.training.method import Method, step
from counterpoint.types import Batch, Embeddings, Outcome
from tests.conftest import toy_rows

FP32 = autocast("cpu", "fp32")


def rows(count: int = 24) -> Rows:
    data = toy_rows(count)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}
    frame["negative"] = [[data[(i + 7) % count]["doc"]] for i in range(count)]
    frame["label"] = [r["query"].split()[0] for r in data]
    return Rows.of(pl.DataFrame(frame))


def plain(
    method: Method, views: dict[str, Batch], micro: int, precision: torch.autocast = FP32
) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients with the graphs of all pieces alive."""
    method.modules.zero_grad()
    with precision, lean():
        found = [method.encode(method.modules, piece) for piece in pieces(views, micro)]
    names = dict.fromkeys(name for sets in found for name in sets)
    whole = {name: Embeddings.cat([sets[name] for sets in found if name in sets]) for name in names}
    loss = method.objective(method.modules, whole).loss
    loss.backward()
    return loss.detach(), [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in method.modules.parameters()
    ]


def by_cache(
    method: Method, views: dict[str, Batch], micro: int, precision: torch.autocast = FP32
) -> tuple[Tensor, list[Tensor]]:
    """The same by `cached`."""
    method.modules.zero_grad()
    with lean():
        _, outcome = cached(
            method.modules, views, encode=method.encode, objective=method.objective, micro=micro, autocast=precision
        )
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in method.modules.parameters()]
    return outcome.loss.detach(), gradients


def same(run: Callable[..., tuple[Tensor, list[Tensor]]], *arguments: object) -> tuple[Tensor, list[Tensor], Tensor]:
    """A run from a fixed state of the random numbers, and the state after it."""
    torch.manual_seed(3)
    loss, gradients = run(*arguments)
    return loss, gradients, torch.get_rng_state()


@pytest.mark.parametrize(
    ("name", "micro", "precision"),
    [(name, micro, p) for name in ("pairs", "simcse") for micro in (1, 5, 100) for p in ("fp32", "bf16")]
    + [(name, 5, "fp32") for name in text.__all__ if name not in ("pairs", "simcse")],
)
def test_every_recipe_has_the_gradient_of_plain_autograd(name: str, micro: int, precision: str, tiny: Path) -> None:
    data = rows()
    method = getattr(text, name)(load(str(tiny)), data)
    method.modules.train()  # dropout is on
    views = method.views(data.take(np.arange(12)), torch.Generator().manual_seed(0))
    expected = same(plain, method, views, micro, autocast("cpu", precision))
    found = same(by_cache, method, views, micro, autocast("cpu", precision))
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    largest = max(float(g.abs().max()) for g in expected[1])
    assert largest > 0
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert (ours - theirs).abs().max() <= (1e-6 if precision == "fp32" else 1e-2) * largest
    assert torch.equal(found[2], expected[2])  # whoever draws next draws the same


class Two(nn.Module):
    """Vectors from one layer, a temperature of each sample from another."""

    def __init__(self) -> None:
        super().__init__()
        self.vector, self.cold, self.drop = nn.Linear(4, 3), nn.Linear(4, 1), nn.Dropout(0.3)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vector(self.drop(x)), self.cold(x).squeeze(1).sigmoid() + 0.1


def learned(second: bool = True) -> Method:
    """Two encoders, a fact with a gradient, and a temperature that only the objective reads."""
    torch.manual_seed(0)
    modules = nn.ModuleDict(
        {"left": Two(), "right": Two(), "scale": nn.ParameterDict({"t": torch.tensor(0.5).double()})}
    )

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = {}
        for name, view in views.items():
            z, cold = modules[name](view["x"])
            sets[name] = Embeddings.of(z, id=view["id"], view=view["view"], facts={"cold": cold})
        if not second:
            sets = {name: replace(e, z=e.z.detach()) if name == "right" else e for name, e in sets.items()}
        return sets

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        left = sets["left"]
        return infonce(left, sets["right"], temperature=left.facts["cold"] * modules["scale"]["t"].exp())

    return Method(modules, lambda batch, _: dict(batch), encode, objective, lambda m: m["left"])


def two_views(n: int = 11) -> dict[str, Batch]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: {"x": torch.randn(n, 4, generator=generator, dtype=torch.float64), "id": torch.arange(n), "view": v}
        for v, name in enumerate(("left", "right"))
    }


@pytest.mark.parametrize("second", [True, False], ids=["two encoders", "a teacher without gradient"])
@pytest.mark.parametrize("micro", [1, 4, 11])
def test_facts_several_encoders_and_parameters_of_the_objective(micro: int, second: bool) -> None:
    method = learned(second)
    expected, found = same(plain, method, two_views(), micro), same(by_cache, method, two_views(), micro)
    assert torch.allclose(found[0], expected[0], rtol=1e-12)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert found[1][-1].abs() > 0  # the temperature


def test_a_view_without_gradient_that_comes_first_does_not_end_the_others() -> None:
    method, views = learned(second=False), dict(reversed(two_views().items()))
    expected, found = same(plain, method, views, 4), same(by_cache, method, views, 4)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert max(float(g.abs().max()) for g in found[1]) > 0


def test_only_one_piece_has_a_graph_at_a_time() -> None:
    method, alive, most = learned(), 0, 0

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *grads: Tensor) -> Tensor:
            nonlocal alive
            alive -= 1
            return grads[0]

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        nonlocal alive, most
        sets = method.encode(modules, views)
        if torch.is_grad_enabled():
            alive += 1
            most = max(most, alive)
        return {name: replace(e, z=Counted.apply(e.z)) for name, e in sets.items()}

    by_cache(replace(method, encode=encode), two_views(), 2)
    assert (most, alive) == (1, 0)


def test_a_step_by_cache_moves_the_weights_as_a_step_without(tiny: Path) -> None:
    moved = []
    for micro in (None, 5):
        data = rows()
        torch.manual_seed(0)
        encoder = load(str(tiny))
        encoder.set_dropout(0.0)
        method = text.pairs(encoder, data)
        optimizer = torch.optim.SGD(method.modules.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(0)
        done = step(
            method, [data.take(np.arange(12))], optimizer, generator=generator, autocast=FP32, clip=1.0, micro=micro
        )
        weights = [p.detach().clone() for p in method.modules.parameters()]
        moved.append((torch.tensor(done.loss), torch.tensor(done.norm), *weights))
    for one, other in zip(*moved, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_batch_norm_is_refused() -> None:
    method = learned()
    method.modules["left"].vector = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    with pytest.raises(Refusal, match=r"batch norm in 'left\.vector\.1'"):
        by_cache(method, two_views(), 4)
    method.modules.eval()
    by_cache(method, two_views(), 4)


def test_batch_norm_of_the_objective_is_not() -> None:
    """It sees all rows, with caching and without."""
    method = learned()
    method.modules["norm"] = nn.BatchNorm1d(3).double()

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        left, right = (replace(sets[name], z=modules["norm"](sets[name].z)) for name in ("left", "right"))
        return infonce(left, right, temperature=0.5)

    method = replace(method, objective=objective)
    expected, found = same(plain, method, two_views(), 4), same(by_cache, method, two_views(), 4)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_pieces_hold_every_row_once_and_texts_of_like_length_together() -> None:
    texts = ["four", "a", "threee", "bb", "cc"]
    view = {"text": texts, "id": torch.arange(5), "role": "anchor", "view": 0, "label": np.arange(5)}
    found = list(pieces({"x": view, "y": part_of(view, [0])}, 2))
    assert [piece["x"]["text"] for piece in found[:3]] == [["a", "bb"], ["cc", "four"], ["threee"]]
    assert [texts[i] for piece in found[:3] for i in piece["x"]["id"]] == [t for p in found[:3] for t in p["x"]["text"]]
    assert all(piece["x"]["role"] == "anchor" for piece in found[:3])
    assert found[3]["y"]["text"] == ["four"]


def test_random_numbers_come_back_even_after_an_error() -> None:
    torch.manual_seed(0)
    state = random_state()
    first = torch.rand(3)
    after = torch.get_rng_state()

    def fails() -> None:
        with same_random(state):
            assert torch.equal(torch.rand(3), first)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert torch.equal(torch.get_rng_state(), after)
    assert module.random_state()[0].equal(after)
