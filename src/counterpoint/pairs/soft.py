"""Soft targets: how strongly two samples attract each other, by facts of both: labels, numbers, a teacher's vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.layout import Rule, by_key, special
from counterpoint._ops.unit import to_unit
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, PairRule, Pairs, Relation, densify

Weigh = Callable[[Tensor, Tensor], Tensor]
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda d: (-d).exp(),
    "gaussian": lambda d: (-d.square() / 2).exp(),
    "inverse": lambda d: 1 / (1 + d),
}


@dataclass(frozen=True)
class Soft:
    """The rule of weights made from one fact of both sides; made by `overlapping`, `near` and `alike`.

    Args:
        weigh: facts of two tiles -> weights [n m], at least 0.
        fact: the column it reads.
    """

    weigh: Weigh
    fact: str

    elsewhere = None

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """Other views of oneself attract with weight 1, other samples by their weight; what has no weight repels."""
        same = a.id[:, None] == c.id[None, :]
        oneself = (a.view[:, None] == c.view[None, :]) & (a.part[:, None] == c.part[None, :])
        stale = (a.age[:, None] > 0) | (c.age[None, :] > 0)
        weight = self.weigh(a.facts[self.fact].to(a.z.dtype), c.facts[self.fact].to(a.z.dtype))
        attract = torch.where(same, (~(oneself | stale)).to(weight), weight)
        return Pairs(attract, (~same & (weight <= 0)).to(weight))


def _overlap(x: Float[Tensor, "n c"], y: Float[Tensor, "m c"], *, measure: str, least: float) -> Float[Tensor, "n m"]:
    """How much of two label vectors is common."""
    common, left, right = x @ y.T, x.square().sum(1)[:, None], y.square().sum(1)[None, :]
    below = (left * right).sqrt() if measure == "cosine" else left + right - common
    weight = common / torch.where(below > 0, below, 1.0)
    return torch.where((weight > 0) & (weight >= least), weight, 0.0)


def _kernel(x: Tensor, y: Tensor, *, kernel: Callable[[Tensor], Tensor], width: float, least: float) -> Tensor:
    """A kernel of the distance of two facts, one number or several."""
    if x.ndim == 1:
        distance = (x[:, None] - y[None, :]).abs()
    else:  # not by a product: a distance of 0 has to be 0
        distance = torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    weight = kernel(distance / width)
    return torch.where(weight >= least, weight, 0.0)


def _cosine(x: Tensor, y: Tensor, *, least: float, graded: bool) -> Tensor:
    """Weights of a teacher's cosines."""
    cosine = to_unit(x) @ to_unit(y).T
    weight = (cosine / 2 + 0.5).clamp(min=0) if graded else torch.ones_like(cosine)
    return torch.where(cosine >= least, weight, 0.0)


@paper(row=208)
def overlapping(fact: str = "labels", *, measure: Literal["cosine", "jaccard"] = "cosine", least: float = 0.0) -> Soft:
    """Samples attract by how many of their labels they share; those that share none repel.

        attract_ij = y_i.y_j / (|y_i| |y_j|)  or  y_i.y_j / (|y_i|^2 + |y_j|^2 - y_i.y_j);  repel_ij = [attract_ij = 0]

    Other views of one sample attract with weight 1, oneself is ignored; equal id never repels.

    Args:
        fact: the name of the [n c] fact of labels: 0 and 1, or how much there is of each, at least 0.
        measure: "cosine", or "jaccard": labels in common over labels in either.
        least: overlaps below this count as none; from 0 to 1.

    Raises:
        ValueError: for another measure.

    Differs:
        The paper fits the similarity of each pair to the overlap; read here, from its abstract, as `siglip` with
        `complemented(overlapping())`. `infonce` takes the overlaps as a target distribution instead.

    Relations:
        With one label each this is `labelled`; with labels that nobody shares, `same_sample`.

    References:
        Wang, Albrecht, Zhu 2024, arXiv:2405.20462.

    >>> e = Embeddings.of(torch.zeros(3, 1), facts={"labels": torch.tensor([[1, 1], [1, 0], [0, 1]])})
    >>> overlapping(measure="jaccard")(e, e).attract.tolist()
    [[0.0, 0.5, 0.5], [0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]
    """
    if measure not in ("cosine", "jaccard"):
        raise ValueError(f"wanted the measure 'cosine' or 'jaccard', got '{measure}'")
    return Soft(partial(_overlap, measure=measure, least=least), fact)


@paper(row=62)
def near(
    fact: str = "value",
    *,
    kernel: Literal["exponential", "gaussian", "inverse"] | Callable[[Tensor], Tensor] = "exponential",
    width: float = 1.0,
    least: float = 0.0,
) -> Soft:
    """Samples attract by how close their numbers lie: an age, an angle, the state of a robot, a time.

        attract_ij = k(|v_i - v_j| / b),  k(d) = exp(-d), exp(-d^2 / 2) or 1 / (1 + d);  repel_ij = [attract_ij = 0]

    Other views of one sample attract with weight 1, oneself is ignored; equal id never repels.

    Args:
        fact: the name of the fact, [n] or [n k]; distances are Euclidean.
        kernel: one of the three, or any function of d / b, elementwise, at least 0.
        width: b, in the unit of the fact; above 0.
        least: weights below this count as none; from 0 to 1.

    Raises:
        ValueError: for a width that is not above 0, or a kernel without a name here.

    Differs:
        The paper takes the sum over anchors, `infonce` the mean.

    Relations:
        `infonce(rule=near())` has the targets softmax_j(-|v_i - v_j| / b). b towards 0 gives `same_sample`, b towards
        infinity uniform targets. Of unit vectors the Gaussian kernel is exp((cos - 1) / b^2), a softmax over a teacher's
        cosines.

    References:
        Kim et al. 2025, arXiv:2510.01711.

    >>> e = Embeddings.of(torch.zeros(2, 1), facts={"value": torch.tensor([0.0, 3.0])})
    >>> near(kernel="inverse")(e, e).attract.tolist()
    [[0.0, 0.25], [0.25, 0.0]]
    """
    if not width > 0:
        raise ValueError(f"wanted a width above 0, got {width}")
    if isinstance(kernel, str):
        if kernel not in KERNELS:
            raise ValueError(f"wanted a kernel of {', '.join(KERNELS)}, or a function, got '{kernel}'")
        kernel = KERNELS[kernel]
    return Soft(partial(_kernel, kernel=kernel, width=width, least=least), fact)


@paper(row=220)
def alike(fact: str = "teacher", *, least: float = -math.inf, graded: bool = True) -> Soft:
    """Samples attract by how alike a teacher finds them.

        attract_ij = (1 + cos(p_i, p_j)) / 2 where cos(p_i, p_j) >= least;  repel_ij = [attract_ij = 0]

    Other views of one sample attract with weight 1, oneself is ignored; equal id never repels.

    Args:
        fact: the name of the [n e] fact of a teacher's vectors, of one space on both sides.
        least: the cosine from which on a pair attracts; -inf: every pair but opposites does.
        graded: by the cosine, as above; False: all that attract do so with weight 1.

    Relations:
        `infonce(rule=alike())` is the weighted direction of CWCL; its other direction is `infonce` with sides
        exchanged and `same_sample`. Where every sample is alike only to itself this is `same_sample`; a teacher
        of one-hot class vectors with `least=1` is `labelled`.

    References:
        Srinivasa et al. 2023, arXiv:2309.14580.

    >>> e = Embeddings.of(torch.zeros(2, 1), facts={"teacher": torch.eye(2)})
    >>> alike()(e, e).attract.tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    return Soft(partial(_cosine, least=least, graded=graded), fact)


def regraded(relation: Relation, weight: Callable[[Tensor], Tensor]) -> Relation:
    """The same pairs with another grade: from what was counted or judged to how strongly it is to attract.

    Args:
        relation: edges with grades.
        weight: of grades, elementwise, at least 0; such as `torch.log1p` of clicks, or 1 / rank.

    Raises:
        ValueError: for a weight below 0.

    Relations:
        `infonce(rule=listed(regraded(...)), normalize="none")` multiplies the loss of a pair by its weight.

    >>> regraded(Relation.of([1, 1], [5, 6], [1.0, 4.0]), torch.sqrt).positives(1)
    {5: 1.0, 6: 2.0}
    """
    grade = weight(relation.grade)
    if len(grade) and bool((grade < 0).any()):
        raise ValueError(f"wanted weights of at least 0, got {float(grade.min())}")
    return replace(relation, grade=grade)


@dataclass(frozen=True)
class Complemented:
    """The rule of two answers to one question; made by `complemented`."""

    rule: Rule

    elsewhere: tuple[float, float] | None = None

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        attract, repel = self.rule(a, c)
        return Pairs(attract, _rest(attract, repel))


@dataclass(frozen=True)
class ComplementedEdges(Complemented):
    """The same of a rule that lists its pairs."""

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        assert self.elsewhere is not None
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """The pairs of the rule."""
        assert isinstance(self.rule, PairRule)
        edges = self.rule.edges(a, c)
        return edges._replace(repel=_rest(edges.attract, edges.repel))


@dataclass(frozen=True)
class ComplementedKeys(Complemented):
    """The same of a rule that has keys."""

    def keys(self, a: Embeddings, c: Embeddings) -> tuple[Tensor, Tensor]:
        """The keys of the rule."""
        keyed = by_key(self.rule)
        assert keyed is not None
        return keyed.keys(a, c)


def _rest(attract: Tensor, repel: Tensor) -> Tensor:
    """1 - attract of every pair that the rule says something of."""
    return torch.where((attract > 0) | (repel > 0), (1 - attract).clamp(min=0), 0.0)


def complemented(rule: Rule) -> Complemented:
    """Each pair is a positive by its weight and a negative by what is missing to 1: a yes and a no of one question.

    repel_ij = 1 - attract_ij of every pair that the rule says something of; pairs that it ignores stay ignored.

    Args:
        rule: with attract weights from 0 to 1.

    Relations:
        For `siglip`: a pair then costs the binary cross-entropy of its weight and the sigmoid of its logit, least where
        both are equal. For weights of 0 and 1, with repel weights of 1, it changes nothing.

    >>> e = Embeddings.of(torch.zeros(2, 1), facts={"value": torch.tensor([0.0, 3.0])})
    >>> complemented(near(kernel="inverse"))(e, e).repel.tolist()
    [[0.0, 0.75], [0.75, 0.0]]
    """
    own = special(rule)
    if own is None:
        return Complemented(rule)
    left = (own[0], max(1 - own[0], 0.0) if max(own) > 0 else 0.0)
    if by_key(rule) is not None:
        return ComplementedKeys(rule, left)
    return ComplementedEdges(rule, left)
