"""The only places that reduce over rows. Objectives end here: the value is the same on every process (`processes`)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.processes import all_max, all_sum, summed
from counterpoint._ops.scores import FLOOR


def mean(rows: Float[Tensor, " n"], weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """The weighted mean over rows, sum_i w_i r_i / sum_i w_i; 0 with zero gradient when no row has weight.

    >>> mean(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([1.0, 1.0, 0.0])).item()
    2.0
    """
    weight = torch.ones_like(rows) if weight is None else weight
    above, below = summed(torch.stack([(rows * weight).sum(), weight.sum()]))
    return above / torch.where(below > 0, below, torch.ones_like(below))


def total(rows: Float[Tensor, " n"], weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """The weighted sum over rows, sum_i w_i r_i.

    >>> total(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([1.0, 2.0, 0.0])).item()
    7.0
    """
    return summed((rows if weight is None else rows * weight).sum())


def log_total(rows: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """log sum_i exp(r_i), as exact as the rows are; the floor of an empty logsumexp, -1e9, where every row is there.

    >>> round(log_total(torch.tensor([0.0, 0.0, -1e9])).exp().item(), 6)
    2.0
    """
    none = rows.new_full((1,), FLOOR)
    best = all_max(torch.cat([rows.detach(), none]).amax())
    return (summed((rows - best).exp().sum()).clamp(min=torch.finfo(rows.dtype).tiny).log() + best).clamp(min=FLOOR)


class Moments(NamedTuple):
    """What all rows have in common: how many there are, their mean, and their covariance or its diagonal."""

    rows: Float[Tensor, ""]
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, " ..."]


def moments(z: Float[Tensor, "n d"], *, diagonal: bool = False) -> Moments:
    """Mean and covariance over all rows, the covariance divided by their number; zeros where there is no row.

    What is done with them has to be alike on every process, as for `mean`; to use them on rows, see `to_rows`.

    Args:
        z: the rows of this process.
        diagonal: the variances alone, [d]; else [d d].

    >>> moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).covariance.tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    count = summed(torch.ones_like(z[:, :1]).sum())
    below = count.clamp(min=1)
    near = all_sum(z.detach().sum(0)) / below  # so near the mean that squares lose no digits; without gradient
    moved = z - near
    squares = moved.square().sum(0) if diagonal else moved.T @ moved  # which a move of the mean does not change
    return Moments(count, near + summed(moved.sum(0)) / below, summed(squares) / below)
