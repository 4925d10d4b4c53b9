"""InfoNCE: closed forms, limits, plain loops, a public reference, invariances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Pairs, Relation, same_sample
from tests.objectives.contract import RULES, assert_tiles_equal_dense

SUPCON = "Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_out)"
HENDERSON = "Henderson et al.: Efficient Natural Language Response Suggestion for Smart Reply, arXiv:1705.00652, 2017"
DPR = "Karpukhin et al.: Dense Passage Retrieval for Open-Domain Question Answering, arXiv:2004.04906, 2020"
INFONCE = (
    "van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, arXiv:1807.03748, 2018"
)


def unit(n: int, d: int = 8, seed: int = 0) -> Tensor:
    return nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


def by_loops(a: Tensor, c: Tensor, pairs: Pairs, t: float, *, compete: bool = True) -> float:
    """The docstring's formula, one pair at a time."""
    losses = []
    for i in range(len(a)):
        w, r = pairs.attract[i], pairs.repel[i]
        if w.sum() == 0 or (r.sum() == 0 and (w > 0).sum() < 2):
            continue
        logits = [float(a[i] @ c[k]) / t for k in range(len(c))]
        below = sum((compete * (w[k] > 0) + r[k]) * math.exp(logits[k]) for k in range(len(c)))
        losses.append(-sum(float(w[j] / w.sum()) * (logits[j] - math.log(below)) for j in range(len(c)) if w[j] > 0))
    return sum(losses) / len(losses)


@pytest.mark.proves(reference=INFONCE, fact="closed-form")
def test_equal_embeddings_cost_the_logarithm_of_the_number_of_candidates() -> None:
    same = torch.ones(7, 3, dtype=torch.float64)
    assert infonce(same, same).loss.item() == pytest.approx(math.log(7), rel=1e-12)


@pytest.mark.proves(row=80, fact="closed-form")
def test_hand_sized_case() -> None:
    a, c = torch.eye(2, dtype=torch.float64), torch.tensor([[0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)
    t = 0.5
    expected = math.log(1 + math.exp((0.8 - 0.6) / t))  # both anchors: the wrong candidate is nearer
    assert infonce(a, c, temperature=t).loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_perfect_and_cold_space_costs_nothing() -> None:
    assert infonce(torch.eye(5), torch.eye(5), temperature=0.01).loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.proves(reference=INFONCE, fact="reference")
@pytest.mark.proves(reference=HENDERSON, fact="reference")
@pytest.mark.parametrize("directions", ["forward", "both"])
def test_equals_cross_entropy_over_the_similarity_matrix(directions: str) -> None:
    a, c, t = unit(9), unit(9, seed=1), 0.07
    logits, target = a @ c.T / t, torch.arange(9)
    expected = nn.functional.cross_entropy(logits, target)
    if directions == "both":
        expected = (expected + nn.functional.cross_entropy(logits.T, target)) / 2
    assert infonce(a, c, temperature=t, directions=directions).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("compete", [True, False])
def test_equals_plain_loops_for_graded_sets_of_positives(compete: bool) -> None:
    relation = Relation.of([0, 0, 1, 2, 2, 5], [10, 11, 11, 12, 13, 99], [1.0, 3.0, 1.0, 1.0, 0.0, 1.0])
    a = Embeddings.of(unit(6), id=torch.arange(6))
    c = Embeddings.of(unit(5, seed=1), id=torch.tensor([10, 11, 12, 13, 3]))
    rule = listed(relation, negative_weight=2.5)
    expected = by_loops(a.z, c.z, rule(a, c), 0.2, compete=compete)
    assert infonce(a, c, rule=rule, temperature=0.2, positives_compete=compete).loss.item() == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.proves(reference=SUPCON, fact="closed-form")
def test_supcon_equals_plain_loops_over_classes_and_views() -> None:
    labels = torch.tensor([0, 0, 1, 2, 1])
    first = Embeddings.of(unit(5), id=torch.arange(5), facts={"label": labels})
    second = Embeddings.of(unit(5, seed=1), id=torch.arange(5), view=1, facts={"label": labels})
    both = Embeddings.cat([first, second])
    expected = by_loops(both.z, both.z, labelled()(both, both), 0.1)
    assert infonce(both, both, rule=labelled(), temperature=0.1).loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.proves(row=80, fact="closed-form")
@pytest.mark.proves(reference=DPR, fact="closed-form")
@pytest.mark.parametrize("alpha", [1.0, 2.0])  # 1: every hard negative of the batch is a plain candidate, as in DPR
def test_own_hard_negative_has_the_weight_of_supervised_simcse(alpha: float) -> None:
    a, p, h, t = unit(4), unit(4, seed=1), unit(4, seed=2), 0.3
    sp, sh = (a @ p.T / t).exp(), (a @ h.T / t).exp()
    weight = torch.where(torch.eye(4) > 0, alpha, 1.0)
    expected = -(torch.diagonal(sp) / (sp.sum(1) + (weight * sh).sum(1))).log().mean()
    ids = torch.arange(4)
    relation = Relation.of([*range(4), *range(4)], [10, 11, 12, 13, 20, 21, 22, 23], [1.0] * 4 + [0.0] * 4)
    candidates = Embeddings.of(torch.cat([p, h]), id=torch.cat([ids + 10, ids + 20]))
    rule = listed(relation, negative_weight=alpha)
    found = infonce(Embeddings.of(a, id=ids), candidates, rule=rule, temperature=t)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_equal_texts_are_not_each_others_negatives() -> None:
    z = unit(3)
    ids = torch.tensor([1, 2, 1])
    a, c = Embeddings.of(z, id=ids), Embeddings.of(unit(3, seed=1), id=ids, view=1)
    moved = Embeddings.of(torch.cat([c.z[:1], c.z[1:2], -c.z[2:]]), id=ids, view=1)
    assert same_sample(a, c).repel[0].tolist() == [0, 1, 0]
    assert infonce(a, c).notes["negatives"].tolist() == [1, 2, 1]
    assert infonce(a, c).loss.item() != infonce(a, moved).loss.item()  # it is a positive


def test_rows_without_a_turn_change_nothing_and_get_no_gradient() -> None:
    relation = Relation.of([0, 1], [10, 11])
    z = unit(3).requires_grad_()
    c = Embeddings.of(unit(2, seed=1), id=torch.tensor([10, 11]))
    loss = infonce(Embeddings.of(z, id=torch.arange(3)), c, rule=listed(relation)).loss
    alone = infonce(Embeddings.of(z[:2], id=torch.arange(2)), c, rule=listed(relation)).loss
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    assert gradient[2].abs().max() == 0
    assert gradient[:2].abs().max() > 0


def test_nothing_to_compete_with_gives_zero_and_finite_gradients() -> None:
    z = unit(1).requires_grad_()
    loss = infonce(z, unit(1, seed=1)).loss
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == 0
    assert gradient.abs().max() == 0


def test_temperature_gets_the_gradient_of_a_finite_difference() -> None:
    a, c = unit(6), unit(6, seed=1)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(infonce(a, c, temperature=t).loss, t)
    step = 1e-6
    expected = (infonce(a, c, temperature=0.3 + step).loss - infonce(a, c, temperature=0.3 - step).loss) / (2 * step)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_equals_finite_differences() -> None:
    rule = listed(Relation.of([0, 0, 1, 2], [10, 11, 11, 12], [1.0, 2.0, 1.0, 1.0]))
    c = Embeddings.of(unit(3, seed=1), id=torch.tensor([10, 11, 12]))

    def loss(z: Tensor) -> Tensor:
        return infonce(Embeddings.of(z, id=torch.arange(3)), c, rule=rule, temperature=0.5, directions="both").loss

    assert torch.autograd.gradcheck(loss, unit(3).requires_grad_())


def test_shuffling_scaling_and_rotating_change_nothing() -> None:
    a, c, ids = unit(8), unit(8, seed=1), torch.arange(8)
    base = infonce(a, c, directions="both").loss.item()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = infonce(Embeddings.of(a, id=ids), Embeddings.of(c[order], id=ids[order], view=1), directions="both")
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert shuffled.loss.item() == pytest.approx(base, rel=1e-12)
    assert infonce(3 * a, 0.1 * c, directions="both").loss.item() == pytest.approx(base, rel=1e-12)
    assert infonce(a @ rotation, c @ rotation, directions="both").loss.item() == pytest.approx(base, rel=1e-9)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        infonce(unit(2), unit(2), temperature=0.0)
    with pytest.raises(ValueError, match="as many candidate rows"):
        infonce(unit(2), unit(3))


@pytest.mark.parametrize("directions", ["forward", "both"])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(rule: Any, directions: Any, n: int, m: int, seed: int) -> None:
    assert_tiles_equal_dense(
        lambda a, c: infonce(a, c, rule=rule, temperature=0.3, directions=directions), n=n, m=m, seed=seed
    )
