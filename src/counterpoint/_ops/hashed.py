"""Random numbers that belong to rows by their identity: the same in any order, in any batch, on any process."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# The constants of splitmix64: Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014.
STEP, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
BITS = np.uint64(11)  # 64 less the 53 bits of a double's fraction


def _mix(x: np.ndarray) -> np.ndarray:
    """One step of splitmix64."""
    x = x + STEP
    x = (x ^ (x >> np.uint64(30))) * FIRST
    x = (x ^ (x >> np.uint64(27))) * SECOND
    return x ^ (x >> np.uint64(31))


def hashed_uniform(salt: int, *keys: Int[Tensor, "*#n"]) -> Float[Tensor, ...]:
    """Numbers in [0, 1) that only the salt and the keys of each place decide; keys broadcast.

    >>> one, two = hashed_uniform(0, torch.arange(3)), hashed_uniform(0, torch.tensor([2, 0]))
    >>> bool(one[2] == two[0]) and bool(one[0] == two[1])
    True
    """
    x = _mix(np.array([salt], dtype=np.int64).astype(np.uint64))
    for key in keys:
        x = _mix(x ^ key.cpu().numpy().astype(np.int64).view(np.uint64))
    shape = torch.broadcast_shapes(*(key.shape for key in keys))
    return torch.from_numpy((x >> BITS).astype(np.float64) * 2.0**-53).reshape(shape)
