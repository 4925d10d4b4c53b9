"""Losses of scored pairs: closed forms, torch's own, and groups that go by identity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from counterpoint.objectives.rerank import binary, listwise, scored_pairs
from counterpoint.types import Embeddings

MONOBERT = "Nogueira, Cho: Passage Re-ranking with BERT, arXiv:1901.04085, 2019"
LCE = "Gao, Dai, Callan: Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline, arXiv:2101.08751, 2021"


def pairs(score: Tensor, query: list[int], positive: list[int], row: list[int] | None = None) -> Embeddings:
    rows = None if row is None else torch.tensor(row)
    return scored_pairs(score, query=torch.tensor(query), positive=torch.tensor(positive).bool(), row=rows)


def sample(seed: int, dtype: torch.dtype = torch.float64) -> Embeddings:
    """Lists of several sizes: with several positives, with one, without a negative, without a positive."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randint(6, (40,), generator=g)
    positive = (torch.rand(40, generator=g) < 0.3) & (query != 4) | (query == 5)
    score = (3 * torch.randn(40, generator=g, dtype=dtype)).requires_grad_()
    return scored_pairs(score, query=query * 10**15, positive=positive)


@pytest.mark.proves(reference=MONOBERT, fact="closed-form")
def test_binary_by_hand() -> None:
    found = binary(pairs(torch.tensor([math.log(3.0), 0.0]), [1, 1], [1, 0])).loss
    assert found.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


@pytest.mark.proves(reference=LCE, fact="closed-form")
def test_listwise_by_hand() -> None:
    score = torch.tensor([math.log(2.0), math.log(3.0), 0.0, 5.0])
    found = listwise(pairs(score, [1, 1, 1, 2], [1, 0, 0, 1])).loss
    assert found.item() == pytest.approx(math.log(6 / 2))  # 2 / (2 + 3 + 1); query 2 has no negative and no turn


def test_binary_is_torchs_own() -> None:
    e = sample(0)
    target = e.facts["positive"].double()
    assert torch.allclose(binary(e).loss, functional.binary_cross_entropy_with_logits(e.facts["score"], target))
    weighted = functional.binary_cross_entropy_with_logits(
        e.facts["score"], target, weight=1 + 2 * target, reduction="sum"
    )
    assert torch.allclose(binary(e, positive_weight=3.0).loss, weighted / (1 + 2 * target).sum())


def test_listwise_is_cross_entropy_by_loops() -> None:
    for seed in range(5):
        e = sample(seed)
        score, positive, costs = e.facts["score"], e.facts["positive"], []
        for q in e.id.unique():
            own, others = score[(e.id == q) & positive], score[(e.id == q) & ~positive]
            costs += [
                functional.cross_entropy(torch.cat([s[None], others])[None], torch.tensor([0]))
                for s in own
                if len(others)
            ]
        expected = torch.stack(costs).mean()
        assert torch.allclose(listwise(e).loss, expected)
        ours, theirs = (torch.autograd.grad(x, score, retain_graph=True)[0] for x in (listwise(e).loss, expected))
        assert torch.allclose(ours, theirs)


def test_gradients_are_what_the_model_says_less_what_is_true() -> None:
    """d binary / d s = sigmoid(s) - y, d listwise / d s = softmax(s) - y (arXiv:2510.14824 compares them so)."""
    score = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    e, y = pairs(score, [1, 1, 1], [1, 0, 0]), torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert torch.allclose(torch.autograd.grad(binary(e).loss * 3, score)[0], torch.sigmoid(score) - y)
    assert torch.allclose(torch.autograd.grad(listwise(e).loss, score)[0], torch.softmax(score, 0) - y)


@pytest.mark.parametrize("loss", [binary, listwise])
def test_order_does_not_matter_and_gradients_are_right(loss: object) -> None:
    e = sample(1)
    order = torch.randperm(len(e))
    assert torch.allclose(loss(e).loss, loss(e.rows(order)).loss)  # type: ignore[operator]
    assert torch.autograd.gradcheck(
        lambda s: loss(scored_pairs(s, query=e.id, positive=e.facts["positive"])).loss,
        e.facts["score"],  # type: ignore[operator]
    )


def test_listwise_does_not_see_what_all_scores_of_a_query_share() -> None:
    e = sample(2)
    moved = scored_pairs(e.facts["score"] + e.id / 1e15, query=e.id, positive=e.facts["positive"])
    assert torch.allclose(listwise(e).loss, listwise(moved).loss)
    assert not torch.allclose(binary(e).loss, binary(moved).loss)


def test_lists_of_one_query_are_kept_apart_by_row() -> None:
    score = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
    apart = listwise(pairs(score, [7] * 4, [1, 0, 1, 0], [0, 0, 1, 1])).loss
    expected = (functional.softplus(torch.tensor(-1.0)) + functional.softplus(torch.tensor(-3.0))) / 2
    assert apart.item() == pytest.approx(expected.item())
    assert listwise(pairs(score, [7] * 4, [1, 0, 1, 0])).loss.item() > apart.item()


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_scores_stay_finite(scale: float) -> None:
    score = (scale * torch.tensor([1.0, 2.0, 3.0])).requires_grad_()
    for loss in (binary, listwise):
        value = loss(pairs(score, [1, 1, 1], [1, 0, 0])).loss
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(score.grad).all()  # type: ignore[arg-type]


def test_without_a_single_pair_to_compare_the_loss_is_zero_with_zero_gradient() -> None:
    score = torch.ones(2, requires_grad=True)
    for positive in ([1, 1], [0, 0]):
        value = listwise(pairs(score, [1, 1], positive)).loss
        value.backward()
        assert value.item() == 0
    assert score.grad is not None
    assert score.grad.abs().max() == 0


def test_notes_count_the_negatives_of_each_positive() -> None:
    e = pairs(torch.zeros(6), [1, 1, 1, 2, 2, 3], [1, 1, 0, 0, 0, 1])
    assert listwise(e).notes["negatives"].tolist() == [1, 1, 0]
    assert len(listwise(e.rows(torch.tensor([2]))).notes["negatives"]) == 0
