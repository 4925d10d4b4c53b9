"""Pieces of a document: how long they are, and where one lies that is near another."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.special import betaincinv

LEAST = 2.0**-53  # the least number above 0 that is ever drawn; of far smaller ones the inverse is no number


def span_near(
    words: int, anchor: tuple[int, int], numbers: Sequence[float], *, shortest: int, longest: int,
    beta: tuple[float, float] = (2.0, 4.0)
) -> tuple[int, int]:  # fmt: skip
    """Where a piece that touches, overlaps or lies in another begins and ends.

        start ~ uniform over s - l, ..., e,   for a piece of l words beside the one from s to e, inside the document

    Args:
        words: of the document.
        anchor: where the other begins and ends.
        numbers: two.
        shortest, longest, beta: as in `views.text.span`.

    References:
        Giorgi et al. 2021, arXiv:2006.03659 (DeCLUTR), section 3.1.

    >>> span_near(9, (4, 6), [0.5, 0.0], shortest=2, longest=2)
    (2, 4)
    """
    u, v = numbers[:2]
    long = span_length(words, u, shortest=shortest, longest=longest, beta=beta)
    first, last = max(0, anchor[0] - long), min(words - long, anchor[1])
    start = first + int(v * (last - first + 1))
    return start, start + long


def span_length(words: int, number: float, *, shortest: int, longest: int, beta: tuple[float, float]) -> int:
    """The words of a piece by a number in [0, 1); see `views.text.span`.

    >>> [span_length(100, u, shortest=0, longest=10, beta=(4.0, 2.0)) for u in (0.0, 0.5, 0.999)]
    [0, 6, 9]
    """
    if not 0 <= shortest <= longest:
        raise ValueError(f"wanted 0 <= shortest <= longest for a span, got {shortest} and {longest}")
    low, high = min(shortest, words), min(longest, words)
    return low + int(float(betaincinv(*beta, max(number, LEAST))) * (high - low))
