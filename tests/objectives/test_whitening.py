"""Whitening: the covariance it leaves, its limits, the authors' module, its gradient, many processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from counterpoint._ops.launch import in_processes
from counterpoint.objectives.decorrelation import standardised
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.whitening import inverse_root, whiten
from counterpoint.types import Embeddings


def rows(n: int, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + 3


def order_of(d: int = 6, seed: int = 0) -> Tensor:
    return torch.randperm(d, generator=torch.Generator().manual_seed(seed))


def authors(x: Tensor, groups: int, order: Tensor | None, *, constant: bool = True) -> Tensor:
    """ShuffledGroupWhitening of whitenedcse/shuffled_group_whitening.py of github.com/SupstarZh/WhitenedCSE (commit
    65fe70a): of each group U S^-1/2 U^T of the covariance divided by the batch, whose copy carries no gradient."""
    n, d = x.shape
    moved = x if order is None else x[:, order]
    moved = moved.view(n, groups, d // groups)
    moved = (moved - moved.mean(0, keepdim=True)).transpose(0, 1)
    covariance = moved.transpose(1, 2) @ moved / n
    values, vectors = torch.linalg.eigh(covariance.detach() if constant else covariance)
    white = moved @ (vectors @ values.rsqrt().diag_embed() @ vectors.transpose(1, 2))
    white = white.transpose(0, 1).flatten(1)
    return white if order is None else white[:, torch.argsort(order)]


@pytest.mark.proves(row=28, fact="closed-form")
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shuffled", [False, True])
def test_each_group_has_mean_0_and_the_identity_as_covariance(groups: int, shuffled: bool) -> None:
    order = order_of() if shuffled else None
    z = whiten(Embeddings.of(rows(20)), groups=groups, order=order, eps=0.0).z
    assert z.mean(0).abs().max() < 1e-12
    arranged = z if order is None else z[:, order]
    for part in arranged.split(6 // groups, dim=1):
        assert torch.allclose(part.T @ part / 20, torch.eye(6 // groups, dtype=torch.float64), atol=1e-10)


@pytest.mark.proves(row=28, fact="reference")
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_it_equals_the_module_of_its_authors(shuffled: bool, constant: bool) -> None:
    x, weight, order = rows(20).requires_grad_(), rows(20, seed=1), order_of() if shuffled else None
    found = whiten(Embeddings.of(x), groups=2, order=order, eps=0.0, constant=constant).z
    expected = authors(x, 2, order, constant=constant)
    assert torch.allclose(found, expected)
    g, h = (torch.autograd.grad((z.sin() * weight).sum(), x)[0] for z in (found, expected))
    assert torch.allclose(g, h)


@pytest.mark.proves(row=28, fact="reference")
def test_three_views_of_one_embedding_give_the_loss_of_the_paper() -> None:
    """cl_forward of whitenedcse/models.py there: cross entropies of the cosines z1 z2 / tau and z1 z3 / tau, added up."""
    x, orders = rows(16).requires_grad_(), [order_of(seed=k) for k in range(3)]
    ours = [whiten(Embeddings.of(x, view=v), groups=3, order=o, eps=0.0, constant=True) for v, o in enumerate(orders)]
    found = infonce(ours[0], ours[1], temperature=0.05).loss + infonce(ours[0], ours[2], temperature=0.05).loss
    one, two, three = (torch.nn.functional.normalize(authors(x, 3, o), dim=1) for o in orders)
    ids = torch.arange(16)
    expected = torch.nn.functional.cross_entropy(one @ two.T / 0.05, ids)
    expected = expected + torch.nn.functional.cross_entropy(one @ three.T / 0.05, ids)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    g, h = (torch.autograd.grad(loss, x)[0] for loss in (found, expected))
    assert torch.allclose(g, h)


def test_groups_of_one_coordinate_standardise_and_equal_orders_give_equal_rows() -> None:
    e = Embeddings.of(rows(20))
    assert torch.allclose(whiten(e, groups=6).z, standardised(e).z)
    assert torch.equal(whiten(e, groups=2, order=order_of()).z, whiten(e, groups=2, order=order_of()).z)
    assert not torch.allclose(whiten(e, groups=2, order=order_of()).z, whiten(e, groups=2, order=order_of(seed=1)).z)
    assert torch.allclose(whiten(e, order=order_of(), eps=0.0).z, whiten(e, eps=0.0).z)  # one group has no order


def test_it_turns_rows_as_little_as_can_be() -> None:
    white = rows(40) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows(40).T, correction=0))).T
    again = whiten(Embeddings.of(white), eps=0.0).z
    assert torch.allclose(again, white - white.mean(0), atol=1e-9)


def test_the_gradient_is_right_where_eigenvalues_are_equal() -> None:
    """That of an eigendecomposition divides by their difference."""
    same = torch.eye(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: inverse_root((s + s.T) / 2), (same * 2).requires_grad_())
    matrix = torch.cov(rows(9, 4).T)[None]
    assert torch.autograd.gradcheck(lambda s: inverse_root((s + s.mT) / 2), matrix.requires_grad_())
    assert torch.autograd.gradcheck(lambda z: whiten(Embeddings.of(z), groups=2).z, rows(7, 4).requires_grad_())


def test_fewer_rows_than_coordinates_stay_finite() -> None:
    z = rows(3).requires_grad_()
    white = whiten(Embeddings.of(z)).z
    assert torch.isfinite(white).all()
    assert torch.isfinite(torch.autograd.grad(white.sin().sum(), z)[0]).all()


def test_rows_of_several_processes_are_whitened_together() -> None:
    z, weight = rows(12), rows(12, seed=1)

    def work(rank: int, _count: int) -> list[Tensor]:
        at = slice(0, 5) if rank == 0 else slice(5, 12)
        part = z[at].clone().requires_grad_()
        white = whiten(Embeddings.of(part), groups=2, order=order_of()).z
        return [white.detach(), torch.autograd.grad((white.sin() * weight[at]).sum(), part)[0]]

    leaf = z.clone().requires_grad_()
    whole = whiten(Embeddings.of(leaf), groups=2, order=order_of()).z
    parts = in_processes(2, work)
    assert torch.allclose(torch.cat([part[0] for part in parts]), whole)
    expected = torch.autograd.grad((whole.sin() * weight).sum(), leaf)[0]
    assert torch.allclose(torch.cat([part[1] for part in parts]), expected)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="divides the width 6, got 4"):
        whiten(Embeddings.of(rows(9)), groups=4)
    with pytest.raises(ValueError, match="an order of all 6 coordinates, got 5"):
        whiten(Embeddings.of(rows(9)), order=order_of(5))
