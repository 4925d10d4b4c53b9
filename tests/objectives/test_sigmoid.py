"""The sigmoid loss: closed forms, limits, plain loops, public references, invariances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint.objectives.sigmoid import siglip
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Relation
from tests.objectives.contract import RULES, assert_tiles_equal_dense, two_sets

SIGLIP = "Zhai et al.: Sigmoid Loss for Language Image Pre-Training, arXiv:2303.15343, 2023"


def unit(n: int, d: int = 8, seed: int = 0) -> Tensor:
    return nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def by_the_paper(images: Tensor, texts: Tensor, t_prime: Tensor, b: Tensor) -> Tensor:
    """Algorithm 1 of arXiv:2303.15343; the same numbers as SigLipLoss of open_clip and siglip.py of big_vision:
    logits t x y^T + b, labels 2 I - 1, minus the sum of log sigmoid(labels logits), over n."""
    n = len(images)
    x, y = (nn.functional.normalize(z, dim=-1) for z in (images, texts))
    logits = x @ y.T * t_prime.exp() + b
    labels = 2 * torch.eye(n, dtype=logits.dtype) - 1
    return -nn.functional.logsigmoid(labels * logits).sum() / n


@pytest.mark.proves(reference=SIGLIP, fact="closed-form")
@pytest.mark.parametrize("bias", [-10.0, 0.0, 3.0])
def test_a_single_positive_costs_the_softplus_of_minus_its_logit(bias: float) -> None:
    a, c = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    assert siglip(a, c, temperature=0.2, bias=bias).loss.item() == pytest.approx(
        softplus(-(0.6 / 0.2 + bias)), rel=1e-12
    )


@pytest.mark.proves(reference=SIGLIP, fact="closed-form")
def test_hand_sized_case() -> None:
    a, c = torch.eye(2, dtype=torch.float64), torch.tensor([[0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)
    expected = softplus(-(0.6 / 0.5 - 1)) + softplus(0.8 / 0.5 - 1)
    assert siglip(a, c, temperature=0.5, bias=-1.0).loss.item() == pytest.approx(expected, rel=1e-12)


def test_orthogonal_sets_at_the_first_step() -> None:
    """Every logit is the bias, -10: each positive costs 10, all negatives together nearly nothing."""
    z = torch.eye(6, dtype=torch.float64)
    expected = softplus(10) + 2 * softplus(-10)
    assert siglip(z[:3], z[3:]).loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_equals_plain_loops_over_pairs(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    pairs, cosine = rule(a, c), (a.to_unit().z @ c.to_unit().z.T).detach()
    expected = 0.0
    for i in range(9):
        for j in range(11):
            logit = float(cosine[i, j]) / 0.3 - 2
            expected += float(pairs.attract[i, j]) * softplus(-logit) + float(pairs.repel[i, j]) * softplus(logit)
    found = siglip(a, c, rule=rule, temperature=0.3, bias=-2.0)
    assert found.loss.item() == pytest.approx(expected / 9, rel=1e-10)
    some = pairs.repel.sum(1) > 0
    negative = (pairs.repel * cosine).sum(1) / pairs.repel.sum(1).clamp(min=1e-9)
    assert torch.allclose(found.notes["negative"][some], negative[some])
    assert torch.allclose(found.notes["negatives"], pairs.repel.sum(1))
    positive = (pairs.attract * cosine).sum(1) / pairs.attract.sum(1).clamp(min=1e-9)
    assert torch.allclose(found.notes["positive"], positive)


@pytest.mark.proves(reference=SIGLIP, fact="reference")
def test_equals_the_paper_in_value_and_gradient() -> None:
    inputs = [unit(7).requires_grad_(), unit(7, seed=1).requires_grad_()]
    t_prime = torch.tensor(math.log(10), dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    leaves = [*inputs, t_prime, b]
    expected, found = by_the_paper(*leaves), siglip(*inputs, temperature=(-t_prime).exp(), bias=b).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert siglip(*inputs).loss.item() == pytest.approx(expected.item(), rel=1e-12)  # the paper's start
    for g, h in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)


@pytest.mark.proves(reference=SIGLIP, fact="reference")
def test_equals_binary_cross_entropy_with_logits() -> None:
    a, c = unit(8), unit(8, seed=1)
    loss = nn.BCEWithLogitsLoss(reduction="sum")(a @ c.T / 0.07 - 5, torch.eye(8, dtype=torch.float64)) / 8
    assert siglip(a, c, temperature=0.07, bias=-5.0).loss.item() == pytest.approx(loss.item(), rel=1e-12)


def test_far_below_0_only_positives_pull_and_linearly() -> None:
    a, c = unit(5), unit(5, seed=1)
    found = siglip(a, c, temperature=0.5, bias=-60.0).loss.item()
    assert found == pytest.approx(60 - float((a * c).sum(1).mean()) / 0.5, rel=1e-12)


def test_far_above_0_only_negatives_push_and_linearly() -> None:
    a, c = unit(5), unit(5, seed=1)
    cosine = a @ c.T
    away = float(cosine.sum() - cosine.trace()) / 0.5 / 5
    assert siglip(a, c, temperature=0.5, bias=60.0).loss.item() == pytest.approx(4 * 60 + away, rel=1e-12)


def test_candidates_in_chunks_add_up() -> None:
    """What lets the paper pass candidates from device to device."""
    a = Embeddings.of(unit(6), id=torch.arange(6))
    c = Embeddings.of(unit(9, seed=1), id=torch.arange(9), view=1)
    parts = [siglip(a, c.rows(slice(*ends))).loss.item() for ends in ((0, 4), (4, 9))]
    assert siglip(a, c).loss.item() == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("temperature", "bias"), [(1e-4, 0.0), (0.1, -1e4), (0.1, 1e4)])
def test_extreme_logits_stay_finite(temperature: float, bias: float, dtype: torch.dtype) -> None:
    z = [unit(5).to(dtype).requires_grad_(), unit(5, seed=1).to(dtype).requires_grad_()]
    loss = siglip(*z, temperature=temperature, bias=bias).loss
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, z))


def test_half_precision_rows_leave_the_bias_its_digits() -> None:
    a, c = unit(4).bfloat16(), unit(4, seed=1).bfloat16()
    one, other = (siglip(a, c, bias=b).loss for b in (-10.0, -10.01))
    assert one.dtype == torch.float32
    assert other.item() - one.item() == pytest.approx(0.01, rel=0.05)


def test_every_anchor_counts_and_ignored_pairs_do_nothing() -> None:
    relation = Relation.of([0, 1], [10, 11])
    a = unit(3).requires_grad_()
    c = Embeddings.of(unit(2, seed=1), id=torch.tensor([10, 11]))
    three = siglip(Embeddings.of(a, id=torch.arange(3)), c, rule=listed(relation), bias=-1.0).loss
    two = siglip(Embeddings.of(a[:2], id=torch.arange(2)), c, rule=listed(relation), bias=-1.0).loss
    last = sum(softplus(float(x) / 0.1 - 1) for x in a.detach()[2] @ c.z.T)
    assert three.item() == pytest.approx((2 * two.item() + last) / 3, rel=1e-12)
    same = Embeddings.of(a, id=torch.tensor([5, 5, 5]))
    alone = siglip(same, same).loss  # oneself and equal ids only: nothing to learn from
    assert alone.item() == 0
    assert torch.autograd.grad(alone, a)[0].abs().max() == 0


def test_gradients_equal_finite_differences() -> None:
    rule = listed(Relation.of([0, 0, 1, 2], [10, 11, 11, 12], [1.0, 0.5, 1.0, 0.0]), negative_weight=2.0)
    c = Embeddings.of(unit(3, seed=1), id=torch.tensor([10, 11, 12]))

    def loss(z: Tensor, t: Tensor, b: Tensor) -> Tensor:
        return siglip(Embeddings.of(z, id=torch.arange(3)), c, rule=rule, temperature=t, bias=b).loss

    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.5, -1.0)]
    assert torch.autograd.gradcheck(loss, (unit(3).requires_grad_(), *numbers))


def test_shuffling_scaling_and_rotating_change_nothing() -> None:
    a, c, ids = unit(8), unit(8, seed=1), torch.arange(8)
    base = siglip(a, c).loss.item()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = siglip(Embeddings.of(a, id=ids), Embeddings.of(c[order], id=ids[order], view=1))
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert shuffled.loss.item() == pytest.approx(base, rel=1e-12)
    assert siglip(3 * a, 0.1 * c).loss.item() == pytest.approx(base, rel=1e-12)
    assert siglip(a @ rotation, c @ rotation).loss.item() == pytest.approx(base, rel=1e-9)
    assert siglip(3 * a, c, unit=False).loss.item() == pytest.approx(siglip(a, c, temperature=0.1 / 3).loss.item())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        siglip(unit(2), unit(2), temperature=0.0)
    with pytest.raises(ValueError, match="as many candidate rows"):
        siglip(unit(2), unit(3))


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(rule: Any, n: int, m: int, seed: int) -> None:
    t, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, -2.0))
    assert_tiles_equal_dense(
        lambda x, y: siglip(x, y, rule=rule, temperature=t, bias=b), n=n, m=m, seed=seed, learnable=(t, b)
    )
