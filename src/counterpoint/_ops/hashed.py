"""Random numbers that belong to rows by what they are: the same in any order, in any batch, on any process."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from torch import Tensor

# splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as 64-bit whole numbers
# with a sign: the step of its counter, and the shifts and factors of its mix (Stafford's variant 13).
STEP = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
LAST = 31
FRACTION = 53  # bits of a double


def hashed_uniform(salt: int | Int[Tensor, ""], *keys: Int[Tensor, "*#n"]) -> Float64[Tensor, ...]:
    """Numbers in [0, 1) that only the salt and the keys of each place decide; keys broadcast.

    >>> one, two = hashed_uniform(0, torch.arange(3)), hashed_uniform(0, torch.tensor([2, 0]))
    >>> bool(one[2] == two[0]) and bool(one[0] == two[1])
    True
    """
    found = mixed(torch.as_tensor(salt, dtype=torch.int64) + STEP)
    for key in keys:
        found = mixed((found ^ key.cpu()) + STEP)
    return shifted(found, 64 - FRACTION).double() * 2.0**-FRACTION


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
