"""Prediction of targets that get no gradient: closed forms, authors' formulas, invariances, what gets a gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from counterpoint.objectives.prediction import fixed, prediction, slap
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Relation
from tests.objectives.contract import RULES, two_sets

BYOL = "Grill et al.: Bootstrap Your Own Latent, arXiv:2006.07733, 2020"
SIMSIAM = "Chen, He: Exploring Simple Siamese Representation Learning, arXiv:2011.10566, 2020"


def rows(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def taught(seed: int, view: int, n: int = 7) -> tuple[Embeddings, Tensor, Tensor]:
    z, teacher = rows(n, seed=seed).requires_grad_(), rows(n, seed=seed + 50).requires_grad_()
    return Embeddings.of(z, view=view, facts={"teacher": teacher}), z, teacher


@pytest.mark.proves(reference=BYOL, fact="closed-form")
@pytest.mark.proves(reference=SIMSIAM, fact="closed-form")
def test_equal_opposite_and_right_angles() -> None:
    x = rows(5)
    assert prediction(x, 3 * x).loss.item() == pytest.approx(0, abs=1e-12)
    assert prediction(x, -x).loss.item() == pytest.approx(4, rel=1e-12)
    assert prediction(torch.eye(2), torch.eye(2).flip(0)).loss.item() == pytest.approx(2, rel=1e-6)
    assert prediction(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), unit=False).loss.item() == 25


@pytest.mark.proves(reference=BYOL, fact="reference")
def test_both_directions_of_byol_are_twice_the_mean_over_both_views() -> None:
    """Equation 2 of the paper and byol/utils/helpers.py of github.com/google-deepmind/deepmind-research, regression_loss:
    |q/|q| - z/|z||^2 summed over coordinates, averaged over rows, of both directions added up, no gradient to z."""
    q1, q2, z1, z2 = (rows(6, seed=k).requires_grad_() for k in range(4))

    def regression(q: Tensor, z: Tensor) -> Tensor:
        return (normalize(q, dim=1) - normalize(z.detach(), dim=1)).square().sum(1).mean()

    expected = regression(q1, z2) + regression(q2, z1)
    ids = torch.arange(6)
    views = [
        Embeddings.cat([Embeddings.of(x, id=ids, view=v) for v, x in enumerate(both)]) for both in ((q1, q2), (z1, z2))
    ]
    found = 2 * prediction(*views).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, (q1, q2)), torch.autograd.grad(expected, (q1, q2)), strict=True):
        assert torch.allclose(g, h)


@pytest.mark.proves(reference=SIMSIAM, fact="reference")
def test_simsiam_is_half_of_it_less_one() -> None:
    """main_simsiam.py of github.com/facebookresearch/simsiam (main):
    loss = -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5, with nn.CosineSimilarity and detached z."""
    p1, p2, z1, z2 = (rows(6, seed=k).requires_grad_() for k in range(4))
    expected = -(cosine_similarity(p1, z2.detach()).mean() + cosine_similarity(p2, z1.detach()).mean()) * 0.5
    found = (prediction(p1, z2).loss + prediction(p2, z1).loss) / 4 - 1
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, (p1, p2)), torch.autograd.grad(expected, (p1, p2)), strict=True):
        assert torch.allclose(g, h)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_it_is_alignment_of_targets_without_a_gradient(rule: Any) -> None:
    a, c, z = two_sets(9, 11, 3, torch.float64)
    loss, plain = prediction(a, c, rule=rule).loss, alignment(a, c, rule=rule).loss
    assert loss.item() == plain.item()
    ours, none = torch.autograd.grad(loss, z, allow_unused=True)
    assert none is None
    assert torch.equal(ours, torch.autograd.grad(plain, z)[0])


def test_a_set_that_predicts_itself_moves_each_row_once() -> None:
    """With its own views as targets each row is a prediction and a target: half the gradient of `alignment`."""
    z, ids = rows(8).requires_grad_(), torch.arange(4).repeat(2)
    both = replace(Embeddings.of(z, id=ids), view=torch.arange(8) // 4)
    g, h = (torch.autograd.grad(loss(both).loss, z)[0] for loss in (prediction, alignment))
    assert torch.allclose(2 * g, h)


def test_order_scale_and_rotation_do_not_matter() -> None:
    q, z, turn = rows(7), rows(7, seed=1), torch.linalg.qr(rows(6, seed=2))[0]
    plain, ids, order = prediction(q, z).loss.item(), torch.arange(7), torch.randperm(7)
    shuffled = prediction(Embeddings.of(q, id=ids), Embeddings.of(z[order], id=ids[order], view=1)).loss.item()
    for other in (shuffled, prediction(3 * q, 0.2 * z).loss.item(), prediction(q @ turn, z @ turn).loss.item()):
        assert other == pytest.approx(plain, rel=1e-12)


def test_without_a_pair_it_is_0() -> None:
    z = rows(3).requires_grad_()
    loss = prediction(Embeddings.of(z), Embeddings.of(rows(2), id=torch.tensor([7, 8]), view=1)).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0


def test_gradient_equals_finite_differences() -> None:
    z = rows(5, 3, 1)
    assert torch.autograd.gradcheck(lambda q: prediction(q, z).loss, rows(5, 3).requires_grad_())
    assert torch.autograd.gradcheck(lambda q: prediction(q, z, unit=False).loss, rows(5, 3).requires_grad_())


# two kinds of data


@pytest.mark.proves(row=209, fact="reference")
@pytest.mark.parametrize("across", [0.0, 0.3, 0.5, 1.0])
def test_slap_equals_the_loss_of_its_authors(across: float) -> None:
    """BYOLLoss of src/utils/losses/byol.py of github.com/Pliploop/SLAP (b492901): of unit rows ssl_weight (a_t + t_a) / 2
    + (1 - ssl_weight) (a_a + t_t) / 2, each the mean of 2 - 2 q.z."""
    (a, qa, za), (c, qt, zt) = taught(0, 0), taught(1, 1)

    def one(q: Tensor, z: Tensor) -> Tensor:
        return (2 - 2 * (normalize(q) * normalize(z.detach())).sum(-1)).mean()

    expected = across * (one(qa, zt) + one(qt, za)) / 2 + (1 - across) * (one(qa, za) + one(qt, zt)) / 2
    found = slap(a, c, across=across).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, (qa, qt)), torch.autograd.grad(expected, (qa, qt)), strict=True):
        assert torch.allclose(g, h)


@pytest.mark.proves(row=209, fact="closed-form")
def test_slap_of_perfect_predictions_across_and_opposite_ones_within() -> None:
    x = normalize(rows(4), dim=1)
    a, c = (Embeddings.of(s * x, view=v, facts={"teacher": -s * x}) for v, s in enumerate((1, -1)))
    outcome = slap(a, c)
    assert outcome.terms["across"].item() == pytest.approx(0, abs=1e-12)
    assert outcome.terms["within"].item() == pytest.approx(4, rel=1e-12)
    assert slap(a, c, across=0.25).loss.item() == pytest.approx(3, rel=1e-12)


def test_the_teacher_gets_no_gradient() -> None:
    (a, qa, za), (c, qt, zt) = taught(0, 0), taught(1, 1)
    found = torch.autograd.grad(slap(a, c).loss, (qa, qt, za, zt), allow_unused=True)
    assert found[2] is found[3] is None
    assert min(g.abs().max().item() for g in found[:2]) > 0


def test_batches_of_slap_add_up_piece_by_piece() -> None:
    encoder, x = nn.Linear(5, 6).double(), rows(8, 5)
    teacher = rows(8, seed=3)

    def loss(at: slice) -> Outcome:
        z, ids = encoder(x[at]), torch.arange(8)[at]
        return slap(*(Embeddings.of(z * (1 + v), id=ids, view=v, facts={"teacher": teacher[at]}) for v in (0, 1)))

    whole = torch.autograd.grad(loss(slice(0, 8)).loss, encoder.weight)[0]
    pieces = [torch.autograd.grad(loss(slice(k, k + 2)).loss / 4, encoder.weight)[0] for k in range(0, 8, 2)]
    assert torch.allclose(whole, torch.stack(pieces).sum(0))


def test_slap_pairs_by_the_rule_in_both_directions() -> None:
    (a, *_), (c, *_) = taught(0, 0), taught(1, 1)
    c = replace(c, id=c.id + 100)
    turned = listed(Relation.of([0, 1], [101, 100]))
    found = slap(a, c, rule=turned, across=1.0).loss
    by_hand = slap(a.rows(slice(0, 2)), replace(c.rows(torch.tensor([1, 0])), id=torch.tensor([0, 1])), across=1.0).loss
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_bad_arguments_are_refused() -> None:
    (a, *_), (c, *_) = taught(0, 0), taught(1, 1)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        slap(a, c, across=1.5)
    with pytest.raises(KeyError, match="the targets as the fact 'ema'; the rows have: teacher"):
        slap(a, c, teacher="ema")
    with pytest.raises(ValueError, match="as many candidate rows"):
        prediction(rows(2), rows(3))
    assert fixed(a, "teacher").z.requires_grad is False
