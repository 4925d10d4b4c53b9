"""Random numbers that belong to a row, not to its place: a batch draws alike whether it is split over processes or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from counterpoint._ops.hashed import hashed_uniform


def uniform(
    generator: torch.Generator, rows: Int[Tensor, " n"] | Sequence[int], count: int | None = None
) -> Float64[Tensor, "n ..."]:
    """Numbers in [0, 1) that depend on a draw from the generator, on each row's number and on the column; on nothing else.

    Args:
        generator: one whole number is drawn from it, however many rows there are.
        rows: the row numbers (`batch["row"]`).
        count: numbers for each row; None: one, without an axis of its own.

    >>> whole = uniform(torch.Generator().manual_seed(0), [5, 6, 7], 2)
    >>> torch.equal(uniform(torch.Generator().manual_seed(0), [7, 5], 2), whole[[2, 0]])
    True
    """
    salt = torch.empty((), dtype=torch.int64).random_(generator=generator)
    row = torch.as_tensor(rows, dtype=torch.int64)
    numbers = hashed_uniform(salt, row[:, None], torch.arange(1 if count is None else count))
    return numbers[:, 0] if count is None else numbers
