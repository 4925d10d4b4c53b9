"""Softmax losses that weigh their pairs by how hard they are, or correct for negatives that are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.running import Reduction
from counterpoint._ops.scores import FLOOR
from counterpoint._ops.sweep import Swept
from counterpoint.objectives.custom import Directions, Output, Rule, Side, Tile, per_row
from counterpoint.objectives.positives import beside, mean_cost, per_positive, positives_alone
from counterpoint.objectives.softmax import WEIGHTS, Temperature, between, compare, cooled, gaps, logits, sums
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample


def _hard(beta: float) -> Tile:
    """Two sums over negatives: of r exp((1 + beta) s) and of r exp(beta s)."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        s, found = scores["s"], sums(scores, pairs)
        if not beta:
            return found | {"denominator": (s, pairs.repel)}
        return found | {"denominator": ((1 + beta) * s, pairs.repel), "importance": (beta * s, pairs.repel)}

    return tile


def _hard_means(
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    rule: Rule,
    beta: float,
    directions: Directions,
    bound: float,
) -> Swept:
    """All pairs swept, with "hard" beside the rest: the logarithm of the mean of a row's negatives under exp(beta s).

    "amount" is the logarithm of the sum of their weights. Both are 0 in rows without a negative.
    """
    more: dict[str, Reduction] = {"importance": "logsumexp"} if beta else {}
    wide, narrow = ((bound - WEIGHTS) * by + WEIGHTS for by in (1 + beta, beta))
    bounds = {"denominator": (-wide, wide), "importance": (-narrow, narrow)}
    first = compare(_hard(beta), anchors, candidates, rule=rule, directions=directions, bounds=bounds, beside=more)

    def told(found: dict[str, Tensor]) -> dict[str, Tensor]:
        some, repel = found["repel"] > 0, found["repel"]
        amount = torch.where(some, repel, torch.ones_like(repel)).log()
        hard = found["denominator"] - (found["importance"] if beta else amount)
        return {**found, "amount": amount, "hard": torch.where(some, hard, torch.zeros_like(hard))}

    return replace(first, rows=told(first.rows), columns=told(first.columns) if first.columns else {})


def _nonnegative(**given: float) -> None:
    """Refuse what is below 0."""
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"wanted {name} of at least 0, got {value}")


def _corrected(hard: Tensor, positive: Tensor, *, least: Tensor, tau_plus: float) -> Tensor:
    """log max( (exp(hard) - tau_plus exp(positive)) / (1 - tau_plus), exp(least) ), for any size of the numbers."""
    if tau_plus == 0:
        return hard
    part = math.log(tau_plus) + positive - hard  # log of the share that is taken away
    left = part < 0
    log = (-torch.where(left, part, -torch.ones_like(part)).expm1()).log()
    corrected = hard + log - math.log1p(-tau_plus)
    return torch.maximum(torch.where(left, corrected, torch.full_like(corrected, FLOOR)), least)


@paper(reference="Robinson et al.: Contrastive Learning with Hard Negative Samples, arXiv:2010.04592, 2021")
def hard_negatives(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.5,
    beta: float = 1.0,
    tau_plus: float = 0.1,
) -> Outcome:
    """Negatives count the more the nearer they are, less what they owe to hidden members of the anchor's own class (HCL).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij, R_i = sum_k r_ik and the
    cosine s,

        hard_i = sum_k r_ik exp((1 + beta) s_ik / t) / sum_k r_ik exp(beta s_ik / t)
        G_i    = R_i max( (hard_i - tau_plus sum_p w_ip exp(s_ip / t)) / (1 - tau_plus), exp(-1 / t) )
        loss_i = - sum_p w_ip log( exp(s_ip / t) / (exp(s_ip / t) + G_i) )

    and the result is the mean over anchors that have a positive and a negative. Gradients flow through the importance
    exp(beta s / t), as in the authors' code.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves, which
            with two views of each sample among them is the authors' batch.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        beta: concentration on near negatives, at least 0; 0 weighs all alike.
        tau_plus: probability that a negative is of the anchor's class, from 0 to below 1; 0 corrects nothing.

    Returns:
        One term, "hard_negatives", in nats, at least 0. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, beta below 0, or tau_plus
            outside [0, 1).

    Differs:
        The authors' code has one positive an anchor; with several, their mean is taken away from the negatives, as in
        the paper's estimator from M positives. An anchor without a positive or a negative does not count.

    Relations:
        beta = 0 is `debiased`; tau_plus = 0 is `hn_nce` with alpha = 1; both 0 is `infonce_separate`: the negatives and
        the one positive in question in each denominator.

    References:
        Robinson et al. 2021, arXiv:2010.04592; the authors' image/main.py at github.com/joshr17/HCL, whose defaults
        are t = 0.5, beta = 1, tau_plus = 0.1.

    >>> round(hard_negatives(torch.eye(2), torch.eye(2), temperature=1.0, tau_plus=0.0).loss.item(), 4)
    0.3133
    """
    _nonnegative(beta=beta, tau_plus=tau_plus)
    if tau_plus >= 1:
        raise ValueError(f"wanted tau_plus below 1, got {tau_plus}")
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    assert bound is not None
    first = _hard_means(anchors, candidates, rule=rule, beta=beta, directions="forward", bound=bound)
    found = first.rows
    positive = torch.zeros_like(found["hard"])
    if tau_plus:
        above = positives_alone(anchors, candidates, rule=rule, bound=bound, directions="forward").rows["above"]
        attract = found["attract"]
        positive = above - torch.where(attract > 0, attract, torch.ones_like(attract)).log()
    level = found["amount"] + _corrected(found["hard"], positive, least=-1 / t, tau_plus=tau_plus)
    swept = per_positive(beside, first, level=(level, None), sides=(anchors, candidates), rule=rule)
    loss = per_row(partial(mean_cost, compete=False), swept, "forward")
    return Outcome({"hard_negatives": loss}, {"hard_negatives": 1.0}, gaps(t, swept.rows))


@paper(reference="Chuang et al.: Debiased Contrastive Learning, arXiv:2007.00224, 2020")
def debiased(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.5,
    tau_plus: float = 0.1,
) -> Outcome:
    """Negatives less what they owe to hidden members of the anchor's own class, whose share is known (DCL).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij, R_i = sum_k r_ik and the
    cosine s,

        G_i    = max( (sum_k r_ik exp(s_ik / t) - tau_plus R_i sum_p w_ip exp(s_ip / t)) / (1 - tau_plus), R_i exp(-1 / t) )
        loss_i = - sum_p w_ip log( exp(s_ip / t) / (exp(s_ip / t) + G_i) )

    and the result is the mean over anchors that have a positive and a negative.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves, which
            with two views of each sample among them is the authors' batch.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        tau_plus: probability that a negative is of the anchor's class, from 0 to below 1; 0 corrects nothing.

    Returns:
        One term, "debiased", in nats, at least 0. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, or tau_plus outside [0, 1).

    Differs:
        All positives of an anchor are the M positives of the paper's estimator, and each has its turn in the loss; the
        authors' code has one. An anchor without a positive or a negative does not count.

    Relations:
        `hard_negatives` with beta = 0; tau_plus = 0 is `infonce_separate`. Not the decoupled loss, which shares the
        abbreviation DCL: `infonce` with `positives_compete=False`.

    References:
        Chuang et al. 2020, arXiv:2007.00224, equations 7 and 8; the authors' main.py at github.com/chingyaoc/DCL, whose
        defaults are t = 0.5 and tau_plus = 0.1.

    >>> round(debiased(torch.eye(2), torch.eye(2), temperature=1.0, tau_plus=0.0).loss.item(), 4)
    0.3133
    """
    found = hard_negatives(anchors, candidates, rule=rule, temperature=temperature, beta=0.0, tau_plus=tau_plus)
    return Outcome({"debiased": found.loss}, {"debiased": 1.0}, found.notes)


@paper(row=121)
def hn_nce(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    beta: float,
    alpha: float = 1.0,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    directions: Directions = "both",
) -> Outcome:
    """Negatives count the more the nearer they are, and the positive as much as wanted, in both directions (HN-NCE).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij, R_i = sum_k r_ik and the
    cosine s,

        v_ij   = r_ij R_i exp(beta s_ij / t) / sum_k r_ik exp(beta s_ik / t)
        loss_i = - sum_p w_ip log( exp(s_ip / t) / (alpha exp(s_ip / t) + sum_j v_ij exp(s_ij / t)) )

    and the result is the mean over anchors that have a positive and a negative. Gradients flow through the weights v.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        beta: concentration on near negatives, at least 0; 0 weighs all alike.
        alpha: weight of the positive in its own denominator, at least 0; 0 decouples.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        directions: "both" averages this with the loss of each candidate over the anchors, from the same logits.

    Returns:
        One term, "hn_nce", in nats. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, or alpha or beta below 0.

    Differs:
        The objective of DiHT alone, without its data filter and its distillation. The paper has one positive an anchor;
        with several, each has a denominator of its own. The two directions are averaged and not added up.

    Relations:
        beta = 0 and alpha = 1 is `infonce_separate`; beta = 0 and alpha = 0 is, with one positive, `infonce` with
        `positives_compete=False`; alpha = 1 is `hard_negatives` with tau_plus = 0. As beta grows, v becomes R_i on the
        nearest negative.

    References:
        Radenovic et al. 2023, arXiv:2301.02280; re-implemented as hn_nce_loss_without_hardnegs in scenic's
        projects/verbs_in_action/losses.py.

    >>> round(hn_nce(torch.eye(2), torch.eye(2), beta=0.5, temperature=1.0).loss.item(), 4)      # one negative
    0.3133
    """
    _nonnegative(alpha=alpha, beta=beta)
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    assert bound is not None
    first = _hard_means(anchors, candidates, rule=rule, beta=beta, directions=directions, bound=bound)
    rows, columns = (found["amount"] + found["hard"] if found else None for found in (first.rows, first.columns))
    assert rows is not None
    cost = partial(beside, alpha=alpha)
    swept = per_positive(cost, first, level=(rows, columns), sides=(anchors, candidates), rule=rule)
    loss = per_row(partial(mean_cost, compete=False), swept, directions)
    return Outcome({"hn_nce": loss}, {"hn_nce": 1.0}, gaps(t, swept.rows))


def _focused(surprise: Tensor, *, gamma: float) -> Tensor:
    """(1 - p)^gamma (-log p) of x = -log p; the factor stops just above p = 1, where gamma < 1 has no derivative."""
    doubt = -(-surprise.clamp(min=torch.finfo(surprise.dtype).eps)).expm1()
    return doubt**gamma * surprise


@paper(reference="Lin et al.: Focal Loss for Dense Object Detection, arXiv:1708.02002, 2017")
def focal(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    gamma: float = 2.0,
    directions: Directions = "forward",
) -> Outcome:
    """A softmax in which positives that are picked with confidence count for little.

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1), repel weights r_ij and the cosine s,

        loss_i = - sum_p w_ip (1 - P_ip)^gamma log P_ip,    P_ip = exp(s_ip / t) / sum_k ([w_ik > 0] + r_ik) exp(s_ik / t)

    and the result is the mean over anchors that have a positive and at least one competitor.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        gamma: how much less an easy positive counts, at least 0; 0 is `infonce`.
        directions: "both" averages this with the loss of each candidate over the anchors, from the same logits.

    Returns:
        One term, "focal", in nats, never above `infonce`. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, or gamma below 0.

    Differs:
        The paper's p is a sigmoid over two classes, weighed by a factor alpha; here it is the softmax over candidates,
        and the weights of the rule stand for alpha.

    Relations:
        gamma = 0 is `infonce`.

    References:
        Lin et al. 2017, arXiv:1708.02002, equation 4; gamma = 2 is its best.

    >>> round(focal(torch.ones(2, 2), torch.ones(2, 2)).loss.item(), 4)      # log(2) / 4
    0.1733
    """
    _nonnegative(gamma=gamma)
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    first = compare(logits(), anchors, candidates, rule=rule, directions=directions, bounds=between(bound))
    level = first.rows["denominator"], first.columns.get("denominator")
    cost = partial(_focused, gamma=gamma)
    swept = per_positive(cost, first, level=level, sides=(anchors, candidates), rule=rule)
    loss = per_row(partial(mean_cost, compete=True), swept, directions)
    return Outcome({"focal": loss}, {"focal": 1.0}, gaps(t, swept.rows))
