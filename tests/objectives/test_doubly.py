"""CACR: closed forms, limits, plain loops, the authors' formula, invariances."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint.objectives.doubly import cacr
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Relation
from tests.objectives.contract import RULES, assert_moving_changes_nothing, assert_tiles_equal_dense, two_sets


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def by_loops(a: Embeddings, c: Embeddings, rule: Any, t_positive: float, t_negative: float) -> tuple[float, float]:
    """The docstring, one pair at a time: attraction and repulsion."""
    apart = [[math.dist(x, y) ** 2 for y in c.to_unit().z.tolist()] for x in a.to_unit().z.tolist()]
    means = []
    for weights, t, sign in zip(rule(a, c), (t_positive, -t_negative), (1, -1), strict=True):
        each = []
        for w, d in zip(weights.tolist(), apart, strict=True):
            under = [x * math.exp(t * y) for x, y in zip(w, d, strict=True)]
            if sum(under):
                each.append(sign * sum(x * y for x, y in zip(under, d, strict=True)) / sum(under))
        means.append(sum(each) / len(each) if each else 0.0)
    return means[0], means[1]


@pytest.mark.proves(row=12, fact="closed-form")
def test_by_hand() -> None:
    """One anchor, positives at squared distance 0 and 2, negatives at 2 and 4."""
    a = Embeddings.of(torch.tensor([[1.0, 0]], dtype=torch.float64), facts={"label": torch.tensor([0])})
    y = torch.tensor([[1.0, 0], [0, 1], [0, -1], [-1, 0]], dtype=torch.float64)
    c = Embeddings.of(y, id=torch.arange(1, 5), facts={"label": torch.tensor([0, 0, 1, 1])})
    found = cacr(a, c, rule=labelled(), t_positive=0.5, t_negative=0.25, alpha=3.0, beta=2.0)
    far = 2 * math.e / (1 + math.e)
    near = (2 * math.exp(-0.5) + 4 * math.exp(-1)) / (math.exp(-0.5) + math.exp(-1))
    assert found.terms["attraction"].item() == pytest.approx(far, rel=1e-12)
    assert found.terms["repulsion"].item() == pytest.approx(-near, rel=1e-12)
    assert found.loss.item() == pytest.approx(3 * far - 2 * near, rel=1e-12)
    assert found.notes["negatives"].tolist() == [2.0]


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize(("t_positive", "t_negative"), [(1.0, 1.0), (0.0, 3.0), (2.5, 0.0)])
def test_equals_plain_loops(rule: Any, t_positive: float, t_negative: float) -> None:
    a, c, _ = two_sets(9, 11, 0, torch.float64)
    found = cacr(a, c, rule=rule, t_positive=t_positive, t_negative=t_negative).terms
    attraction, repulsion = by_loops(a, c, rule, t_positive, t_negative)
    assert found["attraction"].item() == pytest.approx(attraction, rel=1e-9)
    assert found["repulsion"].item() == pytest.approx(repulsion, rel=1e-9)


def attraction_of_the_authors(codes: list[Tensor], alpha: float, tau: float) -> Tensor:
    """our_loss1 of small_scale_experiments/losses at github.com/JegZheng/CACR-SSL (commit 4dd3ef3)."""
    loss = torch.zeros((), dtype=torch.float64)
    for k, z in enumerate(codes):
        others = torch.stack(codes[:k] + codes[k + 1 :])
        cost = alpha * (z - others).norm(dim=-1).pow(2).T
        loss = loss + (cost * torch.softmax(cost * tau / alpha, 1)).sum(1).mean()
    return loss / len(codes)


def repulsion_of_the_authors(x: Tensor, y: Tensor, beta: float, tau: float) -> Tensor:
    """forward_negative_loss of the same file, not debiased."""
    n = len(x)
    cost = -beta * (x[:, None] - y).norm(dim=-1).pow(2)
    cost = cost.masked_select(~torch.eye(n, dtype=torch.bool)).view(n, n - 1)
    return (cost * torch.softmax(cost * tau / beta, 1)).sum(1).mean()


@pytest.mark.proves(row=12, fact="reference")
@pytest.mark.parametrize(("alpha", "beta", "t_positive", "t_negative"), [(1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 3.0, 0.9)])
def test_equals_the_authors_code_in_value_and_gradient(
    alpha: float, beta: float, t_positive: float, t_negative: float
) -> None:
    """Two views: their whole loss. Four views: their attraction, over one set of all views."""
    options: Any = {"alpha": alpha, "beta": beta, "t_positive": t_positive, "t_negative": t_negative}
    x, y = unit(6).requires_grad_(), unit(6, seed=1).requires_grad_()
    expected = attraction_of_the_authors([x, y], alpha, t_positive) + repulsion_of_the_authors(x, y, beta, t_negative)
    found = cacr(x, y, **options).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    z, w = unit(6).requires_grad_(), unit(6, seed=1).requires_grad_()
    tangent = [nn.functional.normalize(v, dim=-1) for v in (z, w)]
    expected = attraction_of_the_authors(tangent, alpha, t_positive)
    expected = expected + repulsion_of_the_authors(*tangent, beta, t_negative)
    for g, h in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (z, w)), strict=True):
        assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)
    views = [unit(6, seed=s) for s in range(4)]
    both = Embeddings.cat([Embeddings.of(v, view=k) for k, v in enumerate(views)])
    wanted = attraction_of_the_authors(views, alpha, t_positive).item()
    assert cacr(both, **(options | {"beta": 0.0})).loss.item() == pytest.approx(wanted, rel=1e-12)


def test_limits() -> None:
    """Without sharpness all count alike; with much of it only the farthest positive and the nearest negative are left."""
    views = Embeddings.cat([Embeddings.of(unit(5, seed=s), view=s) for s in range(3)])
    flat = cacr(views, t_positive=0.0, t_negative=0.0).terms
    assert flat["attraction"].item() == pytest.approx(alignment(views).loss.item(), rel=1e-12)
    apart = torch.cdist(views.z, views.z).pow(2)
    other = views.id[:, None] != views.id[None, :]
    assert flat["repulsion"].item() == pytest.approx(-apart[other].mean().item(), rel=1e-12)
    sharp = cacr(views, t_positive=1e4, t_negative=1e4).terms
    assert sharp["attraction"].item() == pytest.approx(apart.masked_fill(other, 0).amax(1).mean().item(), rel=1e-9)
    nearest = apart.masked_fill(~other, math.inf).amin(1).mean().item()
    assert sharp["repulsion"].item() == pytest.approx(-nearest, rel=1e-9)


def test_positives_never_compete_with_negatives() -> None:
    """Negatives that move do not change the attraction, nor positives the repulsion."""
    x, y, moved = unit(5), unit(5, seed=1), unit(5, seed=2)
    rule = listed(Relation.of([0], [10]))
    a = Embeddings.of(x[:1], id=torch.tensor([0]))
    ids = torch.tensor([10, 11, 12, 13, 14])
    base, far, other = (
        cacr(a, Embeddings.of(z, id=ids), rule=rule).terms
        for z in (y, torch.cat([y[:1], moved[1:]]), torch.cat([moved[:1], y[1:]]))
    )
    assert base["attraction"] == far["attraction"]
    assert base["repulsion"] == other["repulsion"]
    assert base["repulsion"] != far["repulsion"]


def test_shuffling_scaling_and_rotating_change_nothing() -> None:
    a, c, _ = two_sets(9, 11, 0, torch.float64)
    loss = partial(cacr, rule=labelled(), t_positive=2.0, t_negative=3.0)
    assert_moving_changes_nothing(loss, a, c)


def test_rows_without_a_positive_or_a_negative_count_in_the_other_term_alone() -> None:
    z = unit(3).requires_grad_()
    a = Embeddings.of(z, id=torch.tensor([0, 1, 2]))
    c = Embeddings.of(unit(2, seed=1), id=torch.tensor([10, 11]))
    found = cacr(a, c, rule=listed(Relation.of([0, 1, 1], [10, 10, 11])))
    (gradient,) = torch.autograd.grad(found.terms["attraction"], z, retain_graph=True)
    assert gradient[2].abs().max() == 0
    (gradient,) = torch.autograd.grad(found.terms["repulsion"], z)
    assert gradient[1].abs().max() == 0
    assert gradient[2].abs().max() > 0
    alone = cacr(Embeddings.of(z[:1], id=a.id[:1]), c, rule=listed(Relation.of([0, 0], [10, 11])))
    assert alone.terms["repulsion"].item() == 0


def test_bad_arguments_are_refused() -> None:
    for name in ("t_positive", "t_negative", "alpha", "beta"):
        with pytest.raises(ValueError, match=f"wanted {name} of at least 0, got -1"):
            cacr(unit(2), unit(2), **{name: -1.0})


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(rule: Any, n: int, m: int, seed: int) -> None:
    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        return cacr(a, c, rule=rule, t_positive=2.0, t_negative=3.0, alpha=0.5)

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed)
