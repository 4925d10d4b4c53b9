"""Continuous labels: rows of equal value are positives, and a negative weighs by how far its value is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from counterpoint.papers import paper
from counterpoint.types import Embeddings, Pairs


@dataclass(frozen=True)
class Spaced:
    """The rule that reads a continuous label; made by `spaced`."""

    fact: str
    heavy: Literal["far", "near"]

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The weights of all pairs; there is no sparse form, since every pair weighs something else."""
        gap = (a.facts[self.fact][:, None] - c.facts[self.fact][None, :]).abs()
        same = a.id[:, None] == c.id[None, :]
        here = (a.age[:, None] == 0) & (c.age[None, :] == 0)
        oneself = same & (a.view[:, None] == c.view[None, :]) & (a.part[:, None] == c.part[None, :])
        attract = (gap == 0) & ~(same & (oneself | ~here))
        weight = gap.to(a.z) + 1
        weight = weight if self.heavy == "far" else 1 / weight
        return Pairs(attract.to(a.z), weight.masked_fill((gap == 0) | same, 0.0))


@paper(row=41)
def spaced(fact: str = "value", *, heavy: Literal["far", "near"] = "far") -> Spaced:
    """Rows of equal value attract; the others repel, weighed by how far apart the values are.

        attract_ij = [y_i = y_j],    repel_ij = |y_i - y_j| + 1  (far)  or  1 / (|y_i - y_j| + 1)  (near)

    In the denominator of a softmax a positive weighs 1, as its gap of 0 says. Oneself is ignored, and equal id never repels.

    Args:
        fact: the name of the [n] fact that holds the value; its unit is the unit of the gap, so scale it.
        heavy: which negatives weigh most: "far" spreads rows by their labels, "near" separates those of close labels.

    Raises:
        ValueError: for another name of what is heavy.

    Differs:
        The weights of SupReMix alone, as rule of `infonce` or of a loss with its mixtures. The authors' code divides the sum
        over an anchor's positives by one more than their number, which no rule says; it calls the two "L1_inv" and "L1".

    Relations:
        With all gaps counting as 0 this is `labelled` with one label for each value.

    References:
        Wu et al. 2023, arXiv:2309.16633, equation 3; SupConLoss_v2 in imdb-wiki/supremix_loss.py of
        github.com/Dingyijiang1/Mixup-Your-Own-Pairs.

    >>> import torch
    >>> e = Embeddings.of(torch.eye(3), facts={"value": torch.tensor([1.0, 1.0, 4.0])})
    >>> spaced()(e, e).repel.tolist()
    [[0.0, 0.0, 4.0], [0.0, 0.0, 4.0], [4.0, 4.0, 0.0]]
    """
    if heavy not in ("far", "near"):
        raise ValueError(f"wanted 'far' or 'near' to be heavy, got '{heavy}'")
    return Spaced(fact, heavy)
