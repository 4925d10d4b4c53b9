"""Alignment, uniformity, dispersion, KoLeo: closed forms, identities, plain loops, authors' formulas, invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint.objectives.spread import alignment, dispersive, dispersive_hinge, koleo, uniformity
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation, same_sample
from tests.objectives.contract import RULES, assert_tiles_equal_dense, graded, two_sets

KOLEO = "Sablayrolles et al.: Spreading vectors for similarity search, arXiv:1806.03198, 2019"
ONE_SET: dict[str, Callable[..., Outcome]] = {"uniformity": uniformity, "dispersive": dispersive, "koleo": koleo}
PUSHED = {**ONE_SET, "dispersive, cosine": partial(dispersive, cosine=True), "hinge": dispersive_hinge}


def rows(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return nn.functional.normalize(rows(n, d, seed), dim=-1)


def polygon(n: int) -> Tensor:
    """Corners of a regular polygon on the unit circle."""
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], 1)


def simplex(n: int) -> Tensor:
    """n unit rows that are all equally far from each other, as far as can be: |x - y|^2 = 2n / (n - 1)."""
    return nn.functional.normalize(torch.eye(n, dtype=torch.float64) - 1 / n, dim=-1)


def pairs_of(rule: Any, a: Embeddings, c: Embeddings) -> tuple[Pairs, list[list[float]]]:
    """The matrix of a rule, and distances between unit rows one at a time."""
    x, y = (nn.functional.normalize(e.z.detach(), dim=-1).tolist() for e in (a, c))
    return rule(a, c), [[math.dist(p, q) for q in y] for p in x]


# alignment


@pytest.mark.proves(row=106, fact="closed-form")
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_alignment_of_equal_and_of_opposite_rows(alpha: float) -> None:
    x = unit(5)
    assert alignment(x, x.clone(), alpha=alpha).loss.item() == 0
    assert alignment(x, -x, alpha=alpha).loss.item() == pytest.approx(2**alpha, rel=1e-12)


def test_alignment_is_2_minus_2_cosines() -> None:
    x, y = unit(5), unit(5, seed=1)
    assert alignment(x, y).loss.item() == pytest.approx(2 - 2 * float((x * y).sum(1).mean()), rel=1e-12)


@pytest.mark.proves(row=106, fact="reference")
@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_equals_the_function_of_its_authors(alpha: float) -> None:
    """align_uniform/__init__.py of github.com/SsnL/align_uniform: the mean of |x - y|_2^alpha over rows."""
    x, y = unit(7).requires_grad_(), unit(7, seed=1).requires_grad_()
    expected, found = (x - y).norm(p=2, dim=1).pow(alpha).mean(), alignment(x, y, alpha=alpha, unit=False).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        assert torch.allclose(g, h)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_alignment_equals_plain_loops_over_weighted_pairs(rule: Any, alpha: float) -> None:
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    (attract, _), apart = pairs_of(rule, a, c)
    weighted = [(float(attract[i, j]), apart[i][j] ** alpha) for i in range(9) for j in range(11)]
    expected = sum(w * d for w, d in weighted) / sum(w for w, _ in weighted)
    assert alignment(a, c, rule=rule, alpha=alpha).loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", [same_sample, labelled(), graded], ids=["listed pairs", "keys", "matrix"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_equal_rows_have_a_finite_gradient(alpha: float, rule: Any) -> None:
    z = rows(3).requires_grad_()
    label = torch.zeros(3, dtype=torch.int64)
    a, c = (Embeddings.of(z[[0, 0, 0]], view=view, facts={"label": label}) for view in (0, 1))
    loss = alignment(a, c, rule=rule, alpha=alpha).loss
    assert loss.item() == pytest.approx(0, abs=1e-3)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_alignment_without_a_positive_is_0() -> None:
    z = rows(3).requires_grad_()
    a, c = Embeddings.of(z, id=torch.arange(3)), Embeddings.of(rows(2, seed=1), id=torch.tensor([7, 8]))
    loss = alignment(a, c, rule=listed(Relation.of([9], [9]))).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0
    some = alignment(a, c, rule=listed(Relation.of([1], [7]))).loss
    alone = alignment(z[1:2], rows(2, seed=1)[:1]).loss
    assert some.item() == pytest.approx(alone.item(), rel=1e-12)


# uniformity


@pytest.mark.proves(row=106, fact="closed-form")
@pytest.mark.parametrize("t", [0.5, 2.0, 30.0])
def test_uniformity_in_closed_form(t: float) -> None:
    assert uniformity(unit(1).expand(5, 6), t=t).loss.item() == pytest.approx(0, abs=1e-9 * t)
    antipodal = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert uniformity(antipodal, t=t).loss.item() == pytest.approx(-4 * t, rel=1e-12)
    assert uniformity(torch.eye(6, dtype=torch.float64), t=t).loss.item() == pytest.approx(-2 * t, rel=1e-12)
    assert uniformity(simplex(5), t=t).loss.item() == pytest.approx(-2 * t * 5 / 4, rel=1e-12)


@pytest.mark.proves(row=106, fact="reference")
@pytest.mark.parametrize("t", [1.0, 2.0, 5.0])
def test_uniformity_equals_the_function_of_its_authors(t: float) -> None:
    """align_uniform/__init__.py of github.com/SsnL/align_uniform: log mean exp(-t pdist^2)."""
    x = unit(9).requires_grad_()
    expected, found = torch.pdist(x, p=2).pow(2).mul(-t).exp().mean().log(), uniformity(x, t=t, unit=False).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert uniformity(x, t=t).loss.item() == pytest.approx(expected.item(), rel=1e-12)
    g, h = (torch.autograd.grad(loss, x)[0] for loss in (found, expected))
    assert torch.allclose(g, h)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_uniformity_equals_plain_loops_over_weighted_pairs_of_two_sets(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    (_, repel), apart = pairs_of(rule, a, c)
    weighted = [(float(repel[i, j]), apart[i][j]) for i in range(9) for j in range(11)]
    expected = math.log(sum(w * math.exp(-3 * d * d) for w, d in weighted) / sum(w for w, _ in weighted))
    assert uniformity(a, c, rule=rule, t=3.0).loss.item() == pytest.approx(expected, rel=1e-9)


def test_uniformity_across_two_sets_leaves_matched_rows_out() -> None:
    """L_xunif of Fahim et al.: log mean over j != k of exp(-2 |I_j - T_k|^2)."""
    x, y = unit(6), unit(6, seed=1)
    potential = (-2 * torch.cdist(x, y).square()).exp()
    expected = ((potential.sum() - potential.trace()) / 30).log()
    assert uniformity(x, y).loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_two_views_of_a_sample_do_not_repel() -> None:
    z, ids = unit(4), torch.arange(4)
    views = [Embeddings.of(x, id=ids, view=v) for v, x in enumerate((z, z + 1e-3))]
    assert uniformity(Embeddings.cat(views)).loss.item() == pytest.approx(uniformity(z).loss.item(), abs=1e-2)
    strangers = Embeddings.of(torch.cat([z, z + 1e-3]))  # as different samples they are nearest of all
    assert uniformity(strangers).loss.item() > uniformity(z).loss.item() + 0.5


def test_a_flat_potential_is_the_mean_squared_distance() -> None:
    x, t = unit(7), 1e-6
    assert uniformity(x, t=t).loss.item() / t == pytest.approx(-torch.pdist(x).square().mean().item(), rel=1e-4)


# dispersive


@pytest.mark.proves(row=77, fact="closed-form")
def test_dispersive_in_closed_form() -> None:
    assert dispersive(rows(1).expand(5, 6)).loss.item() == pytest.approx(0, abs=1e-9)
    two = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)  # |x - y|^2 = 5, width 2
    assert dispersive(two).loss.item() == pytest.approx(math.log((2 + 2 * math.exp(-5 / 2 / 0.5)) / 4), rel=1e-12)
    assert dispersive(1e3 * rows(8)).loss.item() == pytest.approx(-math.log(8), rel=1e-12)


@pytest.mark.proves(row=77, fact="reference")
def test_dispersive_equals_the_function_of_its_authors() -> None:
    """README of github.com/raywang4/DispLoss, disp_loss: D = pdist(z)^2 / width, once for each order of a pair, and a
    zero for each row itself; log mean exp(-D). Its temperature is 1."""
    z = rows(7).requires_grad_()
    apart = torch.pdist(z).pow(2) / 6
    expected = torch.cat([apart, apart, torch.zeros(7)]).neg().exp().mean().log()
    found = dispersive(z, temperature=1.0).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    g, h = (torch.autograd.grad(loss, z)[0] for loss in (found, expected))
    assert torch.allclose(g, h)


def test_dispersive_with_the_formula_of_the_paper() -> None:
    """log mean_ij exp(-|x_i - x_j|^2 / tau), without the width."""
    z, tau = rows(7), 4.0
    expected = (-torch.cdist(z, z).square() / tau).exp().mean().log()
    assert dispersive(z, temperature=tau / 6).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_dispersive_is_uniformity_of_raw_rows_and_oneself(temperature: float) -> None:
    z = rows(7)
    others = uniformity(z, t=1 / (6 * temperature), unit=False).loss.item()
    expected = math.log((1 + 6 * math.exp(others)) / 7)
    assert dispersive(z, temperature=temperature).loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_dispersive_equals_plain_loops_over_weighted_pairs(rule: Any) -> None:
    a, _, _ = two_sets(9, 1, 3, torch.float64)
    repel, z = rule(a, a).repel, a.z.tolist()
    weighted = [(float(repel[i, j]), math.dist(z[i], z[j]) ** 2) for i in range(9) for j in range(9)]
    above = 9 + sum(w * math.exp(-d / 5 / 0.7) for w, d in weighted)
    expected = math.log(above / (9 + sum(w for w, _ in weighted)))
    assert dispersive(a, rule=rule, temperature=0.7).loss.item() == pytest.approx(expected, rel=1e-9)


def test_ones_own_potential_is_exact_for_long_rows() -> None:
    """|x|^2 + |x|^2 - 2 x.x is not 0 for rows of length 1e4 in fp32."""
    z = 1e3 * rows(8, 100).float()
    assert dispersive(z).loss.item() == pytest.approx(-math.log(8), rel=1e-6)


def test_token_sets_are_flattened() -> None:
    z = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert dispersive(z).loss.item() == dispersive(z.flatten(1)).loss.item()
    assert dispersive(Embeddings.of(z)).loss.item() == dispersive(z.flatten(1)).loss.item()


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_the_cosine_variant_of_dispersive_has_minus_the_cosine_as_distance(tau: float, rule: Any) -> None:
    """Table 1 of the paper: log mean exp(-D / tau), D = -cosine; a row's own is -1."""
    a, _, (z, _) = two_sets(9, 1, 3, torch.float64)
    repel, x = rule(a, a).repel, nn.functional.normalize(z, dim=-1)
    repel = repel.fill_diagonal_(0) + torch.eye(9)
    expected = ((repel * (x @ x.T / tau).exp()).sum() / repel.sum()).log()
    found = dispersive(a, rule=rule, temperature=tau, cosine=True).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    g, h = (torch.autograd.grad(loss, z)[0] for loss in (found, expected))
    assert torch.allclose(g, h, atol=1e-12)


@pytest.mark.proves(row=77, fact="closed-form")
def test_the_hinge_in_closed_form() -> None:
    assert dispersive_hinge(rows(1).expand(5, 6), margin=2.0).loss.item() == pytest.approx(4, rel=1e-9)
    assert dispersive_hinge(1e3 * rows(8), margin=2.0).loss.item() == pytest.approx(4 / 8, rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_hinge_equals_plain_loops_over_weighted_pairs(rule: Any) -> None:
    a, _, _ = two_sets(9, 1, 3, torch.float64)
    repel, z = rule(a, a).repel, a.z.tolist()
    short = [[max(0.0, 1.5 - math.dist(p, q) ** 2 / 5) ** 2 for q in z] for p in z]
    above = 9 * 1.5**2 + sum(float(repel[i, j]) * short[i][j] for i in range(9) for j in range(9) if i != j)
    assert dispersive_hinge(a, rule=rule, margin=1.5).loss.item() == pytest.approx(
        above / (9 + repel.sum().item()), rel=1e-9
    )


# koleo


@pytest.mark.proves(reference=KOLEO, fact="closed-form")
def test_koleo_in_closed_form() -> None:
    assert koleo(torch.eye(5, dtype=torch.float64)).loss.item() == pytest.approx(-math.log(2) / 2, rel=1e-12)
    antipodal = torch.tensor([[0.0, 3.0], [0.0, -1.0]], dtype=torch.float64)
    assert koleo(antipodal).loss.item() == pytest.approx(-math.log(2), rel=1e-12)
    assert koleo(polygon(7)).loss.item() == pytest.approx(-math.log(2 * math.sin(math.pi / 7)), rel=1e-12)
    assert koleo(simplex(4)).loss.item() == pytest.approx(-math.log(8 / 3) / 2, rel=1e-12)


@pytest.mark.proves(reference=KOLEO, fact="reference")
def test_koleo_equals_the_code_of_its_authors_and_of_dinov2() -> None:
    """train.py of github.com/facebookresearch/spreadingvectors: -mean log(n |x - x_nearest|); koleo_loss.py of
    github.com/facebookresearch/dinov2: -mean log(|x - x_nearest| + 1e-8). The nearest has the largest dot product."""
    z = rows(9).requires_grad_()
    x = nn.functional.normalize(z, dim=-1)
    nearest = (x @ x.T).fill_diagonal_(-1).argmax(1)
    apart = (x - x[nearest]).norm(dim=1)
    found, expected = koleo(z).loss, -(apart + 1e-8).log().mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-7)
    assert found.item() == pytest.approx(-(9 * apart).log().mean().item() + math.log(9), rel=1e-12)
    g, h = (torch.autograd.grad(loss, z)[0] for loss in (found, expected))
    assert torch.allclose(g, h, atol=1e-6)


def test_koleo_equals_the_entropy_term_of_sscd() -> None:
    """sscd/train.py of github.com/facebookresearch/sscd-copy-detection: -mean log sqrt(clamp(2 - 2 max s, 1e-6)), the
    maximum over pairs of different images."""
    z, ids = rows(8), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    views = Embeddings.cat([Embeddings.of(z[4 * v : 4 * v + 4], id=ids[:4], view=v) for v in (0, 1)])
    x = nn.functional.normalize(z, dim=-1)
    similar = torch.where(ids[:, None] != ids[None, :], x @ x.T, -100.0).amax(1)
    expected = -(2 - 2 * similar).clamp(min=1e-6).sqrt().log().mean()
    assert koleo(views).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_koleo_equals_plain_loops(rule: Any) -> None:
    a, _, _ = two_sets(11, 1, 5, torch.float64)
    (_, repel), apart = pairs_of(rule, a, a)
    nearest = [min((apart[i][j] for j in range(11) if repel[i, j] > 0), default=None) for i in range(11)]
    logs = [math.log(d) for d in nearest if d is not None]
    assert koleo(a, rule=rule).loss.item() == pytest.approx(-sum(logs) / len(logs), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_koleo_of_equal_rows_is_bounded_and_finite(dtype: torch.dtype) -> None:
    z = rows(2).to(dtype).requires_grad_()
    loss = koleo(z[[0, 0, 0]], eps=1e-4).loss
    assert loss.item() == pytest.approx(-math.log(1e-4) / 2, rel=1e-6)
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0
    both = koleo(z[[0, 0, 1]]).loss  # two equal rows beside another
    assert torch.isfinite(torch.autograd.grad(both, z)[0]).all()


def test_a_sharp_potential_sees_the_nearest_pair_of_all() -> None:
    x, t = unit(7), 1e4
    nearest = torch.pdist(x).min().item() ** 2
    assert -uniformity(x, t=t).loss.item() / t == pytest.approx(nearest, rel=1e-2)


# all


@pytest.mark.parametrize("objective", ONE_SET.values(), ids=list(ONE_SET))
def test_one_row_or_none_costs_nothing(objective: Callable[..., Outcome]) -> None:
    for n in (0, 1):
        z = rows(n).requires_grad_()
        loss = objective(z).loss
        assert loss.item() == 0
        if loss.requires_grad:
            assert torch.equal(torch.autograd.grad(loss, z)[0], torch.zeros_like(z))


@pytest.mark.parametrize("objective", ONE_SET.values(), ids=list(ONE_SET))
def test_equal_ids_alone_cost_nothing(objective: Callable[..., Outcome]) -> None:
    z = rows(4).requires_grad_()
    loss = objective(Embeddings.of(z, id=torch.full((4,), 3)), rule=same_sample).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", PUSHED.values(), ids=list(PUSHED))
def test_duplicates_of_different_ids_are_finite(objective: Callable[..., Outcome], dtype: torch.dtype) -> None:
    z = rows(3).to(dtype).requires_grad_()
    loss = objective(z[[0, 1, 0, 2, 1, 1]]).loss
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


@pytest.mark.parametrize("objective", ONE_SET.values(), ids=list(ONE_SET))
def test_shuffling_and_rotating_change_nothing(objective: Callable[..., Outcome]) -> None:
    z = rows(8)
    base = objective(z).loss.item()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(rows(6, seed=5))[0]
    assert objective(z[order]).loss.item() == pytest.approx(base, rel=1e-12)
    assert objective(z @ rotation).loss.item() == pytest.approx(base, rel=1e-9)
    scaled = objective(z * torch.linspace(0.5, 2, 8)[:, None]).loss.item()
    if objective is dispersive:  # which shifts instead
        assert objective(z + 3).loss.item() == pytest.approx(base, rel=1e-9)
        assert scaled != pytest.approx(base, rel=1e-3)
    else:
        assert scaled == pytest.approx(base, rel=1e-9)


def test_alignment_does_not_change_with_order_rotation_and_length() -> None:
    x, y, ids = rows(8), rows(8, seed=1), torch.arange(8)
    base = alignment(x, y).loss.item()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(rows(6, seed=5))[0]
    shuffled = alignment(Embeddings.of(x, id=ids), Embeddings.of(y[order], id=ids[order], view=1))
    assert shuffled.loss.item() == pytest.approx(base, rel=1e-12)
    assert alignment(3 * x @ rotation, 0.1 * y @ rotation).loss.item() == pytest.approx(base, rel=1e-9)
    assert alignment(3 * x, 3 * y, unit=False).loss.item() != pytest.approx(base, rel=1e-3)


@pytest.mark.parametrize("objective", PUSHED.values(), ids=list(PUSHED))
def test_gradient_equals_finite_differences(objective: Callable[..., Outcome]) -> None:
    assert torch.autograd.gradcheck(lambda z: objective(z).loss, rows(5, 3).requires_grad_())


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_gradient_of_alignment_equals_finite_differences(alpha: float) -> None:
    inputs = (rows(4, 3).requires_grad_(), rows(4, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: alignment(x, y, alpha=alpha).loss, inputs)


def test_distances_of_near_rows_keep_their_digits_in_an_autocast() -> None:
    near = nn.functional.normalize(rows(1, 64) + 1e-2 * rows(6, 64, seed=1), dim=-1).float()
    label = torch.zeros(6, dtype=torch.int64)
    e = Embeddings.of(near, facts={"label": label})
    computed: list[Callable[[], Outcome]] = [
        lambda: koleo(near),
        lambda: dispersive(100 * near),
        lambda: alignment(e, rule=labelled()),
    ]
    for compute in computed:
        plain = compute().loss.item()
        with torch.autocast("cpu", torch.bfloat16):
            assert compute().loss.item() == pytest.approx(plain, rel=1e-6)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="an alpha above 0, got 0"):
        alignment(rows(2), rows(2), alpha=0.0)
    with pytest.raises(ValueError, match="a t above 0, got -2"):
        uniformity(rows(2), t=-2.0)
    with pytest.raises(ValueError, match="a temperature above 0"):
        dispersive(rows(2), temperature=0.0)
    with pytest.raises(ValueError, match="an eps above 0"):
        koleo(rows(2), eps=0.0)
    with pytest.raises(ValueError, match="as many candidate rows"):
        uniformity(rows(2), rows(3))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_of_alignment_equal_dense(rule: Any, alpha: float, n: int, m: int, seed: int) -> None:
    assert_tiles_equal_dense(lambda a, c: alignment(a, c, rule=rule, alpha=alpha), n=n, m=m, seed=seed)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_of_uniformity_of_two_sets_equal_dense(rule: Any, n: int, m: int, seed: int) -> None:
    assert_tiles_equal_dense(lambda a, c: uniformity(a, c, rule=rule, t=3.0), n=n, m=m, seed=seed)


@pytest.mark.parametrize("objective", PUSHED.values(), ids=list(PUSHED))
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_of_one_set_equal_dense(objective: Callable[..., Outcome], rule: Any, n: int, seed: int) -> None:
    assert_tiles_equal_dense(lambda a, _: objective(a, rule=rule), n=n, m=1, seed=seed)
