"""Barlow Twins, its mixtures, VICReg: closed forms, authors' formulas, many processes, invariances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from counterpoint._ops.launch import in_processes
from counterpoint._ops.reduce import moments
from counterpoint.objectives.decorrelation import (
    attracting,
    barlow_twins,
    covariance,
    cross,
    mixed_barlow_twins,
    of_ids,
    standardised,
    variance,
    vicreg,
)  # fmt: skip
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Pairs
from tests.objectives.contract import RULES, assert_same, two_sets

BARLOW = "Zbontar et al.: Barlow Twins, arXiv:2103.03230, 2021"
VICREG = "Bardes, Ponce, LeCun: VICReg, arXiv:2105.04906, 2022"
SQUARE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def rows(n: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


# moments


def test_moments_are_those_of_torch_and_carry_their_gradient() -> None:
    z = (100 + rows(9)).requires_grad_()
    found = moments(z)
    assert torch.allclose(found.mean, z.mean(0))
    assert torch.allclose(found.covariance, torch.cov(z.T, correction=0))
    assert torch.allclose(moments(z, diagonal=True).covariance, z.var(0, correction=0))
    weight = rows(5, seed=4)
    ours, theirs = (weight * found.covariance).sum(), (weight * torch.cov(z.T, correction=0)).sum()
    assert_same(ours, theirs, (z,))
    assert moments(z[:0]).covariance.abs().max() == 0


def test_moments_far_from_0_keep_their_digits() -> None:
    z = 1e4 + rows(200).float()
    assert torch.allclose(moments(z).covariance, torch.cov(z.double().T, correction=0).float(), rtol=1e-3, atol=1e-4)


def test_standardised_rows_of_several_processes_are_those_of_one() -> None:
    z, weight = rows(7), rows(7, seed=1)
    leaf = z.clone().requires_grad_()
    whole = standardised(Embeddings.of(leaf)).z
    ((whole.sin() * weight).sum()).backward()

    def work(rank: int, _count: int) -> list[Tensor]:
        at = slice(0, 5) if rank == 0 else slice(5, 7)
        part = z[at].clone().requires_grad_()
        out = standardised(Embeddings.of(part)).z
        ((out.sin() * weight[at]).sum()).backward()
        return [out.detach(), part.grad]

    parts = in_processes(2, work)
    for k, expected in enumerate((whole.detach(), leaf.grad)):
        assert torch.allclose(torch.cat([part[k] for part in parts]), expected)


# Barlow Twins


@pytest.mark.proves(reference=BARLOW, fact="closed-form")
def test_barlow_twins_in_closed_form() -> None:
    x = SQUARE
    assert barlow_twins(x, 3 * x + 1, eps=0.0).loss.item() == pytest.approx(0, abs=1e-12)  # C = 1
    assert barlow_twins(x, -x, eps=0.0).loss.item() == pytest.approx(2 * 4, rel=1e-12)  # C = -1
    assert barlow_twins(x, x.flip(1), off_diagonal=0.5, eps=0.0).loss.item() == pytest.approx(2 + 0.5 * 2, rel=1e-12)
    same = x[:, :1].expand(-1, 3)
    assert barlow_twins(same, same.clone(), off_diagonal=0.1, eps=0.0).loss.item() == pytest.approx(0.6, rel=1e-12)


@pytest.mark.proves(reference=BARLOW, fact="reference")
def test_barlow_twins_equals_the_code_of_its_authors() -> None:
    """main.py of github.com/facebookresearch/barlowtwins (main): c = bn(z1).T @ bn(z2) / batch, bn = BatchNorm1d without
    affine; sum (diag - 1)^2 + lambd * sum off-diagonal^2, lambd 0.0051."""
    x, y = rows(9).requires_grad_(), rows(9, seed=1).requires_grad_()
    bn = nn.BatchNorm1d(5, affine=False).double()
    c = bn(x).T @ bn(y) / 9
    expected = (c.diagonal() - 1).square().sum() + 0.0051 * off_diagonal(c).square().sum()
    assert_same(barlow_twins(x, y).loss, expected, (x, y))


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_correlation_is_a_weighted_sum_over_pairs(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    attract, found = rule(a, c).attract, cross(a, c, rule)
    by_hand = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(9):
        for j in range(11):
            by_hand += attract[i, j] * torch.outer(a.z[i], c.z[j])
    assert torch.allclose(found.matrix, by_hand / attract.sum())
    assert found.pairs.item() == pytest.approx(attract.sum().item())


def test_rules_without_a_list_are_asked_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterpoint.objectives.decorrelation.BLOCK", 4)
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    asked = []

    def rule(x: Embeddings, y: Embeddings) -> Pairs:
        asked.append(len(x))
        return labelled()(x, y)

    found, listed = attracting(a, c, rule), attracting(a, c, labelled())
    assert asked == [4, 4, 1]

    def pairs(edges: tuple[Tensor, Tensor, Tensor]) -> list[tuple[int, int, float]]:
        return sorted(edge for edge in zip(*(x.tolist() for x in edges), strict=True) if edge[2])

    assert pairs(found) == pairs(listed)


def test_rows_without_a_partner_count_for_the_statistics_alone() -> None:
    x, y = rows(6), rows(6, seed=1)
    a, c = Embeddings.of(x), Embeddings.of(y, id=torch.tensor([0, 1, 2, 3, 40, 50]), view=1)
    mine = [(z - z.mean(0)) / z.std(0, correction=0) for z in (x, y)]
    correlation = mine[0][:4].T @ mine[1][:4] / 4
    expected = (correlation.diagonal() - 1).square().sum() + 0.0051 * off_diagonal(correlation).square().sum()
    assert barlow_twins(a, c, eps=0.0).loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_views_of_one_set_are_standardised_together_and_paired_both_ways() -> None:
    x, ids = rows(8), torch.arange(4).repeat(2)
    both = replace(Embeddings.of(x, id=ids), view=torch.arange(8) // 4)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    c = (z[:4].T @ z[4:] + z[4:].T @ z[:4]) / 8
    expected = (c.diagonal() - 1).square().sum() + 0.0051 * off_diagonal(c).square().sum()
    assert barlow_twins(both, eps=0.0).loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert barlow_twins(both, both, eps=0.0).loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_several_rows_of_one_id_are_taken_as_their_mean() -> None:
    found, there = of_ids(Embeddings.of(SQUARE, id=torch.tensor([4, 4, 7, 4])), torch.tensor([7, 4, 5]))
    assert torch.allclose(found, torch.stack([SQUARE[2], SQUARE[[0, 1, 3]].mean(0), torch.zeros(2)]))
    assert there.tolist() == [True, True, False]


# mixtures


def mixture(n: int = 8, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Two views and a mixture, all with a gradient; the order of the second parents; the shares."""
    generator = torch.Generator().manual_seed(seed)
    z = [rows(n, seed=seed + k).requires_grad_() for k in range(3)]
    return z, torch.randperm(n, generator=generator), torch.rand(n, generator=generator, dtype=torch.float64)


def sets_of(z: list[Tensor], order: Tensor, share: Tensor) -> tuple[Embeddings, Embeddings, Embeddings]:
    ids = torch.arange(len(z[0])) + 20
    facts = {"sources": torch.stack([ids, ids[order]], 1), "shares": torch.stack([share, 1 - share], 1)}
    return Embeddings.of(z[0], id=ids), Embeddings.of(z[1], id=ids, view=1), Embeddings.of(z[2], id=-ids, facts=facts)


@pytest.mark.proves(row=218, fact="reference")
def test_mixed_barlow_twins_equals_the_code_of_its_authors() -> None:
    """main.py of github.com/wgcban/mix-bt (commit e2c6af0): rows by their mean and unbiased deviation, products divided by
    the batch, one alpha for all; scale 5.0, lmbda 0.005."""
    z, order, _ = mixture()
    alpha, n, weight = 0.3, 8, 0.005
    one, two, mixed = ((x - x.mean(0)) / x.std(0) for x in z)
    c = one.T @ two / n
    plain = (c.diagonal() - 1).square().sum() + weight * off_diagonal(c).square().sum()
    wanted_1 = alpha * one.T @ one / n + (1 - alpha) * two[order].T @ one / n
    wanted_2 = alpha * one.T @ two / n + (1 - alpha) * two[order].T @ two / n
    error = (mixed.T @ one / n - wanted_1).square().sum() + (mixed.T @ two / n - wanted_2).square().sum()
    sets = sets_of(z, order, torch.full((n,), alpha, dtype=torch.float64))
    found = mixed_barlow_twins(*sets, off_diagonal=weight, eps=0.0, correction=1)
    assert_same(found.loss, plain + 5.0 * weight * error, tuple(z))


@pytest.mark.proves(row=218, fact="closed-form")
def test_mixtures_of_one_sample_alone_cost_nothing_and_others_what_they_are_off() -> None:
    z, order, share = mixture()
    clean = mixed_barlow_twins(*sets_of([z[0], z[1], z[0]], order, torch.ones_like(share)))
    assert clean.terms["mixed"].item() == pytest.approx(0, abs=1e-20)
    assert clean.loss.item() == pytest.approx(barlow_twins(z[0], z[1]).loss.item(), rel=1e-12)
    # mixtures are minus the first view: r = -2x, E[r x^T] = -2 C(x, x) = -2 and E[r y^T] = -2 C(x, y) = -2
    off = mixed_barlow_twins(*sets_of([SQUARE, SQUARE, -SQUARE], torch.arange(4), torch.ones(4)), eps=0.0)
    assert off.terms["mixed"].item() == pytest.approx(8 + 8, rel=1e-12)


def test_each_mixture_has_its_own_share_and_order_does_not_matter() -> None:
    z, order, share = mixture()
    a, c, m = sets_of(z, order, share)
    one, two, mixed = ((x - x.mean(0)) / x.std(0, correction=0) for x in z)
    rest = mixed - share[:, None] * one - (1 - share[:, None]) * two[order]
    expected = (rest.T @ one / 8).square().sum() + (rest.T @ two / 8).square().sum()
    for sets in ((a, c, m), tuple(x.rows(torch.randperm(8)) for x in (a, c, m))):
        assert mixed_barlow_twins(*sets, eps=0.0).terms["mixed"].item() == pytest.approx(expected.item(), rel=1e-10)


def test_mixtures_of_absent_samples_do_not_count() -> None:
    z, order, share = mixture()
    a, c, m = sets_of(z, order, share)
    sources = torch.stack([m.facts["sources"][:, 0], torch.full((8,), 999)], 1)
    lost = replace(m, facts={**m.facts, "sources": sources})
    assert mixed_barlow_twins(a, c, lost).terms["mixed"].item() == 0
    with pytest.raises(KeyError, match="they lack: sources, shares"):
        mixed_barlow_twins(a, c, Embeddings.of(z[2]))


# VICReg


@pytest.mark.proves(reference=VICREG, fact="closed-form")
def test_vicreg_in_closed_form() -> None:
    flat = torch.full((4, 2), 7.0, dtype=torch.float64)
    outcome = vicreg(flat, flat + 1)
    assert outcome.terms["invariance"].item() == pytest.approx(1, rel=1e-12)
    assert outcome.terms["variance"].item() == pytest.approx(2 * 0.99, rel=1e-12)  # 1 - sqrt(1e-4) of each set
    assert outcome.terms["covariance"].item() == pytest.approx(0, abs=1e-12)
    assert outcome.loss.item() == pytest.approx(25 + 25 * 1.98, rel=1e-12)
    line = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert covariance(line).loss.item() == pytest.approx(4, rel=1e-12)
    assert variance(line / 4, eps=0.0, target=2.0).loss.item() == pytest.approx(2 - 2**0.5 / 4, rel=1e-12)


@pytest.mark.proves(reference=VICREG, fact="reference")
def test_vicreg_equals_the_code_of_its_authors() -> None:
    """main_vicreg.py of github.com/facebookresearch/vicreg (main), whose std_coeff 25 stands before the mean of the two
    variances and not their sum; sim_coeff 25, cov_coeff 1."""
    x, y = (0.6 * rows(9)).requires_grad_(), (0.8 * rows(9, seed=1)).requires_grad_()
    parts = [relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (x, y)]
    redundant = [off_diagonal(torch.cov(z.T)).square().sum() / 5 for z in (x, y)]
    expected = 25 * mse_loss(x, y) + 25 * (parts[0] / 2 + parts[1] / 2) + redundant[0] + redundant[1]
    assert_same(vicreg(x, y, weights=(25.0, 12.5, 1.0)).loss, expected, (x, y))


def test_vicreg_is_alignment_variance_and_covariance() -> None:
    x, y = rows(9), rows(9, seed=1)
    terms = vicreg(x, y).terms
    assert terms["variance"].item() == pytest.approx((variance(x).loss + variance(y).loss).item(), rel=1e-12)
    assert terms["covariance"].item() == pytest.approx((covariance(x).loss + covariance(y).loss).item(), rel=1e-12)


# all


TWO = {"barlow_twins": barlow_twins, "vicreg": vicreg}


@pytest.mark.parametrize("objective", TWO.values(), ids=list(TWO))
def test_order_does_not_matter(objective: Any) -> None:
    x, y, order, ids = rows(9), rows(9, seed=1), torch.randperm(9), torch.arange(9)
    shuffled = objective(Embeddings.of(x, id=ids), Embeddings.of(y[order], id=ids[order], view=1)).loss
    assert shuffled.item() == pytest.approx(objective(x, y).loss.item(), rel=1e-12)


def test_a_shift_or_scale_of_a_coordinate_does_not_matter_to_barlow_twins() -> None:
    x, y, scale = rows(9), rows(9, seed=1), torch.tensor([1.0, 2.0, 3.0, 0.5, 0.1])
    moved = barlow_twins(x * scale + 7, y, eps=0.0).loss
    assert moved.item() == pytest.approx(barlow_twins(x, y, eps=0.0).loss.item(), rel=1e-10)


@pytest.mark.parametrize("objective", TWO.values(), ids=list(TWO))
def test_gradient_equals_finite_differences(objective: Any) -> None:
    inputs = (0.5 * rows(6, 3)).requires_grad_(), (0.5 * rows(6, 3, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: objective(x, y).loss, inputs)


def test_without_a_pair_nothing_agrees_and_nothing_is_paid() -> None:
    z = rows(3).requires_grad_()
    strangers = Embeddings.of(rows(2, seed=1), id=torch.tensor([7, 8]), view=1)
    loss = barlow_twins(Embeddings.of(z), strangers).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0
    assert torch.isfinite(vicreg(Embeddings.of(z), strangers).loss)


@pytest.mark.parametrize("objective", TWO.values(), ids=list(TWO))
def test_one_row_is_finite(objective: Any) -> None:
    z = rows(1).requires_grad_()
    loss = objective(z, rows(1, seed=1)).loss
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
