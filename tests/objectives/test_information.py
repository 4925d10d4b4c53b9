"""Joint entropy, SepCLR, mutual information: closed forms, authors' and peers' formulas, limits, invariances."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.objectives.information import joint_entropy, mutual_information, sepclr
from counterpoint.types import Embeddings
from tests.objectives.contract import RULES, assert_same, assert_tiles_equal_dense, two_sets


def rows(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def align(x: Tensor, y: Tensor, tau: float) -> Tensor:
    return ((x - y).norm(dim=1).pow(2) / (2 * tau)).mean()


def uniform(x: Tensor, tau: float) -> Tensor:
    return torch.pdist(x).pow(2).mul(-1 / (2 * tau)).exp().mean().log()


def kernel(x: Tensor, tau: float) -> Tensor:
    return (x[:, None] - x[None]).square().sum(-1).mul(-1 / (2 * tau)).exp()


# joint entropy


@pytest.mark.proves(row=26, fact="closed-form")
def test_joint_entropy_of_combinations_far_apart_and_of_equal_ones() -> None:
    two = torch.tensor([[0.0], [50.0]], dtype=torch.float64)
    all_four = Embeddings.of(two[[0, 0, 1, 1]], facts={"salient": two[[0, 1, 0, 1]]})
    assert joint_entropy(all_four).loss.item() == pytest.approx(-math.log(4), rel=1e-12)
    told = Embeddings.of(two[[0, 0, 1, 1]], facts={"salient": two[[0, 0, 1, 1]]})  # one code says all of the other
    assert joint_entropy(told).loss.item() == pytest.approx(-math.log(2), rel=1e-12)
    assert joint_entropy(replace(told, z=torch.zeros(4, 1), facts={"salient": torch.zeros(4, 2)})).loss.item() == 0


@pytest.mark.proves(row=26, fact="reference")
@pytest.mark.parametrize("tau", [0.2, 0.5, 3.0])
def test_joint_entropy_equals_the_function_of_its_authors(tau: float) -> None:
    """joint_entropy_loss of losses.py of github.com/neurospin-projects/2024_rlouiset_sep_clr (commit 0e40bff): mean over
    rows of the logarithm of the mean over all rows of both kernels' product."""
    c, s = rows(7).requires_grad_(), rows(7, 3, seed=1).requires_grad_()
    expected = (kernel(c, tau) * kernel(s, tau)).mean(-1).log().mean()
    found = joint_entropy(Embeddings.of(c, facts={"salient": s}), temperature=tau).loss
    assert_same(found, expected, [c, s])


def test_a_constant_second_code_leaves_the_entropy_of_the_first() -> None:
    c = rows(7)
    found = joint_entropy(Embeddings.of(c, facts={"salient": torch.ones(7, 2).double()})).loss
    assert found.item() == pytest.approx(kernel(c, 0.5).mean(-1).log().mean().item(), rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_joint_entropy_equals_plain_loops_over_weighted_pairs(rule: Any) -> None:
    a, _, _ = two_sets(9, 1, 3, torch.float64)
    a = replace(a, facts={**a.facts, "salient": a.z.sin()})
    weight = rule(a, a).repel.fill_diagonal_(0) + torch.eye(9)
    both = kernel(a.z, 0.5) * kernel(a.z.sin(), 0.5)
    expected = ((weight * both).sum(1) / weight.sum(1)).log().mean()
    assert joint_entropy(a, rule=rule).loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_tiles_equal_dense(rule: Any) -> None:
    def loss(a: Embeddings, _c: Embeddings) -> Any:
        return joint_entropy(replace(a, facts={**a.facts, "salient": a.z.sin()}), rule=rule)

    assert_tiles_equal_dense(loss, n=17, m=1, seed=0)


# SepCLR


def views(n: int = 8) -> tuple[list[Embeddings], list[Tensor], Tensor]:
    z = [rows(n, 4 if k < 2 else 3, seed=k).requires_grad_() for k in range(4)]
    label = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])[:n]
    sets = [Embeddings.of(z[v], view=v, facts={"salient": z[2 + v], "target": label}) for v in (0, 1)]
    return sets, z, label


@pytest.mark.proves(row=26, fact="reference")
@pytest.mark.parametrize("tau", [0.5, 0.2])
def test_sepclr_equals_the_training_script_of_its_authors(tau: float) -> None:
    """cifar_mnist/sep_clr_k-jem.py there, with align_loss and uniform_loss of losses.py, whose tau is 0.5."""
    sets, z, label = views()
    c1, c2, s1, s2 = normalize(z[0], dim=1), normalize(z[1], dim=1), z[2], z[3]
    null = [torch.where(label[:, None] == 0, torch.zeros_like(s), s) for s in (s1, s2)]
    common = align(c1, c2, tau) + 2.0 * (uniform(c2, tau) + uniform(c1, tau)) / 2
    salient = align(s1[label == 1], s2[label == 1], tau)
    salient = salient + 2.0 * (uniform(null[1], tau) + uniform(null[0], tau)) / 2
    zero = torch.zeros(4, 3, dtype=torch.float64)
    empty = (align(zero, s1[label == 0], tau) + align(zero, s2[label == 0], tau)) / 2
    joint = [(kernel(c, tau) * kernel(s, tau)).mean(-1).log().mean() for c, s in zip((c1, c2), null, strict=True)]
    expected = common + 1000 * salient + 1000 * empty + 10 * (joint[0] + joint[1]) / 2
    assert_same(sepclr(*sets, temperature=tau, weights=(1.0, 1000.0, 1000.0, 10.0)).loss, expected, z)


def test_the_background_has_no_salient_code() -> None:
    sets, z, label = views()
    found = torch.autograd.grad(sepclr(*sets).terms["null"], z[2])[0]
    assert torch.allclose(found[label == 0], z[2][label == 0] / 4)  # 2 s / 2t / 4 rows / 2 views
    assert found[label == 1].abs().max() == 0
    shared, own = torch.autograd.grad(sepclr(*sets).terms["joint"], (z[0], z[2]))
    assert own[label == 0].abs().max() == 0
    assert min(shared.abs().sum(1).min().item(), own[label == 1].abs().sum(1).min().item()) > 0


def test_order_of_the_other_view_does_not_matter() -> None:
    sets, _, _ = views()
    plain = sepclr(*sets)
    shuffled = sepclr(sets[0], sets[1].rows(torch.randperm(8)))
    for name, term in plain.terms.items():
        assert shuffled.terms[name].item() == pytest.approx(term.item(), rel=1e-10)


# mutual information


@pytest.mark.proves(row=155, fact="closed-form")
def test_information_is_0_for_equal_rows_and_log_c_for_sure_and_even_ones() -> None:
    same = rows(1, 5).expand(7, 5).clone()
    assert mutual_information(same).loss.item() == pytest.approx(0, abs=1e-12)
    assert mutual_information(500 * torch.eye(4).double()).loss.item() == pytest.approx(-math.log(4), rel=1e-12)
    sure_of_one = 2000 * torch.eye(4).double()[[2, 2, 2]]
    z = sure_of_one.requires_grad_()
    loss = mutual_information(z).loss
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


@pytest.mark.proves(row=155, fact="reference")
def test_information_equals_the_terms_of_a_peer() -> None:
    """object/image_target.py of github.com/tim-learn/SHOT (07d0c71): mean entropy of the softmax less the entropy of the mean
    softmax; its epsilon of 1e-5 in the logarithms is 0 here."""
    z = (2 * rows(9, 4)).requires_grad_()
    p = z.softmax(1)
    expected = (-p * p.log()).sum(1).mean() - (-p.mean(0) * p.mean(0).log()).sum()
    assert_same(mutual_information(z).loss, expected, [z])


def test_it_is_the_mean_divergence_of_predictions_from_their_mean() -> None:
    p = rows(9, 4).softmax(1)
    expected = (p * (p / p.mean(0)).log()).sum(1).mean()
    assert mutual_information(rows(9, 4)).loss.item() == pytest.approx(-expected.item(), rel=1e-10)
    assert mutual_information(rows(9, 4) + 7).loss.item() == pytest.approx(-expected.item(), rel=1e-10)
    assert mutual_information(rows(9, 4)[torch.randperm(9)]).loss.item() == pytest.approx(-expected.item(), rel=1e-10)


def test_gradients_equal_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda z: mutual_information(z).loss, rows(5, 3).requires_grad_())
    inputs = (rows(5, 3).requires_grad_(), rows(5, 2, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda c, s: joint_entropy(Embeddings.of(c, facts={"salient": s})).loss, inputs)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="a temperature above 0, got 0"):
        joint_entropy(Embeddings.of(rows(2), facts={"salient": rows(2)}), temperature=0.0)
    with pytest.raises(KeyError, match="salient"):
        joint_entropy(Embeddings.of(rows(2)))
