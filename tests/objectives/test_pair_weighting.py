"""Weighted similarities and proxies: hand-sized cases, plain loops, public references, invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from torch import Tensor, nn

from counterpoint.objectives.pair_weighting import circle, multi_similarity, proxy_anchor, proxy_nca
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome, Pairs
from tests.objectives.contract import RULES, assert_tiles_equal_dense, two_sets

CIRCLE = "Sun et al.: Circle Loss: A Unified Perspective of Pair Similarity Optimization, arXiv:2002.10857, 2020"
MULTI = (
    "Wang et al.: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, arXiv:1904.06627, 2019"
)
NCA = "Movshovitz-Attias et al.: No Fuss Distance Metric Learning using Proxies, arXiv:1703.07464, 2017"
ANCHOR = "Kim et al.: Proxy Anchor Loss for Deep Metric Learning, arXiv:2003.13911, 2020"

AMONG: dict[str, Callable[..., Outcome]] = {
    "circle": partial(circle, gamma=20.0),
    "circle unbounded": partial(circle, gamma=3.0, unit=False),
    "multi similarity": partial(multi_similarity, beta=10.0),
    "multi similarity unbounded": partial(multi_similarity, beta=3.0, unit=False),
}
AGAINST: dict[str, Callable[..., Outcome]] = {
    "nca": proxy_nca,
    "nca competing": partial(proxy_nca, positives_compete=True, scale=3.0, unit=False),
    "anchor": partial(proxy_anchor, alpha=8.0),
    "anchor unbounded": partial(proxy_anchor, alpha=2.0, unit=False),
}
OBJECTIVES = AMONG | AGAINST
LABELS = [0, 0, 1, 1, 1, 2, 2, 4, 0]


def draw(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(labels: list[int], z: Tensor | None = None) -> Embeddings:
    return Embeddings.of(draw(len(labels)) if z is None else z, facts={"label": torch.tensor(labels)})


def proxies(z: Tensor) -> Embeddings:
    """One proxy for each class; an id below 0 belongs to no sample."""
    return Embeddings.of(z, id=-1 - torch.arange(len(z)), facts={"label": torch.arange(len(z))})


def sets(seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Two sets with graded, ignored and missing pairs."""
    a, c, _ = two_sets(9, 8, seed, torch.float64)
    return a, c


def loops(a: Embeddings, c: Embeddings, rule: Any, *, unit: bool) -> tuple[list[list[float]], list[list[float]], Pairs]:
    """All dot products and squared distances one by one, and the rule's matrix."""
    x, y = (nn.functional.normalize(r.z.detach(), dim=-1) if unit else r.z.detach() for r in (a, c))
    dots = [[float(p @ q) for q in y] for p in x]
    return dots, [[float((p - q).square().sum()) for q in y] for p in x], rule(a, c)


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def weighted(weights: Tensor, values: list[float]) -> float:
    """sum_j w_j exp(value_j)."""
    return sum(float(w) * math.exp(v) for w, v in zip(weights, values, strict=True) if w > 0)


# ---- circle


@pytest.mark.proves(reference=CIRCLE, fact="closed-form")
def test_circle_hand_sized_case() -> None:
    """Anchor of positive at 0.8 and negative at 0.6, m = 0.25, gamma = 10."""
    a = torch.tensor([[1.0, 0.0], [0.8, -0.6]])
    c = torch.tensor([[0.8, 0.6], [0.6, -0.8]])
    pull = -10 * (1.25 - 0.8) * (0.8 - 0.75)
    push = 10 * (0.6 + 0.25) * (0.6 - 0.25)
    first = math.log(1 + math.exp(pull + push))
    s = (0.8 * 0.6 + 0.6 * 0.8, 0.8 * 0.8 - 0.6 * 0.6)  # the second anchor's positive and negative
    second = math.log(1 + math.exp(-10 * (1.25 - s[0]) * (s[0] - 0.75) + 10 * (s[1] + 0.25) * (s[1] - 0.25)))
    assert circle(a, c, gamma=10.0).loss.item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize(("m", "gamma", "unit"), [(0.25, 20.0, True), (0.4, 80.0, True), (0.25, 3.0, False)])
def test_circle_equals_plain_loops(rule: Any, m: float, gamma: float, unit: bool) -> None:
    a, c = sets(1)
    s, _, (w, r) = loops(a, c, rule, unit=unit)
    expected = []
    for i in range(len(a)):
        pull = weighted(w[i], [-gamma * max(0.0, 1 + m - x) * (x - 1 + m) for x in s[i]])
        push = weighted(r[i], [gamma * max(0.0, x + m) * (x - m) for x in s[i]])
        expected += [math.log1p(pull * push)] if pull > 0 and push > 0 else []
    found = circle(a, c, rule=rule, m=m, gamma=gamma, unit=unit).loss
    assert found.item() == pytest.approx(average(expected), rel=1e-9)


@pytest.mark.proves(reference=CIRCLE, fact="reference")
@pytest.mark.parametrize(("m", "gamma"), [(0.25, 256.0), (0.4, 80.0)])
def test_circle_equals_the_public_loss_and_its_gradient(m: float, gamma: float) -> None:
    rows, (x, y) = classes(LABELS), (draw(9).requires_grad_() for _ in range(2))
    expected = losses.CircleLoss(m=m, gamma=gamma)(x, rows.facts["label"])
    found = circle(Embeddings.of(y, facts=rows.facts), rule=labelled(), m=m, gamma=gamma).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    theirs, ours = torch.autograd.grad(expected, x)[0], torch.autograd.grad(found, y)[0]
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_circles_factors_take_no_gradient() -> None:
    """One positive at cosine s and one negative at 0: the derivative in s has the factor fixed."""
    angle = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    a = torch.stack([torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)])])
    c = Embeddings.of(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64), id=torch.tensor([0, 1]), view=1)
    loss = circle(Embeddings.of(a), c, m=0.25, gamma=2.0).loss
    s = math.cos(0.7)
    u = -2 * (1.25 - s) * (s - 0.75) + 2 * 0.25 * -0.25
    expected = 1 / (1 + math.exp(-u)) * (-2 * (1.25 - s)) * -math.sin(0.7)
    assert torch.autograd.grad(loss, angle)[0].item() == pytest.approx(expected, rel=1e-9)


# ---- multi-similarity


@pytest.mark.proves(reference=MULTI, fact="closed-form")
def test_multi_similarity_hand_sized_case() -> None:
    a, c = torch.eye(2), torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    expected = math.log(1 + math.exp(-3 * (0.6 - 0.5))) / 3 + math.log(1 + math.exp(7 * (0.8 - 0.5))) / 7
    assert multi_similarity(a, c, alpha=3.0, beta=7.0).loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("unit", [True, False])
def test_multi_similarity_equals_plain_loops(rule: Any, unit: bool) -> None:
    a, c = sets(2)
    s, _, (w, r) = loops(a, c, rule, unit=unit)
    expected = [
        math.log1p(weighted(w[i], [-2 * (x - 0.3) for x in s[i]])) / 2
        + math.log1p(weighted(r[i], [9 * (x - 0.3) for x in s[i]])) / 9
        for i in range(len(a))
        if w[i].sum() + r[i].sum() > 0
    ]
    found = multi_similarity(a, c, rule=rule, beta=9.0, base=0.3, unit=unit).loss
    assert found.item() == pytest.approx(average(expected), rel=1e-9)


@pytest.mark.proves(reference=MULTI, fact="reference")
def test_multi_similarity_equals_the_public_loss_and_its_gradient() -> None:
    rows, (x, y) = classes(LABELS), (draw(9).requires_grad_() for _ in range(2))
    expected = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(x, rows.facts["label"])
    found = multi_similarity(Embeddings.of(y, facts=rows.facts), rule=labelled()).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(torch.autograd.grad(found, y)[0], torch.autograd.grad(expected, x)[0], rtol=1e-8, atol=1e-10)


# ---- proxies


@pytest.mark.proves(reference=NCA, fact="closed-form")
def test_proxy_nca_hand_sized_case() -> None:
    """Squared distances 0.4 to its own proxy, 1 and 2.25 to the others, not of unit length."""
    rows = classes([0], torch.zeros(1, 1))
    ends = proxies(torch.tensor([[0.4**0.5], [-1.0], [1.5]]))
    expected = 0.4 + math.log(math.exp(-1) + math.exp(-2.25))
    assert proxy_nca(rows, ends, rule=labelled(), unit=False).loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("compete", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_proxy_nca_equals_plain_loops(rule: Any, compete: bool, unit: bool) -> None:
    a, c = sets(3)
    _, d, (w, r) = loops(a, c, rule, unit=unit)
    expected = []
    for i in range(len(a)):
        own, others = (weighted(x[i], [-1.5 * v for v in d[i]]) for x in (w, r))
        expected += [-math.log(own / (others + compete * own))] if own > 0 and others > 0 else []
    found = proxy_nca(a, c, rule=rule, scale=1.5, positives_compete=compete, unit=unit).loss
    assert found.item() == pytest.approx(average(expected), rel=1e-9)


@pytest.mark.proves(reference=NCA, fact="reference")
@pytest.mark.parametrize("scale", [1.0, 32.0])
def test_proxy_nca_equals_the_public_loss_where_the_own_proxy_competes(scale: float) -> None:
    rows, public = classes(LABELS), losses.ProxyNCALoss(5, 4, softmax_scale=scale)
    public.proxies.data = draw(5, seed=7)
    own = public.proxies.detach().clone().requires_grad_()
    expected = public(rows.z, rows.facts["label"])
    found = proxy_nca(rows, proxies(own), rule=labelled(), scale=scale, positives_compete=True).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    theirs, ours = torch.autograd.grad(expected, public.proxies)[0], torch.autograd.grad(found, own)[0]
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("compete", [True, False])
def test_proxy_nca_of_unit_rows_is_infonce(compete: bool) -> None:
    rows, ends = classes(LABELS), proxies(draw(5, seed=7))
    expected = infonce(rows, ends, rule=labelled(), temperature=1 / 6, positives_compete=compete).loss
    found = proxy_nca(rows, ends, rule=labelled(), scale=3.0, positives_compete=compete).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.proves(reference=ANCHOR, fact="closed-form")
def test_proxy_anchor_hand_sized_case() -> None:
    """Proxy 0 has rows at cosine 1 and 0.6, proxy 1 has none: it counts for the repelling half only."""
    rows = classes([0, 0], torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    ends = proxies(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    found = proxy_anchor(rows, ends, rule=labelled(), margin=0.2, alpha=4.0).terms
    pull = math.log(1 + math.exp(-4 * (1 - 0.2)) + math.exp(-4 * (0.6 - 0.2)))
    push = math.log(1 + math.exp(4 * (0 + 0.2)) + math.exp(4 * (0.8 + 0.2)))
    assert found["proxy_anchor_attract"].item() == pytest.approx(pull, rel=1e-6)
    assert found["proxy_anchor_repel"].item() == pytest.approx(push / 2, rel=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("unit", [True, False])
def test_proxy_anchor_equals_plain_loops(rule: Any, unit: bool) -> None:
    a, c = sets(4)
    s, _, (w, r) = loops(a, c, rule, unit=unit)
    at = [[s[i][j] for i in range(len(a))] for j in range(len(c))]
    drawn = [weighted(w[:, j], [-3 * (x - 0.2) for x in at[j]]) for j in range(len(c)) if w[:, j].sum() > 0]
    pushed = [weighted(r[:, j], [3 * (x + 0.2) for x in at[j]]) for j in range(len(c))]
    found = proxy_anchor(a, c, rule=rule, margin=0.2, alpha=3.0, unit=unit).loss
    expected = average([math.log1p(x) for x in drawn]) + average([math.log1p(x) for x in pushed])
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.proves(reference=ANCHOR, fact="reference")
def test_proxy_anchor_equals_the_public_loss_and_its_gradient() -> None:
    rows, public = classes(LABELS), losses.ProxyAnchorLoss(5, 4, margin=0.1, alpha=32)  # class 3 has no row
    public.proxies.data = draw(5, seed=7)
    own = public.proxies.detach().clone().requires_grad_()
    expected = public(rows.z, rows.facts["label"])
    found = proxy_anchor(rows, proxies(own), rule=labelled()).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    theirs, ours = torch.autograd.grad(expected, public.proxies)[0], torch.autograd.grad(found, own)[0]
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_proxies_are_learned() -> None:
    """A few steps on the proxies alone lead each to its class."""
    rows = classes([0, 0, 1, 1], torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], dtype=torch.float64))
    for objective in (proxy_nca, proxy_anchor):
        ends = torch.tensor([[0.1, 1.0], [1.0, 0.1]], dtype=torch.float64, requires_grad=True)
        for _ in range(40):
            (gradient,) = torch.autograd.grad(objective(rows, proxies(ends), rule=labelled()).loss, ends)
            ends = (ends - 0.1 * gradient).detach().requires_grad_()
        s = nn.functional.normalize(ends.detach(), dim=-1) @ nn.functional.normalize(rows.z, dim=-1).T
        assert (s.argmax(0) == rows.facts["label"]).all()


# ---- all of them


def run(name: str, rows: Embeddings, ends: Embeddings, **how: Any) -> Tensor:
    found = AMONG[name](rows, **how) if name in AMONG else AGAINST[name](rows, ends, **how)
    return found.loss


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shuffling_and_rotating_change_nothing_nor_scaling_of_unit_rows(name: str) -> None:
    rows, ends = classes(LABELS), proxies(draw(5, seed=7))
    order, other = (torch.randperm(n, generator=torch.Generator().manual_seed(3)) for n in (9, 5))
    rotation = torch.linalg.qr(draw(4, seed=9))[0]
    base = run(name, rows, ends, rule=labelled()).item()
    turned = classes(LABELS, rows.z @ rotation), proxies(ends.z @ rotation)
    longer = classes(LABELS, rows.z * 1.7), proxies(ends.z * 0.6)
    for shuffled in ((rows.rows(order), ends.rows(other)), turned):
        assert run(name, *shuffled, rule=labelled()).item() == pytest.approx(base, rel=1e-9)
    same = run(name, *longer, rule=labelled()).item() == pytest.approx(base, rel=1e-9)
    assert same == (not name.endswith("unbounded") and name != "nca competing")


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.startswith("circle")])
def test_gradient_equals_finite_differences(name: str) -> None:
    """Of rows, candidates and proxies; circle's factors take no gradient, so it has none of its own."""
    labels, others = {"label": torch.tensor([0, 0, 1, 2])}, {"label": torch.tensor([1, 0, 2])}

    def loss(x: Tensor, y: Tensor) -> Tensor:
        c = Embeddings.of(y, id=-1 - torch.arange(3), facts=others)
        return OBJECTIVES[name](Embeddings.of(x, facts=labels), c, rule=labelled()).loss

    assert torch.autograd.gradcheck(loss, (draw(4).requires_grad_(), draw(3, seed=1).requires_grad_()))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["alone", "without a negative", "without a positive"])
def test_rows_without_a_turn_change_nothing(name: str, kind: str) -> None:
    """Two anchors with a positive and a negative each, and a third that lacks one of them or both."""
    z, c = draw(3).requires_grad_(), Embeddings.of(draw(3, seed=1), id=torch.arange(10, 13))
    attract = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, kind == "without a negative"]], dtype=torch.float64)
    repel = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, kind == "without a positive"]], dtype=torch.float64)

    def loss(rows: int) -> Tensor:
        a = Embeddings.of(z[:rows], id=torch.arange(rows))
        how = lambda x, y: Pairs(attract[x.id][:, y.id - 10], repel[x.id][:, y.id - 10])  # noqa: E731
        return OBJECTIVES[name](a, c, rule=how).loss

    (gradient,) = torch.autograd.grad(loss(3), z)
    assert torch.isfinite(gradient).all()
    assert gradient[:2].abs().max() > 0
    if kind == "alone" or name.startswith(("circle", "nca")):  # these need both
        assert loss(3).item() == pytest.approx(loss(2).item(), rel=1e-12)
        assert gradient[2].abs().max() == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_pairs_at_all_cost_nothing(name: str) -> None:
    z = draw(3).requires_grad_()
    a = Embeddings.of(z, facts={"label": torch.tensor([-1, -1, -1])})
    loss = OBJECTIVES[name](a, a.rows(slice(0, 0)), rule=labelled()).loss
    (gradient,) = torch.autograd.grad(loss, z, allow_unused=True) if loss.requires_grad else (None,)
    assert loss.item() == 0
    assert gradient is None or gradient.abs().max() == 0


@pytest.mark.parametrize("objective", [circle, multi_similarity, proxy_nca, proxy_anchor])
def test_the_papers_numbers_stay_finite_in_fp32(objective: Any) -> None:
    """Far beyond what exp can hold: gamma 256, beta 50, alpha 32, on equal and on opposite rows."""
    for end in (torch.ones(3, 2), -torch.ones(3, 2)):
        z = torch.ones(3, 2, requires_grad=True)
        rows, ends = (
            classes([0, 1, 2], z),
            Embeddings.of(end, id=-1 - torch.arange(3), facts={"label": torch.arange(3)}),
        )
        loss = objective(rows, ends, rule=labelled()).loss
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(rule: Any, name: str, n: int, m: int, seed: int) -> None:
    assert_tiles_equal_dense(lambda a, c: OBJECTIVES[name](a, c, rule=rule), n=n, m=m, seed=seed)
