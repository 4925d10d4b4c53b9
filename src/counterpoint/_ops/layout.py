"""Where the special pairs of a rule lie: which tiles need its matrix, which only a few listed pairs, which nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from counterpoint.types import Edges, Embeddings, KeyedRule, PairRule, Pairs

Rule = PairRule | KeyedRule | Callable[[Embeddings, Embeddings], Pairs]


@dataclass(frozen=True)
class Layout:
    """A rule laid over a grid of tiles.

    Args:
        elsewhere: (attract, repel) of every pair that is not special; None: every pair may be.
        cuts: where tiles begin, and the end, of anchors and of candidates.
        matrix: [I J] whether a tile takes the rule's matrix.
        edges: the listed pairs in the order of their tiles.
        starts: [I J + 1] where each tile's pairs start in `edges`.
    """

    elsewhere: tuple[float, float] | None
    cuts: tuple[list[int], list[int]]
    matrix: list[list[bool]]
    edges: Edges | None = None
    starts: list[int] | None = None

    def listed(self, i: int, j: int) -> Edges | None:
        """The listed pairs of one tile, by their places in the whole; None where there are none."""
        if self.edges is None or self.starts is None:
            return None
        at = i * len(self.matrix[0]) + j
        part = slice(self.starts[at], self.starts[at + 1])
        return None if part.start == part.stop else Edges(*(column[part] for column in self.edges))


def special(rule: Rule | None) -> tuple[float, float] | None:
    """What the rule says of a pair that is not special; None where it has no sparse form."""
    return (0.0, 1.0) if rule is None else getattr(rule, "elsewhere", None)


def by_key(rule: Rule | None) -> KeyedRule | None:
    """The rule, if equal keys tell where its special pairs are."""
    return cast(KeyedRule, rule) if special(rule) is not None and hasattr(rule, "keys") else None


def sort_by_key(keys: tuple[Tensor, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The orders that make equal keys neighbours; None where they are already."""
    return tuple(None if bool((k[1:] >= k[:-1]).all()) else torch.argsort(k, stable=True) for k in keys)  # type: ignore[return-value]


def lay_out(rule: Rule | None, a: Embeddings, c: Embeddings, size: tuple[int, int]) -> Layout:
    """The layout of a rule over tiles of at most `size`. Rows of a keyed rule come sorted by key."""
    cuts = _even_cuts(len(a), size[0]), _even_cuts(len(c), size[1])
    tall, wide = (len(own) - 1 for own in cuts)
    elsewhere = special(rule)
    if rule is None or elsewhere is None:
        return Layout(elsewhere, cuts, [[elsewhere is None] * wide for _ in range(tall)])
    keyed = by_key(rule)
    if keyed is not None:
        keys = keyed.keys(a, c)
        (low_a, high_a), (low_c, high_c) = (_ranges(k, own) for k, own in zip(keys, cuts, strict=True))
        overlap = (low_a[:, None] <= high_c[None, :]) & (low_c[None, :] <= high_a[:, None])
        return Layout(elsewhere, cuts, overlap.tolist())
    edges = cast(PairRule, rule).edges(a, c)
    tile = torch.div(edges.row, size[0], rounding_mode="floor") * wide
    tile = tile + torch.div(edges.col, size[1], rounding_mode="floor")
    order = torch.argsort(tile, stable=True)
    starts = torch.searchsorted(tile[order], torch.arange(tall * wide + 1, device=tile.device)).tolist()
    return Layout(elsewhere, cuts, [[False] * wide for _ in range(tall)], Edges(*(x[order] for x in edges)), starts)


def _even_cuts(rows: int, size: int) -> list[int]:
    return [*range(0, rows, size), rows]


def _ranges(keys: Tensor, cuts: list[int]) -> tuple[Tensor, Tensor]:
    """The first and last key of each block of sorted keys."""
    at = torch.tensor(cuts, device=keys.device)
    return keys[at[:-1]], keys[at[1:] - 1]
