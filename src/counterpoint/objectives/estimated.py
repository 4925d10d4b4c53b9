"""A softmax whose denominators are remembered from step to step, so that small batches do as well as large ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from counterpoint._ops.reduce import mean
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, keep, sweep, times
from counterpoint.objectives.softmax import LOGITS, Temperature, between, compare, cooled, gaps, logits
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

LEVEL, OWN = "_level", "_own"


@paper(row=187)
@paper(
    reference="Yuan et al.: Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm "
    "Performance, arXiv:2202.12387, 2022"
)
def estimated(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.1,
    estimate: str = "estimate",
    gamma: float = 0.9,
    rho: float = 0.3,
    relative: bool = True,
) -> Outcome:
    """Each anchor is pushed from its negatives as strongly as its remembered denominator says (SogCLR, iSogCLR).

    For anchor i with mean positive cosine p_i, repel weights r_ij, R_i = sum_j r_ij and h_ij = s_ij - p_i,

        u_i    = (1 - gamma) u_i(before) + gamma sum_j r_ij exp(h_ij / t_i) / R_i
        loss_i = sum_j r_ij w_ij h_ij / R_i,    w_ij = exp(h_ij / t_i) / u_i          without gradient in w

    and the result is the mean over anchors that have a positive and a negative. Its gradient, not its value, is the
    estimate of that of t_i log E_j exp(h_ij / t_i) over all the data, of which the batch is a sample.

    Args:
        anchors: n rows, for one modality both views of each sample.
        candidates: m rows; None: the anchors themselves.
        rule: who attracts and who repels whom.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them, such as
            "temperature". It takes no gradient: `encoders.estimates` moves it by the slope.
        estimate: the name of the anchors' fact log u_i(before); an anchor without one, -1e9, starts at this batch's. Where
            no anchor has the fact, so do all.
        gamma: what of u is new, above 0 and at most 1; 1 remembers nothing.
        rho: the divergence that the worst case of the negatives may have, in nats: 0.3 for one modality, 6 for two.
        relative: False puts s_ij in the place of h_ij in u and w, and lets the positive count in whole, as the authors'
            code for one modality does.

    Returns:
        One term, "estimated", in units of similarity. Notes, [n], detached: "estimate", the new log u_i; "slope", the
        derivative of t_i log u_i + t_i rho by t_i, log u_i + rho - sum_j r_ij w_ij h_ij / (t_i R_i); and those of `infonce`.

    Raises:
        ValueError: for a temperature that is not above 0, or gamma outside (0, 1].

    Differs:
        The authors' code for two modalities takes the sum over negatives where the paper and their code for one take the
        mean, so that its loss is R_i times this. Their code for one adds both views up where this takes the mean over all
        anchors: half of it.

    Relations:
        With gamma = 1 its gradient is t times that of `infonce` with positives_compete=False. Temperatures that stand
        still are SogCLR; with `Estimates`, which follows the slope, it is iSogCLR.

    References:
        Qiu et al. 2023, arXiv:2305.11965; GCLoss_v1 and GCLoss_v2 in libauc/losses/contrastive.py of
        github.com/Optimization-AI/LibAUC.

    >>> two = Embeddings.cat([Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1)])
    >>> round(estimated(two, gamma=1.0).loss.item(), 4)      # h = -1 for both negatives
    -1.0
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"wanted gamma above 0 and at most 1, got {gamma}")
    if isinstance(temperature, Tensor):
        temperature = temperature.detach()
    anchors, candidates = as_embeddings(anchors, candidates)
    if isinstance(temperature, str) and temperature in anchors.facts:
        temperature = anchors.facts[temperature].detach()
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    found = compare(
        logits(compete=False), anchors, candidates, rule=rule, directions="forward", bounds=between(bound)
    ).rows
    attract, repel = found["attract"], found["repel"]
    counts, one = (attract > 0) & (repel > 0), torch.ones_like(attract)
    own = found["pull"] / torch.where(attract > 0, attract, one)
    amount = torch.where(repel > 0, repel, one).log()
    with torch.no_grad():
        now = found["denominator"] - amount - (own if relative else 0.0)
        before = anchors.facts[estimate].to(now) if estimate in anchors.facts else torch.full_like(now, FLOOR)
        log_u = now
        if gamma < 1:
            mixed = torch.logaddexp(before + math.log1p(-gamma), now + math.log(gamma))
            log_u = torch.where(before > FLOOR / 2, mixed, now)
        log_u = torch.where(counts, log_u, torch.full_like(log_u, FLOOR))
        level = torch.where(counts, log_u + amount + (own if relative else 0.0), torch.full_like(own, -FLOOR))

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        s = scores["s"]
        weight = keep(s.detach() - a[LEVEL], pairs.repel > 0, FLOOR).exp()  # at most 1 / (r gamma)
        return {"pushed": times(pairs.repel, weight * (s - a[OWN]))}

    told = replace(anchors, facts={**anchors.facts, LEVEL: level, OWN: own if relative else torch.zeros_like(own)})
    pushed = sweep(tile, told, candidates, scores=LOGITS, rule=rule, rows={"pushed": "total"}).rows["pushed"]
    loss = torch.where(counts, t * (pushed if relative else pushed - own), torch.zeros_like(own))
    slope = torch.where(counts, log_u + rho - pushed, torch.zeros_like(own)).detach()
    notes = {"estimate": log_u, "slope": slope, **gaps(t, found)}
    return Outcome({"estimated": mean(loss, counts.to(loss))}, {"estimated": 1.0}, notes)
