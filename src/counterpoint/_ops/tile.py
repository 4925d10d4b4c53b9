"""What a tile function sees: scores, pairs and the facts of both sides, all shaped to broadcast; and its small tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from counterpoint.types import Embeddings, Pairs

Output = Tensor | tuple[Tensor, Tensor]
# (scores, pairs, anchors, candidates, params) -> named values, each elementwise in the pair.
Tile = Callable[[Mapping[str, Tensor], Pairs, "Side", "Side", Mapping[str, Tensor]], Mapping[str, Output]]


class Side:
    """One side of a tile: `side["label"]` and `side.id` broadcast against the scores, whatever their shape.

    Facts with more than one number a row are compared by a score, not read here.

    Args:
        rows: the rows of this side.
        index: None over listed pairs, else a shape such as (slice(None), None).
        facts: facts that replace those of the rows, such as leaves of a gradient.
    """

    def __init__(
        self, rows: Embeddings, index: tuple[slice | None, ...] | None, facts: Mapping[str, Tensor] | None = None
    ) -> None:
        self._rows, self._index, self._facts = rows, index, facts or {}

    def _shaped(self, column: Tensor) -> Tensor:
        return column if self._index is None else column[self._index]

    def __getitem__(self, fact: str) -> Tensor:
        column = self._facts.get(fact, self._rows.facts.get(fact))
        if column is None:
            known = ", ".join(sorted(self._rows.facts)) or "none"
            raise KeyError(f"a tile reads the fact '{fact}', which its rows do not have; they have: {known}")
        if column.ndim > 1:
            raise ValueError(
                f"the fact '{fact}' has {column[0].numel()} numbers a row; compare it by a score, dot('{fact}')"
            )
        return self._shaped(column)

    @property
    def id(self) -> Tensor:
        """Content ids."""
        return self._shaped(self._rows.id)

    @property
    def view(self) -> Tensor:
        """Numbers of views."""
        return self._shaped(self._rows.view)

    @property
    def part(self) -> Tensor:
        """Numbers of parts."""
        return self._shaped(self._rows.part)

    @property
    def age(self) -> Tensor:
        """Ages; 0 for rows of this step."""
        return self._shaped(self._rows.age)


ROWS, COLUMNS = (slice(None), None), (None, slice(None))


def constant_pairs(elsewhere: tuple[float, float], like: Tensor) -> Pairs:
    """The pairs of a tile without a special one: two numbers, on the CPU, so that asking for them never waits."""
    return Pairs(*(torch.tensor(value, dtype=like.dtype) for value in elsewhere))


def times(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value, without the work where the weight of all pairs is the number 0 or 1.

    >>> times(torch.tensor(0.0), torch.ones(2, 2))
    tensor(0.)
    """
    if weight.ndim == 0 and not weight.requires_grad:
        if weight == 0:
            return weight
        if weight == 1:
            return value
    return weight * value


def keep(value: Tensor, where: Tensor, otherwise: float = 0.0) -> Tensor:
    """The value of pairs where `where` holds, else a number without gradient; no work where one answer fits all pairs.

    >>> keep(torch.ones(2), torch.tensor([True, False])).tolist()
    [1.0, 0.0]
    """
    if where.ndim == 0:
        return value if where else torch.tensor(otherwise, dtype=value.dtype)
    return torch.where(where, value, otherwise)
