"""The one door for everything that compares n rows with m rows.

A tile is an elementwise function of scores and pairs; the sweep reduces it over candidates (rows), over anchors
(columns), or both in one pass. This is the dense backend, the reference that every other one has to equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint.types import Embeddings, PairRule, Pairs, same_sample

Reduction = Literal["logsumexp", "total", "maximum"]
Score = Callable[[Embeddings, Embeddings], Tensor]
Tile = Callable[..., Mapping[str, Tensor]]

# Stands for log 0. Finite, so that a fully masked row has a zero gradient and not NaN, and far enough below any
# score that exp of the difference is exactly 0 in fp32.
FLOOR = -1e9


class Swept(NamedTuple):
    """Results by name: `rows[name]` is [n], `columns[name]` is [m]."""

    rows: dict[str, Tensor]
    columns: dict[str, Tensor]


def dot(a: Embeddings, c: Embeddings) -> Float[Tensor, "n m"]:
    """The score a_i . c_j."""
    return a.z @ c.z.T


def log_weight(weight: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """log w, with the finite floor for w = 0.

    >>> log_weight(torch.tensor([[1.0, 0.0]])).tolist()
    [[0.0, -1000000000.0]]
    """
    return torch.where(weight > 0, weight.clamp(min=torch.finfo(weight.dtype).tiny).log(), FLOOR)


def _reduce(value: Float[Tensor, "n m"], how: Reduction, dim: int) -> Tensor:
    match how:
        case "logsumexp":
            return torch.logsumexp(value, dim)
        case "total":
            return value.sum(dim)
        case "maximum":
            return value.amax(dim)


def sweep(
    tile: Tile,
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    scores: Mapping[str, Score] | None = None,
    rule: PairRule | Callable[[Embeddings, Embeddings], Pairs] = same_sample,
    params: Mapping[str, Tensor] | None = None,
    rows: Mapping[str, Reduction] | None = None,
    columns: Mapping[str, Reduction] | None = None,
) -> Swept:
    """Compare all anchors with all candidates and reduce.

    Args:
        tile: (scores, pairs, a, c, params) -> {name: [n, m]}; elementwise in the pair. What it needs a gradient for
            comes in through embeddings, facts or `params`, never by capture.
        anchors: n rows.
        candidates: m rows.
        scores: name -> function of two sets; {"s": dot} by default.
        rule: who attracts and who repels whom.
        params: tensors that the tile reads, such as a temperature.
        rows: name of a tile output -> its reduction over candidates.
        columns: name of a tile output -> its reduction over anchors.

    Returns:
        Differentiable tensors, [n] in `rows` and [m] in `columns`.

    >>> a = Embeddings.of(torch.eye(2))
    >>> sweep(lambda s, p, a, c, k: {"best": s["s"]}, a, a, rows={"best": "maximum"}).rows["best"].tolist()
    [1.0, 1.0]
    """
    score = {name: f(anchors, candidates) for name, f in (scores or {"s": dot}).items()}
    values = tile(score, rule(anchors, candidates), anchors, candidates, params or {})
    return Swept(
        {name: _reduce(values[name], how, 1) for name, how in (rows or {}).items()},
        {name: _reduce(values[name], how, 0) for name, how in (columns or {}).items()},
    )
