"""One reading of a step's health: plain numbers, from the outcome's notes and from a few hundred rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from counterpoint._ops.geometry import duplicates, rankme, width
from counterpoint._ops.unit import to_unit
from counterpoint.objectives.spread import alignment, uniformity
from counterpoint.training.method import Contrast, Method
from counterpoint.training.sample import Sample, matched, sample
from counterpoint.types import Embeddings, Outcome

# What a reading holds; a number that a method does not have is NaN. In the order of the record.
COLUMNS = (
    "loss", "gradient", "temperature", "positive", "negative", "gap", "negatives", "no_positive", "beaten", "saturated",
    "alignment", "uniformity", "rank", "rank_most", "width", "duplicates",
)  # fmt: skip
DECIDED = 0.99  # the probability of a positive from which its anchor counts as decided and pulls next to nothing


def temperature_of(method: Method, outcome: Outcome) -> float:
    """The temperature that scores are divided by, NaN where none is known.

    A note "temperature" comes first (its mean, where rows have their own); then a parameter of one number named
    temperature, log_temperature (its exponential) or logit_scale (CLIP's: the exponential of its negative); then the
    number that a `Contrast` hands to its loss.
    """
    if "temperature" in outcome.notes:
        return mean_of(outcome.notes["temperature"])
    turned = {"temperature": lambda t: t, "log_temperature": math.exp, "logit_scale": lambda s: math.exp(-s)}
    for name, parameter in method.modules.named_parameters():
        way = turned.get(name.rpartition(".")[2])
        if way is not None and parameter.numel() == 1:
            return float(way(float(parameter.detach())))
    given = getattr(method.objective.loss, "keywords", {}) if isinstance(method.objective, Contrast) else {}
    number = given.get("temperature")
    return float(number) if isinstance(number, int | float) else math.nan


def mean_of(rows: Tensor) -> float:
    """The mean of some rows, NaN of none.

    >>> mean_of(torch.tensor([1.0, 3.0])), mean_of(torch.tensor([]))
    (2.0, nan)
    """
    return float(rows.detach().double().mean()) if rows.numel() else math.nan


def from_notes(notes: Mapping[str, Tensor]) -> dict[str, float]:
    """What the objective has found out of all its rows: similarities of positives and negatives, and how many there are.

    A row whose mean positive is exactly 0 has none: that is what a softmax notes of it.
    """
    if not {"positive", "negative", "negatives"} <= set(notes):
        return {}
    has, against = notes["positive"] != 0, notes["negatives"] > 0
    positive, negative = mean_of(notes["positive"][has]), mean_of(notes["negative"][against])
    return {
        "positive": positive,
        "negative": negative,
        "gap": positive - negative,
        "negatives": mean_of(notes["negatives"]),
        "no_positive": 1 - mean_of(has),
    }


def from_sample(found: Sample, temperature: float) -> dict[str, float]:
    """The same of a sample of pairs, and who is nearer: the positive or the nearest negative.

    "beaten" is the share of anchors whose nearest sampled negative is nearer than their positive; "saturated" the share
    whose positive has a probability of at least 0.99 in a softmax over the sampled candidates.
    """
    has = found.partner >= 0
    known = {"no_positive": 1 - mean_of(has), "beaten": math.nan, "saturated": math.nan}
    score = to_unit(found.anchors.z[has]) @ to_unit(found.candidates.z).T
    attract, repel = found.pairs.attract[has], found.pairs.repel[has]
    own = score.gather(1, found.partner[has][:, None])[:, 0]
    weight = repel.sum(1)
    positive = mean_of((score * attract).sum(1) / attract.sum(1))
    negative = mean_of(((score * repel).sum(1) / weight)[weight > 0])
    known |= {"positive": positive, "negative": negative, "gap": positive - negative, "negatives": mean_of(weight)}
    nearest = score.masked_fill(repel <= 0, -math.inf).amax(1) if score.numel() else own
    known["beaten"] = mean_of((nearest > own)[weight > 0])
    if temperature > 0:
        against = (score / temperature).masked_fill(repel <= 0, -math.inf).logsumexp(1)
        known["saturated"] = mean_of((own / temperature - against > math.log(DECIDED / (1 - DECIDED)))[weight > 0])
    return known


def of_rows(rows: Embeddings) -> dict[str, float]:
    """How the anchors fill their space."""
    n, d = rows.z.shape
    if not bool(rows.z.isfinite().all()):
        return {"rank": math.nan, "rank_most": float(min(n, d)), "width": math.nan, "uniformity": math.nan}
    spread = math.nan if n < 2 else float(uniformity(rows).loss)
    return {"rank": rankme(rows.z), "rank_most": float(min(n, d)), "width": width(rows.z), "uniformity": spread}


@torch.no_grad()
def read(
    method: Method, sets: Mapping[str, Embeddings], outcome: Outcome, *, norm: float, rows: int
) -> dict[str, float]:
    """All of `COLUMNS` for one step.

    Args:
        method: what is trained.
        sets: of the step; of many processes, the rows of this one.
        outcome: of the step.
        norm: of the gradient, before clipping.
        rows: anchors at most for what needs embeddings. Notes cover all rows, ids too.
    """
    known = dict.fromkeys(COLUMNS, math.nan)
    temperature = temperature_of(method, outcome)
    known |= {"loss": float(outcome.loss.detach()), "gradient": norm, "temperature": temperature}
    some = [duplicates(s.id, s.view, s.part, s.age) for s in sets.values() if s.z.numel() and s.placement == "sharded"]
    known["duplicates"] = max(some, default=math.nan)
    device = next((s.z.device.type for s in sets.values()), "cpu")
    with torch.autocast(device, enabled=False), torch.autocast("cpu", enabled=False):
        found = sample(method.objective, sets, rows)
        if found is not None:
            known |= of_rows(found.anchors)
            known |= from_sample(found, temperature)
            x, y = matched(found)
            if len(x):
                known["alignment"] = float(alignment(x, y).loss)
    return known | from_notes(outcome.notes)
