"""What all rooms share: embeddings that remember where they came from, and who is a pair of whom.

The alphabet of shapes: n anchors, m candidates, d width, t tokens or time, e edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.join import matches
from counterpoint._ops.unit import to_unit
from counterpoint._ops.world import rank

# A mapping of columns of equal length. "id" is the content identity of each row, "row" its dense index in the data. The
# items of a named batch stand under the name of their kind.
Batch = Mapping[str, Any]
PER_PROCESS = 2**40  # ids that rows without one get: far more than rows, and room for more processes than there are
KINDS = ("text", "array")


def items_of(batch: Batch) -> Any:
    """What an encoder reads of a named batch: its texts, or its arrays as one tensor.

    >>> items_of({"id": [1], "text": ["a"]})
    ['a']
    """
    return next(batch[kind] for kind in KINDS if kind in batch)


class Facts(dict[str, Tensor]):
    """The facts of some rows by name. One that they do not have says which they have.

    >>> Facts(label=torch.zeros(1))["cluster"]
    Traceback (most recent call last):
    KeyError: "wanted rows with the fact 'cluster', they have: label"
    """

    def __missing__(self, name: str) -> Tensor:
        """Nothing stands in for a fact."""
        known = ", ".join(sorted(fact for fact in self if not fact.startswith("_"))) or "none"
        raise KeyError(f"wanted rows with the fact '{name}', they have: {known}")


@dataclass(frozen=True)
class Embeddings:
    """Vectors that remember where they came from.

    Pairs are found by `id`, never by position, so slicing, shuffling, queues and tiles cannot break them. Equal
    (id, view, part, age) is oneself; equal id is never a negative.

    Args:
        z: [n, d] vectors, or [n, t, d] token sets; d may be 0 for rows that are facts only.
        id: [n] content identity: the same text has the same id in any role. Ids < 0 are made things (prototypes, noise).
        view: [n] which view of the sample; 0 where there is one. The two sides of a pair have different ones, such as images
            0 and texts 1: a row of equal id, view, part and age is oneself, and oneself is no positive.
        part: [n] cell, span or time step; 0 when the row is the whole sample.
        age: [n] 0 for a row of this step, > 0 for a row from a queue.
        facts: per-row tensors that a rule or objective may read; they may require grad.
        placement: "sharded" over processes, or "replicated" on each (prototypes, queues).

    Raises:
        ValueError: if a column does not have n rows.

    >>> e = Embeddings.of(torch.eye(3), id=torch.tensor([7, 8, 7]))
    >>> e.rows(torch.tensor([0, 2])).id.tolist()
    [7, 7]
    >>> len(Embeddings.cat([e, e]))
    6
    """

    z: Float[Tensor, n * d]
    id: Int[Tensor, " n"]
    view: Int[Tensor, " n"]
    part: Int[Tensor, " n"]
    age: Int[Tensor, " n"]
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    placement: Literal["sharded", "replicated"] = "sharded"

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", Facts(self.facts))
        n = len(self.z)
        columns = {"id": self.id, "view": self.view, "part": self.part, "age": self.age, **self.facts}
        for name, column in columns.items():
            if len(column) != n:
                raise ValueError(f"wanted {n} rows of '{name}', one for each vector, got {len(column)}")

    @classmethod
    def of(
        cls,
        z: Float[Tensor, n * d],
        *,
        id: Int[Tensor, " n"] | None = None,
        view: int = 0,
        facts: Mapping[str, Tensor] | None = None,
        placement: Literal["sharded", "replicated"] = "sharded",
    ) -> Embeddings:
        """Fresh embeddings of whole samples; without `id`, row i is sample i of this process, and of no other."""
        zeros = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        id = torch.arange(len(z), device=z.device) + rank() * PER_PROCESS if id is None else id.to(z.device)
        return cls(z, id, zeros + view, zeros, zeros, facts or {}, placement)

    def __len__(self) -> int:
        return len(self.z)

    def rows(self, index: Tensor | slice) -> Embeddings:
        """The rows at `index`, with all they remember."""
        facts = {name: fact[index] for name, fact in self.facts.items()}
        return replace(
            self,
            z=self.z[index],
            id=self.id[index],
            view=self.view[index],
            part=self.part[index],
            age=self.age[index],
            facts=facts,
        )

    def told(self, **facts: Tensor) -> Embeddings:
        """The same rows with more facts; one of a name that they have takes its place.

        >>> Embeddings.of(torch.eye(2)).told(label=torch.tensor([4, 9])).facts["label"].tolist()
        [4, 9]
        """
        return replace(self, facts={**self.facts, **facts})

    def to_unit(self) -> Embeddings:
        """The same rows scaled to length 1; a zero row stays zero."""
        return replace(self, z=to_unit(self.z))

    @staticmethod
    def cat(sets: Sequence[Embeddings]) -> Embeddings:
        """Several sets as one; facts that not every set has are dropped.

        Raises:
            ValueError: for a sharded and a replicated set, such as a batch and a queue; `joined` of `objectives.custom`
                takes both.
        """
        if len({s.placement for s in sets}) > 1:
            raise ValueError(
                "wanted sets of one placement, got sharded and replicated ones; `joined` of objectives.custom takes both"
            )
        shared = set.intersection(*(set(s.facts) for s in sets))
        return replace(
            sets[0],
            z=torch.cat([s.z for s in sets]),
            id=torch.cat([s.id for s in sets]),
            view=torch.cat([s.view for s in sets]),
            part=torch.cat([s.part for s in sets]),
            age=torch.cat([s.age for s in sets]),
            facts={name: torch.cat([s.facts[name] for s in sets]) for name in sorted(shared)},
        )


class Pairs(NamedTuple):
    """How strongly each of n x m pairs attracts (positive) and repels (negative); both 0 means ignored."""

    attract: Float[Tensor, "n m"]
    repel: Float[Tensor, "n m"]


class Edges(NamedTuple):
    """The pairs that differ from `PairRule.elsewhere`, as a list; `value` carries a pair-level teacher score."""

    row: Int[Tensor, " e"]
    col: Int[Tensor, " e"]
    attract: Float[Tensor, " e"]
    repel: Float[Tensor, " e"]
    value: Float[Tensor, " e"]


@runtime_checkable
class PairRule(Protocol):
    """Two sets of embeddings -> who is a positive of whom, who a negative, how strongly. Right for any two tiles.

    `elsewhere` is (attract, repel) of every pair that `edges` does not list; None: the rule has no sparse form.
    A plain function of two tiles is a rule too, without a sparse form.
    """

    elsewhere: tuple[float, float] | None

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """The sparse form."""


@runtime_checkable
class KeyedRule(Protocol):
    """A rule whose special pairs are too many to list: they all have equal keys, as rows of one label do.

    `elsewhere` is (attract, repel) of every pair of unequal keys. Pairs of equal keys may be anything.
    """

    elsewhere: tuple[float, float]

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""

    def keys(self, a: Embeddings, c: Embeddings) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """A number for each row."""


def densify(edges: Edges, elsewhere: tuple[float, float], a: Embeddings, c: Embeddings) -> Pairs:
    """The dense form of a rule, made from its edges, so that the two cannot disagree."""
    shape, at = (len(a), len(c)), (edges.row, edges.col)
    attract, repel = (torch.full(shape, value, dtype=a.z.dtype, device=a.z.device) for value in elsewhere)
    return Pairs(attract.index_put(at, edges.attract), repel.index_put(at, edges.repel))


@dataclass(frozen=True)
class Relation:
    """Relevance as data: an edge list of (anchor, candidate, grade) by content identity.

    No transitive closure is ever taken: a ~ b and c ~ b says nothing of a and c. Grade > 0 is a positive of that
    strength, grade 0 a pair that was judged and found not relevant (a hard negative). The first edge of a pair counts.

    Args:
        anchor_id: [e] content ids.
        candidate_id: [e] content ids.
        grade: [e] at least 0.
        value: [e] a teacher's score of the pair, any number; None: nobody scored them.

    >>> Relation.of([1, 1, 2], [5, 6, 5]).positives(1)
    {5: 1.0, 6: 1.0}
    """

    anchor_id: Int[Tensor, " e"]
    candidate_id: Int[Tensor, " e"]
    grade: Float[Tensor, " e"]
    value: Float[Tensor, " e"] | None = None

    @classmethod
    def of(
        cls,
        anchor_id: Sequence[int] | Tensor,
        candidate_id: Sequence[int] | Tensor,
        grade: Sequence[float] | Tensor | None = None,
        *,
        value: Sequence[float] | Tensor | None = None,
    ) -> Relation:
        """A relation sorted by anchor, one edge for each pair."""
        a, c = torch.as_tensor(anchor_id, dtype=torch.int64), torch.as_tensor(candidate_id, dtype=torch.int64)
        g = torch.ones(len(a)) if grade is None else torch.as_tensor(grade, dtype=torch.float32)
        v = None if value is None else torch.as_tensor(value, dtype=torch.float32)
        if len(a) != len(c) or len(a) != len(g):
            raise ValueError(f"wanted as many candidates and grades as anchors, got {len(c)} and {len(g)} for {len(a)}")
        if v is not None and len(v) != len(a):
            raise ValueError(f"wanted as many values as anchors, got {len(v)} for {len(a)}")
        if len(g) and bool((g < 0).any()):
            raise ValueError(f"wanted grades of at least 0, got {float(g.min())}")
        seen: dict[tuple[int, int], int] = {}
        for place, key in enumerate(zip(a.tolist(), c.tolist(), strict=True)):
            seen.setdefault(key, place)
        at = torch.tensor([seen[key] for key in sorted(seen)], dtype=torch.int64)
        return cls(a[at], c[at], g[at], None if v is None else v[at])

    def positives(self, anchor: int) -> dict[int, float]:
        """The candidates of one anchor with a grade above 0."""
        low, high = (int(torch.searchsorted(self.anchor_id, anchor, right=r)) for r in (False, True))
        edges = zip(self.candidate_id[low:high].tolist(), self.grade[low:high].tolist(), strict=True)
        return {c: g for c, g in edges if g > 0}


@dataclass(frozen=True)
class SameSample:
    """Views of one sample are positives; oneself and stale rows of one's own sample are ignored; the rest repel."""

    elsewhere: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """One edge for every pair of equal id."""
        row, col = matches(a.id, c.id)
        oneself = (a.view[row] == c.view[col]) & (a.part[row] == c.part[col]) & (a.age[row] == c.age[col])
        stale = (a.age[row] > 0) | (c.age[col] > 0)
        attract = (~(oneself | stale)).to(a.z.dtype)
        return Edges(row, col, attract, torch.zeros_like(attract), torch.zeros_like(attract))


same_sample = SameSample()


class Outcome(NamedTuple):
    """What an objective returns: named terms, their weights in the loss, and detached notes for health and `after`."""

    terms: dict[str, Tensor]
    weights: dict[str, float]
    notes: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The weighted sum of the terms."""
        return torch.stack([self.weights[name] * value for name, value in self.terms.items()]).sum()

    @staticmethod
    def term(name: str, value: Tensor) -> Outcome:
        """An outcome of one term, with weight 1 and no notes.

        >>> Outcome.term("x", torch.tensor(2.0)).loss.item()
        2.0
        """
        return Outcome({name: value}, {name: 1.0}, {})

    @staticmethod
    def of(**parts: tuple[float, Outcome]) -> Outcome:
        """Several outcomes as one: each becomes a term under its name, with its weight.

        A note that several have stands for each under "<term> <note>", and under its own name for the one with the most
        notes, the first of them, so that what is noted of one set of rows stays together.

        >>> one = Outcome({"x": torch.tensor(2.0)}, {"x": 1.0}, {"negatives": torch.ones(1)})
        >>> both = Outcome.of(near=(1.0, one), far=(0.5, one))
        >>> both.loss.item(), sorted(both.notes)
        (3.0, ['far negatives', 'near negatives', 'negatives'])
        """
        notes: dict[str, Tensor] = {}
        often = Counter(note for _, outcome in parts.values() for note in outcome.notes)
        for term, (_, outcome) in sorted(parts.items(), key=lambda part: -len(part[1][1].notes)):
            notes = {**outcome.notes, **notes}
            notes |= {f"{term} {name}": note for name, note in outcome.notes.items() if often[name] > 1}
        terms = {name: outcome.loss for name, (_, outcome) in parts.items()}
        return Outcome(terms, {name: weight for name, (weight, _) in parts.items()}, notes)
