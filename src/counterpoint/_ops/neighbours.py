"""Exact nearest neighbours by tiles: search, retrieval metrics, kNN and mining stand on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.layout import Layout, Rule, by_key, lay_out, sort_by_key
from counterpoint._ops.scores import Columns, Names, Score, dot
from counterpoint.types import Embeddings

Among = Literal["repelled", "attracted"]
TALL, WIDE = 256, 8192  # a tile of scores of 8 MB: fits a third-level cache
MASKED = -torch.inf


@dataclass(frozen=True)
class Neighbours:
    """`index[i]` are the k nearest candidates of anchor i, best first, with their scores; masked places hold -1."""

    index: Int[Tensor, "n k"]
    score: Float[Tensor, "n k"]


@torch.no_grad()
def neighbours(
    anchors: Embeddings,
    candidates: Embeddings,
    k: int,
    *,
    rule: Rule | None = None,
    among: Among = "repelled",
    score: Score | None = None,
    memory: int = 64 * 2**20,
) -> Neighbours:
    """The k candidates of largest score for each anchor, exact.

    Args:
        anchors: n rows; unit rows make the score a cosine.
        candidates: m rows.
        k: how many, at least 1; at most m are returned.
        rule: None looks at all candidates; else only at those that the rule says something of. `same_sample` leaves out
            an anchor's own content; `listed(relation)` also what is known to be relevant, which finds hard negatives.
        among: "repelled": candidates that the rule lets repel; "attracted": those that it lets attract.
        score: how two rows are compared, such as `maxsim()` of token sets; None: the dot product.
        memory: bytes that one tile of scores may take, with what each of them takes while it is computed.

    Relations:
        `sweep` with `maximum` gives the score of the nearest with a gradient; this gives which ones they are.

    >>> e = Embeddings.of(torch.eye(3))
    >>> neighbours(e, e, 1).index.tolist()
    [[0], [1], [2]]
    """
    k = min(k, len(candidates))
    orders: tuple[Tensor | None, Tensor | None] = (None, None)
    keyed = by_key(rule)
    if keyed is not None:
        orders = sort_by_key(keyed.keys(anchors, candidates))
    a, c = (r if o is None else r.rows(o) for r, o in zip((anchors, candidates), orders, strict=True))
    compared = dot() if score is None else score
    inner = compared.inner(_columns(a, compared.reads[0], slice(0)), _columns(c, compared.reads[1], slice(0)))
    size = a.z.element_size() * max(1, inner)
    wide = max(1, min(WIDE, len(c), memory // size))
    tall = max(1, min(TALL, memory // (wide * size)))
    layout = lay_out(rule, a, c, (tall, wide))
    found = [
        _of_block(a, c, (i, rows), k=k, layout=layout, rule=rule, among=among, compared=compared)
        for i, rows in _slices(layout.cuts[0])
    ]
    index = torch.cat([f[0] for f in found]) if found else torch.empty(0, k, dtype=torch.int64)
    best = torch.cat([f[1] for f in found]) if found else torch.empty(0, k)
    if orders[1] is not None:
        index = torch.where(index < 0, index, orders[1][index])
    if orders[0] is not None:
        back = torch.argsort(orders[0])
        index, best = index[back], best[back]
    return Neighbours(index, best)


def _columns(rows: Embeddings, names: Names, at: slice) -> Columns:
    """Some rows of the columns that a score reads."""
    return tuple(rows.z[at] if name == "z" else rows.facts[name][at] for name in names)


def _slices(cuts: list[int]) -> list[tuple[int, slice]]:
    return [(i, slice(*ends)) for i, ends in enumerate(pairwise(cuts))]


def _of_block(
    a: Embeddings,
    c: Embeddings,
    block: tuple[int, slice],
    *,
    k: int,
    layout: Layout,
    rule: Rule | None,
    among: Among,
    compared: Score,
) -> tuple[Tensor, Tensor]:
    """The best of all candidates for one block of anchors."""
    i, rows = block
    best = a.z.new_full((rows.stop - rows.start, k), MASKED)
    index = torch.full_like(best, -1, dtype=torch.int64)
    x = _columns(a, compared.reads[0], rows)
    for j, columns in _slices(layout.cuts[1]):
        score = compared.of(x, _columns(c, compared.reads[1], columns), "fp32")
        _mask(score, a, c, ((i, rows), (j, columns)), layout=layout, rule=rule, among=among)
        value, place = top(score, min(k, score.shape[1]))
        both, order = torch.cat([best, value], 1).topk(k, 1)
        best, index = both, torch.cat([index, place + columns.start], 1).gather(1, order)
    return torch.where(best == MASKED, -1, index), best


def _mask(
    score: Tensor,
    a: Embeddings,
    c: Embeddings,
    at: tuple[tuple[int, slice], tuple[int, slice]],
    *,
    layout: Layout,
    rule: Rule | None,
    among: Among,
) -> None:
    """Mask what is not looked at, in place."""
    (i, rows), (j, columns) = at
    if rule is None:
        return
    which = 1 if among == "repelled" else 0
    if layout.elsewhere is None or layout.matrix[i][j]:
        wanted = rule(a.rows(rows), c.rows(columns))[which]
        score.masked_fill_(wanted <= 0, MASKED)
        return
    edges = layout.listed(i, j)
    place = None if edges is None else (edges.row - rows.start, edges.col - columns.start)
    if layout.elsewhere[which] <= 0:
        kept = None if place is None else score[place]
        score.fill_(MASKED)
        if place is not None and kept is not None:
            score[place] = kept
    if edges is not None and place is not None:
        score[place] = torch.where((edges.repel if which else edges.attract) > 0, score[place], MASKED)


def top(score: Float[Tensor, "n m"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest of each row: only the k groups with the largest maxima can hold them, and those are few.

    >>> [x.tolist() for x in top(torch.tensor([[3.0, 9.0, 1.0, 7.0]]), 2)]
    [[[9.0, 7.0]], [[1, 3]]]
    """
    n, m = score.shape
    groups = math.ceil(math.sqrt(m * k))
    deep = m // groups
    if deep < 4 or not n:
        value, place = score.topk(k, 1)
        return value, place
    inside = score[:, : deep * groups].unflatten(1, (deep, groups))
    group = inside.amax(1).topk(k, 1).indices
    chosen = inside.gather(2, group[:, None, :].expand(n, deep, k)).flatten(1)
    place = (torch.arange(deep, device=score.device)[:, None] * groups + group[:, None, :]).flatten(1)
    rest = torch.arange(deep * groups, m, device=score.device).expand(n, -1)
    chosen, place = torch.cat([chosen, score[:, deep * groups :]], 1), torch.cat([place, rest], 1)
    value, order = chosen.topk(k, 1)
    return value, place.gather(1, order)
