"""Many processes that work on one batch: rows that all of them see, sums that all of them share.

The convention: each process holds some rows of every sharded set, all processes hold the same rows of a replicated one.
The value of a loss is the same number everywhere; backward on a process yields what its own rows and its own share of
the pairs contribute to the gradient; the sum over processes is the gradient of one process that holds everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from counterpoint._ops.world import count, rank
from counterpoint.types import Embeddings


class Shares(NamedTuple):
    """How the rows of a sharded set lie one after another, in the order of the processes."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def own(self) -> slice:
        """The rows of this process among all."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])


def all_sum(x: Tensor) -> Tensor:
    """The sum over processes, without gradient."""
    if count() > 1:
        x = x.contiguous().clone()
        dist.all_reduce(x)
    return x


def all_max(x: Tensor) -> Tensor:
    """The largest over processes, without gradient."""
    if count() > 1:
        x = x.contiguous().clone()
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def all_rows(x: Tensor, shares: Shares) -> Tensor:
    """The rows of all processes, [sum of sizes, ...], without gradient."""
    found = [padded(x[:0], shares) for _ in shares.sizes]
    dist.all_gather(found, padded(x, shares))
    return torch.cat([part[:size] for part, size in zip(found, shares.sizes, strict=True)])


def padded(x: Tensor, shares: Shares) -> Tensor:
    """The rows of one process with zeros after them, as many as the longest share has."""
    return torch.cat([x, x.new_zeros(max(shares.sizes) - len(x), *x.shape[1:])])


class _AllRows(torch.autograd.Function):
    """The rows of all processes; the gradient of a row is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return all_rows(x, shares)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        parts = [padded(part, ctx.shares) for part in grads[0].split(ctx.shares.sizes)]
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, parts)
        return own[: ctx.shares.sizes[ctx.shares.rank]], None


def shares_of(rows: Embeddings) -> Shares:
    """How many rows each process has.

    Raises:
        ValueError: where processes hold rows of different shape.
    """
    columns = [rows.z, *(fact for _, fact in sorted(rows.facts.items()))]
    inner = [size for column in columns for size in column.shape[1:]]
    mine = torch.tensor(
        [len(rows), len(columns), sum((k + 1) * size for k, size in enumerate(inner))], device=rows.z.device
    )
    table = all_rows(mine[None], Shares((1,) * count(), rank())).tolist()
    if any(row[1:] != table[0][1:] for row in table):
        shapes = {name: list(column.shape[1:]) for name, column in {"z": rows.z, **rows.facts}.items()}
        raise ValueError(
            f"wanted rows of one shape on all processes, this one has {shapes}; pad token sets to one length"
        )
    return Shares(tuple(row[0] for row in table), rank())


def everywhere(rows: Embeddings, shares: Shares | None = None) -> Embeddings:
    """The rows of all processes on each of them, in the order of the processes; differentiable.

    A replicated set is there already. All floating columns travel as one tensor, all whole numbers as another.
    """
    if count() == 1 or rows.placement == "replicated":
        return rows
    shares = shares or shares_of(rows)
    columns = {"z": rows.z, "id": rows.id, "view": rows.view, "part": rows.part, "age": rows.age}
    columns |= {f"fact {name}": fact for name, fact in sorted(rows.facts.items())}
    found: dict[str, Tensor] = {}
    for floating in (True, False):
        own = {name: column for name, column in columns.items() if column.is_floating_point() == floating}
        flat = [column.reshape(len(rows), prod(column.shape[1:])) for column in own.values()]
        common = torch.int64
        if floating:
            common = torch.float64 if any(f.dtype == torch.float64 for f in flat) else torch.float32
        whole = _AllRows.apply(torch.cat([f.to(common) for f in flat], 1), shares)
        pieces = whole.split([f.shape[1] for f in flat], 1)
        for (name, column), piece in zip(own.items(), pieces, strict=True):
            found[name] = piece.reshape(len(piece), *column.shape[1:]).to(column.dtype).contiguous()
    facts = {name: found[f"fact {name}"] for name in rows.facts}
    return replace(
        rows, z=found["z"], id=found["id"], view=found["view"], part=found["part"], age=found["age"], facts=facts
    )


def joined(sets: Sequence[Embeddings]) -> Embeddings:
    """Several sets as one, where some are replicated, such as a queue: the others are brought everywhere first."""
    if len({rows.placement for rows in sets}) == 1:
        return Embeddings.cat(sets)
    return Embeddings.cat([replace(everywhere(rows), placement="replicated") for rows in sets])


class _Shared(torch.autograd.Function):
    """The value as it is; each process passes on its share of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = count()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / ctx.count


def shared(x: Tensor) -> Tensor:
    """A value that every process computes in whole, such as a penalty on a parameter: its gradient is to count once."""
    return _Shared.apply(x) if count() > 1 else x


class _Summed(torch.autograd.Function):
    """The sum over processes; each process's own rows get their own gradient."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return all_sum(x)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def summed(x: Tensor) -> Tensor:
    """A sum over the rows of this process -> the sum over the rows of all, differentiable."""
    return _Summed.apply(x) if count() > 1 else x


class _ToRows(torch.autograd.Function):
    """The value as it is; its gradient is the sum of what the rows of all processes have for it."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        return all_sum(grads[0])


def to_rows(x: Tensor) -> Tensor:
    """A value that is the same on every process, such as a mean of all rows, for each to use on its own rows."""
    return _ToRows.apply(x) if count() > 1 else x
