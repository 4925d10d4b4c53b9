"""What mends a fault of given vectors without training: by this its effect on the user's task is measured.

A mend changes nothing but what its fault is about. It is a measuring instrument, not advice: training mends causes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint.evaluation.faults import CHUNK, TWIN
from counterpoint.evaluation.geometry import groups_of
from counterpoint.evaluation.space import ROWS, Look, Space, drawn, unit
from counterpoint.types import Embeddings

SHRINK = 0.1  # of the mean variance, added to each direction's before it is evened out


def without_cone(space: Space) -> Space:
    """The common middle of both sides is taken away."""
    middle = (space.anchors.z.mean(0) + space.others.z.mean(0)) / 2
    return space.moved(space.anchors.z - middle, space.others.z - middle)


def with_even_dimensions(space: Space) -> Space:
    """All directions get about equal variance around the middle, which stays."""
    a, c = space.anchors.z, space.others.z
    both = torch.cat([x[drawn(len(x), ROWS, 0)] for x in (a, c)]).double()
    middle = both.mean(0)
    variance, axes = torch.linalg.eigh((both - middle).T @ (both - middle) / len(both))
    weight = (variance.clamp_min(0) + SHRINK * variance.mean()).rsqrt() * variance.mean().sqrt()
    turn, middle = ((axes * weight) @ axes.T).to(a.dtype), middle.to(a.dtype)
    return space.moved((a - middle) @ turn + middle, (c - middle) @ turn + middle)


def without_length(space: Space) -> Space:
    """Texts of every length get one middle."""
    anchors = _levelled(space.anchors)
    return space.moved(anchors, None if space.candidates is None else _levelled(space.candidates))


def _levelled(e: Embeddings) -> Float[Tensor, "n d"]:
    if "length" not in e.facts:
        return e.z
    _, group = groups_of(e.facts["length"]).unique(return_inverse=True)
    size = torch.bincount(group).to(e.z.dtype)
    middle = e.z.new_zeros(len(size), e.z.shape[1]).index_add_(0, group, e.z) / size[:, None]
    return e.z - middle[group] + e.z.mean(0)


def without_gap(space: Space) -> Space:
    """Both sides get one middle."""
    a, c = space.anchors.z, space.others.z
    middle = (a.mean(0) + c.mean(0)) / 2
    return space.moved(a - a.mean(0) + middle, c - c.mean(0) + middle)


def without_hubs(space: Space, *, k: int = 10, most: int = 2_000) -> Space:
    """Every candidate is found by its cosine less its mean cosine with the anchors nearest to it.

    That is CSLS of the candidates (Conneau et al. 2018, arXiv:1710.04087), s_ij - r_j / 2, written as dot products of equally
    long rows: [a, 1, 0] and [c, - r / 2, rest], so that cosines rank alike. Anchors that are candidates rank as anchors.
    """
    a, c = space.anchors.z, space.others.z
    asked = space.anchors.rows(drawn(len(a), most, 0))
    hub = neighbours(Embeddings.of(c), Embeddings.of(asked.z), k).score.mean(1, keepdim=True) / 2
    square = c.square().sum(1, keepdim=True) + hub.square()
    candidates = torch.cat([c, -hub, (square.max() - square).clamp_min(0).sqrt()], 1)
    anchors = torch.cat([a, torch.ones(len(a), 1), torch.zeros(len(a), 1)], 1)
    return replace(
        space, anchors=replace(space.anchors, z=unit(anchors)), candidates=replace(space.others, z=unit(candidates))
    )


def with_copies_left_out(seen: Look) -> Bool[Tensor, "k near"]:
    """Near rows of training that are copies of a held-out anchor; they may not vote for it."""
    known = seen.space.others.facts["held"] == 0 if "held" in seen.space.others.facts else None
    if known is None:
        return torch.zeros(seen.near.index.shape, dtype=torch.bool)
    middle = seen.space.anchors.z.mean(0)
    found = torch.zeros(seen.near.index.shape, dtype=torch.bool)
    for part in torch.nonzero(seen.held)[:, 0].split(CHUNK):
        index = seen.near.index[part].clamp_min(0)
        cosine = (
            unit(seen.space.others.z[index.flatten()] - middle).view(*index.shape, -1)
            @ unit(seen.asked.z[part] - middle)[:, :, None]
        )
        found[part] = (cosine[:, :, 0] >= TWIN) & known[index] & (seen.near.index[part] >= 0)
    return found
