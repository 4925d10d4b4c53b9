"""What can be wrong with an embedding space, as one number each, all read from one look."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint.evaluation.geometry import effective_rank, explained, hardness, mean_cosine
from counterpoint.evaluation.geometry_labels import compactness, subclass_separation
from counterpoint.evaluation.space import ROWS, Look, by_chance, drawn, unit
from counterpoint.types import Embeddings

BEYOND = 5  # times what chance brings: what is near so much more often is near because it belongs there
COPY = (
    0.95  # centred cosine from which two rows of one set are copies; over a split TWIN, since there it is an accusation
)
TWIN = 0.98
CROWD = 3  # unlisted candidates before a positive; one or two are no crowd
POINTS = 0.1  # of the variance within classes, below which classes count as points
FEW = 50  # rows below which a share says nothing
BATCHES = 16  # drawn to see where the gradient goes
CHUNK = 512  # anchors whose near candidates are gathered at once


def cone(seen: Look) -> float:
    """The mean cosine of two unrelated rows: of an anchor and a candidate, or of two different rows of one set."""
    if seen.space.candidates is None:
        return mean_cosine(seen.space.anchors.z)
    a, c = seen.middle
    return float(a.double() @ c.double())


def dimensions(seen: Look) -> float:
    """The share of the possible dimensions that the variance takes up.

        effective_rank(z, power=2) / most

    where most is min(n - 1, d); where classes are points, at most the number of classes less one.
    """
    others = seen.space.others
    at = drawn(len(others), ROWS, 0)
    if len(at) < FEW:
        return math.nan
    z = others.z[at]
    most = min(len(at) - 1, z.shape[1])
    label = seen.space.anchors.facts.get("label")
    if label is not None and seen.space.candidates is None and compactness(z, label[at]) < POINTS:
        most = min(most, max(1, len(label.unique()) - 1))
    return effective_rank(z, power=2) / most


def length(seen: Look) -> float:
    """The share of the variance that the length of the texts explains, of pairs on the side where it is larger."""
    return explained_by(seen, "length")


def explained_by(seen: Look, fact: str) -> float:
    """The share of the variance that a fact of the rows explains; see `evaluation.geometry.explained`."""
    shares = []
    for side in (seen.space.anchors, seen.space.candidates):
        if side is not None and fact in side.facts and len(side) >= FEW:
            e = side.rows(drawn(len(side), ROWS, 0))
            shares.append(explained(e.z, e.facts[fact]))
    return max((share for share in shares if not math.isnan(share)), default=math.nan)


def gap(seen: Look) -> float:
    """The part of the distance of paired rows that all pairs share: how far one side lies off as a whole.

    | mean (a_i - c_i) |^2 / mean |a_i - c_i|^2     over listed pairs
    """
    there = seen.positive >= 0
    if seen.space.candidates is None or int(there.sum()) < FEW:
        return math.nan
    apart = (seen.asked.z[there] - seen.space.others.z[seen.positive[there]]).double()
    whole = float(apart.square().sum(1).mean())
    return float(apart.mean(0).square().sum()) / whole if whole > 0 else 0.0


def hubs(seen: Look) -> float:
    """The share of anchors that find the most found candidate among their 10 nearest."""
    if len(seen.space.others) < 10 * FEW or len(seen.at) < FEW:  # 10 of fewer are found by many
        return math.nan
    return float(found_by(seen).max()) / len(seen.at)


def found_by(seen: Look) -> Int[Tensor, " m"]:
    """For each candidate, how many of the asked anchors have it among their 10 nearest."""
    index = seen.near.index[:, :10]
    return torch.bincount(index[index >= 0], minlength=len(seen.space.others))


def lost(seen: Look) -> float:
    """The chance that an unrelated candidate lies nearer than the positive, for a median anchor."""
    there = seen.positive >= 0
    if int(there.sum()) < FEW:
        return math.nan
    score = (seen.asked.z[there] * seen.space.others.z[seen.positive[there]]).sum(1)
    return float(by_chance(seen.space.anchors.z, seen.space.others.z, score).median()) / len(seen.space.others)


def false_negatives(seen: Look) -> float:
    """The share of anchors beside whose positive there are others that probably are positives too; see `suspects`.

    Of labelled data, the share of rows that have a copy with another label.
    """
    asked = seen.positive >= 0 if seen.space.relation is not None else torch.ones(len(seen.at), dtype=torch.bool)
    asked = asked & ~seen.held  # what is held out is nobody's negative
    if int(asked.sum()) < FEW or (seen.space.relation is None and "label" not in seen.space.anchors.facts):
        return math.nan
    return float(suspects(seen).any(1)[asked].float().mean())


def suspects(seen: Look) -> Bool[Tensor, "k near"]:
    """Which near candidates probably are positives that nobody listed.

    All cosines are of centred rows. A candidate is suspect when it is a copy of the positive (cosine of 0.95 or more); or
    when it is, with two others or more, as near to the anchor and as near to the positive as these two are to each other,
    and there are five times as many as chance would bring. Of labelled data: a copy of the anchor with another label.
    """
    space = seen.space
    a, c = seen.middle
    anchors, others = unit(space.anchors.z - a), unit(space.others.z - c)
    paired = space.relation is not None
    rows = torch.nonzero(seen.positive >= 0)[:, 0] if paired else torch.arange(len(seen.at))
    held = space.others.facts.get("held", torch.zeros(len(others), dtype=torch.int64)) > 0  # nobody trains on those
    copies = by_chance(others, others, torch.tensor(COPY))
    found = torch.zeros(seen.near.index.shape, dtype=torch.bool)
    for part in rows.split(CHUNK):
        index = seen.near.index[part].clamp_min(0)
        near, x = others[index], anchors[seen.at[part]]
        to_anchor = (near @ x[:, :, None])[:, :, 0]
        there = (seen.near.index[part] >= 0) & ~held[index]
        if paired:
            positive = others[seen.positive[part]]
            to_positive, own = (near @ positive[:, :, None])[:, :, 0], (x * positive).sum(1, keepdim=True)
            there &= ~seen.right[part]
            before = there & (to_anchor >= own) & (to_positive >= own)
            many = before.sum(1, keepdim=True)
            before &= (many >= CROWD) & (many >= BEYOND * by_chance(anchors, others, own))
            copy = there & (to_positive >= COPY)
        else:
            label = space.anchors.facts["label"]
            copy = there & (to_anchor >= COPY) & (label[index] != label[seen.at[part]][:, None])
            before = torch.zeros_like(copy)
        copy &= copy.sum(1, keepdim=True) >= BEYOND * copies
        found[part] = before | copy
    return found


def _hardest(seen: Look) -> tuple[float, int]:
    """The share of the repelling gradient that goes to the hardest negative of a batch, over drawn batches; negatives."""
    space = seen.space
    size = min(space.batch, len(space.anchors), len(space.others))
    if space.temperature is None or size < 8:  # batches so small have hardly a choice of negatives
        return math.nan, 0
    shares = []
    for number in range(BATCHES):
        generator = torch.Generator().manual_seed(number)
        at = seen.at[torch.randperm(len(seen.at), generator=generator)[:size]]
        anchors = space.anchors.rows(at)
        others = anchors
        if space.candidates is not None:
            col = seen.positive[torch.isin(seen.at, at)]
            others = space.candidates.rows(col[col >= 0].unique())
        shares.append(hardness(anchors, others, space.temperature, share=1 / len(others), rule=seen.rule))
    return sum(shares) / len(shares), size - 1


def hot(seen: Look) -> float:
    """How much more of the repelling gradient the hardest negative of a batch gets than an even share of it."""
    share, negatives = _hardest(seen)
    return share * negatives


def cold(seen: Look) -> float:
    """The share of the repelling gradient that goes to the hardest negative of a batch alone."""
    return _hardest(seen)[0]


def subclasses(seen: Look) -> float:
    """How well classes inside the labels are told apart; see `evaluation.geometry.subclass_separation`."""
    facts = seen.asked.facts
    if "label" not in facts or "fine" not in facts:
        return math.nan
    return subclass_separation(seen.asked.z, facts["label"], facts["fine"])


def twins(seen: Look) -> float:
    """The share of held-out items of which training holds a copy: the same content, or a centred cosine of 0.98 or more."""
    known, held = over_split(seen, most=len(seen.at))
    if len(known) < FEW or len(held) < FEW:
        return math.nan
    return float(twins_of(seen, held, known)[0].float().mean())


def over_split(seen: Look, *, most: int) -> tuple[Int[Tensor, " t"], Int[Tensor, " h"]]:
    """Anchors of train, and at most so many held-out ones."""
    held = seen.space.anchors.facts.get("held")
    if held is None:
        return (torch.empty(0, dtype=torch.int64),) * 2
    apart = torch.nonzero(held > 0)[:, 0]
    return torch.nonzero(held == 0)[:, 0], apart[drawn(len(apart), most, 0)]


def twins_of(
    seen: Look, held: Int[Tensor, " h"], known: Int[Tensor, " t"]
) -> tuple[Bool[Tensor, " h"], Int[Tensor, " h"]]:
    """Which anchors of one set have a copy in another, and the nearest of it to each."""
    centred = seen.space.anchors.rows(torch.cat([held, known]))
    z = unit(centred.z - seen.space.anchors.z.mean(0))
    nearest = neighbours(Embeddings.of(z[: len(held)]), Embeddings.of(z[len(held) :]), 1)
    place = known[nearest.index[:, 0]]
    chance = float(by_chance(z, z[len(held) :], torch.tensor(TWIN)))
    near = (nearest.score[:, 0] >= TWIN) & (BEYOND * chance <= 1)
    same = torch.isin(seen.space.anchors.id[held], seen.space.anchors.id[known])
    return near | same, place
