"""Several positives in one softmax: mean inside the logarithm, one softmax each. Loops, identities, a public reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor, nn

from counterpoint.objectives.custom import sweep
from counterpoint.objectives.positives import beside, infonce_inside, infonce_separate, per_positive
from counterpoint.objectives.softmax import LOGITS, cooled, infonce, logits
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation, same_sample
from tests.objectives.contract import RULES, assert_tiles_equal_dense, graded, two_sets

L_IN = "Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_in)"
SOHN = "Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016"
FORMS = {"inside": infonce_inside, "separate": infonce_separate}
COMPARED = ["graded", "listed", "labelled"]


def unit(n: int, d: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def drawn(n: int, m: int, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    a, c, _ = two_sets(n, m, seed, torch.float64)
    return replace(a, z=a.z.detach()).to_unit(), replace(c, z=c.z.detach()).to_unit()


def by_loops(form: str, logits: Tensor, pairs: Pairs) -> float:
    """The formula of a docstring, one pair at a time."""
    losses = []
    for s, w, r in zip(logits.tolist(), pairs.attract.tolist(), pairs.repel.tolist(), strict=True):
        positives = [p for p in range(len(s)) if w[p] > 0]
        if not positives or (sum(r) == 0 and (form == "separate" or len(positives) < 2)):
            continue
        if form == "inside":
            above = sum(w[p] / sum(w) * math.exp(s[p]) for p in positives)
            losses.append(-math.log(above / sum(((w[k] > 0) + r[k]) * math.exp(s[k]) for k in range(len(s)))))
        else:
            each = [math.log(1 + sum(r[k] * math.exp(s[k] - s[p]) for k in range(len(s)))) for p in positives]
            losses.append(sum(w[p] / sum(w) * loss for p, loss in zip(positives, each, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.proves(reference=L_IN, fact="closed-form")
def test_mean_inside_by_hand() -> None:
    """One anchor, two positives at cosine 1 and 0, one negative at cosine -1, t = 1."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]], dtype=torch.float64), id=torch.tensor([0]))
    c = Embeddings.of(torch.tensor([[1.0, 0], [0, 1], [-1, 0]], dtype=torch.float64), id=torch.tensor([10, 11, 12]))
    rule = listed(Relation.of([0, 0], [10, 11]))
    e = math.e
    assert infonce_inside(a, c, rule=rule, temperature=1.0).loss.item() == pytest.approx(
        -math.log((e + 1) / 2 / (e + 1 + 1 / e)), rel=1e-12
    )


@pytest.mark.proves(reference=SOHN, fact="closed-form")
def test_one_softmax_each_by_hand() -> None:
    """The same pairs; with plain dot products and t = 1 each positive's loss is the paper's log(1 + exp(f.f- - f.f+))."""
    a = Embeddings.of(torch.tensor([[2.0, 0.0]], dtype=torch.float64), id=torch.tensor([0]))
    c = Embeddings.of(torch.tensor([[1.0, 0], [0, 1], [-1, 0]], dtype=torch.float64), id=torch.tensor([10, 11, 12]))
    rule = listed(Relation.of([0, 0], [10, 11]))
    found = infonce_separate(a, c, rule=rule, temperature=1.0, unit=False)
    assert found.loss.item() == pytest.approx((math.log(1 + math.exp(-4)) + math.log(1 + math.exp(-2))) / 2, rel=1e-12)


@pytest.mark.parametrize("rule", COMPARED)
@pytest.mark.parametrize("form", FORMS)
def test_equals_plain_loops(form: str, rule: str) -> None:
    a, c = drawn(9, 11)
    pairs, t = RULES[rule](a, c), 0.4
    assert FORMS[form](a, c, rule=RULES[rule], temperature=t).loss.item() == pytest.approx(
        by_loops(form, a.z @ c.z.T / t, pairs), rel=1e-9
    )
    both = FORMS[form](a, c, rule=RULES[rule], temperature=t, directions="both").loss.item()
    turned = by_loops(form, c.z @ a.z.T / t, Pairs(pairs.attract.T, pairs.repel.T))
    assert both == pytest.approx((by_loops(form, a.z @ c.z.T / t, pairs) + turned) / 2, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_with_one_positive_all_forms_are_one(form: str) -> None:
    a, c = unit(7), unit(7, seed=1)
    for directions in ("forward", "both"):
        options: Any = {"temperature": 0.1, "directions": directions}
        assert FORMS[form](a, c, **options).loss.item() == pytest.approx(
            infonce(a, c, **options).loss.item(), rel=1e-12
        )


@pytest.mark.parametrize("form", FORMS)
def test_outside_is_above_both_other_forms(form: str) -> None:
    labels = torch.tensor([0, 0, 1, 2, 1, 2, 2, 0])
    for seed in range(5):
        e = Embeddings.of(unit(8, seed=seed), facts={"label": labels})
        other = FORMS[form](e, e, rule=labelled(), temperature=0.2).loss.item()
        assert 0 < other < infonce(e, e, rule=labelled(), temperature=0.2).loss.item()


def test_positives_alone_compete_inside_and_not_separately() -> None:
    e = Embeddings.of(unit(5), facts={"label": torch.zeros(5, dtype=torch.int64)})
    assert infonce_inside(e, e, rule=labelled()).loss.item() == pytest.approx(math.log(4), rel=1e-12)
    assert infonce_separate(e, e, rule=labelled()).loss.item() == 0


def test_inside_the_nearest_positive_is_enough_and_outside_it_is_not() -> None:
    a = Embeddings.of(torch.eye(2, dtype=torch.float64)[:1], id=torch.tensor([0]))
    c = Embeddings.of(torch.tensor([[1.0, 0], [-1, 0], [0, 1]], dtype=torch.float64), id=torch.tensor([10, 11, 12]))
    rule = listed(Relation.of([0, 0], [10, 11]))
    assert infonce_inside(a, c, rule=rule, temperature=0.05).loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert infonce(a, c, rule=rule, temperature=0.05).loss.item() == pytest.approx(20, abs=1e-6)


@pytest.mark.proves(reference=SOHN, fact="reference")
def test_separate_equals_the_ntxent_of_pytorch_metric_learning() -> None:
    """Theirs is the mean over pairs and ours over anchors, so all classes are of one size."""
    labels = torch.tensor([0, 1, 2, 1, 2, 0, 0, 1, 2])
    e = Embeddings.of(unit(9), facts={"label": labels})
    expected = NTXentLoss(temperature=0.1)(e.z, labels).item()
    assert infonce_separate(e, e, rule=labelled(), temperature=0.1).loss.item() == pytest.approx(expected, rel=1e-9)
    both = infonce_separate(e, e, rule=labelled(), temperature=0.1, directions="both").loss.item()
    assert both == pytest.approx(expected, rel=1e-9)


@pytest.mark.proves(reference=L_IN, fact="reference")
def test_inside_equals_the_formula_of_the_paper_for_two_views() -> None:
    """Equation 3: -log( 1/|P(i)| sum_p exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) ), as matrices."""
    labels = torch.tensor([0, 0, 1, 2, 1]).repeat(2)
    z, t = unit(10), 0.1
    power = (z @ z.T / t).exp() * (1 - torch.eye(10))
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(10, dtype=torch.bool)
    expected = -((power * same).sum(1) / same.sum(1) / power.sum(1)).log().mean()
    e = Embeddings.of(z, facts={"label": labels})
    assert infonce_inside(e, e, rule=labelled(), temperature=t).loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_shuffling_scaling_and_rotating_change_nothing(form: str) -> None:
    a, c = drawn(9, 11)
    options: Any = {"rule": labelled(), "directions": "both", "temperature": 0.2}
    base = FORMS[form](a, c, **options).loss.item()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    assert FORMS[form](a.rows(order), c, **options).loss.item() == pytest.approx(base, rel=1e-12)
    assert FORMS[form](replace(a, z=3 * a.z), c, **options).loss.item() == pytest.approx(base, rel=1e-12)
    moved = replace(a, z=a.z @ rotation), replace(c, z=c.z @ rotation)
    assert FORMS[form](*moved, **options).loss.item() == pytest.approx(base, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form: str) -> None:
    rule = listed(Relation.of([0, 0, 1, 2], [10, 11, 11, 12], [1.0, 2.0, 1.0, 1.0]))

    def loss(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
        sides = Embeddings.of(z, id=torch.arange(3)), Embeddings.of(y, id=torch.tensor([10, 11, 12, 13]))
        return FORMS[form](*sides, rule=rule, temperature=t, directions="both").loss

    inputs = unit(3, 2), unit(4, 2, seed=1), torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))
    one = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: loss(unit(3), unit(4, seed=1), t), (one,))


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_a_turn_change_nothing_and_get_no_gradient(form: str) -> None:
    """The third anchor has no positive; the fourth has nothing to compete with its one positive."""
    rule = listed(Relation.of([0, 1, 3], [10, 11, 12]))
    z = unit(4).requires_grad_()
    ids = torch.tensor([0, 1, 2, 3])

    def pairs(a: Embeddings, c: Embeddings) -> Pairs:
        found = rule(a, c)
        return Pairs(found.attract, torch.where(a.id[:, None] == 3, 0.0, found.repel))

    c = Embeddings.of(unit(3, seed=1), id=torch.tensor([10, 11, 12]))
    loss = FORMS[form](Embeddings.of(z, id=ids), c, rule=pairs).loss
    alone = FORMS[form](Embeddings.of(z[:2], id=ids[:2]), c, rule=pairs).loss
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    assert gradient[2:].abs().max() == 0
    assert gradient[:2].abs().max() > 0
    single = unit(1).requires_grad_()
    nothing = FORMS[form](single, unit(1, seed=1)).loss
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, single)[0].abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_notes_are_those_of_infonce(form: str) -> None:
    a, c = drawn(9, 11)
    found = FORMS[form](a, c, rule=graded, temperature=0.2).notes
    expected = infonce(a, c, rule=graded, temperature=0.2).notes
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name]) for name in expected)


def test_one_beside_an_exponential_is_exact_for_any_size() -> None:
    x = torch.tensor([-1000.0, -50.0, 0.0, 3.0, 50.0, 1000.0], dtype=torch.float64)
    for alpha in (0.3, 1.0, 2.0):
        expected = torch.logsumexp(torch.stack([x, torch.full_like(x, alpha).log()]), 0)
        assert torch.allclose(beside(x, alpha), expected, rtol=1e-14, atol=1e-15)
    assert beside(x, 0.0) is x


def test_the_second_look_is_at_positives_alone() -> None:
    seen: list[int] = []

    def cost(x: Tensor) -> Tensor:
        seen.append(x.numel())
        return x

    sides = cooled(Embeddings.of(unit(40)), Embeddings.of(unit(40, seed=1), view=1), 1.0)[:2]
    first = sweep(
        logits(), *sides, scores=LOGITS, rule=same_sample, rows={"denominator": "logsumexp", "attract": "total"}
    )
    level = first.rows["denominator"], None
    swept = per_positive(cost, first, level=level, sides=sides, rule=same_sample)
    assert max(seen) == 40  # of 1600
    assert torch.allclose(swept.rows["cost"], level[0] - (sides[0].z * sides[1].z).sum(1))


@pytest.mark.parametrize("cold", [1.0, 0.05, 0.005])
@pytest.mark.parametrize("form", FORMS)
def test_cold_and_hot_in_fp32_equal_fp64(form: str, cold: float) -> None:
    a, c = drawn(9, 11)
    low = [replace(rows, z=rows.z.float()) for rows in (a, c)]
    options: Any = {"rule": labelled(), "directions": "both", "temperature": cold}
    assert FORMS[form](*low, **options).loss.item() == pytest.approx(FORMS[form](a, c, **options).loss.item(), rel=1e-4)


@pytest.mark.parametrize("directions", ["forward", "both"])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(form: str, rule: Any, directions: Any, n: int, m: int, seed: int) -> None:
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        return FORMS[form](a, c, rule=rule, temperature=t.to(a.z.dtype), directions=directions)

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed, learnable=(t,))
