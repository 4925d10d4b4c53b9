"""Positives contrasted among themselves and negatives among themselves: far positives pull, near negatives push."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.reduce import mean
from counterpoint._ops.running import Reduction
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import Output, Rule, Side, Tile, as_embeddings, keep, sweep
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample


def _under(weight: Tensor, value: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """A value and the logarithm of its weight in a mean: log w + sharpness * value, on pairs of weight above 0."""
    there = weight > 0
    log = torch.where(there, weight, torch.ones_like(weight)).log()
    return keep(value, there), keep(sharpness * value + log, there, FLOOR)


def _doubly(t_positive: float, t_negative: float) -> Tile:
    """The squared distance of each positive, the more weighed the farther it is, and of each negative, the nearer."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        apart = 2 - 2 * scores["s"]
        return {
            "far": _under(pairs.attract, apart, t_positive),
            "attract": pairs.attract,
            "near": _under(pairs.repel, apart, -t_negative),
            "repel": pairs.repel,
        }

    return tile


@paper(row=12)
def cacr(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    t_positive: float = 1.0,
    t_negative: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Outcome:
    """Pulls each anchor to its positives, most to the far ones, and pushes its negatives away, most the near ones.

    For anchor i with attract weights w_ij, repel weights r_ij and D_ij = |x_i - y_j|^2 of rows of length 1,

        attraction_i =   sum_j p_ij D_ij,    p_ij = w_ij exp(t_positive D_ij) / sum_k w_ik exp(t_positive D_ik)
        repulsion_i  = - sum_j q_ij D_ij,    q_ij = r_ij exp(-t_negative D_ij) / sum_k r_ik exp(-t_negative D_ik)
        loss         = alpha mean_i attraction_i + beta mean_i repulsion_i

    where the means are over anchors that have a positive, and over those that have a negative. Positives never compete
    with negatives. Gradients flow through the weights p and q, as in the authors' code.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        t_positive: how much more a far positive counts, at least 0, in inverse squared distance; 0: all alike.
        t_negative: how much more a near negative counts, at least 0; 0: all alike.
        alpha, beta: weights of the two terms, at least 0.

    Returns:
        Two terms: "attraction", from 0 to 4, and "repulsion", from -4 to 0. The loss is 0 when all rows are equal.

    Raises:
        ValueError: for plain tensors of different length, or a number below 0.

    Differs:
        Squared distance is the only cost; the authors' code also has a Gaussian kernel and a correction for negatives of
        the anchor's own class. With more than two views of a sample it takes the negatives of one other view at a time
        and averages; here the negatives of an anchor are one set, as in the paper.

    Relations:
        t_positive = 0 makes the attraction that of `alignment` with alpha = 2 where all anchors have equally many
        positives. With one positive an anchor p is 1. As t_negative grows, only the nearest negative is left.

    References:
        Zheng et al. 2023, arXiv:2105.03746; small_scale_experiments/losses at github.com/JegZheng/CACR-SSL, whose
        defaults these are.

    >>> round(cacr(torch.eye(2), torch.eye(2)).loss.item(), 4)      # positives at 0, negatives at 2
    -2.0
    """
    numbers = {"t_positive": t_positive, "t_negative": t_negative, "alpha": alpha, "beta": beta}
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"wanted {name} of at least 0, got {number}")
    anchors, candidates = (rows.to_unit() for rows in as_embeddings(anchors, candidates))
    reductions: dict[str, Reduction] = {
        "far": "mean_under", "attract": "total", "near": "mean_under", "repel": "total"
    }  # fmt: skip
    found = sweep(_doubly(t_positive, t_negative), anchors, candidates, rule=rule, rows=reductions).rows
    attraction, repulsion = (
        sign * mean(found[name], (found[weight] > 0).to(found[name]))
        for sign, name, weight in ((1, "far", "attract"), (-1, "near", "repel"))
    )
    notes = {"negatives": found["repel"].detach()}
    return Outcome({"attraction": attraction, "repulsion": repulsion}, {"attraction": alpha, "repulsion": beta}, notes)
