"""DCL, DCLW and MACL: closed forms, identities, authors' and peers' formulas, invariances, what has no gradient."""

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

from counterpoint.objectives.decoupled import decoupled, macl
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.objectives.contract import (
    RULES,
    assert_moving_changes_nothing,
    assert_same,
    assert_tiles_equal_dense,
    graded,
    two_sets,
)

ALL: dict[str, Callable[..., Outcome]] = {
    "dcl": partial(decoupled, sigma=math.inf),
    "dclw": partial(decoupled, sigma=0.5),
    "dclw both": partial(decoupled, sigma=0.3, directions="both"),
    "macl": partial(macl, alpha=0.5),
    "macl both": partial(macl, alpha=1.0, alignment=0.2, directions="both"),
}


def raw(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return nn.functional.normalize(raw(n, d, seed), dim=-1)


def both(x: Tensor, y: Tensor) -> Embeddings:
    """Two views of each sample as one set."""
    return Embeddings.cat([Embeddings.of(x), Embeddings.of(y, view=1)])


def assert_same_losses(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], relative: float = 1e-11) -> None:
    """Two functions of two views agree in value and in both gradients; theirs gets rows of length 1."""
    x, y = raw(6).requires_grad_(), raw(6, seed=1).requires_grad_()
    expected = theirs(*(nn.functional.normalize(z, dim=-1) for z in (x, y)))
    assert_same(ours(x, y), expected, (x, y), relative=relative)


@pytest.mark.proves(row=51, fact="closed-form")
def test_decoupled_by_hand() -> None:
    """Positives at cosines 1 and 0, one negative each at 0 and 1, sigma = 1: weights 2 - e / E and 2 - 1 / E."""
    x = torch.tensor([[1.0, 0], [1, 0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    e = (math.e + 1) / 2
    expected = (-(2 - math.e / e) * 1 / 0.5 + 0 + 0 + 1 / 0.5) / 2
    assert decoupled(x, y, temperature=0.5, sigma=1.0).loss.item() == pytest.approx(expected, rel=1e-12)
    assert decoupled(x, y, temperature=0.5, sigma=math.inf).loss.item() == pytest.approx(
        (-2 + 0 - 0 + 2) / 2, abs=1e-12
    )


def dcl_one_way(x: Tensor, y: Tensor, t: float, weight: Tensor | float) -> Tensor:
    """_one_way_loss of loss/dcl.py at github.com/raminnakhli/Decoupled-Contrastive-Learning (commit 50991ef)."""
    similar = torch.cat([x @ x.T, x @ y.T], 1) / t
    similar = similar + torch.eye(len(x), dtype=x.dtype).repeat(1, 2) * math.log(1e-45)
    return (-(x * y).sum(1) / t * weight + torch.logsumexp(similar, 1)).mean()


@pytest.mark.proves(row=51, fact="reference")
@pytest.mark.parametrize("t", [0.1, 0.5])
def test_without_weights_equals_public_code_in_value_and_gradient(t: float) -> None:
    """It adds up the two views; here they are averaged."""
    assert_same_losses(
        lambda x, y: decoupled(both(x, y), temperature=t, sigma=math.inf).loss,
        lambda x, y: (dcl_one_way(x, y, t, 1.0) + dcl_one_way(y, x, t, 1.0)) / 2,
    )


@pytest.mark.proves(row=51, fact="reference")
@pytest.mark.parametrize("sigma", [0.2, 0.5, 3.0])
def test_weights_equal_public_code_in_value_and_gradient(sigma: float) -> None:
    """negative_mises_fisher_weights of lightly/loss/dcl_loss.py (commit 30b2e45), in the loss of the code above."""

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        similar = (x.detach() * y.detach()).sum(1) / sigma
        weight = 2 - len(x) * similar.softmax(0)
        return (dcl_one_way(x, y, 0.1, weight) + dcl_one_way(y, x, 0.1, weight)) / 2

    assert_same_losses(lambda x, y: decoupled(both(x, y), temperature=0.1, sigma=sigma).loss, theirs)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("directions", ["forward", "both"])
def test_wide_weights_are_infonce_without_the_positive(rule: Any, directions: Any) -> None:
    a, c, _ = two_sets(9, 11, 0, torch.float64)
    options: Any = {"rule": rule, "temperature": 0.3, "directions": directions}
    expected = infonce(a, c, positives_compete=False, **options)
    found = decoupled(a, c, sigma=math.inf, **options)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    assert all(torch.allclose(found.notes[k], expected.notes[k]) for k in expected.notes)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_weighted_equals_plain_loops(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 2, torch.float64)
    s, t, sigma = (a.to_unit().z @ c.to_unit().z.T).detach(), 0.3, 0.4
    w, r = rule(a, c)
    mean = float((w * (s / sigma).exp()).sum() / w.sum())
    ways = []
    for cos, attract, repel in ((s, w, r), (s.T, w.T, r.T)):
        each = []
        for x, p, q in zip(cos.tolist(), attract.tolist(), repel.tolist(), strict=True):
            if sum(p) and sum(q):
                pull = sum(u * (2 - math.exp(y / sigma) / mean) * y / t for u, y in zip(p, x, strict=True)) / sum(p)
                each.append(math.log(sum(u * math.exp(y / t) for u, y in zip(q, x, strict=True))) - pull)
        ways.append(sum(each) / len(each))
    forward = decoupled(a, c, rule=rule, temperature=t, sigma=sigma)
    assert forward.loss.item() == pytest.approx(ways[0], rel=1e-9)
    found = decoupled(a, c, rule=rule, temperature=t, sigma=sigma, directions="both")
    assert found.loss.item() == pytest.approx(sum(ways) / 2, rel=1e-9)


def test_infonce_is_softplus_of_the_decoupled_loss_and_its_gradient_is_less() -> None:
    """One anchor: the gradient of InfoNCE is 1 - P times the decoupled one."""
    x, y = raw(1).requires_grad_(), raw(5, seed=1)
    a, c = Embeddings.of(x), Embeddings.of(y, view=1)
    plain, ours = (loss(a, c, temperature=0.4).loss for loss in (infonce, partial(decoupled, sigma=math.inf)))
    assert plain.item() == pytest.approx(nn.functional.softplus(ours).item(), rel=1e-12)
    (g,), (h,) = torch.autograd.grad(plain, x), torch.autograd.grad(ours, x)
    assert torch.allclose(g, (1 - (-plain).exp()).detach() * h)


def test_the_mean_weight_is_1_and_far_positives_weigh_more() -> None:
    """By the derivative of the pull: d loss / d s_ip = -v_ip / (n t), read off along each positive."""
    x, y = unit(6), unit(6, seed=1)
    y = nn.functional.normalize(0.7 * x + y, dim=-1)
    plain = decoupled(x, y, temperature=1.0, sigma=math.inf).loss
    cosines = (x * y).sum(1)
    weights = 2 - (cosines / 0.5).exp() / (cosines / 0.5).exp().mean()
    assert weights.mean().item() == pytest.approx(1, rel=1e-12)
    expected = plain + cosines.mean() - (weights * cosines).mean()
    assert decoupled(x, y, temperature=1.0).loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert weights[cosines.argmin()] > 1 > weights[cosines.argmax()]


@pytest.mark.proves(row=144, fact="closed-form")
def test_macl_by_hand() -> None:
    """Positives at 1, one negative at 0: A = 1, t = 0.5 (1 + 0.6 (1 - 0.5)), p = 1 / (1 + exp(-1/t))."""
    e = torch.eye(2, dtype=torch.float64)
    found = macl(e, e, temperature=0.5, alpha=0.6, alignment=0.5)
    t = 0.5 * 1.3
    p = 1 / (1 + math.exp(-1 / t))
    assert found.loss.item() == pytest.approx(-math.log(p) / (1 - p), rel=1e-12)
    assert found.notes["temperature"].item() == pytest.approx(t, rel=1e-12)
    assert macl(e, e, temperature=0.5, alpha=0.6, alignment=0.5, reweigh=False).loss.item() == pytest.approx(
        -math.log(p), rel=1e-12
    )


@pytest.mark.proves(row=144, fact="reference")
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_macl_equals_the_authors_code_in_value_and_gradient(beta: float) -> None:
    """MACLb of macl.py at github.com/chenhaoxing/MACL (commit 650c3f2)."""

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        scores = x @ y.T
        a = (torch.trace(scores) / len(x)).detach()
        p = torch.softmax(scores / (0.1 * (1 + beta * a)), 1)
        rest = p.masked_select(~torch.eye(len(x), dtype=torch.bool)).view(len(x), -1).sum(-1)
        return (-(1 / rest).detach() * p.log().diag()).mean()

    assert_same_losses(lambda x, y: macl(x, y, temperature=0.1, alpha=beta).loss, theirs, relative=1e-9)


@pytest.mark.proves(row=144, fact="reference")
@pytest.mark.parametrize(("alpha", "a0"), [(0.5, 0.0), (1.0, 0.3)])
def test_macl_equals_lightly_in_value_and_gradient(alpha: float, a0: float) -> None:
    """MACLLoss of lightly/loss/macl_loss.py (commit 0441864), which adds 1e-8 to 1 - P."""

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        out, n = torch.cat([x, y]), len(x)
        cov = out @ out.T
        index = torch.arange(2 * n)
        negatives = cov[index[:, None] % n != index[None, :] % n].view(2 * n, -1)
        positive = torch.cat([cov.diag(n), cov.diag(-n)])[:, None]
        t = 0.3 * (1 + alpha * (positive.detach().mean() - a0))
        log = torch.log_softmax(torch.cat([positive, negatives], 1) / t, 1)[:, 0]
        return (-(1 / (1 - log.exp() + 1e-8)).detach() * log).mean()

    assert_same_losses(
        lambda x, y: macl(both(x, y), temperature=0.3, alpha=alpha, alignment=a0).loss, theirs, relative=3e-7
    )


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_macl_without_its_two_ideas_is_a_softmax(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 0, torch.float64)
    for directions in ("forward", "both"):
        options: Any = {"rule": rule, "temperature": 0.3, "directions": directions}
        expected = infonce_separate(a, c, **options).loss.item()
        assert macl(a, c, alpha=0.0, reweigh=False, **options).loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("near", [0.0, 3.0, 300.0])
def test_macl_has_the_gradient_of_the_decoupled_loss(near: float) -> None:
    """However sure the pick is, also where 1 - P is 0 to every digit: that is what it is for."""
    x = unit(5).requires_grad_()
    y = nn.functional.normalize(unit(5, seed=1) + near * x.detach(), dim=-1)
    found = macl(x, y, temperature=0.02, alpha=0.5)
    expected = decoupled(x, y, temperature=found.notes["temperature"], sigma=math.inf).loss
    (g,), (h,) = torch.autograd.grad(found.loss, x), torch.autograd.grad(expected, x)
    assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)
    assert h.abs().max() > 0
    assert found.loss.item() >= 1


def test_what_adapts_has_no_gradient() -> None:
    """The temperature and the weights see the rows, and lead no gradient back: frozen, the gradient is the same."""
    x, y = unit(5).requires_grad_(), unit(5, seed=1)
    found = macl(x, y, temperature=0.3, alpha=1.0)
    t = float(found.notes["temperature"])
    frozen = macl(x, y, temperature=t, alpha=0.0)
    (g,), (h,) = torch.autograd.grad(found.loss, x), torch.autograd.grad(frozen.loss, x)
    assert t != pytest.approx(0.3)
    assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)


def test_nearer_positives_make_it_warmer() -> None:
    x = unit(5)
    temperatures = [
        float(macl(x, nn.functional.normalize(unit(5, seed=1) + near * x, dim=-1)).notes["temperature"])
        for near in (0.0, 1.0, 5.0)
    ]
    assert temperatures == sorted(temperatures)
    assert temperatures[0] < temperatures[-1] <= 0.15


def test_a_learnable_temperature_gets_its_gradient() -> None:
    z, y = unit(4), unit(4, seed=1)
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(t: Tensor) -> Tensor:
        return decoupled(z, y, temperature=t, directions="both").loss

    assert torch.autograd.gradcheck(loss, (t,))
    each = torch.tensor([0.4, 0.6, 0.8, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (each,))


@pytest.mark.parametrize("name", ALL)
def test_shuffling_scaling_and_rotating_change_nothing(name: str) -> None:
    a, c, _ = two_sets(9, 11, 0, torch.float64)
    loss = partial(ALL[name], rule=labelled(), temperature=0.3)
    assert_moving_changes_nothing(loss, a, c)


@pytest.mark.parametrize("name", ALL)
def test_rows_without_a_turn_change_nothing(name: str) -> None:
    """A third anchor without a positive; and nothing at all."""
    z = unit(3).requires_grad_()
    c = Embeddings.of(unit(2, seed=1), id=torch.tensor([0, 1]), view=1)
    loss = ALL[name](Embeddings.of(z, id=torch.tensor([0, 1, 7])), c).loss
    if "both" not in name:
        alone = ALL[name](Embeddings.of(z[:2], id=torch.tensor([0, 1])), c).loss
        assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
        assert torch.autograd.grad(loss, z)[0][2].abs().max() == 0
    nothing = ALL[name](z[:1], unit(1, seed=1)).loss
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, z)[0].abs().max() == 0


@pytest.mark.parametrize("name", ALL)
def test_positives_alone_have_nothing_to_win_against(name: str) -> None:
    e = Embeddings.of(unit(4), facts={"label": torch.zeros(4, dtype=torch.int64)})
    assert ALL[name](e, e, rule=labelled()).loss.item() == 0


def test_the_alignment_is_a_mean_over_anchors_of_means_over_positives() -> None:
    a, c, _ = two_sets(9, 11, 2, torch.float64)
    w = graded(a, c).attract
    cosines = (a.to_unit().z @ c.to_unit().z.T).detach()
    there = w.sum(1) > 0
    near = float(((w * cosines).sum(1)[there] / w.sum(1)[there]).mean())
    found = macl(a, c, rule=graded, temperature=0.2, alpha=0.7).notes["temperature"].item()
    assert found == pytest.approx(0.2 * (1 + 0.7 * near), rel=1e-12)


def test_a_sure_pick_costs_1_to_every_digit() -> None:
    e = torch.eye(3, dtype=torch.float64)
    assert macl(e, e, temperature=0.01, alpha=0.0).loss.item() == 1


@pytest.mark.parametrize("cold", [1.0, 0.05, 0.01])
@pytest.mark.parametrize("name", ALL)
def test_cold_and_hot_in_fp32_equal_fp64(name: str, cold: float) -> None:
    a, c, _ = two_sets(9, 11, 0, torch.float64)
    low = [replace(rows, z=rows.z.float()) for rows in (a, c)]
    loss = partial(ALL[name], rule=labelled(), temperature=cold)
    assert loss(*low).loss.item() == pytest.approx(loss(a, c).loss.item(), rel=1e-4, abs=1e-5)


def test_bad_arguments_are_refused() -> None:
    z = unit(3)
    with pytest.raises(ValueError, match="wanted a sigma above 0, got 0"):
        decoupled(z, z, sigma=0.0)
    with pytest.raises(ValueError, match="wanted alpha from 0 to 1, got 2"):
        macl(z, z, alpha=2.0)
    with pytest.raises(ValueError, match="wanted alignment from 0 to 1, got -1"):
        macl(z, z, alignment=-1.0)
    with pytest.raises(ValueError, match="wanted a temperature above 0, got 0"):
        macl(z, z, temperature=0.0)
    with pytest.raises(ValueError, match=r"wanted a temperature above 0, got -0\.05"):
        macl(z, -z, temperature=0.05, alpha=1.0, alignment=1.0)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("name", ["dclw", "dclw both", "macl"])
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(name: str, rule: Any, n: int, m: int, seed: int) -> None:
    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        return ALL[name](a, c, rule=rule, temperature=0.4)

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed)
