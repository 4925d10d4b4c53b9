"""The softmax family: each anchor picks its positives out of all candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.running import Reduction
from counterpoint.objectives.custom import (
    Directions,
    Output,
    Rule,
    Side,
    Tile,
    as_embeddings,
    per_row,
    sweep,
    times,
)  # fmt: skip
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

WEIGHTS = 20.0  # nats by which the weights of a rule may move a logit: from 2e-9 to 5e8


def _tile(compete: bool) -> Tile:
    """Logits of a softmax; the scores are already divided by the temperature."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        logit = scores["s"]
        return {
            "denominator": (logit, pairs.repel + pairs.attract.sign() if compete else pairs.repel),
            "pull": times(pairs.attract, logit),
            "attract": pairs.attract,
            "push": times(pairs.repel, logit),
            "repel": pairs.repel,
            "positives": pairs.attract,
        }

    return tile


def _row(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of each anchor and whether it counts: an anchor needs a positive and a competitor."""
    attract = swept["attract"]
    counts = ((attract > 0) & (swept["repel"] + (swept["positives"] - 1).clamp(min=0) > 0)).to(attract)
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
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    t = torch.as_tensor(temperature, dtype=anchors.z.dtype, device=anchors.z.device)
    coldest = float(t.detach().min())
    if not coldest > 0:
        raise ValueError(f"wanted a temperature above 0, got {coldest}")
    bound = 1 / coldest + WEIGHTS
    reductions: dict[str, Reduction] = {
        "denominator": "logsumexp", "pull": "total", "attract": "total", "positives": "count", "repel": "total"
    }  # fmt: skip
    swept = sweep(
        _tile(positives_compete),
        replace(anchors, z=anchors.z / t),
        candidates,
        rule=rule,
        rows={**reductions, "push": "total"},
        columns=reductions if directions == "both" else None,
        bounds={"denominator": (-bound, bound)} if unit else None,
    )
    loss = per_row(_row, swept, directions)
    with torch.no_grad():
        r = swept.rows
        notes = {
            "positive": t * r["pull"] / r["attract"].clamp(min=1e-9),
            "negative": t * r["push"] / r["repel"].clamp(min=1e-9),
            "negatives": r["repel"],
        }
    return Outcome({"infonce": loss}, {"infonce": 1.0}, {name: note.detach() for name, note in notes.items()})
