"""Softmax losses whose positive term has a weight of its own: by how near the positive is, or how sure the pick."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from counterpoint._ops.reduce import log_total, mean, total
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import (
    Directions,
    Output,
    Rule,
    Side,
    Tile,
    as_embeddings,
    keep,
    per_row,
    sweep,
    times,
)
from counterpoint.objectives.positives import beside, mean_cost, per_positive
from counterpoint.objectives.softmax import Temperature, between, compare, cooled, gaps, logits, picked
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

SHARP, LEVEL = "_sharp", "_level"  # facts of the anchors: temperature over sigma, and the logarithm of a batch's mean


def _log_mean_of_positives(anchors: Embeddings, candidates: Embeddings, rule: Rule, sigma: float) -> Tensor:
    """log( sum_ij w_ij exp(s_ij / sigma) / sum_ij w_ij ) over all positives of the batch; 0 without any."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        there = pairs.attract > 0
        return {"near": (keep(scores["s"] / sigma, there, FLOOR), pairs.attract), "attract": pairs.attract}

    found = sweep(tile, anchors, candidates, rule=rule, rows={"near": "logsumexp", "attract": "total"}).rows
    amount = total(found["attract"])
    some = amount > 0
    return torch.where(some, log_total(found["near"]) - torch.where(some, amount, 1.0).log(), 0.0)


def _weighted() -> Tile:
    """The tile of the decoupled softmax, with what each positive pulls under its weight."""
    plain = logits(False)

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, a: Side, c: Side, params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        near = keep(scores["s"].detach() * a[SHARP] - a[LEVEL], pairs.attract > 0, FLOOR)
        weighted = times(pairs.attract, (2 - near.exp()) * scores["s"])
        return {**plain(scores, pairs, a, c, params), "weighted": weighted}

    return tile


@paper(row=51)
def decoupled(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.1,
    sigma: float = 0.5,
    directions: Directions = "forward",
) -> Outcome:
    """The softmax without its positive in the denominator, where far positives pull more than near ones (DCLW).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij and the cosine s,

        loss_i = - sum_p w_ip v_ip s_ip / t + log sum_k r_ik exp(s_ik / t),    v_ip = 2 - exp(s_ip / sigma) / E

    with E the mean of exp(s / sigma) over all positive pairs of the batch. The result is the mean over anchors that have a
    positive and a negative. The weights v, whose mean over the batch is 1, have no gradient.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves, which
            with two views of each sample among them is the authors' batch.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        sigma: how wide the weights spread, in cosine, above 0; inf: all are 1, the decoupled loss without weights (DCL).
        directions: "both" averages this with the loss of each candidate over the anchors, from the same logits.

    Returns:
        One term, "decoupled", in nats; it may be below 0. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, a temperature or a sigma that is not above 0.

    Differs:
        An anchor without a positive or a negative does not count; in the paper there is none. Public code divides by the
        sum over the batch in place of its mean (raminnakhli), or adds up two softmaxes, one for each view, in place of
        one (lightly); whether v has a gradient the paper does not say: in lightly it has none, in the other it has.

    Relations:
        sigma = inf is `infonce` with `positives_compete=False`. With one positive, `infonce` is softplus of that loss of an
        anchor, so its gradient is this one's times 1 - P, the chance that the pick is wrong: what is decoupled here. Not
        the debiased loss, which shares the abbreviation DCL: `debiased`.

    References:
        Yeh et al. 2022, arXiv:2110.06848, equation 6; github.com/raminnakhli/Decoupled-Contrastive-Learning; the
        DCLWLoss of lightly. sigma = 0.5 and t = 0.1 are their defaults.

    >>> round(decoupled(torch.eye(2), torch.eye(2), temperature=1.0).loss.item(), 4)      # log(exp(0)) - 1
    -1.0
    """
    if not sigma > 0:
        raise ValueError(f"wanted a sigma above 0, got {sigma}")
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    with torch.no_grad():
        level = _log_mean_of_positives(anchors, candidates, rule, sigma)
        own = {SHARP: (t / sigma).expand(len(anchors)), LEVEL: level.expand(len(anchors))}
    told = replace(anchors, facts={**anchors.facts, **own})
    swept = compare(
        _weighted(),
        told,
        candidates,
        rule=rule,
        directions=directions,
        bounds=between(bound),
        beside={"weighted": "total"},
    )
    loss = per_row(partial(picked, compete=False, pull="weighted"), swept, directions)
    return Outcome({"decoupled": loss}, {"decoupled": 1.0}, gaps(t, swept.rows))


def _mean_positive(anchors: Embeddings, candidates: Embeddings, rule: Rule) -> Tensor:
    """The mean over anchors of the mean cosine of their positives."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        return {"near": times(pairs.attract, scores["s"]), "attract": pairs.attract}

    found = sweep(tile, anchors, candidates, rule=rule, rows={"near": "total", "attract": "total"}).rows
    there = found["attract"] > 0
    return mean(found["near"] / torch.where(there, found["attract"], 1.0), there.to(found["near"]))


def _sure(behind: Tensor) -> Tensor:
    """-log(p) / (1 - p) of p = 1 / (1 + exp(x)), where 1 - p has no gradient: so the derivative is 1, whatever x."""
    x = behind.detach()
    there = x > -30  # below it the quotient is 1 to every digit, and its parts may be 0
    value = torch.where(there, softplus(x) / torch.where(there, x, 0.0).sigmoid(), 1.0)
    return value + (behind - x)


@paper(row=144)
def macl(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: float = 0.1,
    alpha: float = 0.5,
    alignment: float = 0.0,
    reweigh: bool = True,
    directions: Directions = "forward",
) -> Outcome:
    """A softmax that gets warmer as positives get nearer, and that gives sure anchors their gradient back (MACL).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij and the cosine s,

        A      = mean_i sum_p w_ip s_ip
        t      = temperature (1 + alpha (A - alignment))
        P_ip   = exp(s_ip / t) / (exp(s_ip / t) + sum_k r_ik exp(s_ik / t))
        loss_i = - sum_p w_ip log(P_ip) / (1 - P_ip)

    and the result is the mean over anchors that have a positive and a negative. A, t and 1 - P have no gradient.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: of a batch whose A equals `alignment`, above 0.
        alpha: how much the temperature follows A, from 0 to 1; 0: not at all.
        alignment: the A at which the temperature is as given, from 0 to 1.
        reweigh: whether the loss of a positive is divided by 1 - P.
        directions: "both" averages this with the loss of each candidate over the anchors, from the same logits.

    Returns:
        One term, "macl", in nats; with `reweigh` at least 1, its value when all is sure. Notes as of `infonce`, and
        "temperature", []: t.

    Raises:
        ValueError: for plain tensors of different length, alpha or alignment outside 0 to 1, or a temperature that is
            not above 0, also after it is adapted.

    Differs:
        With several positives A is the mean over anchors of the mean of their positives, and each positive stands alone
        against the negatives; in the paper there is one. lightly adds 1e-8 to 1 - P.

    Relations:
        alpha = 0 without `reweigh` is `infonce_separate`. With `reweigh` the gradient is that of `decoupled` with sigma =
        inf at this temperature: what the division gives back is what decoupling leaves out. `focal` has the factor
        (1 - P)^gamma in place of 1 / (1 - P).

    References:
        Huang et al. 2023, arXiv:2207.07874; macl.py (MACLb) at github.com/chenhaoxing/MACL; the MACLLoss of lightly,
        whose defaults these are.

    >>> round(macl(torch.eye(2), torch.eye(2), temperature=1.0, alpha=0.0).loss.item(), 4)      # 0.3133 / 0.2689
    1.1648
    """
    for name, number in {"alpha": alpha, "alignment": alignment}.items():
        if not 0 <= number <= 1:
            raise ValueError(f"wanted {name} from 0 to 1, got {number}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"wanted a temperature above 0, got {temperature}")
    sides = as_embeddings(anchors, candidates)
    with torch.no_grad():
        near = _mean_positive(sides[0].to_unit(), sides[1].to_unit(), rule)
        adapted = temperature * (1 + alpha * (near - alignment))
    anchors, candidates, t, bound = cooled(*sides, adapted)
    first = compare(logits(False), anchors, candidates, rule=rule, directions=directions, bounds=between(bound))
    level = first.rows["denominator"], first.columns.get("denominator")
    cost = _sure if reweigh else beside
    swept = per_positive(cost, first, level=level, sides=(anchors, candidates), rule=rule)
    loss = per_row(partial(mean_cost, compete=False), swept, directions)
    return Outcome({"macl": loss}, {"macl": 1.0}, {**gaps(t, swept.rows), "temperature": t.detach()})
