"""Which neighbours of a query become its negatives: plain numbers, the one home of their defaults. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from counterpoint.errors import Refusal

CHOICES = {"against": ("weakest", "strongest"), "pick": ("top", "random")}
WHOLE, OPTIONAL = ("count", "depth", "skip", "seed"), ("margin", "relative_margin", "highest", "lowest")


@dataclass(frozen=True)
class Mining:
    """Which neighbours of a query become its negatives. Scores are cosines where rows have unit length.

    Args:
        count: negatives for each query, at most; at least 1.
        depth: how many of the nearest candidates are looked at, at least 1. Ranks count candidates that are not known
            to belong to the query.
        skip: the first ranks that are left out, where false negatives are most frequent; at least 0, below depth.
        margin: a negative scores at most the positive less this; None: no such limit.
        relative_margin: a negative scores at most the positive less this share of its size; 0.05 is 95 % of it.
        highest, lowest: limits of the score itself.
        filter_margin: what the filter scores above its own score of the positive less this is dropped.
        against: which positive counts where a query has several: the "weakest" (lowest score) or the "strongest".
        pick: "top" takes the nearest that are left, "random" draws among all that are left.
        seed: of the draws, which belong to pairs by identity: the order of rows does not change them.

    Raises:
        Refusal: for a number out of its range.
    """

    count: int = 4
    depth: int = 100
    skip: int = 0
    margin: float | None = None
    relative_margin: float | None = 0.05
    highest: float | None = None
    lowest: float | None = None
    filter_margin: float = 0.0
    against: str = "weakest"
    pick: str = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        for name, least in (("count", 1), ("depth", 1), ("skip", 0)):
            if getattr(self, name) < least:
                raise Refusal(f"at least {least}", getattr(self, name), where=f"--{name}")
        if self.skip >= self.depth:
            remedy = "the first --skip ranks of --depth are left out"
            raise Refusal(f"a --skip below --depth {self.depth}", self.skip, where="--skip", remedy=remedy)
        if self.count > self.depth - self.skip:
            came, remedy = f"{self.count} of {self.depth - self.skip}", "raise --depth"
            raise Refusal("no more negatives than candidates looked at", came, where="--count", remedy=remedy)
        if self.highest is not None and self.lowest is not None and self.lowest > self.highest:
            raise Refusal(f"a --lowest of at most --highest {self.highest}", self.lowest, where="--lowest")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise Refusal(" or ".join(allowed), f"'{getattr(self, name)}'", where=f"--{name}")

    @property
    def compares(self) -> bool:
        """Whether candidates are compared with a positive."""
        return self.margin is not None or self.relative_margin is not None

    def _check_types(self) -> None:
        """What a Python caller may get wrong; the command line hands over the right types."""
        for name in (*WHOLE, *OPTIONAL, "filter_margin"):
            value, kind = getattr(self, name), Integral if name in WHOLE else Real
            if value is None and name in OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
                wanted = "a whole number" if kind is Integral else "a finite number"
                raise Refusal(wanted, repr(value), where=f"--{name.replace('_', '-')}")
        for name in ("margin", "relative_margin", "filter_margin"):
            if (getattr(self, name) or 0) < 0:
                remedy = "a margin says how far below the positive a negative has to be"
                raise Refusal(
                    "a margin of at least 0", getattr(self, name), where=f"--{name.replace('_', '-')}", remedy=remedy
                )
