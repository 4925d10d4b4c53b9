"""Exact nearest neighbours by tiles: search, retrieval metrics and, later, mining stand on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint.types import Embeddings

MASKED = -torch.inf


@dataclass(frozen=True)
class Neighbours:
    """`index[i]` are the k nearest candidates of anchor i, best first, with their scores; masked places hold -1."""

    index: Int[Tensor, "n k"]
    score: Float[Tensor, "n k"]


@torch.no_grad()
def neighbours(
    anchors: Embeddings, candidates: Embeddings, k: int, *, skip_same: bool = True, memory: int = 256 * 2**20
) -> Neighbours:
    """The k candidates of largest dot product for each anchor, exact.

    Args:
        anchors: n rows; unit rows make the score a cosine.
        candidates: m rows.
        k: how many, at least 1; at most m are returned.
        skip_same: leave out candidates with the anchor's own content id.
        memory: bytes that one tile of scores may take.

    >>> e = Embeddings.of(torch.eye(3))
    >>> neighbours(e, e, 1, skip_same=False).index.tolist()
    [[0], [1], [2]]
    """
    k = min(k, len(candidates))
    step = max(1, memory // max(1, len(candidates) * anchors.z.element_size() * 2))
    index, score = [], []
    for start in range(0, len(anchors), step):
        tile = anchors.rows(slice(start, start + step))
        s = tile.z @ candidates.z.T
        if skip_same:
            s = s.masked_fill(tile.id[:, None] == candidates.id[None, :], MASKED)
        best, place = s.topk(k, 1)
        index.append(torch.where(best == MASKED, -1, place))
        score.append(best)
    if not index:
        return Neighbours(torch.empty(0, k, dtype=torch.int64), torch.empty(0, k))
    return Neighbours(torch.cat(index), torch.cat(score))
