"""What a paper claims of a part, as two arms that differ in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One claim.

    Args:
        name: of the part, for people.
        says: what the paper claims, in a sentence.
        measure: what both arms return.
        with_it, without: seed -> the number; torch's own generator is seeded alike before each.
        row: of the bibliography.
        reference: of a paper that it does not hold.
        higher: whether more is better.
    """

    name: str
    says: str
    measure: str
    with_it: Callable[[int], float]
    without: Callable[[int], float]
    row: int | None = None
    reference: str | None = None
    higher: bool = True
