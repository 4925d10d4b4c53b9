"""Random numbers that belong to a row, not to its place: a batch draws alike whether it is split over processes or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

# splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as 64-bit whole numbers
# with a sign: the step of its counter, and the shifts and factors of its mix (Stafford's variant 13).
STEP = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
LAST = 31
FRACTION = 53  # bits of a double


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
    row = torch.as_tensor(rows, dtype=torch.int64).cpu()
    column = torch.arange(1 if count is None else count)
    found = mixed(mixed(salt + STEP * (row + 1))[:, None] + STEP * (column + 1))
    numbers = shifted(found, 64 - FRACTION).double() * 2.0**-FRACTION
    return numbers[:, 0] if count is None else numbers


def mixed(state: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The output function of splitmix64: every bit of the result depends on every bit of the state.

    >>> hex(int(mixed(torch.tensor(STEP))) % 2**64)
    '0xe220a8397b1dcdaf'
    """
    for bits, factor in ROUNDS:
        state = (state ^ shifted(state, bits)) * factor
    return state ^ shifted(state, LAST)


def shifted(state: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """Bits moved to the right; zeros come in from the left."""
    return (state >> bits) & (2 ** (64 - bits) - 1)
