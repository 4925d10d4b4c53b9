"""InfoNCE: closed forms, limits, plain loops, a public reference, invariances."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn

from counterpoint.objectives.custom import Side, maxsim, squared
from counterpoint.objectives.softmax import infonce, logits
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation, same_sample
from tests.objectives.contract import RULES, assert_tiles_equal_dense, graded, two_sets

SUPCON = "Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_out)"
HENDERSON = "Henderson et al.: Efficient Natural Language Response Suggestion for Smart Reply, arXiv:1705.00652, 2017"
DPR = "Karpukhin et al.: Dense Passage Retrieval for Open-Domain Question Answering, arXiv:2004.04906, 2020"
INFONCE = (
    "van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, arXiv:1807.03748, 2018"
)
LOGQ = (
    "Yi et al.: Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, RecSys 2019 (log_bias)"
)


def unit(n: int, d: int = 8, seed: int = 0) -> Tensor:
    return nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


def by_loops(
    a: Tensor,
    c: Tensor,
    pairs: Pairs,
    t: float | list[float],
    *,
    compete: bool = True,
    smoothing: float = 0.0,
    bias: list[float] | None = None,
    normalize: bool = True,
) -> float:
    """The docstring's formula, one pair at a time."""
    losses = []
    for i in range(len(a)):
        w, r = pairs.attract[i].tolist(), pairs.repel[i].tolist()
        q = [compete * (w[k] > 0) + r[k] for k in range(len(c))]
        if sum(w) == 0 or (sum(r) == 0 and not (compete and sum(x > 0 for x in w) > 1)):
            continue
        cold = t[i] if isinstance(t, list) else t
        logits = [float(a[i] @ c[k]) / cold + (bias[k] if bias else 0.0) for k in range(len(c))]
        below = math.log(sum(q[k] * math.exp(logits[k]) for k in range(len(c))))
        picked = sum(w[j] / sum(w) * (below - logits[j]) for j in range(len(c)))
        spread = sum(q[k] / sum(q) * (below - logits[k]) for k in range(len(c)))
        loss = (1 - smoothing) * picked + smoothing * spread
        losses.append(loss if normalize else sum(w) * loss)
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


def drawn_sets(n: int, m: int, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Two sets of few labels and ids, with a temperature, a probability and a bias for each row."""
    a, c, _ = two_sets(n, m, seed, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for rows in (a, c):
        own = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        sides.append(replace(rows, z=rows.z.detach(), facts={**rows.facts, "t": 0.2 + own, "bias": -own.log()}))
    return sides[0].to_unit(), sides[1].to_unit()


@pytest.mark.parametrize("normalize", ["anchor", "none"])
@pytest.mark.parametrize("compete", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("rule", [graded, RULES["listed"], RULES["labelled"]], ids=["graded", "listed", "labelled"])
def test_all_options_together_equal_plain_loops(rule: Any, smoothing: float, compete: bool, normalize: Any) -> None:
    a, c = drawn_sets(9, 11)
    pairs = rule(a, c)
    if rule is graded:
        assert ((pairs.attract > 0) & (pairs.attract < 1)).any()  # soft positives
        assert ((pairs.repel > 0) & (pairs.repel < 1)).any()  # soft negatives
    options = {"positives_compete": compete, "label_smoothing": smoothing, "normalize": normalize}
    found = infonce(a, c, rule=rule, temperature="t", log_bias="bias", **options).loss.item()  # type: ignore[arg-type]
    expected = by_loops(
        a.z, c.z, pairs, a.facts["t"].tolist(), compete=compete, smoothing=smoothing, bias=c.facts["bias"].tolist(),
        normalize=normalize == "anchor",
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("directions", ["forward", "both"])
def test_label_smoothing_is_that_of_cross_entropy(directions: Any) -> None:
    a, c, t, e = unit(9), unit(9, seed=1), 0.07, 0.2
    logits, target = a @ c.T / t, torch.arange(9)
    expected = nn.functional.cross_entropy(logits, target, label_smoothing=e)
    if directions == "both":
        expected = (expected + nn.functional.cross_entropy(logits.T, target, label_smoothing=e)) / 2
    found = infonce(a, c, temperature=t, label_smoothing=e, directions=directions).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_soft_positives_are_the_targets_of_cross_entropy() -> None:
    a, c, t = unit(5), unit(7, seed=1), 0.2
    target = torch.rand(5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = target / target.sum(1, keepdim=True)
    expected = nn.functional.cross_entropy(a @ c.T / t, target)
    found = infonce(
        Embeddings.of(a), Embeddings.of(c), rule=lambda a, c: Pairs(target[a.id][:, c.id], torch.zeros(len(a), len(c))),
        temperature=t,
    )  # fmt: skip
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.proves(reference=LOGQ, fact="reference")
def test_log_bias_is_the_correction_for_how_often_candidates_are_sampled() -> None:
    """Equations 2 and 4 of the paper: softmax over s / t - log q of the batch, its own item included."""
    a, c, t = unit(6), unit(6, seed=1), 0.1
    q = torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = nn.functional.cross_entropy(a @ c.T / t - q.log(), torch.arange(6))
    sides = Embeddings.of(a), Embeddings.of(c, view=1, facts={"logq": -q.log()})
    found = infonce(*sides, temperature=t, log_bias="logq")
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    plain = infonce(*sides, temperature=t)
    assert all(torch.allclose(note, plain.notes[name]) for name, note in found.notes.items())  # of similarities alone
    turned = infonce(*sides, temperature=t, log_bias="logq", directions="both").loss.item() * 2 - found.loss.item()
    assert turned == pytest.approx(nn.functional.cross_entropy((a @ c.T / t).T, torch.arange(6)).item(), rel=1e-12)


@pytest.mark.parametrize("height", [3.0, 60.0, 300.0])
def test_a_bias_of_any_size_stays_inside_the_numbers(height: float) -> None:
    z = unit(6).float(), unit(6, seed=1).float()
    for sign in (1.0, -1.0):
        bias = sign * height * torch.linspace(0, 1, 6)
        c = Embeddings.of(z[1], view=1, facts={"bias": bias})
        found = infonce(Embeddings.of(z[0]), c, temperature=0.05, log_bias="bias").loss.item()
        expected = nn.functional.cross_entropy(z[0] @ z[1].T / 0.05 + bias, torch.arange(6)).item()
        assert found == pytest.approx(expected, rel=1e-5)


def test_one_temperature_for_each_anchor() -> None:
    a, c = unit(5), unit(5, seed=1)
    each = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    expected = nn.functional.cross_entropy(a @ c.T / each[:, None], torch.arange(5)).item()
    assert infonce(a, c, temperature=each).loss.item() == pytest.approx(expected, rel=1e-12)
    told = Embeddings.of(a, facts={"cold": each})
    assert infonce(told, Embeddings.of(c, view=1), temperature="cold").loss.item() == pytest.approx(expected, rel=1e-12)
    same = infonce(a, c, temperature=torch.full((5,), 0.3, dtype=torch.float64))
    plain = infonce(a, c, temperature=0.3)
    assert same.loss.item() == pytest.approx(plain.loss.item(), rel=1e-12)
    assert torch.allclose(same.notes["positive"], plain.notes["positive"])
    assert torch.allclose(plain.notes["positive"], (a * c).sum(1))


def test_each_temperature_and_bias_gets_the_gradient_of_a_finite_difference() -> None:
    a, c = unit(5), unit(5, seed=1)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).requires_grad_()
    b = torch.linspace(-1, 2, 5, dtype=torch.float64).requires_grad_()

    def loss(t: Tensor, b: Tensor) -> Tensor:
        sides = Embeddings.of(a, facts={"cold": t}), Embeddings.of(c, view=1, facts={"bias": b})
        return infonce(*sides, temperature="cold", log_bias="bias", label_smoothing=0.1).loss

    assert torch.autograd.gradcheck(loss, (t, b))
    assert torch.autograd.gradcheck(lambda t: infonce(a, c, temperature=t, directions="both").loss, (t,))


def test_weights_that_are_not_normalized_multiply_the_loss_of_their_anchor() -> None:
    a, c = Embeddings.of(unit(4)), Embeddings.of(unit(4, seed=1), view=1)
    half = torch.tensor([1.0, 0.5, 0.0, 3.0], dtype=torch.float64)

    def rule(x: Embeddings, y: Embeddings) -> Pairs:
        same = (x.id[:, None] == y.id[None, :]).to(half)
        return Pairs(half[x.id][:, None] * same, 1 - same)

    each = nn.functional.cross_entropy(a.z @ c.z.T / 0.05, torch.arange(4), reduction="none")
    counted = [0, 1, 3]  # the one of weight 0 has no positive
    assert infonce(a, c, rule=rule, normalize="none").loss.item() == pytest.approx(
        ((half * each)[counted].sum() / 3).item(), rel=1e-12
    )
    assert infonce(a, c, rule=rule).loss.item() == pytest.approx((each[counted].sum() / 3).item(), rel=1e-12)


def test_nothing_below_a_decoupled_positive_does_not_count() -> None:
    facts = {"label": torch.zeros(4, dtype=torch.int64)}
    z = unit(4).requires_grad_()
    e = Embeddings.of(z, facts=facts)
    loss = infonce(e, e, rule=labelled(), positives_compete=False).loss  # all are of one class
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0


@pytest.mark.proves(reference=SUPCON, fact="reference")
def test_supcon_equals_pytorch_metric_learning() -> None:
    labels = torch.tensor([0, 0, 1, 2, 1, 2, 2, 0, 3, 3])
    e = Embeddings.of(unit(10), facts={"label": labels})
    expected = SupConLoss(temperature=0.1)(e.z, labels).item()
    assert infonce(e, e, rule=labelled(), temperature=0.1).loss.item() == pytest.approx(expected, rel=1e-9)


def test_without_options_a_tile_of_negatives_is_not_touched() -> None:
    s, side = torch.randn(3, 4), Side(Embeddings.of(torch.zeros(3, 1)), None)
    found = logits()({"s": s}, Pairs(torch.tensor(0.0), torch.tensor(1.0)), side, side, {})
    assert found["denominator"][0] is s
    assert found["push"] is s
    assert all(x.ndim == 0 for name, x in found.items() if name not in ("denominator", "push"))  # type: ignore[union-attr]
    assert "spread" not in found
    assert "near" not in found


def test_a_rule_sees_rows_of_length_1_whatever_the_temperature() -> None:
    def near(a: Embeddings, c: Embeddings) -> Pairs:
        close = a.z @ c.z.T > 0.4  # cosines
        return Pairs(close.to(a.z), (~close).to(a.z))

    a, c, _ = two_sets(7, 9, 0, torch.float64)
    cosine = torch.nn.functional.cosine_similarity(a.z[:, None], c.z[None], dim=-1)
    for temperature in (1.0, 0.05):
        logit, close = cosine / temperature, cosine > 0.4
        each = (logit.logsumexp(1)[:, None] - logit)[close.any(1)]
        target = close[close.any(1)].to(logit)
        expected = (each * target / target.sum(1, keepdim=True)).sum(1).mean()
        assert torch.allclose(infonce(a, c, rule=near, temperature=temperature).loss, expected)


def test_token_sets_by_late_interaction() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    u, v = (torch.nn.functional.normalize(z, dim=-1) for z in (x, y))
    scores = torch.einsum("itd,jud->ijtu", u, v).amax(-1).sum(-1)
    expected = torch.nn.functional.cross_entropy(scores / 0.3, torch.arange(5))
    found = infonce(x, y, temperature=0.3, score=maxsim()).loss
    assert torch.allclose(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, (x, y)) for loss in (found, expected)), strict=True):
        assert torch.allclose(ours, theirs)
    with pytest.raises(TypeError, match="in proportion"):
        infonce(x, y, score=squared())


def test_no_rows_cost_nothing() -> None:
    none = torch.zeros(0, 3)
    assert infonce(none, none, temperature=torch.zeros(0)).loss.item() == 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        infonce(unit(2), unit(2), temperature=0.0)
    with pytest.raises(ValueError, match="temperature above 0"):
        infonce(unit(2), unit(2), temperature=torch.tensor([0.1, -0.1]))
    with pytest.raises(ValueError, match="one for each of 2 anchors"):
        infonce(Embeddings.of(unit(2)), Embeddings.of(unit(2)), temperature=torch.ones(3))
    with pytest.raises(KeyError, match="fact 'cold' of the anchors; they have: none"):
        infonce(unit(2), unit(2), temperature="cold")
    with pytest.raises(KeyError, match="logq"):
        infonce(unit(2), unit(2), log_bias="logq")
    with pytest.raises(ValueError, match="smoothing from 0 to 1"):
        infonce(unit(2), unit(2), label_smoothing=1.5)
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


@pytest.mark.parametrize("directions", ["forward", "both"])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense_with_all_options(rule: Any, directions: Any, n: int, m: int, seed: int) -> None:
    t = (0.2 + torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).requires_grad_()
    b = torch.randn(m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()

    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        told = (
            replace(a, facts={**a.facts, "cold": t.to(a.z.dtype)}),
            replace(c, facts={**c.facts, "bias": b.to(a.z.dtype)}),
        )
        return infonce(
            *told, rule=rule, temperature="cold", log_bias="bias", label_smoothing=0.2, normalize="none",
            directions=directions,
        )  # fmt: skip

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed, learnable=(t, b))
