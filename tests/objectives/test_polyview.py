"""Poly-view losses: closed forms, identities, plain loops, invariance to views, invariances of rows."""

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

from counterpoint.objectives.polyview import poly_view, poly_view_rest, rest_of_views
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation, same_sample
from tests.objectives.contract import RULES, assert_tiles_equal_dense, graded, two_sets

FORMS: dict[str, Callable[..., Outcome]] = {
    "geometric": poly_view,
    "arithmetic": partial(poly_view, mean="arithmetic"),
    "rest": poly_view_rest,
}


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def views(m: int, n: int = 5, d: int = 6) -> Embeddings:
    """m views of n samples as one set."""
    return Embeddings.cat([Embeddings.of(unit(n, d, seed=k), view=k) for k in range(m)])


def by_loops(z: list[Tensor], t: float, form: str) -> float:
    """The docstrings over z[view][sample]: theorems 2.2 and 2.3 of the paper, one likelihood at a time."""
    m, n = len(z), len(z[0])

    def likelihood(i: int, a: int, other: Tensor) -> float:
        own = math.exp(float(z[a][i] @ other) / t)
        return own / (own + sum(math.exp(float(z[g][j] @ other) / t) for j in range(n) if j != i for g in range(m)))

    losses = []
    for i in range(n):
        for a in range(m):
            rest = [z[b][i] for b in range(m) if b != a]
            each = [likelihood(i, a, other) for other in rest]
            mean = nn.functional.normalize(torch.stack(rest).mean(0), dim=0)
            losses.append(
                {
                    "geometric": -sum(math.log(p) for p in each) / len(each),
                    "arithmetic": -math.log(sum(each) / len(each)),
                    "rest": -math.log(likelihood(i, a, mean)),
                }[form]
            )
    return sum(losses) / len(losses)


@pytest.mark.proves(row=137, fact="closed-form")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m", [2, 3, 5])
def test_equal_views_of_orthogonal_samples(form: str, m: int) -> None:
    """Every likelihood is 1 / (1 + m (n - 1) exp(-1/t))."""
    e = Embeddings.cat([Embeddings.of(torch.eye(4, dtype=torch.float64), view=k) for k in range(m)])
    expected = math.log(1 + 3 * m * math.exp(-1 / 0.4))
    assert FORMS[form](e, temperature=0.4).loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.proves(row=137, fact="closed-form")
def test_arithmetic_and_geometric_by_hand() -> None:
    """Two samples with three views; sample 1 is orthogonal to sample 0, whose views are at 1, 0 and 0 of each other.

    Views of sample 1 are equal, so its likelihoods are p = e / (e + 3) for e = exp(1).
    """
    axes = torch.eye(4, dtype=torch.float64)
    z = [torch.stack([axes[k], axes[3]]) for k in (0, 0, 1)]
    e = Embeddings.cat([Embeddings.of(v, view=k) for k, v in enumerate(z)])
    p, q = math.e / (math.e + 3), 1 / 4
    geometric = -(2 * (math.log(p) + math.log(q)) / 2 + math.log(q) + 3 * math.log(p)) / 6
    arithmetic = -(2 * math.log((p + q) / 2) + math.log(q) + 3 * math.log(p)) / 6
    assert poly_view(e, temperature=1.0).loss.item() == pytest.approx(geometric, rel=1e-12)
    assert poly_view(e, temperature=1.0, mean="arithmetic").loss.item() == pytest.approx(arithmetic, rel=1e-12)
    near = math.exp(1 / math.sqrt(2))  # the mean of the others, at 45 degrees from both, for the two equal views
    rest = -(2 * math.log(near / (near + 3)) + math.log(1 / 4) + 3 * math.log(p)) / 6
    assert poly_view_rest(e, temperature=1.0).loss.item() == pytest.approx(rest, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m", [2, 3, 4])
def test_equals_plain_loops(form: str, m: int) -> None:
    z = [unit(5, seed=k) for k in range(m)]
    assert FORMS[form](views(m), temperature=0.4).loss.item() == pytest.approx(by_loops(z, 0.4, form), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_two_views_are_simclr_in_value_and_gradient(form: str) -> None:
    e = views(2)
    z = e.z.requires_grad_()
    found, expected = (loss(replace(e, z=z), temperature=0.3).loss for loss in (FORMS[form], infonce))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    (g,), (h,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_geometric_over_all_views_is_the_separate_softmax(m: int) -> None:
    found, expected = (loss(views(m), temperature=0.3).loss.item() for loss in (poly_view, infonce_separate))
    assert found == pytest.approx(expected, rel=1e-12)


def test_arithmetic_is_below_geometric() -> None:
    for m in (3, 5):
        low, high = (poly_view(views(m), temperature=0.3, mean=k).loss.item() for k in ("arithmetic", "geometric"))
        assert low < high


@pytest.mark.parametrize("rule", ["graded", "listed", "labelled"])
@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_two_sets_and_weights_equal_plain_loops(rule: str, mean: Any) -> None:
    """The denominator of a pair is the candidate's, over anchors that repel it."""
    a, c, _ = two_sets(9, 11, 2, torch.float64)
    w, r = (x.tolist() for x in RULES[rule](a, c))
    s = (a.to_unit().z @ c.to_unit().z.T / 0.4).exp().tolist()
    losses = []
    for i in range(9):
        own = [(w[i][j], s[i][j] / (s[i][j] + sum(r[k][j] * s[k][j] for k in range(9)))) for j in range(11) if w[i][j]]
        if own and sum(r[i]):
            amount = sum(x for x, _ in own)
            inside = -math.log(sum(x * p for x, p in own) / amount)
            losses.append(inside if mean == "arithmetic" else -sum(x * math.log(p) for x, p in own) / amount)
    found = poly_view(a, c, rule=RULES[rule], temperature=0.4, mean=mean).loss.item()
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_views_rows_scale_and_rotation_do_not_matter(form: str) -> None:
    e = views(3)
    loss = partial(FORMS[form], temperature=0.3)
    base = loss(e).loss.item()
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    assert loss(e.rows(order)).loss.item() == pytest.approx(base, rel=1e-12)
    assert loss(replace(e, view=(e.view + 1) % 3)).loss.item() == pytest.approx(base, rel=1e-12)
    assert loss(replace(e, z=e.z * torch.linspace(1, 3, 15)[:, None])).loss.item() == pytest.approx(base, rel=1e-12)
    assert loss(replace(e, z=e.z @ rotation)).loss.item() == pytest.approx(base, rel=1e-9)


def test_the_rest_of_views_leaves_out_oneself_and_other_samples() -> None:
    e = views(3, n=2)
    means, amount = rest_of_views(e)
    assert amount.tolist() == [2.0] * 6
    assert torch.allclose(means.z[0], (e.z[2] + e.z[4]) / 2)
    assert (means.id == e.id).all()
    assert (means.view == e.view).all()
    alone, amount = rest_of_views(e.rows(slice(0, 2)))
    assert amount.tolist() == [0.0, 0.0]
    assert alone.z.abs().max() == 0


def test_the_rest_is_a_mean_by_the_weights_of_the_rule() -> None:
    """Grades 3 and 1 of one row and 2 of another; the other rows have no mean and no turn, and repel."""
    z = unit(5)
    e = Embeddings.of(z, id=torch.tensor([1, 2, 3, 4, 5]))
    rule = listed(Relation.of([1, 1, 4], [2, 3, 5], [3.0, 1.0, 2.0]))
    means, amount = rest_of_views(e, rule=rule)
    assert amount.tolist() == [4, 0, 0, 2, 0]
    assert torch.allclose(means.z[[0, 3]], torch.stack([(3 * z[1] + z[2]) / 4, z[4]]))
    m, t = nn.functional.normalize(means.z[[0, 3]], dim=1) @ z.T, 0.3
    costs = [
        math.log(sum(math.exp(float(m[k, j] - m[k, i]) / t) for j in [i, *wrong]))
        for k, (i, wrong) in enumerate([(0, [3, 4]), (3, [0, 1, 2])])
    ]
    assert poly_view_rest(e, rule=rule, temperature=t).loss.item() == pytest.approx(sum(costs) / 2, rel=1e-9)


def test_the_rest_does_not_pick_a_stale_copy_of_the_row_left_out() -> None:
    """A stale row has no turn, is nothing to its own sample, and repels the others."""
    fresh, old = views(2, n=3), Embeddings.of(unit(1, seed=9))
    z, t, costs = torch.cat([fresh.z, old.z]), 0.3, []
    for i in range(6):
        logits = fresh.z[(i + 3) % 6] @ z.T / t
        rivals = [j for j in range(6) if j % 3 != i % 3] + ([6] if i % 3 else [])
        costs.append(float(logits[[i, *rivals]].logsumexp(0) - logits[i]))
    found = poly_view_rest(Embeddings.cat([fresh, replace(old, age=old.age + 1)]), temperature=t).loss.item()
    assert found == pytest.approx(sum(costs) / 6, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_one_view_have_no_turn_but_are_negatives(form: str) -> None:
    e = views(2, n=4)
    lonely = e.rows(torch.tensor([0, 1, 2, 4, 5, 6, 7]))  # sample 3 has its second view alone
    z = lonely.z.requires_grad_()
    loss = FORMS[form](replace(lonely, z=z), temperature=0.4).loss
    unlike = FORMS[form](lonely.rows(slice(0, 6)), temperature=0.4).loss.item()
    assert loss.item() > unlike
    own = {"rule": same_sample, "temperature": 0.4}
    assert FORMS[form](lonely.rows(torch.tensor([0, 1, 2])), **own).loss.item() == 0
    assert torch.autograd.grad(loss, z)[0][6].abs().max() > 0
    expected = infonce(lonely, temperature=0.4).loss.item()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form: str) -> None:
    e = views(3, n=3, d=3)

    def loss(z: Tensor, t: Tensor) -> Tensor:
        return FORMS[form](replace(e, z=z), temperature=t).loss

    t = torch.linspace(0.4, 0.9, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (e.z.requires_grad_(), t.requires_grad_()))


@pytest.mark.parametrize("form", FORMS)
def test_positives_alone_have_nothing_to_win_against(form: str) -> None:
    assert FORMS[form](views(3, n=1), temperature=0.4).loss.item() == 0


def test_an_anchor_that_nothing_repels_does_not_count() -> None:
    """Not even with several positives: the mean is over the others, whose denominators lack it too."""
    e = views(3)

    def without(a: Embeddings, c: Embeddings) -> Pairs:
        found = same_sample(a, c)
        first = ((a.id == 0) & (a.view == 0))[:, None]
        return Pairs(found.attract, torch.where(first, 0.0, found.repel))

    rest = e.rows(slice(1, None))
    for mean in ("geometric", "arithmetic"):
        found = poly_view(e, rule=without, temperature=0.4, mean=mean).loss.item()  # type: ignore[arg-type]
        assert found == pytest.approx(poly_view(rest, e, rule=same_sample, temperature=0.4, mean=mean).loss.item())  # type: ignore[arg-type]


def test_rest_wants_a_rule_that_lists_its_pairs() -> None:
    a, _, _ = two_sets(5, 5, 0, torch.float64)
    with pytest.raises(TypeError, match="wanted a rule that lists its pairs"):
        poly_view_rest(a, rule=graded)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_rows_are_widened(form: str) -> None:
    e = views(3)
    half = replace(e, z=e.z.bfloat16())
    expected = FORMS[form](replace(e, z=half.z.float())).loss.item()
    assert FORMS[form](half).loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("form", ["geometric", "arithmetic"])
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(form: str, rule: Any, n: int, m: int, seed: int) -> None:
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def objective(a: Embeddings, c: Embeddings) -> Outcome:
        return FORMS[form](a, c, rule=rule, temperature=t.to(a.z.dtype))

    assert_tiles_equal_dense(objective, n=n, m=m, seed=seed, learnable=(t,))


@pytest.mark.parametrize("rule", [same_sample, labelled()], ids=["same sample", "labelled"])
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 19), seed=st.integers(0, 10**6))
def test_rest_by_tiles_equals_dense(rule: Any, n: int, seed: int) -> None:
    assert_tiles_equal_dense(lambda a, _c: poly_view_rest(a, rule=rule, temperature=0.4), n=n, m=3, seed=seed)
