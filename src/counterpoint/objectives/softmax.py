"""The softmax family: each anchor picks its positives out of all candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.running import Bound, Reduction
from counterpoint._ops.scores import Score, Squared
from counterpoint._ops.sweep import Swept
from counterpoint.objectives.custom import (
    Directions,
    Output,
    Rule,
    Side,
    Tile,
    as_embeddings,
    dot,
    per_row,
    sweep,
    times,
)  # fmt: skip
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

COOLED = "_cooled"  # the anchors' fact of their vectors divided by the temperature: rules see the vectors themselves
LOGITS: dict[str, Score] = {"s": dot(COOLED, against="z")}
WEIGHTS = 20.0  # nats by which the weights of a rule may move a logit: from 2e-9 to 5e8
Temperature = float | Float[Tensor, ""] | Float[Tensor, " n"] | str
REDUCTIONS: dict[str, Reduction] = {
    "denominator": "logsumexp", "pull": "total", "attract": "total", "positives": "count", "repel": "total"
}  # fmt: skip


def cooled(
    anchors: Embeddings | Float[Tensor, "n ..."],
    candidates: Embeddings | Float[Tensor, "m ..."] | None,
    temperature: Temperature,
    *,
    unit: bool = True,
) -> tuple[Embeddings, Embeddings, Tensor, float | None]:
    """Both sides, anchors divided by their temperature in a fact, the temperature, and the largest |logit| where it is known.

    The number leaves room for the weights of a rule, so it bounds w exp(logit) too.

    >>> a, c, t, bound = cooled(torch.eye(2), torch.eye(2), 0.5)
    >>> a.facts[COOLED].tolist(), bound
    ([[2.0, 0.0], [0.0, 2.0]], 22.0)
    """
    anchors, candidates = (
        replace(rows, z=rows.z.to(torch.promote_types(rows.z.dtype, torch.float32)))
        for rows in as_embeddings(anchors, candidates)
    )
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    if isinstance(temperature, str):
        if temperature not in anchors.facts:
            known = ", ".join(sorted(anchors.facts)) or "none"
            raise KeyError(f"wanted the temperature as the fact '{temperature}' of the anchors; they have: {known}")
        temperature = anchors.facts[temperature]
    t = torch.as_tensor(temperature, dtype=anchors.z.dtype, device=anchors.z.device)
    if t.ndim and t.shape != (len(anchors),):
        raise ValueError(f"wanted one temperature, or one for each of {len(anchors)} anchors, got {list(t.shape)}")
    coldest = float(t.detach().min()) if t.numel() else 1.0
    if not coldest > 0:
        raise ValueError(f"wanted a temperature above 0, got {coldest}")
    divided = anchors.z / t.view(-1, *[1] * (anchors.z.ndim - 1))
    anchors = replace(anchors, facts={**anchors.facts, COOLED: divided})
    return anchors, candidates, t, 1 / coldest + WEIGHTS if unit else None


def cooling(score: Score) -> Score:
    """The same comparison of anchors divided by their temperature.

    Raises:
        TypeError: for a comparison that does not grow in proportion to the anchor.

    >>> cooling(dot()).reads
    (('_cooled',), ('z',))
    """
    if isinstance(score, Squared) or not is_dataclass(score) or not hasattr(score, "fact"):
        raise TypeError(f"wanted a score in proportion to the anchor, such as dot() or maxsim(), got {score}")
    return cast(Score, replace(score, fact=COOLED))


def sums(scores: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Output]:
    """What every softmax adds up of its pairs, for losses and notes."""
    return {
        "pull": times(pairs.attract, scores["s"]),
        "attract": pairs.attract,
        "push": times(pairs.repel, scores["s"]),
        "repel": pairs.repel,
        "positives": pairs.attract,
    }


def competing(found: Mapping[str, Tensor], *, compete: bool) -> Tensor:
    """Which rows have a positive, and something that this positive has to win against."""
    others = found["repel"] + (found["positives"] - 1).clamp(min=0) if compete else found["repel"]
    return (found["attract"] > 0) & (others > 0)


def gaps(t: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The notes of a softmax, from what `sums` adds up."""
    with torch.no_grad():
        positive = rows.get("near", rows["pull"]) / rows["attract"].clamp(min=1e-9)
        notes = {"positive": t * positive, "negative": t * rows["push"] / rows["repel"].clamp(min=1e-9)}
    return {name: note.detach() for name, note in {**notes, "negatives": rows["repel"]}.items()}


def logits(compete: bool = True, *, log_bias: str | None = None, spread: bool = False) -> Tile:
    """The tile of a softmax; the scores are already divided by the temperature."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        found, logit = sums(scores, pairs), scores["s"]
        if log_bias is not None:
            logit = logit + c[log_bias]
            found |= {"near": found["pull"], "pull": times(pairs.attract, logit)}
        weight = pairs.repel + pairs.attract.sign() if compete else pairs.repel
        if spread:
            found["spread"] = times(weight, logit)
        return found | {"denominator": (logit, weight)}

    return tile


def compare(
    tile: Tile,
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    rule: Rule,
    directions: Directions,
    bounds: Mapping[str, Bound] | None,
    beside: Mapping[str, Reduction] | None = None,
    scores: Mapping[str, Score] = LOGITS,
) -> Swept:
    """The sweep of a softmax over all pairs: its denominator, the sums of `sums`, and what else is asked for."""
    reductions = {**REDUCTIONS, **(beside or {})}
    return sweep(
        tile,
        anchors,
        candidates,
        scores=scores,
        rule=rule,
        rows={**reductions, "push": "total"},
        columns=reductions if directions == "both" else None,
        bounds=bounds,
    )


def between(bound: float | None, bias: Tensor | None = None) -> dict[str, Bound] | None:
    """The range of the denominator's logits, moved by a bias of the candidates.

    >>> between(22.0, torch.tensor([1.0, 3.0]))
    {'denominator': (-21.0, 25.0)}
    """
    if bound is None:
        return None
    low, high = (0.0, 0.0) if bias is None or not len(bias) else (float(x) for x in bias.detach().aminmax())
    return {"denominator": (low - bound, high + bound)}


def picked(found: Mapping[str, Tensor], *, compete: bool, pull: str = "pull") -> tuple[Tensor, Tensor]:
    """What it costs each anchor to pick its positives, and its weight in the mean: 1, or 0 for one that has no turn.

    The logarithm of its denominator less the mean logit of its positives, which `pull` adds up.
    """
    counts, attract = competing(found, compete=compete), found["attract"]
    loss = found["denominator"] - found[pull] / torch.where(attract > 0, attract, torch.ones_like(attract))
    return torch.where(counts, loss, torch.zeros_like(loss)), counts.to(loss)


def _row(
    found: Mapping[str, Tensor], *, compete: bool, label_smoothing: float, normalize: str
) -> tuple[Tensor, Tensor]:
    """The loss of each anchor and whether it counts."""
    loss, weight = picked(found, compete=compete)
    if label_smoothing:
        counts, competitors = weight > 0, found["repel"] + found["positives"] if compete else found["repel"]
        uniform = found["denominator"] - found["spread"] / torch.where(counts, competitors, torch.ones_like(loss))
        uniform = torch.where(counts, uniform, torch.zeros_like(loss))
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss * found["attract"] if normalize == "none" else loss, weight


@paper(
    reference="van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, arXiv:1807.03748, 2018"
)
@paper(reference="Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_out)")
@paper(row=269)
@paper(
    reference="Yi et al.: Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, RecSys 2019 (log_bias)"
)
@paper(row=113)
@paper(row=246)
def infonce(
    anchors: Embeddings | Float[Tensor, "n ..."],
    candidates: Embeddings | Float[Tensor, "m ..."] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    directions: Directions = "forward",
    positives_compete: bool = True,
    label_smoothing: float = 0.0,
    log_bias: str | None = None,
    normalize: Literal["anchor", "none"] = "anchor",
    unit: bool = True,
    score: Score | None = None,
) -> Outcome:
    """Each anchor has to pick its positives out of all candidates, by a softmax over similarities.

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1) and repel weights r_ij,

        loss_i = - sum_j w_ij log P_ij,    P_ij = exp(l_ij) / sum_k q_ik exp(l_ik),    q_ik = [w_ik > 0] + r_ik,
        l_ij   = s_ij / t_i + b_j

    and the result is the mean over anchors that have a positive and at least one competitor. With several positives
    the mean stands outside the logarithm and positives compete with each other (L_out of SupCon). Label smoothing e
    spreads its part over the pairs of the denominator, in proportion to their weights there:

        loss_i = - (1 - e) sum_j w_ij log P_ij - e sum_k q_ik log P_ik / sum_k q_ik

    Args:
        anchors: n rows, or a plain [n, d] tensor; with a score of token sets [n, t, d].
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one number for each anchor, or the name of the anchors' fact that holds them;
            tensors and facts may require grad.
        directions: "both" averages this with the loss of each candidate over the anchors (candidates without a
            positive, such as hard negatives, then have no turn), from the same logits l_ij.
        positives_compete: whether positives stand in the denominator; False is the decoupled loss, with q_ik = r_ik.
        label_smoothing: e, from 0 to 1.
        log_bias: the name of the candidates' fact b_j that is added to their logits, in nats; None: 0. With b_j =
            -log(probability that j was sampled) this is the logQ correction. It cancels in the loss of a candidate.
        normalize: "anchor" divides the attract weights of an anchor by their sum; "none" then multiplies the loss of
            the anchor by that sum.
        unit: scale rows to length 1 first, so that s is the cosine; False: s is the plain dot product.
        score: another comparison of two rows, such as `maxsim()` of token sets; it must grow in proportion to the anchor,
            since the temperature divides that. None: the dot product.

    Returns:
        One term, "infonce", in nats; log m when all embeddings are equal and each anchor has one positive. Notes, [n],
        detached: "positive" and "negative" mean similarity of each anchor's pairs, "negatives" its number of negatives.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, label smoothing outside
            0 to 1.
        KeyError: for a fact that rows do not have.

    Differs:
        An anchor without a positive, or with nothing to compete with it, does not count; in the papers there is none.

    Relations:
        SupCon is this with `labelled()`; NT-Xent (SimCLR) is this with both views as anchors and candidates; the loss
        named "multiple negatives ranking" is this with `directions="forward"`. `infonce_inside` and `infonce_separate`
        are the other two forms of several positives; with one positive all three are equal. ALIGN is this with
        `directions="both"`, a temperature that is learned, and label smoothing 0.1. NegCLIP is this with
        `directions="both"`, images as anchors, and swapped captions behind the true ones as candidates: they are
        negatives of every image and have no turn of their own. GCL is this with `directions="both"`, `normalize="none"`
        and relevance as grades of `listed`.

    References:
        van den Oord et al. 2018, arXiv:1807.03748; Khosla et al. 2020, arXiv:2004.11362; label smoothing: Szegedy et
        al. 2015, arXiv:1512.00567; logQ: Bengio and Senecal 2008, doi:10.1109/TNN.2007.912312; Yi et al. 2019,
        doi:10.1145/3298689.3346996; ALIGN: Jia et al. 2021, arXiv:2102.05918.

    >>> round(infonce(torch.eye(2), torch.eye(2), temperature=1.0).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"wanted label smoothing from 0 to 1, got {label_smoothing}")
    if normalize not in ("anchor", "none"):
        raise ValueError(f"wanted to normalize by 'anchor' or 'none', got '{normalize}'")
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature, unit=unit)
    asked: dict[str, Reduction] = {
        **({"spread": "total"} if label_smoothing else {}), **({"near": "total"} if log_bias is not None else {})
    }  # fmt: skip
    if score is not None:
        bound = None
    swept = compare(
        logits(positives_compete, log_bias=log_bias, spread=label_smoothing > 0),
        anchors,
        candidates,
        rule=rule,
        directions=directions,
        bounds=between(bound, candidates.facts.get(log_bias) if log_bias is not None else None),
        beside=asked,
        scores=LOGITS if score is None else {"s": cooling(score)},
    )
    row = partial(_row, compete=positives_compete, label_smoothing=label_smoothing, normalize=normalize)
    return Outcome({"infonce": per_row(row, swept, directions)}, {"infonce": 1.0}, gaps(t, swept.rows))
