"""The softmax family: each anchor picks its positives out of all candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.reduce import mean
from counterpoint._ops.sweep import Reduction, log_weight, sweep
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, PairRule, Pairs, same_sample

Rule = PairRule | Callable[[Embeddings, Embeddings], Pairs]
Directions = Literal["forward", "both"]


def _tile(
    scores: Mapping[str, Tensor], pairs: Pairs, _a: Embeddings, _c: Embeddings, params: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    logit = scores["s"] / params["temperature"]
    in_denominator = torch.where(pairs.attract > 0, params["positives_compete"], pairs.repel)
    return {
        "denominator": logit + log_weight(in_denominator),
        "negatives": pairs.repel,
        "pull": pairs.attract * logit,
        "attract": pairs.attract,
        "positive": (pairs.attract > 0).to(logit) * scores["s"],
        "positives": (pairs.attract > 0).to(logit),
        "negative": (pairs.repel > 0).to(logit) * scores["s"],
        "repelled": (pairs.repel > 0).to(logit),
    }


def _per_anchor(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of each anchor and whether it counts: an anchor needs a positive and a competitor."""
    attract = swept["attract"]
    counts = ((attract > 0) & (swept["negatives"] + (swept["positives"] - 1).clamp(min=0) > 0)).to(attract)
    loss = swept["denominator"] - swept["pull"] / torch.where(attract > 0, attract, torch.ones_like(attract))
    return torch.where(counts > 0, loss, torch.zeros_like(loss)), counts


@paper(
    reference="van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, arXiv:1807.03748, 2018"
)
@paper(reference="Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_out)")
def infonce(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: float | Float[Tensor, ""] = 0.05,
    directions: Directions = "forward",
    positives_compete: bool = True,
    unit: bool = True,
) -> Outcome:
    """Each anchor has to pick its positives out of all candidates, by a softmax over similarities.

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1) and repel weights r_ij,

        loss_i = - sum_j w_ij log( exp(s_ij / t) / sum_k (p_ik + r_ik) exp(s_ik / t) ),    p_ik = [w_ik > 0]

    and the result is the mean over anchors that have a positive and at least one competitor. With several positives
    the mean stands outside the logarithm and positives compete with each other (L_out of SupCon).

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom.
        temperature: t > 0; may be a tensor that requires grad.
        directions: "both" averages this with the loss of each candidate over the anchors (candidates without a
            positive, such as hard negatives, then have no turn).
        positives_compete: whether positives stand in the denominator; False is the decoupled loss, with p_ik = 0.
        unit: scale rows to length 1 first, so that s is the cosine; False: s is the plain dot product.

    Returns:
        One term, "infonce", in nats; log m when all embeddings are equal and each anchor has one positive. Notes, [n],
        detached: "positive" and "negative" mean similarity of each anchor's pairs, "negatives" its number of negatives.

    Raises:
        ValueError: for plain tensors of different length, or a temperature that is not above 0.

    Differs:
        An anchor without a positive, or with nothing to compete with it, does not count; in the papers there is none.

    Relations:
        SupCon is this with `labelled()`; NT-Xent (SimCLR) is this with both views as anchors and candidates; the loss
        named "multiple negatives ranking" is this with `directions="forward"`.

    References:
        van den Oord et al. 2018, arXiv:1807.03748; Khosla et al. 2020, arXiv:2004.11362.

    >>> round(infonce(torch.eye(2), torch.eye(2), temperature=1.0).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    anchors, candidates = as_embeddings(anchors, candidates)
    if not isinstance(temperature, Tensor):
        temperature = torch.tensor(temperature, dtype=anchors.z.dtype, device=anchors.z.device)
        if not temperature > 0:
            raise ValueError(f"wanted a temperature above 0, got {float(temperature)}")
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    compete = torch.tensor(float(positives_compete), dtype=anchors.z.dtype, device=anchors.z.device)
    totals = ("negatives", "pull", "attract", "positive", "positives", "negative", "repelled")
    reductions: dict[str, Reduction] = {"denominator": "logsumexp", **dict.fromkeys(totals, "total")}
    swept = sweep(
        _tile,
        anchors,
        candidates,
        rule=rule,
        params={"temperature": temperature, "positives_compete": compete},
        rows=reductions,
        columns=reductions if directions == "both" else None,
    )
    loss = mean(*_per_anchor(swept.rows))
    if directions == "both":
        loss = (loss + mean(*_per_anchor(swept.columns))) / 2
    with torch.no_grad():
        r = swept.rows
        notes = {
            "positive": r["positive"] / r["positives"].clamp(min=1),
            "negative": r["negative"] / r["repelled"].clamp(min=1),
            "negatives": r["repelled"],
        }
    return Outcome({"infonce": loss}, {"infonce": 1.0}, {name: note.detach() for name, note in notes.items()})


def as_embeddings(
    anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None
) -> tuple[Embeddings, Embeddings]:
    """Plain tensors as embeddings whose row i pairs with row i; embeddings as they are."""
    if isinstance(anchors, Embeddings):
        if isinstance(candidates, Tensor):
            raise TypeError("wanted embeddings on both sides or tensors on both, got embeddings and a tensor")
        return anchors, anchors if candidates is None else candidates
    if not isinstance(candidates, Tensor) or len(candidates) != len(anchors):
        came = "none" if not isinstance(candidates, Tensor) else len(candidates)
        raise ValueError(f"wanted as many candidate rows as anchors ({len(anchors)}), got {came}")
    return Embeddings.of(anchors), Embeddings.of(candidates, view=1)
