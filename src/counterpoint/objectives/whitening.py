"""Whitening: rows whose coordinates have variance 1 and no correlation, by statistics over all rows of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.processes import to_rows
from counterpoint._ops.reduce import moments
from counterpoint.papers import paper
from counterpoint.types import Embeddings


class _InverseRoot(torch.autograd.Function):
    """S^(-1/2) of symmetric positive matrices; its gradient divides by no difference of eigenvalues."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values.sqrt(), vectors)
        return (vectors * values.rsqrt()[..., None, :]) @ vectors.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        left, right = roots[..., :, None], roots[..., None, :]
        inside = vectors.mT @ ((grads[0] + grads[0].mT) / 2) @ vectors
        # (a^-1/2 - b^-1/2) / (a - b) of two eigenvalues, written without the difference: Daleckii and Krein 1965
        return vectors @ (inside * (-1 / (left * right * (left + right)))) @ vectors.mT


def inverse_root(matrix: Float[Tensor, "*b d d"]) -> Float[Tensor, "*b d d"]:
    """S^(-1/2) of a symmetric matrix whose eigenvalues are above 0, differentiable also where they are equal.

    >>> inverse_root(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).tolist()
    [[0.5, 0.0], [0.0, 2.0]]
    """
    return _InverseRoot.apply(matrix)


@paper(row=28)
def whiten(
    rows: Embeddings,
    *,
    groups: int = 1,
    order: Int[Tensor, " d"] | None = None,
    eps: float = 1e-5,
    constant: bool = False,
) -> Embeddings:
    """The rows with mean 0, and in each group of coordinates the identity as covariance, turned as little as can be.

    For the coordinates of a group, their mean m and covariance S (divided by n) over the rows of all processes,

        z <- (S + eps)^(-1/2) (z - m)          (ZCA)

    Args:
        rows: n rows of width d; more rows than coordinates in a group, or else eps decides.
        groups: into which the coordinates are split, one after another; a divisor of d. 1: all together; d: each is
            standardised by itself.
        order: [d] a permutation of the coordinates before they are split, undone afterwards; the same on every process.
            Another one for each view makes different positives of one embedding (shuffled group whitening).
        eps: added to the variances; at least 0.
        constant: whether the matrix is taken as a constant, as in the authors' code; else the gradient knows that it
            changes with the rows.

    Returns:
        The rows; ids, facts and all else as they were.

    Raises:
        ValueError: for groups that do not divide the width, or an order of other length.

    Differs:
        The authors' code has no eps, and the matrix in it is a constant of the gradient. When they evaluate they whiten
        with the batch at hand; leave it out instead, so that a row's embedding is its own.

    Relations:
        `decorrelation` pulls towards what this enforces. With groups = d it is `decorrelation.standardised`. It looks
        across rows, so a method calls it in its objective and not in its encoder.

    References:
        Zhuo et al. 2023, arXiv:2305.17746; github.com/SupstarZh/WhitenedCSE, shuffled_group_whitening.py.

    >>> z = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> whiten(Embeddings.of(z), eps=0.0).z.square().sum(0).round(decimals=4).tolist()
    [4.0, 4.0]
    """
    n, d = rows.z.shape
    if groups < 1 or d % groups:
        raise ValueError(f"wanted a number of groups that divides the width {d}, got {groups}")
    if order is not None and len(order) != d:
        raise ValueError(f"wanted an order of all {d} coordinates, got {len(order)}")
    z = rows.z if order is None else rows.z[:, order]
    found, size = moments(z), d // groups
    at = torch.arange(d, device=z.device).view(groups, size)
    blocks = found.covariance[at[:, :, None], at[:, None, :]]
    blocks = blocks.detach() if constant else blocks
    roots = to_rows(inverse_root(blocks + eps * torch.eye(size, dtype=z.dtype, device=z.device)))
    moved = (z - to_rows(found.mean)).view(n, groups, size)
    white = torch.einsum("ngk,gkl->ngl", moved, roots).reshape(n, d)
    return replace(rows, z=white if order is None else white[:, torch.argsort(order)])
