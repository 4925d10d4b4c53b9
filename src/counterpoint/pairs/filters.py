"""Which negatives are none: pairs that a teacher, a threshold or a fact speaks against stop repelling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from counterpoint._ops.layout import Rule, by_key, special
from counterpoint._ops.scores import FLOOR, dot
from counterpoint._ops.sweep import sweep
from counterpoint._ops.tile import keep
from counterpoint._ops.unit import to_unit
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, PairRule, Pairs, densify, same_sample

OWN = "own positive"  # the anchors' fact that `own_positive` writes and `above_positive` reads
OPEN = -FLOOR  # the bar of an anchor without a positive: nothing is above it


@runtime_checkable
class Filter(Protocol):
    """Which pairs are not to repel. Right for any two tiles."""

    def __call__(self, a: Embeddings, c: Embeddings) -> Bool[Tensor, "n m"]:
        """Of all pairs."""

    def on_pairs(self, a: Embeddings, c: Embeddings) -> Bool[Tensor, " e"]:
        """Of row i of one with row i of the other."""


@dataclass(frozen=True)
class TooAlike:
    """The filter by a teacher's cosine; made by `suspected` and `above_positive`.

    Args:
        fact: the teacher's vectors, [n e].
        least: pairs of at least this cosine; None: those above the bar of their anchor.
        margin, relative: of the bar below the anchor's own positive.
    """

    fact: str
    least: float | None = None
    margin: float = 0.0
    relative: bool = False

    def __call__(self, a: Embeddings, c: Embeddings) -> Tensor:
        """Of all pairs."""
        cosine = to_unit(a.facts[self.fact]) @ to_unit(c.facts[self.fact]).T
        return cosine >= self.least if self.least is not None else cosine > self._bar(a)[:, None]

    def on_pairs(self, a: Embeddings, c: Embeddings) -> Tensor:
        """Of row i of one with row i of the other."""
        cosine = (to_unit(a.facts[self.fact]) * to_unit(c.facts[self.fact])).sum(1)
        return cosine >= self.least if self.least is not None else cosine > self._bar(a)

    def _bar(self, a: Embeddings) -> Tensor:
        if OWN not in a.facts:
            raise KeyError(f"wanted anchors with the fact '{OWN}', which `own_positive` gives them, got none")
        own = a.facts[OWN]
        return own - self.margin * (own.abs() if self.relative else 1.0)


@dataclass(frozen=True)
class Equal:
    """The filter by an equal or an unequal fact; made by `equal` and `unequal`."""

    fact: str
    wanted: bool

    def __call__(self, a: Embeddings, c: Embeddings) -> Tensor:
        """Of all pairs."""
        left, right = a.facts[self.fact][:, None], c.facts[self.fact][None, :]
        return (left == right) & (left >= 0) if self.wanted else left != right

    def on_pairs(self, a: Embeddings, c: Embeddings) -> Tensor:
        """Of row i of one with row i of the other."""
        left, right = a.facts[self.fact], c.facts[self.fact]
        return (left == right) & (left >= 0) if self.wanted else left != right


@dataclass(frozen=True)
class Without:
    """A rule some of whose negatives are ignored; made by `without`."""

    rule: Rule
    filters: tuple[Filter, ...]

    elsewhere: tuple[float, float] | None = None

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        attract, repel = self.rule(a, c)
        for found in self.filters:
            repel = torch.where(found(a, c), 0.0, repel)
        return Pairs(attract, repel)


@dataclass(frozen=True)
class ListedWithout(Without):
    """The same where only listed pairs may repel, so that the list stays one."""

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        assert self.elsewhere is not None
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """The pairs of the rule."""
        edges = cast(PairRule, self.rule).edges(a, c)
        left, right = a.rows(edges.row), c.rows(edges.col)
        for found in self.filters:
            edges = edges._replace(repel=torch.where(found.on_pairs(left, right), 0.0, edges.repel))
        return edges


def without(rule: Rule, *filters: Filter) -> Without:
    """The rule, but pairs that any filter finds do not repel.

    repel_ij = 0 where a filter finds (i, j); attract_ij stays.

    Args:
        rule: who attracts and who repels whom.
        filters: `suspected`, `above_positive`, `equal`, `unequal`, or anything of their form.

    Raises:
        TypeError: for something else, such as a rule.

    Relations:
        A rule by which only listed pairs may repel stays a list; any other becomes one by matrix, a tile at a time.
        `within` is `without(rule, unequal(fact))` with a form by keys. `pairs.mining` asks the same questions before
        training, where negatives are chosen.

    >>> from counterpoint.types import same_sample
    >>> e = Embeddings.of(torch.eye(3), facts={"teacher": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])})
    >>> without(same_sample, suspected(least=0.9))(e, e).repel.tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    for found in filters:
        if not isinstance(found, Filter) or isinstance(found, type):
            raise TypeError(f"wanted filters, such as `suspected(least=0.9)` or `equal('cluster')`, got {found!r}")
    own = special(rule)
    if own is not None and own[1] == 0 and hasattr(rule, "edges"):
        return ListedWithout(rule, filters, own)
    return Without(rule, filters)


@paper(row=102)
def suspected(fact: str = "teacher", *, least: float) -> TooAlike:
    """The filter of pairs that another model finds too similar to be negatives.

    Found where cos(p_i, p_j) >= least.

    Args:
        fact: the name of the [n e] fact of the other model's vectors, of one space on both sides.
        least: a cosine; above 1 finds nothing.

    Relations:
        `above_positive` asks relative to the positive instead.

    References:
        Zhou et al. 2022, arXiv:2205.00656 (phi).

    >>> e = Embeddings.of(torch.zeros(2, 1), facts={"teacher": torch.eye(2)})
    >>> suspected(least=0.5)(e, e).tolist()
    [[True, False], [False, True]]
    """
    return TooAlike(fact, least)


@paper(
    reference="Solatorio: GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning, "
    "arXiv:2402.16829, 2024"
)
def above_positive(fact: str = "teacher", *, margin: float = 0.0, relative: bool = False) -> TooAlike:
    """The filter of pairs that a guide finds more similar than the anchor's own positive.

    Found where cos(p_i, p_j) > b_i - margin, relative: b_i - margin |b_i|, with the cosine b_i of the positive of i.

    Args:
        fact: the name of the [n e] fact of the guide's vectors, of one space on both sides.
        margin: at least 0; how far below its positive a negative has to be.
        relative: the margin is a share of the size of b_i; 0.05 is 95 % of it.

    Raises:
        KeyError: when it is used with anchors that did not go through `own_positive`.

    Differs:
        The guide of a candidate's own positives is not asked, also where the loss looks in both directions.

    Relations:
        `suspected` has one bar for all. The numbers are those of `pairs.mining`.

    References:
        Solatorio 2024, arXiv:2402.16829; the margins: the GISTEmbedLoss of sentence-transformers.

    >>> from counterpoint.types import same_sample
    >>> facts = {"teacher": torch.tensor([[1.0, 0.0], [0.8, 0.6]])}
    >>> a, c = (Embeddings.of(torch.eye(2), view=v, facts=facts) for v in (0, 1))
    >>> above_positive(margin=0.25)(own_positive(a, c, rule=same_sample), c).tolist()
    [[True, True], [True, True]]
    """
    if margin < 0:
        raise ValueError(f"wanted a margin of at least 0, got {margin}")
    return TooAlike(fact, None, margin, relative)


def own_positive(
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    rule: Rule = same_sample,
    fact: str = "teacher",
    against: Literal["weakest", "strongest"] = "weakest",
) -> Embeddings:
    """The anchors with a fact more: how similar the guide finds each to its own positive, for `above_positive`.

    Args:
        anchors: n rows.
        candidates: m rows, all that may be positives.
        rule: who attracts whom.
        fact: the name of the [n e] fact of the guide's vectors.
        against: which positive counts where an anchor has several: the least or the most similar.

    Returns:
        Anchors with the fact "own positive", [n]; 1e9 without a positive, so that nothing lies above it.

    Raises:
        ValueError: for another word in `against`.

    >>> from counterpoint.types import same_sample
    >>> a, c = (Embeddings.of(torch.eye(2), view=v, facts={"teacher": torch.eye(2)}) for v in (0, 1))
    >>> own_positive(a, c, rule=same_sample).facts["own positive"].tolist()
    [1.0, 1.0]
    """
    if against not in ("weakest", "strongest"):
        raise ValueError(f"wanted the 'weakest' or the 'strongest' positive, got '{against}'")
    how: Literal["minimum", "maximum"] = "minimum" if against == "weakest" else "maximum"
    nothing = OPEN if against == "weakest" else FLOOR
    sides = [
        replace(e, facts={**e.facts, fact: to_unit(e.facts[fact].detach().to(e.z.dtype))})
        for e in (anchors, candidates)
    ]
    with torch.no_grad():
        found = sweep(
            lambda s, pairs, _a, _c, _params: {"own": keep(s["s"], pairs.attract > 0, nothing)},
            *sides,
            scores={"s": dot(fact)},
            rule=rule,
            rows={"own": how},
        ).rows["own"]
    found = torch.where(found == FLOOR, OPEN, found)
    return replace(anchors, facts={**anchors.facts, OWN: found})


def equal(fact: str) -> Equal:
    """The filter of pairs whose fact is equal: one cluster, one label, one source. Numbers below 0 equal nothing.

    >>> e = Embeddings.of(torch.zeros(2, 1), facts={"cluster": torch.tensor([3, -1])})
    >>> equal("cluster")(e, e).tolist()
    [[True, False], [False, False]]
    """
    return Equal(fact, True)


def unequal(fact: str) -> Equal:
    """The filter of pairs whose fact differs: two domains, two batches of a laboratory.

    >>> e = Embeddings.of(torch.zeros(2, 1), facts={"domain": torch.tensor([0, 1])})
    >>> unequal("domain")(e, e).tolist()
    [[False, True], [True, False]]
    """
    return Equal(fact, False)


@dataclass(frozen=True)
class Within(Without):
    """The rule `without(rule, unequal(fact))` by keys; made by `within`."""

    def keys(self, a: Embeddings, c: Embeddings) -> tuple[Tensor, Tensor]:
        """One number for all rows of a domain; domains that a listed pair links share one."""
        domain = torch.cat([side.facts[cast(Equal, self.filters[0]).fact] for side in (a, c)])
        _, group = torch.unique(domain, return_inverse=True)
        left, right = self._links(a, c, group)
        key = torch.arange(len(group), device=group.device)  # of each group: the least that it is linked to
        while True:
            both = torch.minimum(key[left], key[right])
            new = key.scatter_reduce(0, left, both, "amin").scatter_reduce(0, right, both, "amin")
            if bool((new == key).all()):
                return key[group[: len(a)]], key[group[len(a) :]]
            key = new

    def _links(self, a: Embeddings, c: Embeddings, group: Tensor) -> tuple[Tensor, Tensor]:
        """Domains with a pair that the rule says something special of, by the keys of the rule or by its list."""
        keyed = by_key(self.rule)
        if keyed is None:
            edges = cast(PairRule, self.rule).edges(a, c)
            return group[edges.row], group[len(a) :][edges.col]
        _, cell = torch.unique(torch.cat(keyed.keys(a, c)), return_inverse=True)
        return group, group.scatter_reduce(0, cell, group, "amin", include_self=False)[cell]


@paper(row=155)
def within(rule: Rule, fact: str = "domain") -> Without:
    """The rule, but only rows of one domain repel each other, so that the domain itself is nothing to tell apart by.

    repel_ij = 0 where domain_i != domain_j; attract_ij stays.

    Args:
        rule: who attracts and who repels whom.
        fact: the name of the [n] integer fact that holds the domain.

    Relations:
        Where the rule lists its pairs and all others repel, only tiles with rows of one domain are computed.
        A batch of one domain at a time has the same negatives without a rule.

    References:
        Li et al. 2020, arXiv:2010.16088 (CLIM).

    >>> from counterpoint.types import same_sample
    >>> e = Embeddings.of(torch.eye(3), facts={"domain": torch.tensor([0, 0, 1])})
    >>> within(same_sample)(e, e).repel.tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    own = special(rule)
    if own is not None and own[0] == 0:
        return Within(rule, (unequal(fact),), (0.0, 0.0))
    return without(rule, unequal(fact))
