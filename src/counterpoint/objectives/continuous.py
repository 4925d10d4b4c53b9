"""Losses for continuous labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from counterpoint.objectives.custom import Rule, per_row
from counterpoint.objectives.softmax import Temperature, between, compare, cooled, gaps, logits, picked
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome


def _row(found: Mapping[str, Tensor], *, weight: Tensor) -> Tensor:
    """The loss of each anchor; 0 without a positive or a negative."""
    return picked(found, compete=False)[0] * weight


@paper(row=123)
def conr(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    rule: Rule,
    temperature: Temperature = 0.07,
    weight: str | None = None,
) -> Outcome:
    """A regularizer that pulls near labels together and pushes away what is mistaken for them (ConR).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij and the cosine s,

        loss_i = - sum_p w_ip log( exp(s_ip / t) / sum_k ([w_ik > 0] + r_ik) exp(s_ik / t) )

    times the anchor's weight, 0 for an anchor without a positive or without a negative; the result is the mean over all
    anchors, those that cost nothing among them.

    Args:
        anchors: n rows; scaled to length 1.
        candidates: m rows; None: the anchors themselves.
        rule: `disagreeing`, whose repel weights are the pushing power of the paper.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        weight: the anchors' fact that multiplies their loss, such as the rarity of the label; None: 1.

    Returns:
        One term, "conr", in nats, at least 0. Notes as of `infonce`.

    Raises:
        ValueError: for a temperature that is not above 0.
        KeyError: for a fact that rows do not have.

    Differs:
        From the public code: it adds exp(0) = 1 to the denominator for every row that is no positive, and divides by 0
        where an anchor has none; the paper does neither.

    Relations:
        `infonce` with the same rule averages over anchors that have a positive and a competitor, also where no negative
        repels.

    References:
        Keramati et al. 2024, arXiv:2309.06651; agedb-dir/loss.py at github.com/BorealisAI/ConR, with
        t = 0.07.

    >>> from counterpoint.types import same_sample
    >>> a, c = Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1)
    >>> round(conr(a, c, rule=same_sample, temperature=1.0).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    a, c, t, bound = cooled(anchors, candidates, temperature)
    if weight is not None and weight not in a.facts:
        raise KeyError(
            f"wanted the weight as the fact '{weight}' of the anchors; they have: {', '.join(sorted(a.facts))}"
        )
    swept = compare(logits(), a, c, rule=rule, directions="forward", bounds=between(bound))
    each = torch.ones(len(a)).to(a.z) if weight is None else a.facts[weight].to(a.z)
    loss = per_row(partial(_row, weight=each), swept, "forward")
    return Outcome({"conr": loss}, {"conr": 1.0}, gaps(t, swept.rows))
