"""Rows of length 1, with a gradient that takes one copy of the rows and not six."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 4096  # rows whose products are alive at once
LEAST = 1e-12  # length below which a row counts as zero, as in torch.nn.functional.normalize


class _Unit(torch.autograd.Function):
    """z / |z|, for [n d] or [n t d]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        unit = z / _length(z)
        ctx.save_for_backward(z, unit)
        return unit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        z, unit = ctx.saved_tensors
        blocks = zip(*(x.split(BLOCK) for x in (z, unit, grads[0])), strict=True)
        if torch.is_grad_enabled():
            return torch.cat([_tangent(*block) for block in blocks])
        total = torch.empty_like(unit)
        for part, block in zip(total.split(BLOCK), blocks, strict=True):
            part.copy_(_tangent(*block))
        return total


def _length(z: Tensor) -> Tensor:
    return torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp(min=LEAST)


def _tangent(z: Tensor, unit: Tensor, grad: Tensor) -> Tensor:
    """The part of a gradient that turns a row, over its length; a zero row has no direction to lose."""
    along = (unit * grad).sum(-1, keepdim=True)
    return (grad - unit * along) / _length(z)


def to_unit(z: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Rows scaled to length 1; a zero row stays zero.

    >>> to_unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return _Unit.apply(z) if len(z) else z
