"""The sweep: tiles equal the dense reference in value and gradient, whatever the rule, the reduction and the tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from counterpoint._ops.running import plus_log, safe_shift
from counterpoint._ops.scores import FLOOR, dot, maxsim, pairwise, squared
from counterpoint._ops.sweep import Swept, sweep, sweeping
from counterpoint._ops.tile import keep, times
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Pairs, Relation, densify, same_sample

RELATION = Relation.of([1, 1, 2, 4, 4, 5], [5, 6, 6, 1, 4, 2], [1.0, 2.0, 1.0, 0.0, 1.0, 3.0])


def kernel(a: Embeddings, c: Embeddings) -> Pairs:
    """A rule without a sparse form: nearer labels attract more."""
    near = torch.exp(-(a.facts["label"][:, None] - c.facts["label"][None, :]).double().square()).to(a.z)
    return Pairs(near, 1 - near)


class OnlyListed:
    """A rule that says nothing of pairs which are not listed."""

    elsewhere = (0.0, 0.0)
    relation = listed(RELATION)

    def edges(self, a: Embeddings, c: Embeddings) -> Any:
        return self.relation.edges(a, c)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        return densify(self.edges(a, c), self.elsewhere, a, c)


RULES = {
    "none": None,
    "same sample": same_sample,
    "listed": listed(RELATION, negative_weight=3.0),
    "only listed": OnlyListed(),
    "labelled": labelled("label"),
    "kernel": kernel,
}
REDUCTIONS = {
    "bounded": "logsumexp",
    "logsumexp": "logsumexp",
    "weighted": "logsumexp",
    "total": "total",
    "maximum": "maximum",
    "minimum": "minimum",
    "count": "count",
    "mean_under": "mean_under",
    "sparse": "total",
    "linear": "logsumexp",
    "of_rows": "logsumexp",
    "filled": "total",
    "filled_log": "logsumexp",
    "filled_mean": "mean_under",
}


def tile(s: Mapping[str, Tensor], p: Pairs, a: Any, c: Any, k: Mapping[str, Tensor]) -> dict[str, Any]:
    """One output for each reduction; reads scores, pairs, differentiable facts of both sides and a parameter."""
    logit = s["s"] * k["scale"] + a["offset"]
    return {
        "bounded": (torch.tanh(logit), p.repel + 0.5 * p.attract.sign()),
        "weighted": (logit, p.repel),
        "logsumexp": plus_log(logit + c["offset"], p.repel + p.attract),
        "linear": logit * 30,
        "total": times(p.repel, logit * c["offset"]),
        "maximum": keep(logit, p.repel > 0, FLOOR),
        "minimum": keep(s["d"] + a["offset"], p.attract > 0, -FLOOR),
        "count": keep(logit, p.repel > 0),
        "mean_under": (s["d"] * k["scale"], plus_log(logit, p.repel)),
        "of_rows": a["offset"] * k["scale"],
        "filled": keep(logit, p.attract > 0, 0.5),
        "filled_log": (keep(logit, p.attract > 0, 0.5), 2 - p.repel),
        "filled_mean": (keep(logit, p.attract > 0, 0.5), keep(logit, p.attract > 0, -0.5)),
        "sparse": times(p.attract, logit * a["offset"] * c["offset"]),
    }


def rows(n: int, generator: torch.Generator, dtype: torch.dtype, view: int = 0) -> Embeddings:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    facts = {
        "label": torch.randint(-1, 3, (n,), generator=generator),
        "offset": draw(n),
        "teacher": draw(n, 2),
    }
    return Embeddings.of(draw(n, 5), id=torch.randint(1, 7, (n,), generator=generator), view=view, facts=facts)


def run(
    a: Embeddings,
    c: Embeddings,
    names: list[str],
    rule: Any,
    *,
    backend: Any = "tiled",
    memory: int = 10**9,
    precision: Any = "fp32",
) -> tuple[list[Tensor], list[Tensor]]:
    """All results of a sweep, and the gradients of a random projection of them."""
    scale = torch.tensor(0.7, dtype=a.z.dtype, requires_grad=True)
    how = {name: REDUCTIONS[name] for name in names}
    with sweeping(backend=backend, memory=memory, precision=precision):
        swept = sweep(
            tile, a, c, scores={"s": dot(), "d": squared("teacher")}, rule=rule, params={"scale": scale},
            rows=how, columns=how, bounds={"bounded": (-1.0, 1.0)},
        )  # fmt: skip
    results = [*swept.rows.values(), *swept.columns.values()]
    generator = torch.Generator().manual_seed(5)
    loss = a.z.new_zeros(())
    for result in results:
        weight = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result)
        loss = loss + (weight * result.clamp(-1e6, 1e6)).sum()
    inputs = [a.z, c.z, *(r.facts[n] for r in (a, c) for n in ("offset", "teacher")), scale]
    if not loss.requires_grad:
        return results, [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return results, [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_agree(one: list[Tensor], other: list[Tensor], relative: float) -> None:
    """Equal relative to the largest number of the list; the floor may carry the logarithm of a count."""
    one, other = ([x.detach().clamp(-1e8, 1e8) for x in xs] for xs in (one, other))
    largest = max([1.0, *(float(y.abs().max()) for y in other if len(y.flatten()) and y.abs().max() < 1e7)])
    for x, y in zip(one, other, strict=True):
        assert torch.isfinite(x).all()
        assert torch.allclose(x, y, rtol=relative, atol=relative * largest), (x - y).abs().max()


SIZES = st.integers(0, 23)
NAMES = st.lists(st.sampled_from(sorted(REDUCTIONS)), min_size=1, max_size=4, unique=True)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=40, deadline=None)
@given(n=SIZES, m=SIZES, names=NAMES, memory=st.sampled_from([2000, 8000, 10**6]), seed=st.integers(0, 10**6))
def test_tiles_equal_the_dense_reference_in_fp64(
    rule: Any, n: int, m: int, names: list[str], memory: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, c = rows(n, generator, torch.float64), rows(m, generator, torch.float64, view=seed % 2)
    dense, tiled = run(a, c, names, rule, backend="dense"), run(a, c, names, rule, memory=memory)
    assert_agree(tiled[0], dense[0], 1e-9)
    assert_agree(tiled[1], dense[1], 1e-9)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=20, deadline=None)
@given(n=SIZES, m=SIZES, memory=st.sampled_from([2000, 8000, 10**6]), seed=st.integers(0, 10**6))
def test_tiles_equal_the_dense_reference_in_fp32(rule: Any, n: int, m: int, memory: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, c = rows(n, generator, torch.float32), rows(m, generator, torch.float32, view=1)
    names = [name for name in REDUCTIONS if name != "linear"]
    dense, tiled = run(a, c, names, rule, backend="dense"), run(a, c, names, rule, memory=memory)
    assert_agree(tiled[0], dense[0], 1e-5)
    assert_agree(tiled[1], dense[1], 1e-5)


def test_bf16_products_stay_within_their_bound() -> None:
    """Rounding both inputs moves a product by at most 2^-8 |x| |y|; a gradient is rounded once more a tile."""
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.nn.functional.normalize(torch.randn(n, 64, generator=generator), dim=-1).requires_grad_()
        for n in (90, 70)
    )
    a, c = Embeddings.of(x), Embeddings.of(y)

    def best(precision: Any) -> tuple[Tensor, list[Tensor]]:
        found = sweep(lambda s, p, a, c, k: {"l": s["s"] * 10}, a, c, rows={"l": "logsumexp"}, precision=precision)
        return found.rows["l"], list(torch.autograd.grad(found.rows["l"].sum(), (x, y)))

    exact, rounded = best("fp32"), best("bf16")
    difference = (exact[0] - rounded[0]).abs().max().item()
    assert difference < 10 * 2**-8
    for g, h in zip(exact[1], rounded[1], strict=True):
        assert (g - h).norm() < 2**-6 * g.norm()


def test_autocast_means_bf16_products() -> None:
    a = Embeddings.of(
        torch.nn.functional.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    )

    def total(**how: Any) -> Tensor:
        return sweep(lambda s, p, a, c, k: {"t": s["s"]}, a, a, rows={"t": "total"}, **how).rows["t"]

    with sweeping(backend="dense"):  # which rounds on every machine
        exact, rounded = total(), total(precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        inside = total()
    assert inside.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), sweeping(backend="dense"):
        assert torch.allclose(total(), rounded)
        assert not torch.equal(total(), exact)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
@pytest.mark.parametrize("memory", [1, 10**6])
def test_late_interaction_and_any_function_are_scores(backend: Any, memory: int) -> None:
    generator = torch.Generator().manual_seed(1)

    def tokens(n: int, t: int) -> Embeddings:
        mask = torch.rand(n, t, generator=generator) > 0.3
        z = torch.randn(n, t, 3, generator=generator, dtype=torch.float64).requires_grad_()
        return Embeddings.of(z, facts={"mask": mask, "v": z.detach()[:, 0].clone().requires_grad_()})

    a, c = tokens(6, 4), tokens(5, 3)
    taxi = pairwise(lambda x, y: (x[:, None] - y[None]).abs().sum(-1), fact="v", inner=3)
    with sweeping(backend=backend, memory=memory):
        found = sweep(
            lambda s, p, a, c, k: {"m": s["m"].tanh() + s["x"]}, a, c,
            scores={"m": maxsim(mask="mask"), "x": taxi}, rows={"m": "logsumexp"},
        )  # fmt: skip
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for i in range(6):
        for j in range(5):
            best = [
                max(float(a.z[i, t].detach() @ c.z[j, u].detach()) for u in range(3) if c.facts["mask"][j, u])
                for t in range(4) if a.facts["mask"][i, t] and c.facts["mask"][j].any()
            ]  # fmt: skip
            expected[i, j] = (
                torch.tensor(sum(best), dtype=torch.float64).tanh() + (a.facts["v"][i] - c.facts["v"][j]).abs().sum()
            )
    assert torch.allclose(found.rows["m"], torch.logsumexp(expected, 1))
    assert torch.autograd.gradcheck(lambda x, y: _late(a, c, x, y, backend, memory), (a.z, c.z))


def _late(a: Embeddings, c: Embeddings, x: Tensor, y: Tensor, backend: Any, memory: int) -> Tensor:
    one, two = (Embeddings.of(z, facts={"mask": r.facts["mask"]}) for z, r in ((x, a), (y, c)))
    with sweeping(backend=backend, memory=memory):
        how: Any = {"m": "logsumexp"}
        return sweep(lambda s, p, a, c, k: {"m": s["m"]}, one, two, scores={"m": maxsim(mask="mask")}, rows=how).rows[
            "m"
        ]


@pytest.mark.parametrize("memory", [1, 2000, 10**6])
def test_a_sweep_of_a_sweep_and_shared_anchors_differentiate(memory: int) -> None:
    def twice(z: Tensor) -> Tensor:
        e = Embeddings.of(z)
        with sweeping(memory=memory):
            first = sweep(
                lambda s, p, a, c, k: {"l": (s["s"], p.repel)}, e, e, rule=same_sample, rows={"l": "logsumexp"}
            )
            again = Embeddings.of(z, facts={"l": first.rows["l"]})
            how: Any = {"t": "total"}
            return sweep(
                lambda s, p, a, c, k: {"t": (s["s"] - a["l"] + 2 * c["l"]).sigmoid()}, again, again, rows=how
            ).rows["t"]

    assert torch.autograd.gradcheck(
        twice, torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    )


def test_listed_pairs_can_be_had_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = rows(9, generator, torch.float64), rows(7, generator, torch.float64)
    swept = sweep(lambda s, p, a, c, k: {"t": s["s"]}, a, c, rule=listed(RELATION), rows={"t": "total"})
    edges, score = swept.on_edges("s")
    assert torch.allclose(score, (a.z @ c.z.T)[edges.row, edges.col])
    assert torch.autograd.grad(score.sum(), a.z)[0].shape == a.z.shape
    dense: Swept = sweep(lambda s, p, a, c, k: {"t": s["s"]}, a, c, rule=kernel, rows={"t": "total"})
    with pytest.raises(TypeError, match="sparse form"):
        dense.on_edges()


def test_a_captured_tensor_is_refused() -> None:
    a = rows(4, torch.Generator().manual_seed(0), torch.float32)
    bias = torch.tensor(1.0, requires_grad=True)
    for captured in (bias, bias * 2):
        with pytest.raises(ValueError, match="pass it in `params`"):
            sweep(lambda s, p, a, c, k, b=captured: {"t": s["s"] + b}, a, a, rows={"t": "total"})
    passed = sweep(lambda s, p, a, c, k: {"t": s["s"] + k["b"]}, a, a, params={"b": bias * 2}, rows={"t": "total"})
    assert torch.autograd.grad(passed.rows["t"].sum(), bias)[0].item() == 2 * 16


@pytest.mark.parametrize("wrong", [lambda s: s - s.mean(1, keepdim=True), lambda s: s.softmax(0), lambda s: s.sum(1)])
def test_a_tile_that_looks_across_pairs_is_refused(wrong: Any) -> None:
    a = rows(6, torch.Generator().manual_seed(0), torch.float32)
    with pytest.raises(ValueError, match=r"for each pair|elementwise"):
        sweep(lambda s, p, a, c, k: {"t": wrong(s["s"])}, a, a, rows={"t": "total"})


def test_wrong_names_are_refused_with_those_that_exist() -> None:
    a = rows(3, torch.Generator().manual_seed(0), torch.float32)
    with pytest.raises(KeyError, match="they have: label, offset, teacher"):
        sweep(lambda s, p, a, c, k: {"t": a["lable"] + s["s"]}, a, a, rows={"t": "total"})
    with pytest.raises(KeyError, match="which its rows do not have"):
        sweep(lambda s, p, a, c, k: {"t": s["s"]}, a, a, scores={"s": dot("y")}, rows={"t": "total"})
    with pytest.raises(ValueError, match="compare it by a score"):
        sweep(lambda s, p, a, c, k: {"t": a["teacher"] + s["s"]}, a, a, rows={"t": "total"})
    with pytest.raises(KeyError, match="wanted tile outputs"):
        sweep(lambda s, p, a, c, k: {"t": s["s"]}, a, a, rows={"u": "total"})


def test_a_second_derivative_is_refused() -> None:
    a = rows(3, torch.Generator().manual_seed(0), torch.float64)
    found = sweep(lambda s, p, a, c, k: {"t": s["s"] ** 2}, a, a, rows={"t": "total"}).rows["t"].sum()
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(found, a.z, create_graph=True)


def test_an_input_changed_in_place_is_noticed() -> None:
    z = torch.randn(3, 2).requires_grad_()
    moved = z * 1
    found = (
        sweep(lambda s, p, a, c, k: {"t": s["s"] ** 2}, *[Embeddings.of(moved)] * 2, rows={"t": "total"})
        .rows["t"]
        .sum()
    )
    with torch.no_grad():
        moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


@pytest.mark.parametrize("t", [1.0, 0.05, 0.01, 0.005])
def test_bounds_change_nothing(t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(40, 4, generator=generator), dim=-1).requires_grad_()
    e = Embeddings.of(z)

    def run(bounds: Any, backend: Any) -> tuple[Tensor, Tensor]:
        with sweeping(backend=backend):
            how: Any = {"l": "logsumexp"}
            rows = sweep(
                lambda s, p, a, c, k: {"l": (s["s"] / t, p.repel)}, e, e, rule=same_sample, rows=how, bounds=bounds
            ).rows["l"]
        return rows, torch.autograd.grad(rows.sum(), z)[0]

    expected = run(None, "dense")
    for found in (run({"l": (-1 / t, 1 / t)}, "tiled"), run(None, "tiled")):
        assert torch.allclose(found[0], expected[0], rtol=1e-5)
        assert torch.allclose(found[1], expected[1], rtol=1e-4, atol=1e-5 / t)


def test_a_shift_keeps_the_whole_range_inside_the_numbers() -> None:
    for low, high in ((-20.0, 20.0), (-70.0, 70.0), (0.0, 150.0), (900.0, 1000.0), (-300.0, -200.0)):
        shift = safe_shift((low, high), 10**6, torch.float32)
        assert shift is not None
        ends = torch.tensor([low - shift, high - shift]).exp()
        assert ends[0] > torch.finfo(torch.float32).tiny
        assert torch.isfinite(ends[1] * 1e6)
    assert safe_shift((-100.0, 100.0), 10, torch.float32) is None
    assert safe_shift((-100.0, 100.0), 10, torch.float64) == 0


def test_memory_is_of_tiles_and_not_of_the_matrix() -> None:
    """Peak of live tensors, counted by the allocator's own bookkeeping on this process."""
    from torch.profiler import ProfilerActivity, profile

    z = torch.randn(3000, 8).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = sweep(
            lambda s, p, a, c, k: {"l": s["s"]}, *[Embeddings.of(z)] * 2, rows={"l": "logsumexp"}, memory=2**20
        )
        found.rows["l"].sum().backward()
    largest = max(event.self_cpu_memory_usage for event in seen.events())
    assert largest < 2**20 < 3000 * 3000 * 4


@pytest.mark.parametrize("memory", [2000, 10**6])
def test_equals_share_the_gradient_of_a_maximum(memory: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(-1, 2, (30, 2), generator=generator).double().requires_grad_()  # nine distinct rows
    e = Embeddings.of(z)

    def gradient(**how: Any) -> Tensor:
        with sweeping(**how):
            both: Any = {"up": "maximum", "down": "minimum"}
            found = sweep(lambda s, p, a, c, k: {"up": s["s"], "down": s["s"]}, e, e, rows=both, columns=both)
        weight = torch.arange(30.0, dtype=torch.float64)
        return torch.autograd.grad(sum((weight * x).sum() for x in [*found.rows.values(), *found.columns.values()]), z)[
            0
        ]

    assert torch.allclose(gradient(memory=memory), gradient(backend="dense"), rtol=1e-12)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_what_is_masked_everywhere_gets_no_gradient(backend: Any) -> None:
    a = rows(4, torch.Generator().manual_seed(0), torch.float64)
    with sweeping(backend=backend):
        found = sweep(
            lambda s, p, a, c, k: {"x": plus_log(s["s"], p.attract), "y": (s["s"], p.attract)},
            a,
            a,
            rule=lambda x, y: Pairs(torch.zeros(len(x), len(y)), torch.ones(len(x), len(y))),
            rows={"x": "logsumexp", "y": "logsumexp"},
        ).rows
    assert (torch.stack(list(found.values())) <= FLOOR + 10).all()
    (gradient,) = torch.autograd.grad(found["x"].sum() + found["y"].sum(), a.z)
    assert gradient.abs().max() == 0
