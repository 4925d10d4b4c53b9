"""What one model makes of the data, and who is near whom in it: all that a diagnosis reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from counterpoint._ops.layout import Rule
from counterpoint._ops.neighbours import Neighbours, neighbours
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Relation, same_sample

ASKED = 10_000  # anchors at most whose neighbours are looked up
NEAR = 50  # candidates that are looked at for each
ROWS = 20_000  # rows at most that moments are taken over
RANKS, VOTES = 10, 5  # as mrr@10 and as the accuracy that `evaluate` and `fit` report


@dataclass(frozen=True)
class Variants:
    """Embeddings of texts and of what was made of them; see `views.variants.contrast_set`.

    Args:
        text: as they are.
        typo: with a typo, so of the same meaning.
        changed: of another meaning.
    """

    text: Float[Tensor, "n d"]
    typo: Float[Tensor, "n d"]
    changed: Float[Tensor, "n d"]


@dataclass(frozen=True)
class Space:
    """Embeddings of the data by one model, with what is known of each row. Rows are scaled to length 1 by `of`.

    Args:
        anchors: n items; facts that are known: "label", "fine" and "held" (1 in dev and test, else 0) as whole numbers,
            "length" in words, "frequency" of them (see `data.words.frequency`).
        candidates: what the anchors are paired with; None where the data are one set of items.
        relation: which anchors and candidates belong together.
        temperature: of the training that made the model.
        batch: rows of one of its batches.
        variants: what was changed -> some anchors in three forms.
    """

    anchors: Embeddings
    candidates: Embeddings | None = None
    relation: Relation | None = None
    temperature: float | None = None
    batch: int = 64
    variants: Mapping[str, Variants] = field(default_factory=dict)

    @classmethod
    def of(cls, anchors: Embeddings, candidates: Embeddings | None = None, **known: object) -> Space:
        """A space of rows of any length."""
        both = [None if e is None else replace(e, z=unit(e.z.float())) for e in (anchors, candidates)]
        return cls(both[0], both[1], **known)  # type: ignore[arg-type]

    @property
    def others(self) -> Embeddings:
        """The candidates: the anchors themselves where the data are one set."""
        return self.anchors if self.candidates is None else self.candidates

    def moved(self, anchors: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"] | None = None) -> Space:
        """The same rows with other vectors."""
        if self.candidates is None:
            return replace(self, anchors=replace(self.anchors, z=unit(anchors)))
        assert candidates is not None
        there = replace(self.candidates, z=unit(candidates))
        return replace(self, anchors=replace(self.anchors, z=unit(anchors)), candidates=there)


def unit(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1; a row of zeros stays."""
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)


@dataclass(frozen=True)
class Look:
    """A space with the nearest candidates of some of its anchors.

    Args:
        space: the space.
        at: [k] which anchors are asked.
        near: for each of them the nearest candidates but itself, nearest first.
    """

    space: Space
    at: Int[Tensor, " k"]
    near: Neighbours

    @cached_property
    def asked(self) -> Embeddings:
        """The anchors that are asked."""
        return self.space.anchors.rows(self.at)

    @cached_property
    def right(self) -> Bool[Tensor, "k near"]:
        """Which of the near candidates are listed as positives."""
        row, col = self._listed
        here = (torch.arange(len(self.at))[:, None] * len(self.space.others) + self.near.index).flatten()
        known = row * len(self.space.others) + col
        return (torch.isin(here, known).view(self.near.index.shape)) & (self.near.index >= 0)

    @cached_property
    def _listed(self) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
        """Asked anchor and candidate of every listed pair."""
        if self.space.relation is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        edges = listed(self.space.relation).edges(self.asked, self.space.others)
        return edges.row[edges.attract > 0], edges.col[edges.attract > 0]

    @cached_property
    def positive(self) -> Int[Tensor, " k"]:
        """The nearest listed positive of each asked anchor; -1 where it has none."""
        row, col = self._listed
        order = torch.argsort((self.asked.z[row] * self.space.others.z[col]).sum(1), descending=True)
        row, col = row[order], col[order]
        order = torch.argsort(row, stable=True)  # by anchor, the nearest first
        row, col = row[order], col[order]
        first = torch.ones(len(row), dtype=torch.bool)
        first[1:] = row[1:] != row[:-1]
        return torch.full((len(self.at),), -1).index_put((row[first],), col[first])

    @property
    def rule(self) -> Rule:
        """Who repels whom while training: listed pairs, else rows of one label, else oneself do not."""
        if self.space.relation is not None:
            return listed(self.space.relation)
        return labelled("label") if "label" in self.space.anchors.facts else same_sample

    @cached_property
    def held(self) -> Bool[Tensor, " k"]:
        """Which asked anchors are of dev or test."""
        return self.asked.facts.get("held", torch.zeros(len(self.at), dtype=torch.int64)) > 0

    @cached_property
    def middle(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """The means of anchors and candidates."""
        return self.space.anchors.z.mean(0), self.space.others.z.mean(0)


def look(space: Space, *, most: int = ASKED, seed: int = 0) -> Look:
    """Look up the neighbours of at most so many anchors, drawn from a seed."""
    at = drawn(len(space.anchors), most, seed)
    near = neighbours(space.anchors.rows(at), space.others, NEAR, rule=same_sample)
    return Look(space, at, near)


def drawn(n: int, most: int, seed: int) -> Int[Tensor, " k"]:
    """At most so many of n numbers, sorted.

    >>> drawn(3, 5, 0).tolist(), len(drawn(100, 5, 0))
    ([0, 1, 2], 5)
    """
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def by_chance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], score: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """How many of m unrelated rows would reach a dot product, if those of all pairs were normal.

        m Q( (score - mu) / sigma ),    Q(t) = 1/2 erfc( t / sqrt 2 )

    with mu and sigma over all n x m pairs, from first and second moments of at most 20,000 rows of each set.

    Args:
        x, y: rows of the two sets.
        score: dot products.

    >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> by_chance(z, z, torch.tensor(0.0))
    tensor(1.)
    """
    (mx, sx), (my, sy) = ((r.mean(0), r.T @ r / len(r)) for r in (r[drawn(len(r), ROWS, 0)].double() for r in (x, y)))
    mu = float(mx @ my)
    sigma = max(float((sx * sy).sum()) - mu**2, 1e-12) ** 0.5  # 1e-12: below the rounding of fp32 dot products
    return len(y) * torch.special.erfc((score - mu) / (sigma * 2**0.5)) / 2


def served(seen: Look, *, hidden: Bool[Tensor, "k near"] | None = None) -> Float[Tensor, " k"]:
    """How well each asked anchor is served: what the effect of a fault is measured by.

    Pairs: 1 / rank of the first listed positive, 0 below rank 10. Labels: 1 where the 5 nearest others, which vote by
    cosine, have the anchor's class, else 0. NaN where the data have neither.

    Args:
        seen: the space and its neighbours.
        hidden: near candidates that are left out.
    """
    there = seen.near.index >= 0 if hidden is None else (seen.near.index >= 0) & ~hidden
    if seen.space.relation is not None:
        rank = there.cumsum(1)
        return torch.where(seen.right & there & (rank <= RANKS), 1 / rank.clamp_min(1), 0.0).amax(1)
    if "label" not in seen.asked.facts:
        return torch.full((len(seen.at),), math.nan)
    worth = torch.where(there & (there.cumsum(1) <= VOTES), (seen.near.score + 1) / 2, 0.0)
    voter = worth.topk(min(VOTES, worth.shape[1]), 1)
    label = seen.space.others.facts["label"][seen.near.index.gather(1, voter.indices).clamp_min(0)]
    total = ((label[:, :, None] == label[:, None, :]) * voter.values[:, None, :]).sum(2)
    return (label.gather(1, total.argmax(1, keepdim=True))[:, 0] == seen.asked.facts["label"]).float()
