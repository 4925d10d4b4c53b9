"""Relaxed and optimal transport of token sets: closed forms, authors' code, linear programming, masks, heat maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from counterpoint.objectives.custom import maxsim, sweep, sweeping
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.objectives.transport import heat_map, ipot, rcmd, transport, transported
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Relation, same_sample
from tests.objectives.contract import RULES, assert_tiles_equal_dense

SCORES: dict[str, Callable[..., Any]] = {"rcmd": rcmd, "transported": transported}


def tokens(n: int, t: int = 4, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, t, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


def here(n: int, t: int, seed: int = 0) -> Tensor:
    """Which tokens are there: at least one of each set."""
    mask = torch.rand(n, t, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, 0] = True
    return mask


def masked(n: int, t: int, seed: int) -> Embeddings:
    return Embeddings.of(tokens(n, t, seed=seed), view=seed % 2, facts={"here": here(n, t, seed)})


def all_pairs(score: Any, a: Embeddings, c: Embeddings) -> Tensor:
    """Every pair's score, from columns as they are."""
    columns = [(e.z, e.facts["here"]) if "here" in e.facts else (e.z,) for e in (a, c)]
    return score.of(*columns, "fp32")


# relaxed transport


@pytest.mark.proves(row=161, fact="closed-form")
def test_relaxed_by_hand() -> None:
    """x has tokens e1, e2; y has e1, (e1 + e2)/sqrt 2 and -e2: forward (1 + r)/2, back (1 + r + 0)/3."""
    r = math.sqrt(0.5)
    x = torch.eye(2, dtype=torch.float64)[None]
    y = torch.tensor([[[1.0, 0], [r, r], [0, -1]]], dtype=torch.float64)
    expected = ((1 + r) / 2 + (1 + r + 0) / 3) / 2
    assert rcmd().of((x,), (y,), "fp32").item() == pytest.approx(expected, rel=1e-12)
    assert rcmd().on_pairs((x,), (y,)).item() == pytest.approx(expected, rel=1e-12)
    only = torch.tensor([[True, True, False]])
    there = torch.tensor([[True, True]])
    found = rcmd(mask="here").of((x, there), (y, only), "fp32").item()
    assert found == pytest.approx((1 + r) / 2, rel=1e-12)


def rcmd_of_the_authors(x: Tensor, mask_x: Tensor, y: Tensor, mask_y: Tensor) -> Tensor:
    """DensePairwiseRelaxedWordMoverSimilarity of src/clrcmd/models.py at github.com/sh0416/clrcmd (commit 0b0539e)."""

    def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
        return (value * mask).nan_to_num(neginf=0.0).sum(-1) / mask.sum(-1)

    sim = nn.functional.cosine_similarity(x[:, None, :, None], y[None, :, None], dim=-1)
    both = mask_x[:, None, :, None] & mask_y[None, :, None, :]
    sim = sim.masked_fill(~both, -1e4)
    forward, back = sim.amax(3), sim.amax(2)
    mask_x, mask_y = (m.to(x).expand_as(v) for m, v in ((mask_x[:, None], forward), (mask_y[None], back)))
    return (masked_mean(forward, mask_x) + masked_mean(back, mask_y)) / 2


@pytest.mark.proves(row=161, fact="reference")
def test_relaxed_equals_the_authors_code_in_value_and_gradient_inside_the_softmax() -> None:
    a, c = masked(5, 4, 0), masked(5, 4, 1)
    x, y = a.z.requires_grad_(), c.z.requires_grad_()
    logits = rcmd_of_the_authors(x, a.facts["here"], y, c.facts["here"]) / 0.05
    expected = nn.functional.cross_entropy(logits, torch.arange(5))
    found = infonce(replace(a, z=x), replace(c, z=y), score=rcmd(mask="here"), temperature=0.05).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)


@pytest.mark.proves(row=161, fact="reference")
def test_the_heat_map_equals_the_authors() -> None:
    """compute_heatmap of RelaxedWordMoverSimilarity in the same file, which has no ties here."""
    x, y, mask_x, mask_y = tokens(4), tokens(4, 6, seed=1), here(4, 4), here(4, 6, 1)
    sim = nn.functional.cosine_similarity(x[:, :, None], y[:, None], dim=-1)
    low = sim.masked_fill(~(mask_x[:, :, None] & mask_y[:, None]), -1e4)
    forward = sim * (low == low.amax(2, keepdim=True)) / mask_x.sum(1)[:, None, None] * mask_x[:, :, None]
    back = sim * (low == low.amax(1, keepdim=True)) / mask_y.sum(1)[:, None, None] * mask_y[:, None]
    found = heat_map(rcmd(), x, y, x_mask=mask_x, y_mask=mask_y)
    assert torch.allclose(found, (forward + back) / 2, rtol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_heat_maps_add_up_to_the_score(name: str) -> None:
    a, c = masked(4, 4, 0).to_unit(), masked(4, 6, 1).to_unit()
    score = SCORES[name](mask="here")
    found = heat_map(score, 3 * a.z, 2 * c.z, x_mask=a.facts["here"], y_mask=c.facts["here"])
    assert torch.allclose(found.sum((1, 2)), all_pairs(score, a, c).diag(), rtol=1e-9)
    absent = ~(a.facts["here"][:, :, None] & c.facts["here"][:, None])
    assert found[absent].abs().max() == 0
    ties = heat_map(score, torch.ones(1, 2, 3), torch.ones(1, 3, 3))
    assert ties.sum().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_one_token_a_set_is_the_dot_product(name: str) -> None:
    x, y = unit(tokens(3, 1)), 2 * unit(tokens(4, 1, seed=1))
    found = SCORES[name]().of((x,), (y,), "fp32")
    assert torch.allclose(found, x[:, 0] @ y[:, 0].T, rtol=1e-9)


def test_one_direction_is_maxsim() -> None:
    """For sets of equal size the mean of both directions of the mean of bests."""
    x, y = unit(tokens(3)), unit(tokens(5, seed=1))
    forward = maxsim().of((x,), (y,), "fp32") / 4
    back = maxsim().of((y,), (x,), "fp32").T / 4
    assert torch.allclose(rcmd().of((x,), (y,), "fp32"), (forward + back) / 2, rtol=1e-12)


# optimal transport


def ot_of_the_authors(x: Tensor, y: Tensor, pad_x: Tensor, pad_y: Tensor, beta: float, iterations: int) -> Tensor:
    """optimal_transport_dist of model/ot.py at github.com/ChenRocks/UNITER (commit 966a5f8), one pair a time."""
    found = []
    for p, q, absent_p, absent_q in zip(x, y, pad_x, pad_y, strict=True):
        joint = absent_p[:, None] | absent_q[None, :]
        cost = (1 - unit(p) @ unit(q).T).masked_fill(joint, 0)
        m, n = (~absent_p).sum(), (~absent_q).sum()
        with torch.no_grad():
            sigma = (torch.ones(len(p), dtype=p.dtype) / m).masked_fill(absent_p, 0)
            plan = torch.ones(len(q), len(p), dtype=p.dtype).masked_fill(joint.T, 0)
            kernel = (-cost.T / beta).exp().masked_fill(joint.T, 0)
            for _ in range(iterations):
                moved = kernel * plan
                delta = 1 / (n * (moved @ sigma) + absent_q * 1e4)
                sigma = 1 / (m * (delta @ moved) + absent_p * 1e4)
                plan = delta[:, None] * moved * sigma[None, :]
            plan = plan.masked_fill(joint.T, 0)
        found.append((cost * plan.T).sum())
    return torch.stack(found)


@pytest.mark.proves(row=281, fact="reference")
@pytest.mark.parametrize(("beta", "iterations"), [(0.5, 50), (0.1, 3), (2.0, 1)])
def test_transport_equals_the_authors_code_in_value_and_gradient(beta: float, iterations: int) -> None:
    a, c = masked(5, 4, 0), masked(5, 6, 1)
    x, y = a.z.requires_grad_(), c.z.requires_grad_()
    pads = ~a.facts["here"], ~c.facts["here"]
    expected = ot_of_the_authors(x, y, *pads, beta=beta, iterations=iterations).mean()
    sides = replace(a, z=x), replace(c, z=y)
    found = transport(*sides, mask="here", beta=beta, iterations=iterations).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for g, h in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        assert torch.allclose(g, h, rtol=1e-7, atol=1e-12)


def least(cost: Tensor) -> float:
    """Exact optimal transport of equal weights, by linear programming."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solved = linprog(
        cost.flatten().numpy(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]),
    )
    return float(solved.fun)


@pytest.mark.proves(row=281, fact="closed-form")
def test_transport_goes_to_the_linear_programme() -> None:
    for seed in range(3):
        x, y = unit(tokens(1, 4, seed=seed)), unit(tokens(1, 6, seed=seed + 50))
        exact = least(1 - x[0] @ y[0].T)
        far, near = (abs(transport(x, y, iterations=k).loss.item() - exact) for k in (3, 3000))
        assert near < 1e-4
        assert near < far


def test_the_plan_has_the_marginals_that_it_promises() -> None:
    x, y = here(5, 4)[:, :, None], here(5, 6, 1)[:, None, :]
    cost = 1 - torch.einsum("etd,eud->etu", unit(tokens(5)), unit(tokens(5, 6, seed=1)))
    plan = ipot(cost, x, y, beta=0.5, iterations=400)
    assert torch.allclose(plan.sum(2), (x / x.sum(1, keepdim=True))[:, :, 0].to(plan), rtol=1e-9)
    assert torch.allclose(plan.sum(1), (y / y.sum(2, keepdim=True))[:, 0].to(plan), atol=1e-3)
    early = ipot(cost, x, y, beta=0.5, iterations=1)
    assert torch.allclose(early.sum(2), (x / x.sum(1, keepdim=True))[:, :, 0].to(plan), rtol=1e-9)
    assert not ipot(cost.requires_grad_(), x, y, beta=0.5, iterations=1).requires_grad
    inner = ipot(cost, x, y, beta=0.5, iterations=1, inner=50)
    assert torch.allclose(inner.sum(1), (y / y.sum(2, keepdim=True))[:, 0].to(plan), atol=1e-6)


@pytest.mark.proves(row=281, fact="closed-form")
def test_equal_sets_in_any_order_are_at_0() -> None:
    x = tokens(3, 5, 8)
    assert transport(x, x.flip(1), iterations=500).loss.item() == pytest.approx(0, abs=1e-6)
    assert transport(x, -x[:, :1]).loss.item() > 0.5


def test_one_token_a_set_is_half_the_alignment() -> None:
    x, y = tokens(4, 1), tokens(4, 1, seed=1)
    expected = alignment(x[:, 0], y[:, 0]).loss.item() / 2
    assert transport(x, y).loss.item() == pytest.approx(expected, rel=1e-12)


def test_relaxed_is_never_below_exact_transport() -> None:
    x, y = unit(tokens(6)), unit(tokens(6, 6, seed=1))
    exact = transported(iterations=2000).of((x,), (y,), "fp32")
    assert (rcmd().of((x,), (y,), "fp32") >= exact - 1e-6).all()


def test_transport_means_over_weighted_pairs_and_is_0_without_any() -> None:
    x, y = tokens(2), tokens(2, seed=1)
    a, c = Embeddings.of(x, id=torch.tensor([0, 1])), Embeddings.of(y, id=torch.tensor([10, 11]))
    each = 1 - transported().of((unit(x),), (unit(y),), "fp32")
    rule = listed(Relation.of([0, 0, 1], [10, 11, 10], [1.0, 2.0, 4.0]))
    expected = float((each[0, 0] + 2 * each[0, 1] + 4 * each[1, 0]) / 7)
    assert transport(a, c, rule=rule).loss.item() == pytest.approx(expected, rel=1e-12)
    z = x.requires_grad_()
    nothing = transport(replace(a, z=z), c).loss
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, z)[0].abs().max() == 0


# both


@pytest.mark.parametrize("name", SCORES)
def test_absent_tokens_never_matter(name: str) -> None:
    """More padding, and other numbers in it, change nothing, nor do they get a gradient."""
    score = SCORES[name](mask="here")
    a, c = masked(3, 4, 0), masked(4, 6, 1)
    base = all_pairs(score, a, c)
    noise = torch.where(a.facts["here"][:, :, None], a.z, 100 * tokens(3, 4, seed=9))
    longer = replace(
        a,
        z=torch.cat([noise, tokens(3, 2, seed=8)], 1),
        facts={"here": torch.cat([a.facts["here"], torch.zeros(3, 2, dtype=torch.bool)], 1)},
    )
    assert torch.allclose(all_pairs(score, longer, c), base, rtol=1e-9)
    x, y = longer.z.requires_grad_(), c.z.requires_grad_()
    found = infonce(
        replace(longer, z=x, id=torch.arange(3)), replace(c, z=y, id=torch.arange(4)), score=score, temperature=0.3
    )
    for g, e in zip(torch.autograd.grad(found.loss, (x, y)), (longer, c), strict=True):
        assert g[~e.facts["here"]].abs().max() == 0
        assert g[e.facts["here"]].abs().min() >= 0
        assert g.abs().max() > 0


@pytest.mark.parametrize("name", SCORES)
def test_a_set_without_tokens_scores_0(name: str) -> None:
    score = SCORES[name](mask="here")
    a, c = masked(3, 4, 0), masked(4, 6, 1)
    empty = replace(a, facts={"here": a.facts["here"] & (torch.arange(3) > 0)[:, None]})
    found = all_pairs(score, empty, c)
    assert found[0].abs().max() == 0
    assert torch.allclose(found[1:], all_pairs(score, a, c)[1:], rtol=1e-12)
    assert all_pairs(score, c, empty)[:, 0].abs().max() == 0
    columns = (c.z[:3], c.facts["here"][:3]), (empty.z, empty.facts["here"])
    assert score.on_pairs(*columns)[0] == 0


@pytest.mark.parametrize("name", SCORES)
def test_order_and_rotation_of_tokens_do_not_matter_and_scale_of_the_anchor_does(name: str) -> None:
    score, x, y = SCORES[name](), unit(tokens(3)), unit(tokens(4, 6, seed=1))
    base = score.of((x,), (y,), "fp32")
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    assert torch.allclose(score.of((x[:, order],), (y,), "fp32"), base, rtol=1e-9)
    assert torch.allclose(score.of((x @ rotation,), (y @ rotation,), "fp32"), base, rtol=1e-9)
    assert torch.allclose(score.of((3 * x,), (y,), "fp32"), 3 * base, rtol=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_blocks_and_pairs_agree(name: str) -> None:
    score = SCORES[name](mask="here")
    a, c = masked(5, 4, 0), masked(5, 6, 1)
    found = score.on_pairs((a.z, a.facts["here"]), (c.z, c.facts["here"]))
    assert torch.allclose(found, all_pairs(score, a, c).diag(), rtol=1e-9)
    assert torch.allclose(
        SCORES[name]().on_pairs((a.z,), (c.z,)), SCORES[name]().of((a.z,), (c.z,), "fp32").diag(), rtol=1e-9
    )
    assert score.inner((a.z,), (c.z,)) >= 4 * 6


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 11), seed=st.integers(0, 10**6))
def test_tiles_equal_dense_in_a_softmax(name: str, rule: Any, n: int, m: int, seed: int) -> None:
    options: Any = {"iterations": 5} if name == "transported" else {}
    score = SCORES[name](mask="here", **options)

    def sets(rows: Embeddings) -> Embeddings:
        z = torch.stack([rows.z, rows.z.flip(1), -rows.z], 1)
        there = torch.stack([torch.ones_like(rows.id), rows.id % 2, rows.id % 3], 1) > 0
        return replace(rows, z=z, facts={**rows.facts, "here": there})

    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        return infonce(sets(a), sets(c), rule=rule, temperature=0.4, directions="both", score=score)

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed, memory=30_000)


@pytest.mark.parametrize("name", SCORES)
def test_a_sweep_shrinks_its_tiles_by_what_a_pair_takes(name: str) -> None:
    """Within 2 MB a block of pairs has far fewer than the 10,000 there are, each of 16 x 16 tokens."""
    score, seen = SCORES[name](), []
    kind = type(score)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def of(self, x: Any, y: Any, precision: Any) -> Tensor:
            seen.append(len(x[0]) * len(y[0]))
            return super().of(x, y, precision)

    watched = Watched(**{name: getattr(score, name) for name in score.__dataclass_fields__})
    a, c = Embeddings.of(tokens(100, 16)), Embeddings.of(tokens(100, 16, seed=1))
    with sweeping(memory=2 * 2**20):
        sweep(lambda s, p, a, c, k: {"x": s["s"]}, a, c, scores={"s": watched}, rule=same_sample, rows={"x": "maximum"})
    assert max(seen) * 16 * 16 * 8 < 2 * 2**20


def test_labels_pair_sets_too() -> None:
    a = replace(masked(6, 4, 0), facts={"here": here(6, 4), "label": torch.tensor([0, 0, 1, 1, 2, 2])})
    found = infonce(a, rule=labelled(), score=rcmd(mask="here"), temperature=0.1)
    scores = rcmd_of_the_authors(a.z, a.facts["here"], a.z, a.facts["here"]) / 0.1
    scores = scores.masked_fill(torch.eye(6) > 0, -math.inf)
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    assert found.loss.item() == pytest.approx(nn.functional.cross_entropy(scores, partner).item(), rel=1e-12)


def test_bad_arguments_are_refused() -> None:
    x = tokens(2)
    with pytest.raises(ValueError, match="wanted a beta above 0, got 0"):
        transport(x, x, beta=0.0)
    with pytest.raises(ValueError, match="wanted at least 1 iteration, got 0"):
        transported(iterations=0)
