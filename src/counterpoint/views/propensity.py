"""Sampling against a bias: how alike two texts look, and draws that make up for how likely a candidate came to be one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from counterpoint.papers import paper


def surface(one: str, other: str) -> float:
    """How alike two texts look, whatever they mean: the mean of their shared words and of how few words an edit changes.

        surface = ( |A and B| / |A or B| + 1 - edits / max(|a|, |b|) ) / 2,      a, b words in order, A, B their sets

    Returns:
        From 0, no word in common, to 1, equal but for case.

    >>> surface("the red fox", "The red fox"), surface("a b", "c d"), surface("a b", "b a")
    (1.0, 0.0, 0.5)
    """
    a, b = one.lower().split(), other.lower().split()
    if not a or not b:
        return float(a == b)
    shared = len(set(a) & set(b)) / len(set(a) | set(b))
    return (shared + 1 - _edits(a, b) / max(len(a), len(b))) / 2


def _edits(a: Sequence[str], b: Sequence[str]) -> int:
    """The least number of words to put in, take out or exchange."""
    last = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (word != other)))
        last = row
    return last[-1]


@paper(row=30)
def inverse_propensity(propensity: Sequence[float], where: float) -> int:
    """One of some candidates, the likelier the less likely it was to become one.

        P(k) = (1 / e_k) / sum_l (1 / e_l)

    Args:
        propensity: e of each candidate, above 0.
        where: in [0, 1): the draw.

    Returns:
        The place of a candidate. Equal propensities draw all alike.

    Raises:
        ValueError: for no candidate, or a propensity that is not above 0.

    References:
        Horvitz and Thompson 1952, doi:10.1080/01621459.1952.10483446; for pairs of sentences Miao, Du, Zhang 2023
        (DebCSE), arXiv:2309.07396.

    >>> [inverse_propensity([0.5, 1.0], where) for where in (0.0, 0.6, 0.7)]
    [0, 0, 1]
    """
    if not propensity or not min(propensity) > 0:
        raise ValueError(f"wanted propensities above 0, got {list(propensity)}")
    sums = list(accumulate(1 / e for e in propensity))
    return next((k for k, sum_here in enumerate(sums) if where * sums[-1] < sum_here), len(sums) - 1)
