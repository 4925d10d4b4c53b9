"""The public tools that every objective is written with: a tile, a row, and how both become a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.layout import Rule
from counterpoint._ops.processes import joined
from counterpoint._ops.reduce import mean
from counterpoint._ops.running import Bound, Reduction, plus_log
from counterpoint._ops.scores import Score, dot, maxsim, pairwise, squared
from counterpoint._ops.sweep import Swept, sweep, sweeping
from counterpoint._ops.tile import Output, Side, Tile, keep, times
from counterpoint.types import Embeddings, Outcome, same_sample

__all__ = [
    "Directions",
    "Objective",
    "Output",
    "Row",
    "Rule",
    "Side",
    "Tile",
    "as_embeddings",
    "custom",
    "dot",
    "joined",
    "keep",
    "maxsim",
    "pairwise",
    "per_row",
    "plus_log",
    "squared",
    "sweep",
    "sweeping",
    "times",
]

Directions = Literal["forward", "both"]
# The reductions of each anchor -> its loss, or its loss and its weight in the mean.
Row = Callable[[Mapping[str, Tensor]], Tensor | tuple[Tensor, Tensor]]


@runtime_checkable
class Objective(Protocol):
    """What `custom` makes, and what every objective of two sets looks like."""

    def __call__(
        self,
        anchors: Embeddings | Float[Tensor, "n d"],
        candidates: Embeddings | Float[Tensor, "m d"] | None = None,
        *,
        rule: Rule = same_sample,
    ) -> Outcome:
        """The outcome of anchors against candidates."""


def per_row(row: Row, swept: Swept, directions: Directions) -> Float[Tensor, ""]:
    """The mean of a row function over anchors; with "both", averaged with its mean over candidates."""
    found = [row(side) for side in ((swept.rows, swept.columns) if directions == "both" else (swept.rows,))]
    means = [mean(*r) if isinstance(r, tuple) else mean(r) for r in found]
    return torch.stack(means).sum() / len(means)


def custom(
    tile: Tile,
    row: Row,
    *,
    rows: Mapping[str, Reduction],
    scores: Mapping[str, Score] | None = None,
    params: Mapping[str, Tensor] | None = None,
    bounds: Mapping[str, Bound] | None = None,
    directions: Directions = "forward",
    unit: bool = True,
    name: str = "custom",
) -> Objective:
    """Your own objective in linear memory: what a pair is worth, how an anchor adds its pairs up, what that costs.

        loss = mean_i row( reduce_j tile(s_ij, attract_ij, repel_ij, facts) )

    Args:
        tile: (scores, pairs, a, c, params) -> {name: value of each pair}; elementwise in the pair, see `sweep`. `times`
            and `keep` weigh and mask values without work where all pairs of a tile are alike.
        row: {name: [n]} -> the loss of each anchor [n], or (loss, weight in the mean).
        rows: name of a tile output -> its reduction over candidates: logsumexp, total, maximum, minimum, count, mean_under.
        scores: name -> comparison of two rows; {"s": dot()} by default. See `dot`, `squared`, `maxsim`, `pairwise`.
        params: tensors that the tile reads, such as a learnable temperature.
        bounds: the range of a logsumexp's values where you know it; saves a pass.
        directions: "both" averages with the same loss of each candidate over the anchors, in the same pass.
        unit: scale rows to length 1 first.
        name: of the term in the outcome.

    Returns:
        A function of embeddings (or of two plain tensors whose rows pair up) and a rule, which returns an `Outcome`.

    Relations:
        Every objective of two sets here is written this way. `objectives.dense` runs a notebook's loss as it is;
        `testing.assert_tiled_equals` proves that this form equals it.

    >>> softplus = torch.nn.functional.softplus
    >>> mine = custom(
    ...     tile=lambda s, p, a, c, k: {"good": times(p.attract, s["s"]), "bad": (s["s"] / 0.1, p.repel)},
    ...     row=lambda r: softplus(r["bad"] - r["good"] / 0.1),
    ...     rows={"good": "total", "bad": "logsumexp"},
    ... )
    >>> round(mine(torch.eye(2), torch.eye(2)).loss.item(), 6)      # log(1 + exp(-10))
    4.5e-05
    """

    def objective(
        anchors: Embeddings | Float[Tensor, "n d"],
        candidates: Embeddings | Float[Tensor, "m d"] | None = None,
        *,
        rule: Rule = same_sample,
    ) -> Outcome:
        anchors, candidates = as_embeddings(anchors, candidates)
        if unit:
            anchors, candidates = anchors.to_unit(), candidates.to_unit()
        both = rows if directions == "both" else None
        swept = sweep(
            tile, anchors, candidates, scores=scores, rule=rule, params=params, rows=rows, columns=both, bounds=bounds
        )
        return Outcome({name: per_row(row, swept, directions)}, {name: 1.0}, {})

    return objective


def as_embeddings(
    anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None
) -> tuple[Embeddings, Embeddings]:
    """Plain tensors as embeddings whose row i pairs with row i; embeddings as they are."""
    if isinstance(anchors, Embeddings):
        if isinstance(candidates, Tensor):
            raise TypeError("wanted embeddings on both sides or tensors on both, got embeddings and a tensor")
        return anchors, anchors if candidates is None else candidates
    if not isinstance(candidates, Tensor) or len(candidates) != len(anchors):
        came = "none" if not isinstance(candidates, Tensor) else len(candidates)
        raise ValueError(f"wanted as many candidate rows as anchors ({len(anchors)}), got {came}")
    return Embeddings.of(anchors), Embeddings.of(candidates, view=1)
