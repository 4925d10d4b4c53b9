"""Weights by gaps of a continuous label: the matrix, the SupReMix release's loss, and what may never repel."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from counterpoint.objectives.positives import infonce_inside
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.spaced import spaced
from counterpoint.types import Embeddings
from tests.objectives.contract import assert_tiles_equal_dense

VALUES = torch.tensor([1.0, 1.0, 2.5, 4.0, 4.0, 4.0, 9.0], dtype=torch.float64)


def rows(z: Tensor) -> Embeddings:
    return Embeddings.of(z, facts={"value": VALUES})


def test_the_matrix() -> None:
    e = rows(torch.eye(7, dtype=torch.float64)).rows(torch.tensor([0, 1, 2]))
    attract, far = spaced()(e, e)
    assert attract.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert far.tolist() == [[0, 0, 2.5], [0, 0, 2.5], [2.5, 2.5, 0]]
    assert spaced(heavy="near")(e, e).repel.tolist() == [[0, 0, 0.4], [0, 0, 0.4], [0.4, 0.4, 0]]


def test_equal_id_never_repels_and_a_stale_row_of_it_never_attracts() -> None:
    one = Embeddings.of(torch.ones(2, 1), id=torch.tensor([5, 6]), facts={"value": torch.tensor([0.0, 1.0])})
    other = replace(one, id=one.id.flip(0), view=one.view + 1)
    pairs = spaced()(one, other)
    assert pairs.repel.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert pairs.attract.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    stale = replace(one, age=one.age + 1)
    for rows in (stale, replace(stale, view=stale.view + 1)):
        assert spaced()(one, rows).attract.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    elsewhere = replace(stale, id=stale.id + 10)
    assert spaced()(one, elsewhere).attract.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.proves(row=41, fact="reference")
@pytest.mark.parametrize("heavy", ["far", "near"])
def test_infonce_with_it_is_the_loss_of_the_release(heavy: Any) -> None:
    """SupConLoss_v2 of imdb-wiki/supremix_loss.py of github.com/Dingyijiang1/Mixup-Your-Own-Pairs (76464f1).

    Without mixtures, weights "L1_inv" and "L1", less its factor P / (P + 1), in value and gradient:

    -mean_i sum_p (s_ip - log sum_a w_ia exp(s_ia)) / (P + 1), over all anchors; here over those that have a positive.
    """
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    unit, t = nn.functional.normalize(z, dim=-1), 0.2
    gap = (VALUES[:, None] - VALUES[None, :]).abs() + 1
    weight = (gap if heavy == "far" else 1 / gap) * (1 - torch.eye(7))
    same = (gap == 1) & ~torch.eye(7, dtype=torch.bool)
    logits = unit @ unit.T / t
    log = logits - (weight * logits.exp()).sum(1, keepdim=True).log()
    count = same.sum(1)
    release = -(same * log).sum(1) / (count + 1)
    expected = (release[count > 0] * (count + 1)[count > 0] / count[count > 0]).mean()
    found = infonce(rows(z), rule=spaced(heavy=heavy), temperature=t).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    (g,), (h,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)


@pytest.mark.proves(row=41, fact="closed-form")
def test_equal_rows_cost_the_logarithm_of_the_weights() -> None:
    """Anchor 0 of values 1, 1, 3 has weights 1 and 3 against it; anchor 2 has no positive."""
    e = Embeddings.of(torch.ones(3, 2, dtype=torch.float64), facts={"value": torch.tensor([1.0, 1.0, 3.0])})
    assert infonce(e, rule=spaced()).loss.item() == pytest.approx(math.log(4), rel=1e-12)
    assert infonce(e, rule=spaced(heavy="near")).loss.item() == pytest.approx(math.log(4 / 3), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_far_apart_in_small_units_is_supcon(dtype: torch.dtype) -> None:
    """Gaps of nearly 0 weigh 1, and are no equal values."""
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    small = Embeddings.of(z, facts={"value": VALUES * 1e-9, "label": (2 * VALUES).long()})
    for loss in (infonce, infonce_inside):
        expected = loss(small, rule=labelled()).loss.item()
        assert loss(small, rule=spaced()).loss.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("heavy", ["far", "near"])
def test_tiles_equal_dense(heavy: Any) -> None:
    for n, m, seed in ((13, 17, 0), (9, 9, 1), (1, 5, 2)):
        assert_tiles_equal_dense(partial(infonce, rule=spaced("label", heavy=heavy)), n=n, m=m, seed=seed)
