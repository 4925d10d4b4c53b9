"""Balanced assignment: the entropic plan between rows and a few prototypes, in logarithms and by tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.scores import Score, dot
from counterpoint._ops.sweep import sweep
from counterpoint._ops.tile import Output, Side
from counterpoint.types import Embeddings, Pairs

HEIGHT = "_height"  # the fact that carries a side's potential into a sweep


class Plan(NamedTuple):
    """The plan q_ij = exp(scale s_ij + rows_i + columns_j), whose rows sum to 1."""

    rows: Float[Tensor, " n"]
    columns: Float[Tensor, " m"]


@torch.no_grad()
def sinkhorn(
    rows: Embeddings, columns: Embeddings, *, scale: float, iterations: int, score: Score | None = None
) -> Plan:
    """Share rows out evenly among columns: every row is given away whole, every column gets as much as any other.

        columns_j = - log sum_i exp(scale s_ij + rows_i)
        rows_i    = - log sum_j exp(scale s_ij + columns_j)

    in turn, from rows_i = 0; a constant that moves from one side to the other changes nothing. No matrix of all pairs is
    held, and no exponential overflows. Sums over rows are over the rows of all processes, however many each has.

    Args:
        rows: n rows.
        columns: m rows, such as prototypes.
        scale: what scores are multiplied by, 1 / eps; negative for a cost.
        iterations: how often; at least 0. With 0, every row has its softmax.
        score: how a row and a column are compared; None: the dot product.

    >>> x = Embeddings.of(torch.tensor([[3.0, 1.0], [2.0, 1.0]]))      # both are nearer to the first
    >>> plan = sinkhorn(x, Embeddings.of(torch.eye(2)), scale=1.0, iterations=50)
    >>> (x.z + plan.rows[:, None] + plan.columns).exp().sum(0)
    tensor([1., 1.])
    """

    def tile(
        scores: Mapping[str, Tensor], _pairs: Pairs, a: Side, c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        return {"x": scale * scores["s"] + a[HEIGHT], "y": scale * scores["s"] + c[HEIGHT]}

    def step(plan: Plan, *, side: str) -> Tensor:
        told = [replace(r, facts={**r.facts, HEIGHT: h}) for r, h in zip((rows, columns), plan, strict=True)]
        asked = {"rows": {"y": "logsumexp"}} if side == "rows" else {"columns": {"x": "logsumexp"}}
        swept = sweep(tile, *told, scores={"s": score or dot()}, precision="fp32", **asked)  # type: ignore[arg-type]
        return -(swept.rows["y"] if side == "rows" else swept.columns["x"])

    plan = Plan(rows.z.new_zeros(len(rows)), columns.z.new_zeros(len(columns)))
    for _ in range(iterations):
        plan = plan._replace(columns=step(plan, side="columns"))
        plan = plan._replace(rows=step(plan, side="rows"))
    return plan if iterations else plan._replace(rows=step(plan, side="rows"))
