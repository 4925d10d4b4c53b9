"""Losses of a cross-encoder: one score for each pair of texts, grouped by query."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from counterpoint._ops.reduce import mean
from counterpoint._ops.scores import FLOOR
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome


def scored_pairs(
    score: Float[Tensor, " n"],
    *,
    query: Int[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    row: Int[Tensor, " n"] | None = None,
) -> Embeddings:
    """Scored pairs as embeddings of width 0, so that they are grouped, shuffled and cached like any others.

    Args:
        score: of each pair; may require grad.
        query: identity of the query.
        positive: whether the pair belongs together.
        row: which list of the query a pair belongs to, where a query has several; None: all pairs of a query are one.

    >>> len(scored_pairs(torch.zeros(2), query=torch.tensor([1, 1]), positive=torch.tensor([True, False])))
    2
    """
    zeros = torch.zeros_like(query)
    part = zeros if row is None else row
    return Embeddings(score.new_zeros(len(score), 0), query, zeros, part, zeros, {"score": score, "positive": positive})


@paper(reference="Nogueira, Cho: Passage Re-ranking with BERT, arXiv:1901.04085, 2019")
def binary(pairs: Embeddings, *, positive_weight: float = 1.0) -> Outcome:
    """Each pair alone: does it belong together or not.

        loss = mean_i w_i ( -log sigmoid(s_i) if positive else -log(1 - sigmoid(s_i)) )

    Args:
        pairs: made by `scored_pairs`.
        positive_weight: w of positives beside 1 of negatives, in the weighted mean; > 0.

    Returns:
        The term "binary", at least 0, in nats a pair.

    Differs:
        A weighted mean over pairs where the paper writes a sum.

    Relations:
        `listwise` compares pairs of one query; its scores have no zero of their own.

    References:
        Nogueira, Cho 2019, arXiv:1901.04085, section 3.

    >>> pair = scored_pairs(torch.zeros(1), query=torch.tensor([1]), positive=torch.tensor([True]))
    >>> round(binary(pair).loss.item(), 4)
    0.6931
    """
    score, positive = pairs.facts["score"], pairs.facts["positive"]
    weight = torch.where(positive, positive_weight, 1.0).to(score)
    rows = softplus(torch.where(positive, -score, score))
    return Outcome({"binary": mean(rows, weight)}, {"binary": 1.0}, {"negatives": _negatives(pairs)})


@paper(
    reference="Gao, Dai, Callan: Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline, arXiv:2101.08751, "
    "2021"
)
def listwise(pairs: Embeddings) -> Outcome:
    """Each positive against the negatives of its list: localized contrastive estimation.

        loss = mean_p -log( exp s_p / (exp s_p + sum_j exp s_j) ),  j: negatives of the list of p

    Args:
        pairs: made by `scored_pairs`. A positive whose list has no negative has no turn.

    Returns:
        The term "listwise", at least 0, in nats a positive.

    Differs:
        A list with several positives gives each a term of its own, in which the others do not compete.

    Relations:
        `infonce` over the candidates of one query; with one negative, softplus of the difference of two scores.

    References:
        Gao, Dai, Callan 2021, arXiv:2101.08751, section 3.

    >>> pair = scored_pairs(torch.zeros(2), query=torch.tensor([1, 1]), positive=torch.tensor([True, False]))
    >>> round(listwise(pair).loss.item(), 4)
    0.6931
    """
    score, positive = pairs.facts["score"], pairs.facts["positive"]
    group, groups = _lists(pairs)
    highest = score.detach().new_full((groups,), FLOOR)
    highest = highest.scatter_reduce(0, group, torch.where(positive, FLOOR, score.detach()), "amax")
    terms = torch.where(positive, 0.0, torch.exp(torch.where(positive, 0.0, score - highest[group])))
    total = torch.zeros_like(highest).index_add(0, group, terms)
    counted = positive & (total[group] > 0)
    against = highest + torch.log(torch.where(total > 0, total, 1.0))
    rows = torch.where(counted, softplus(torch.where(counted, against[group] - score, 0.0)), 0.0)
    return Outcome({"listwise": mean(rows, counted.to(score))}, {"listwise": 1.0}, {"negatives": _negatives(pairs)})


def _lists(pairs: Embeddings) -> tuple[Int[Tensor, " n"], int]:
    """The number of each pair's list, and how many lists there are: equal query and equal part."""
    found, group = torch.unique(torch.stack([pairs.id, pairs.part], 1), dim=0, return_inverse=True)
    return group, len(found)


def _negatives(pairs: Embeddings) -> Float[Tensor, " p"]:
    """How many negatives stand beside each positive."""
    group, groups = _lists(pairs)
    positive, score = pairs.facts["positive"], pairs.facts["score"]
    count = torch.zeros(groups, device=group.device).index_add(0, group, (~positive).to(torch.float32))
    return count[group[positive]].to(score.dtype).detach()
