"""The sigmoid family: every pair is a question of its own, answered yes or no, so no pair competes with another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint._ops.reduce import mean
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, sweep, times
from counterpoint.objectives.softmax import COOLED, LOGITS
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample


def _tile(
    scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    """What each pair costs as a positive and as a negative; the scores are already divided by the temperature."""
    logit = scores["s"] + params["bias"]
    return {
        "missed": times(pairs.attract, -logsigmoid(logit)),
        "false": times(pairs.repel, -logsigmoid(-logit)),
        "pull": times(pairs.attract, scores["s"]),
        "attract": pairs.attract,
        "push": times(pairs.repel, scores["s"]),
        "repel": pairs.repel,
    }


@paper(reference="Zhai et al.: Sigmoid Loss for Language Image Pre-Training, arXiv:2303.15343, 2023")
def siglip(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: float | Float[Tensor, ""] = 0.1,
    bias: float | Float[Tensor, ""] = -10.0,
    unit: bool = True,
) -> Outcome:
    """Each pair is classified by itself as a positive or a negative, by a sigmoid of its similarity.

    For attract weights w_ij, repel weights r_ij and the logistic function S,

        loss = - 1/n sum_ij ( w_ij log S(s_ij / t + b) + r_ij log S(-s_ij / t - b) )

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom.
        temperature: t > 0; may be a tensor that requires grad. The paper learns t' with 1/t = exp(t'), from log 10.
        bias: b; may be a tensor that requires grad. It starts at -10, since nearly all pairs are negatives.
        unit: scale rows to length 1 first, so that s is the cosine; False: s is the plain dot product.

    Returns:
        One term, "siglip", in nats, at least 0; it grows with the number of candidates, since pairs are summed and
        only anchors averaged. Notes, [n], detached: "positive" and "negative" mean similarity of each anchor's pairs,
        "negatives" its number of negatives.

    Raises:
        ValueError: for plain tensors of different length, or a temperature that is not above 0.

    Differs:
        Pairs that the rule ignores (equal samples, say) have no term; in the paper all pairs but the n matched ones are
        negatives. Weights between 0 and 1 multiply a pair's term. Every anchor counts, also one without a positive.

    Relations:
        With weights of 0 and 1 this is binary cross-entropy with logits, summed over pairs. `infonce` normalises over
        the candidates instead; this one sees each pair alone, so it needs no other row to be right about one. With b
        far below 0 only the positives pull, linearly: loss = -(1/n) sum_ij w_ij (s_ij / t + b).

    References:
        Zhai et al. 2023, arXiv:2303.15343 (algorithm 1).

    >>> round(siglip(torch.eye(2), torch.eye(2), bias=0.0).loss.item(), 4)      # log(1 + exp(-10)) + log 2
    0.6932
    """
    anchors, candidates = as_embeddings(anchors, candidates)
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    wide = torch.promote_types(anchors.z.dtype, torch.float32)
    t, b = (torch.as_tensor(number, dtype=wide, device=anchors.z.device) for number in (temperature, bias))
    coldest = float(t.detach().min())
    if not coldest > 0:
        raise ValueError(f"wanted a temperature above 0, got {coldest}")
    names = ("missed", "false", "pull", "attract", "push", "repel")
    r = sweep(
        _tile,
        replace(anchors, facts={**anchors.facts, COOLED: anchors.z.to(wide) / t}),
        replace(candidates, z=candidates.z.to(wide)),
        scores=LOGITS,
        rule=rule,
        params={"bias": b},
        rows=dict.fromkeys(names, "total"),
    ).rows
    with torch.no_grad():
        notes = {
            "positive": t * r["pull"] / r["attract"].clamp(min=1e-9),
            "negative": t * r["push"] / r["repel"].clamp(min=1e-9),
            "negatives": r["repel"],
        }
    loss = mean(r["missed"] + r["false"])
    return Outcome({"siglip": loss}, {"siglip": 1.0}, {name: note.detach() for name, note in notes.items()})
