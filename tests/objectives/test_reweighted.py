"""Debiased and hard-negative softmax losses, HN-NCE, focal: loops, identities, the authors' formulas, invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.reweighted import debiased, focal, hard_negatives, hn_nce
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation, same_sample
from tests.objectives.contract import RULES, assert_moving_changes_nothing, assert_tiles_equal_dense, graded, two_sets

HCL = "Robinson et al.: Contrastive Learning with Hard Negative Samples, arXiv:2010.04592, 2021"
DEBIASED = "Chuang et al.: Debiased Contrastive Learning, arXiv:2007.00224, 2020"
FOCAL = "Lin et al.: Focal Loss for Dense Object Detection, arXiv:1708.02002, 2017"
Loss = Callable[..., Outcome]
ALL: dict[str, Loss] = {
    "debiased": partial(debiased, tau_plus=0.2),
    "hard_negatives": partial(hard_negatives, beta=0.7, tau_plus=0.2),
    "hard_negatives uncorrected": partial(hard_negatives, beta=0.7, tau_plus=0.0),
    "hn_nce": partial(hn_nce, beta=0.4, alpha=0.8, directions="both"),
    "hn_nce decoupled": partial(hn_nce, beta=0.4, alpha=0.0, directions="forward"),
    "focal": partial(focal, gamma=1.5, directions="both"),
    "focal forward": partial(focal, gamma=0.5),
}


def unit(n: int, d: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def drawn(n: int, m: int, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    a, c, _ = two_sets(n, m, seed, torch.float64)
    return replace(a, z=a.z.detach()).to_unit(), replace(c, z=c.z.detach()).to_unit()


def two_views(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Embeddings]:
    """Two views of n samples, and both as one set."""
    first, second = unit(n, seed=seed), unit(n, seed=seed + 100)
    return first, second, Embeddings.cat([Embeddings.of(first), Embeddings.of(second, view=1)])


def mean_by_loops(
    cosine: Tensor, pairs: Pairs, t: float, each: Callable[..., float], *, compete: bool = False
) -> float:
    """Mean over anchors of sum_p w_p each(positive logit, all positives (w, logit), negatives (r, logit))."""
    losses = []
    for s, w, r in zip((cosine / t).tolist(), pairs.attract.tolist(), pairs.repel.tolist(), strict=True):
        positives = [(x / sum(w), y) for x, y in zip(w, s, strict=True) if x > 0]
        negatives = [(x, y) for x, y in zip(r, s, strict=True) if x > 0]
        if positives and (negatives or (compete and len(positives) > 1)):
            losses.append(sum(x * each(y, positives, negatives) for x, y in positives))
    return sum(losses) / len(losses)


def hcl_of_pair(beta: float, tau: float, t: float) -> Callable[..., float]:
    """The docstring of hard_negatives, for one positive."""

    def each(logit: float, positives: list, negatives: list) -> float:
        amount = sum(r for r, _ in negatives)
        hard = sum(r * math.exp((1 + beta) * s) for r, s in negatives) / sum(
            r * math.exp(beta * s) for r, s in negatives
        )
        mine = sum(w * math.exp(s) for w, s in positives)
        below = amount * max((hard - tau * mine) / (1 - tau), math.exp(-1 / t))
        return -math.log(math.exp(logit) / (math.exp(logit) + below))

    return each


def hn_nce_of_pair(alpha: float, beta: float) -> Callable[..., float]:
    """The docstring of hn_nce, for one positive."""

    def each(logit: float, _positives: list, negatives: list) -> float:
        amount, norm = sum(r for r, _ in negatives), sum(r * math.exp(beta * s) for r, s in negatives)
        below = sum(r * amount * math.exp(beta * s) / norm * math.exp(s) for r, s in negatives)
        return -math.log(math.exp(logit) / (alpha * math.exp(logit) + below))

    return each


def focal_of_pair(gamma: float) -> Callable[..., float]:
    """The docstring of focal, for one positive."""

    def each(logit: float, positives: list, negatives: list) -> float:
        below = sum(math.exp(s) for _, s in positives) + sum(r * math.exp(s) for r, s in negatives)
        p = math.exp(logit) / below
        return -((1 - p) ** gamma) * math.log(p)

    return each


@pytest.mark.proves(reference=DEBIASED, fact="closed-form")
def test_debiased_by_hand() -> None:
    """Positive at cosine 1, negatives at 0 and 0, t = 1: G = 2 (1 - tau e) / (1 - tau), or 2/e where that is less."""
    z = torch.eye(3, dtype=torch.float64)
    for tau, g in ((0.1, 2 * (1 - 0.1 * math.e) / 0.9), (0.3, 2 / math.e)):
        found = debiased(z, z, temperature=1.0, tau_plus=tau).loss.item()
        assert found == pytest.approx(math.log((math.e + g) / math.e), rel=1e-12)


@pytest.mark.proves(reference=HCL, fact="closed-form")
@pytest.mark.proves(row=121, fact="closed-form")
def test_hard_negatives_by_hand() -> None:
    """Positive at cosine 1, negatives at 0 and -1, t = 1, beta = 1: weights 2/(1 + 1/e) and 2/(e + 1)."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    c = Embeddings.of(torch.tensor([[1.0, 0], [0, 1], [-1, 0]], dtype=torch.float64), view=1)
    below = 2 / (1 + 1 / math.e) + 2 / (math.e + 1) / math.e
    expected = math.log((math.e + below) / math.e)
    assert hard_negatives(a, c, temperature=1.0, beta=1.0, tau_plus=0.0).loss.item() == pytest.approx(
        expected, rel=1e-12
    )
    assert hn_nce(a, c, temperature=1.0, beta=1.0, directions="forward").loss.item() == pytest.approx(
        expected, rel=1e-12
    )
    twice = math.log((2 * math.e + below) / math.e)
    found = hn_nce(a, c, temperature=1.0, beta=1.0, alpha=2.0, directions="forward").loss.item()
    assert found == pytest.approx(twice, rel=1e-12)


@pytest.mark.proves(reference=FOCAL, fact="closed-form")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_by_hand(gamma: float) -> None:
    """Equal rows: p = 1/n."""
    same = torch.ones(5, 3, dtype=torch.float64)
    assert focal(same, same, gamma=gamma).loss.item() == pytest.approx(0.8**gamma * math.log(5), rel=1e-12)


@pytest.mark.parametrize("rule", ["graded", "listed", "labelled"])
def test_all_equal_plain_loops(rule: str) -> None:
    a, c = drawn(9, 11)
    pairs, t, s = RULES[rule](a, c), 0.4, a.z @ c.z.T
    turned = Pairs(pairs.attract.T, pairs.repel.T)
    options: Any = {"rule": RULES[rule], "temperature": t}
    for beta, tau in ((0.0, 0.4), (0.8, 0.1), (0.8, 0.4), (1.5, 0.0)):
        expected = mean_by_loops(s, pairs, t, hcl_of_pair(beta, tau, t))
        assert hard_negatives(a, c, beta=beta, tau_plus=tau, **options).loss.item() == pytest.approx(expected, rel=1e-9)
    for alpha, beta in ((1.0, 0.3), (0.5, 0.0), (0.0, 0.7)):
        each = hn_nce_of_pair(alpha, beta)
        expected = (mean_by_loops(s, pairs, t, each) + mean_by_loops(s.T, turned, t, each)) / 2
        assert hn_nce(a, c, alpha=alpha, beta=beta, **options).loss.item() == pytest.approx(expected, rel=1e-9)
    for gamma in (0.0, 0.7, 2.0):
        each = focal_of_pair(gamma)
        forward = mean_by_loops(s, pairs, t, each, compete=True)
        both = (forward + mean_by_loops(s.T, turned, t, each, compete=True)) / 2
        assert focal(a, c, gamma=gamma, **options).loss.item() == pytest.approx(forward, rel=1e-9)
        assert focal(a, c, gamma=gamma, directions="both", **options).loss.item() == pytest.approx(both, rel=1e-9)


def test_the_loops_reach_both_sides_of_the_least_estimate() -> None:
    """With beta = 0 and tau_plus = 0.4 some anchors are held at exp(-1/t) and some are not."""
    a, c = drawn(9, 11)
    s, t = a.z @ c.z.T, 0.4
    pairs = labelled()(a, c)
    r, w = pairs.repel, pairs.attract / pairs.attract.sum(1, keepdim=True).clamp(min=1)
    there = (r.sum(1) > 0) & (w.sum(1) > 0)
    mean = (r * (s / t).exp()).sum(1) / r.sum(1).clamp(min=1e-9)
    corrected = (mean - 0.4 * (w * (s / t).exp()).sum(1)) / 0.6
    held = (corrected < math.exp(-1 / t))[there]
    assert held.any()
    assert not held.all()


@pytest.mark.proves(reference=HCL, fact="reference")
@pytest.mark.parametrize(("beta", "tau"), [(1.0, 0.1), (0.5, 0.01), (2.0, 0.4)])
def test_hard_negatives_equal_the_authors_formula(beta: float, tau: float) -> None:
    """As `criterion` of image/main.py at github.com/joshr17/HCL (commit 7b4647f) has it, estimator "hard"."""
    first, second, both = two_views(6)
    t, b = 0.5, 6
    out = torch.cat([first, second])
    neg = (out @ out.T / t).exp()
    index = torch.arange(2 * b)
    mask = (index[:, None] % b) != (index[None, :] % b)
    neg = neg[mask].view(2 * b, -1)
    pos = ((first * second).sum(-1) / t).exp().repeat(2)
    count = 2 * b - 2
    imp = (beta * neg.log()).exp()
    reweighted = (imp * neg).sum(-1) / imp.mean(-1)
    below = ((-tau * count * pos + reweighted) / (1 - tau)).clamp(min=count * math.e ** (-1 / t))
    expected = -(pos / (pos + below)).log().mean()
    found = hard_negatives(both, temperature=t, beta=beta, tau_plus=tau)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.proves(reference=DEBIASED, fact="reference")
@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5])
def test_debiased_equals_the_authors_formula(tau: float) -> None:
    """As main.py at github.com/chingyaoc/DCL (commit 30189fb) has it."""
    first, second, both = two_views(5, seed=3)
    t, b = 0.5, 5
    out = torch.cat([first, second])
    index = torch.arange(2 * b)
    neg = (out @ out.T / t).exp()[(index[:, None] % b) != (index[None, :] % b)].view(2 * b, -1)
    pos = ((first * second).sum(-1) / t).exp().repeat(2)
    count = 2 * b - 2
    below = ((-tau * count * pos + neg.sum(-1)) / (1 - tau)).clamp(min=count * math.e ** (-1 / t))
    expected = -(pos / (pos + below)).log().mean()
    assert debiased(both, temperature=t, tau_plus=tau).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.proves(row=121, fact="reference")
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (1.0, 0.25), (0.0, 0.5), (0.9, 1.0)])
def test_hn_nce_equals_a_public_re_implementation(alpha: float, beta: float) -> None:
    """hn_nce_loss_without_hardnegs of scenic/projects/verbs_in_action/losses.py of github.com/google-research/scenic (0cce82d).

    In value and gradient, which flows through its weights too; both directions are averaged.
    """
    video, text, t = unit(6).requires_grad_(), unit(6, seed=1).requires_grad_(), 0.2

    def one_way(logits: Tensor) -> Tensor:
        weights = (beta * logits).exp() * (1 - torch.eye(6))
        weights = 5 * weights / weights.sum(-1, keepdim=True)
        positive = torch.diagonal(logits).exp()
        return -(positive / (alpha * positive + (weights * logits.exp()).sum(-1))).log().mean()

    logits = nn.functional.normalize(video, dim=1) @ nn.functional.normalize(text, dim=1).T / t
    expected = (one_way(logits) + one_way(logits.T)) / 2
    found = hn_nce(video, text, alpha=alpha, beta=beta, temperature=t).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(*(torch.autograd.grad(loss, (video, text)) for loss in (found, expected)), strict=True):
        assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)
        assert h.abs().max() > 1e-3


@pytest.mark.proves(reference=FOCAL, fact="reference")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_equals_the_formula_on_a_softmax(gamma: float) -> None:
    """Equation 4 of the paper, -(1 - p)^gamma log p, with p of torch's softmax."""
    a, c, t = unit(7), unit(7, seed=1), 0.2
    p = torch.diagonal((a @ c.T / t).softmax(1))
    expected = -((1 - p) ** gamma * p.log()).mean()
    assert focal(a, c, temperature=t, gamma=gamma).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_limits_are_the_plain_losses(rule: Any) -> None:
    a, c = drawn(9, 11)
    options: Any = {"rule": rule, "temperature": 0.3}

    def same(x: Outcome, y: Outcome) -> None:
        assert x.loss.item() == pytest.approx(y.loss.item(), rel=1e-12)

    separate = infonce_separate(a, c, **options)
    same(hard_negatives(a, c, beta=0.0, tau_plus=0.0, **options), separate)
    same(debiased(a, c, tau_plus=0.0, **options), separate)
    same(hn_nce(a, c, beta=0.0, directions="forward", **options), separate)
    same(hn_nce(a, c, beta=0.0, **options), infonce_separate(a, c, directions="both", **options))
    same(hard_negatives(a, c, beta=0.0, tau_plus=0.2, **options), debiased(a, c, tau_plus=0.2, **options))
    same(
        hard_negatives(a, c, beta=0.6, tau_plus=0.0, **options),
        hn_nce(a, c, beta=0.6, directions="forward", **options),
    )
    for directions in ("forward", "both"):
        both: Any = {**options, "directions": directions}
        same(focal(a, c, gamma=0.0, **both), infonce(a, c, **both))


def test_decoupled_without_weights_is_the_decoupled_infonce() -> None:
    a, c = unit(6), unit(6, seed=1)
    found = hn_nce(a, c, beta=0.0, alpha=0.0, temperature=0.2)
    expected = infonce(a, c, temperature=0.2, positives_compete=False, directions="both")
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)


def test_much_concentration_leaves_the_nearest_negative() -> None:
    a, c, t = unit(6), unit(6, seed=1), 0.5
    logits = a @ c.T / t
    nearest = logits.masked_fill(torch.eye(6) > 0, -math.inf).amax(1)
    expected = nn.functional.softplus(math.log(5) + nearest - torch.diagonal(logits), threshold=100).mean()
    found = hn_nce(a, c, beta=2000.0, temperature=t, directions="forward")
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_more_concentration_costs_more_and_more_correction_costs_less() -> None:
    _, _, both = two_views(8)
    by_beta = [hard_negatives(both, beta=b, tau_plus=0.0).loss.item() for b in (0.0, 0.5, 1.0, 3.0)]
    assert by_beta == sorted(by_beta)
    assert by_beta[0] < by_beta[-1]
    near = Embeddings.cat([Embeddings.of(unit(8)), Embeddings.of(unit(8) + 0.1 * unit(8, seed=5), view=1)])
    by_tau = [debiased(near, tau_plus=x).loss.item() for x in (0.3, 0.1, 0.01, 0.0)]
    assert by_tau == sorted(by_tau)
    assert by_tau[0] < by_tau[-1]


@pytest.mark.parametrize("name", ALL)
def test_shuffling_scaling_and_rotating_change_nothing(name: str) -> None:
    a, c = drawn(9, 11)
    loss = partial(ALL[name], rule=labelled(), temperature=0.3)
    assert_moving_changes_nothing(loss, a, c)


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_finite_differences(name: str) -> None:
    rule = listed(Relation.of([0, 0, 1, 2], [10, 11, 11, 12], [1.0, 2.0, 1.0, 1.0]))

    def loss(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
        sides = Embeddings.of(z, id=torch.arange(3)), Embeddings.of(y, id=torch.tensor([10, 11, 12, 13]))
        return ALL[name](*sides, rule=rule, temperature=t).loss

    inputs = unit(3, 2), unit(4, 2, seed=1), torch.tensor([0.4, 0.6, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))
    one = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: loss(unit(3), unit(4, seed=1), t), (one,))


def test_the_least_estimate_has_its_gradient_too() -> None:
    z = torch.eye(3, dtype=torch.float64)
    t = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: debiased(z, z, temperature=t, tau_plus=0.5).loss, (t,))


@pytest.mark.parametrize("name", ALL)
def test_rows_without_a_turn_change_nothing_and_get_no_gradient(name: str) -> None:
    """The third anchor has no positive; the fourth has no negative."""
    rule = listed(Relation.of([0, 1, 3], [10, 11, 12]))
    ids, known = torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11])
    z = unit(4).requires_grad_()

    def pairs(a: Embeddings, c: Embeddings) -> Pairs:
        found = rule(a, c)
        alone = (a.id[:, None] >= 2) | (c.id[None, :] == 12)
        return Pairs(found.attract, torch.where(alone, 0.0, found.repel))

    c = Embeddings.of(unit(3, seed=1), id=torch.tensor([10, 11, 12]))
    loss = ALL[name](Embeddings.of(z, id=ids), c, rule=pairs).loss
    alone = ALL[name](Embeddings.of(z[:2], id=ids[:2]), Embeddings.of(c.z[:2], id=known), rule=pairs).loss
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    assert gradient[2:].abs().max() == 0
    assert gradient[:2].abs().max() > 0
    single = unit(1).requires_grad_()
    nothing = ALL[name](single, unit(1, seed=1)).loss
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, single)[0].abs().max() == 0


def test_positives_alone_compete_in_focal_and_in_nothing_else() -> None:
    e = Embeddings.of(unit(5), facts={"label": torch.zeros(5, dtype=torch.int64)})
    plain = infonce(e, e, rule=labelled(), temperature=0.3).loss.item()
    for name, loss in ALL.items():
        found = loss(e, e, rule=labelled(), temperature=0.3).loss.item()
        assert (0.5 * plain < found < plain) if "focal" in name else found == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_perfect_positive_has_a_finite_gradient(gamma: float) -> None:
    z = torch.eye(4).requires_grad_()
    loss = focal(z, torch.eye(4), temperature=0.01, gamma=gamma).loss
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


@pytest.mark.parametrize("cold", [1.0, 0.05, 0.01])
@pytest.mark.parametrize("name", ALL)
def test_cold_and_hot_in_fp32_equal_fp64(name: str, cold: float) -> None:
    a, c = drawn(9, 11)
    low = [replace(rows, z=rows.z.float()) for rows in (a, c)]
    loss = partial(ALL[name], rule=labelled(), temperature=cold)
    assert loss(*low).loss.item() == pytest.approx(loss(a, c).loss.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_notes_are_those_of_infonce(name: str) -> None:
    a, c = drawn(9, 11)
    found = ALL[name](a, c, rule=graded, temperature=0.2).notes
    expected = infonce(a, c, rule=graded, temperature=0.2).notes
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key]) for key in expected)


def test_bad_arguments_are_refused() -> None:
    z = unit(3)
    with pytest.raises(ValueError, match="beta of at least 0"):
        hard_negatives(z, z, beta=-1.0)
    with pytest.raises(ValueError, match="tau_plus below 1"):
        debiased(z, z, tau_plus=1.0)
    with pytest.raises(ValueError, match="tau_plus of at least 0"):
        debiased(z, z, tau_plus=-0.1)
    with pytest.raises(ValueError, match="alpha of at least 0"):
        hn_nce(z, z, beta=0.0, alpha=-1.0)
    with pytest.raises(ValueError, match="gamma of at least 0"):
        focal(z, z, gamma=-1.0)
    with pytest.raises(ValueError, match="temperature above 0"):
        debiased(z, z, temperature=0.0)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("name", ["debiased", "hard_negatives", "hn_nce", "focal"])
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(name: str, rule: Any, n: int, m: int, seed: int) -> None:
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        return ALL[name](a, c, rule=rule, temperature=t.to(a.z.dtype))

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed, learnable=(t,))


def test_two_views_in_one_set_are_the_default_batch() -> None:
    _, _, both = two_views(4)
    assert same_sample(both, both).repel.sum(1).tolist() == [6.0] * 8  # 2n - 2 negatives, as in the authors' batches
