"""The backend of listed pairs: where a tile says one number of all other pairs, only the listed ones are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from counterpoint._ops.running import segment
from counterpoint._ops.scores import Score
from counterpoint._ops.task import Task, columns_of, first_order, parts
from counterpoint._ops.tile import Side
from counterpoint.types import Edges, Pairs


class _OnPairs(torch.autograd.Function):
    """Scores of listed pairs, a block at a time: gathered rows are never all alive."""

    @staticmethod
    def forward(ctx: Any, score: Score, at: tuple[Tensor, Tensor], block: int, *columns: Tensor) -> Tensor:
        """One number a pair."""
        ctx.save_for_backward(*columns)
        ctx.state = score, at, block
        half = len(columns) // 2
        pieces = [
            score.on_pairs(tuple(x[row] for x in columns[:half]), tuple(y[col] for y in columns[half:]))
            for row, col in _blocks(at, block)
        ]
        return torch.cat(pieces) if pieces else columns[0].new_zeros(0)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Each block again."""
        score, at, block = ctx.state
        columns = ctx.saved_tensors
        half, sums = len(columns) // 2, [torch.zeros_like(x) for x in columns]
        for (row, col), grad in zip(_blocks(at, block), grads[0].split(block), strict=True):
            places = [row] * half + [col] * half
            gathered = [x.detach()[p] for x, p in zip(columns, places, strict=True)]
            leaves = [x.requires_grad_() for x in gathered if x.is_floating_point()]
            with torch.enable_grad():
                value = score.on_pairs(tuple(gathered[:half]), tuple(gathered[half:]))
            found = iter(torch.autograd.grad(value, leaves, grad, allow_unused=True))
            for total, place, x in zip(sums, places, gathered, strict=True):
                gradient = next(found) if x.is_floating_point() else None
                if gradient is not None:
                    total.index_add_(0, place, gradient)
        return None, None, None, *(s if s.is_floating_point() else None for s in sums)


def _blocks(at: tuple[Tensor, Tensor], block: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(at[0].split(block), at[1].split(block), strict=True)


def on_pairs(task: Task, name: str, row: Int[Tensor, " e"], col: Int[Tensor, " e"], memory: int) -> Tensor:
    """One score of listed pairs, [e], differentiable."""
    score = task.scores[name]
    x, y = columns_of(score, task.anchors, task.candidates)
    if not len(row):
        return sum((t.sum() * 0 for t in (*x, *y) if t.requires_grad), x[0].new_zeros(())).expand(0)
    each = sum(t[0].numel() * t.element_size() for t in (*x, *y)) * 3
    return _OnPairs.apply(score, (row, col), max(1, memory // each), *x, *y)


def sweep_listed(task: Task, edges: Edges, constants: Mapping[str, tuple[float, ...]], memory: int) -> list[Tensor]:
    """Rows, then columns, in the order of the task's reductions."""
    scores = {name: on_pairs(task, name, edges.row, edges.col, memory) for name in task.scores}
    a, c = task.sides
    special = task.outputs(
        scores, Pairs(edges.attract, edges.repel), Side(a.rows(edges.row), None), Side(c.rows(edges.col), None)
    )
    results = []
    for axis, owner in ((0, edges.row), (1, edges.col)):
        n, m = (len(a), len(c)) if axis == 0 else (len(c), len(a))
        listed = torch.zeros(n, dtype=task.anchors.z.dtype, device=owner.device)
        rest = m - listed.index_add(0, owner, torch.ones_like(owner, dtype=listed.dtype))
        for name, how in task.reductions[axis].items():
            values = [v.to(owner.device).expand(len(owner)) for v in parts(special[name])]
            under = (values[1], constants[name][1]) if len(values) > 1 else None
            results.append(segment(how, values[0], owner, rest, elsewhere=constants[name][0], under=under))
    return results
