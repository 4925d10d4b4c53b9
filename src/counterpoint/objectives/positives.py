"""Two other ways in which several positives share one softmax: their mean inside the logarithm, or one softmax each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.scores import FLOOR
from counterpoint._ops.sweep import Swept
from counterpoint.objectives.custom import Directions, Output, Rule, Side, keep, per_row, sweep, times
from counterpoint.objectives.softmax import LOGITS, Temperature, between, compare, competing, cooled, gaps, logits
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

LEVEL = "_level"  # the fact that carries a row's result of the first sweep into the second


def positives_alone(
    anchors: Embeddings, candidates: Embeddings, *, rule: Rule, bound: float | None, directions: Directions
) -> Swept:
    """The sum of positives alone, as "above": log sum_p w_ip exp(s_ip) of each anchor, with "both" of each candidate.

    Where the rule has a sparse form only the listed pairs are computed.
    """

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        return {"above": (keep(scores["s"], pairs.attract > 0, FLOOR), pairs.attract)}

    return sweep(
        tile,
        anchors,
        candidates,
        scores=LOGITS,
        rule=rule,
        rows={"above": "logsumexp"},
        columns={"above": "logsumexp"} if directions == "both" else None,
        bounds=None if bound is None else {"above": (-bound, bound)},
    )


def per_positive(
    cost: Callable[[Tensor], Tensor],
    first: Swept,
    *,
    level: tuple[Tensor, Tensor | None],
    sides: tuple[Embeddings, Embeddings],
    rule: Rule,
) -> Swept:
    """The first sweep with "cost" beside its results: sum_p w_ip cost(level_i - s_ip) over the positives of each row.

    Where the rule has a sparse form only the listed pairs are computed.

    Args:
        cost: elementwise; finite everywhere, since a rule by matrix multiplies it by 0 on other pairs.
        first: what is known of the rows by now.
        level: a number for each anchor and, for both directions, one for each candidate.
        sides: anchors and candidates.
        rule: who attracts whom.
    """
    both = level[1] is not None

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, a: Side, c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        found: dict[str, Output] = {"cost": times(pairs.attract, cost(a[LEVEL] - scores["s"]))}
        if both:
            found["turned"] = times(pairs.attract, cost(c[LEVEL] - scores["s"]))
        return found

    told = [
        rows if own is None else replace(rows, facts={**rows.facts, LEVEL: own})
        for rows, own in zip(sides, level, strict=True)
    ]
    second = sweep(
        tile, *told, scores=LOGITS, rule=rule, rows={"cost": "total"}, columns={"turned": "total"} if both else None
    )
    columns = {**first.columns, "cost": second.columns["turned"]} if both else first.columns
    return replace(first, rows={**first.rows, "cost": second.rows["cost"]}, columns=columns)


def mean_cost(found: Mapping[str, Tensor], *, compete: bool) -> tuple[Tensor, Tensor]:
    """The mean cost of each row's positives, and whether the row counts."""
    counts, attract = competing(found, compete=compete), found["attract"]
    loss = found["cost"] / torch.where(attract > 0, attract, torch.ones_like(attract))
    return torch.where(counts, loss, torch.zeros_like(loss)), counts.to(loss)


def beside(x: Tensor, alpha: float = 1.0) -> Tensor:
    """log(alpha + exp(x)), for any x.

    >>> beside(torch.tensor([0.0, 1000.0])).tolist()
    [0.6931471824645996, 1000.0]
    """
    return x if alpha == 0 else torch.logaddexp(x, x.new_full((), math.log(alpha)))


def _inside(found: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of each anchor and whether it counts."""
    counts, attract = competing(found, compete=True), found["attract"]
    above = found["above"] - torch.where(attract > 0, attract, torch.ones_like(attract)).log()
    loss = torch.where(counts, found["denominator"] - above, torch.zeros_like(above))
    return loss, counts.to(loss)


@paper(reference="Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_in)")
def infonce_inside(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    directions: Directions = "forward",
    unit: bool = True,
) -> Outcome:
    """Each anchor has to put its positives, taken together, above all candidates: one near positive is enough.

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1) and repel weights r_ij,

        loss_i = - log( sum_p w_ip exp(s_ip / t) / sum_k q_ik exp(s_ik / t) ),    q_ik = [w_ik > 0] + r_ik

    and the result is the mean over anchors that have a positive and at least one competitor.

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        directions: "both" averages this with the loss of each candidate over the anchors, from the same logits.
        unit: scale rows to length 1 first, so that s is the cosine; False: s is the plain dot product.

    Returns:
        One term, "infonce_inside", in nats, never above `infonce` (the logarithm is concave). Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, or a temperature that is not above 0.

    Differs:
        An anchor without a positive, or with nothing to compete with it, does not count; in the paper there is none.

    Relations:
        `infonce` has the mean outside the logarithm: every positive has to be near. With one positive they are equal.
        MIL-NCE takes the sum of the positives and not their mean: less by the logarithm of their number, so for weights
        of 0 and 1 its gradient is the same.

    References:
        Khosla et al. 2020, arXiv:2004.11362, equation 3; MIL-NCE: Miech et al. 2019, arXiv:1912.06430.

    >>> round(infonce_inside(torch.eye(2), torch.eye(2), temperature=1.0).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature, unit=unit)
    first = compare(logits(), anchors, candidates, rule=rule, directions=directions, bounds=between(bound))
    alone = positives_alone(anchors, candidates, rule=rule, bound=bound, directions=directions)
    swept = replace(first, rows={**first.rows, **alone.rows}, columns={**first.columns, **alone.columns})
    loss = per_row(_inside, swept, directions)
    return Outcome({"infonce_inside": loss}, {"infonce_inside": 1.0}, gaps(t, swept.rows))


@paper(reference="Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016")
def infonce_separate(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    directions: Directions = "forward",
    unit: bool = True,
) -> Outcome:
    """Each positive of an anchor has to win against the negatives alone: positives do not compete with each other.

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1) and repel weights r_ij,

        loss_i = sum_p w_ip log( 1 + sum_k r_ik exp((s_ik - s_ip) / t) )

    and the result is the mean over anchors that have a positive and a negative.

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        directions: "both" averages this with the loss of each candidate over the anchors, from the same logits.
        unit: scale rows to length 1 first, so that s is the cosine; False: s is the plain dot product, as in the paper.

    Returns:
        One term, "infonce_separate", in nats, never above `infonce`. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, or a temperature that is not above 0.

    Differs:
        The paper has one positive an anchor, no temperature, and adds a penalty on the length of the rows. An anchor
        without a positive or a negative does not count.

    Relations:
        `hn_nce` with alpha = 1 and beta = 0, and `hard_negatives` with beta = 0 and tau_plus = 0. With one positive it
        equals `infonce`, and `positives_compete=False` there also takes the positive itself out of its denominator.

    References:
        Sohn 2016; the NTXentLoss of pytorch-metric-learning, which averages over pairs and not over anchors.

    >>> round(infonce_separate(torch.eye(2), torch.eye(2), temperature=1.0).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature, unit=unit)
    first = compare(logits(False), anchors, candidates, rule=rule, directions=directions, bounds=between(bound))
    level = first.rows["denominator"], first.columns.get("denominator")
    swept = per_positive(beside, first, level=level, sides=(anchors, candidates), rule=rule)
    loss = per_row(partial(mean_cost, compete=False), swept, directions)
    return Outcome({"infonce_separate": loss}, {"infonce_separate": 1.0}, gaps(t, swept.rows))
