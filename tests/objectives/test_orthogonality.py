"""Orthogonal codes and unrelated rows at right angles: closed forms, authors' formulas, an installed peer, invariances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.objectives.orthogonality import global_orthogonality, orthogonality
from counterpoint.types import Embeddings
from tests.objectives.contract import RULES, assert_same, two_sets

DIFFERENCE = "Bousmalis et al.: Domain Separation Networks, arXiv:1608.06019, 2016 (difference loss)"
GOR = "Zhang, Yu, Kumar, Chang: Learning Spread-out Local Feature Descriptors, arXiv:1708.06320, 2017"
SQUARE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def rows(n: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.proves(reference=DIFFERENCE, fact="reference")
def test_orthogonality_equals_the_difference_loss_of_its_authors() -> None:
    """domain_separation/losses.py of github.com/tensorflow/models (research), difference_loss: centred, rows to unit
    length, mean over the products of columns of squared sums."""
    x, y = rows(9).requires_grad_(), rows(9, 4, seed=1).requires_grad_()
    sides = [normalize(z - z.mean(0), dim=1) for z in (x, y)]
    expected = (sides[0].T @ sides[1]).square().mean()
    assert_same(orthogonality(x, y).loss * (81 / 20), expected, (x, y))


@pytest.mark.proves(reference=DIFFERENCE, fact="closed-form")
def test_orthogonality_of_equal_and_of_independent_codes() -> None:
    first, second = SQUARE[:, :1], SQUARE[:, 1:]
    assert orthogonality(first, second).loss.item() == 0
    assert orthogonality(first, -2 * first).loss.item() == pytest.approx(1, rel=1e-12)


def test_order_does_not_matter_and_without_a_pair_nothing_is_paid() -> None:
    x, y, order, ids = rows(9).requires_grad_(), rows(9, 4, seed=1), torch.randperm(9), torch.arange(9)
    shuffled = orthogonality(Embeddings.of(x, id=ids), Embeddings.of(y[order], id=ids[order], view=1)).loss
    assert shuffled.item() == pytest.approx(orthogonality(x, y).loss.item(), rel=1e-12)
    loss = orthogonality(Embeddings.of(x), Embeddings.of(y, id=ids + 20)).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, x)[0].abs().max() == 0


# unrelated rows


@pytest.mark.proves(reference=GOR, fact="closed-form")
def test_right_angles_cost_nothing_and_equal_rows_what_they_are_off() -> None:
    assert global_orthogonality(torch.eye(4, dtype=torch.float64)).loss.item() == 0
    same = global_orthogonality(torch.ones(3, 4, dtype=torch.float64)).terms
    assert same["mean"].item() == pytest.approx(1, rel=1e-12)
    assert same["square"].item() == pytest.approx(1 - 1 / 4, rel=1e-12)


@pytest.mark.proves(reference=GOR, fact="reference")
def test_it_equals_a_peer() -> None:
    """GlobalOrthogonalRegularizationLoss of sentence-transformers, of one column of embeddings."""
    from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

    z = (rows(7) + 1.5).requires_grad_()
    peer = GlobalOrthogonalRegularizationLoss(None)  # type: ignore[arg-type]
    terms = peer.compute_loss_from_embeddings([z])
    assert_same(global_orthogonality(z).loss, terms["gor_mean"] + terms["gor_second_moment"], (z,))
    assert min(term.item() for term in terms.values()) > 0


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_it_equals_plain_loops_over_weighted_pairs(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    repel, s = rule(a, c).repel, normalize(a.z, dim=1) @ normalize(c.z, dim=1).T
    first, second = ((repel * s**power).sum() / repel.sum() for power in (1, 2))
    terms = global_orthogonality(a, c, rule=rule).terms
    assert terms["mean"].item() == pytest.approx(first.item() ** 2, rel=1e-9)
    assert terms["square"].item() == pytest.approx(max(0, second.item() - 1 / 5), abs=1e-12)


def test_gradients_equal_finite_differences() -> None:
    inputs = (rows(6, 3) + 0.5).requires_grad_(), rows(6, 3, seed=1).requires_grad_()
    for objective in (orthogonality, global_orthogonality):
        assert torch.autograd.gradcheck(lambda x, y, loss=objective: loss(x, y).loss, inputs)


def test_one_row_is_finite() -> None:
    z = rows(1).requires_grad_()
    for loss in (global_orthogonality(z).loss, orthogonality(z, rows(1, seed=1)).loss):
        assert loss.item() == 0
        assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
