"""Joins of two id lists by sorting, so that who-pairs-with-whom never costs an n x m matrix."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def spread_ranges(start: Int[Tensor, " n"], stop: Int[Tensor, " n"]) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
    """All (i, j) with start[i] <= j < stop[i], as two index lists.

    >>> [x.tolist() for x in spread_ranges(torch.tensor([0, 5]), torch.tensor([2, 6]))]
    [[0, 0, 1], [0, 1, 5]]
    """
    length = (stop - start).clamp(min=0)
    owner = torch.repeat_interleave(torch.arange(len(start), device=start.device), length)
    before = torch.cumsum(length, 0) - length
    return owner, torch.arange(len(owner), device=start.device) - before[owner] + start[owner]


def matches(left: Int[Tensor, " n"], right: Int[Tensor, " m"]) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
    """All (i, j) with left[i] == right[j], in n log m + m log m, never as an n x m matrix.

    >>> [x.tolist() for x in matches(torch.tensor([3, 9]), torch.tensor([9, 3, 3]))]
    [[0, 0, 1], [1, 2, 0]]
    """
    ordered, place = torch.sort(right, stable=True)
    owner, at = spread_ranges(torch.searchsorted(ordered, left), torch.searchsorted(ordered, left, right=True))
    return owner, place[at]
