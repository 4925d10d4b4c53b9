"""A sweep by many processes: each does its anchors against everybody's candidates, and what is partial is put together.

A process gathers the candidates once, does its own block of the matrix, and so owns its anchors' results. Of each
candidate it has only its anchors' part; the parts of all processes are reduced to the whole, of which it keeps its own
candidates. So every pair is computed once over all processes, also where rows and columns are wanted. A replicated set
is never gathered: the other side's rows are, in parts, already everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from counterpoint._ops.processes import Shares, all_max, all_rows, all_sum, everywhere, shares_of
from counterpoint._ops.running import Reduction
from counterpoint._ops.scores import FLOOR
from counterpoint._ops.tile import Output, Side, Tile
from counterpoint._ops.world import count
from counterpoint.types import Embeddings, Pairs

UNDER = "log weight of "  # the output that tells how much a process's part of a mean weighs


@dataclass(frozen=True)
class Together:
    """Which side's results are partial on a process, and how its rows lie among all.

    Args:
        axis: 0 where anchors' results are partial, 1 where candidates' are.
        shares: of that side; None where the side is replicated.
    """

    axis: int
    shares: Shares | None


def arrange(anchors: Embeddings, candidates: Embeddings) -> tuple[Embeddings, Embeddings, Together | None]:
    """The block of this process, and what of its results is partial; None where nothing is."""
    kept = [rows.placement == "replicated" for rows in (anchors, candidates)]
    if count() == 1 or all(kept):
        return anchors, candidates, None
    if kept[0]:
        return anchors, candidates, Together(0, None)
    if kept[1]:
        return anchors, candidates, Together(1, None)
    shares = shares_of(candidates)
    return anchors, everywhere(candidates, shares), Together(1, shares)


def with_weights(
    tile: Tile, reductions: tuple[Mapping[str, Reduction], Mapping[str, Reduction]], together: Together
) -> tuple[Tile, tuple[dict[str, Reduction], dict[str, Reduction]]]:
    """The tile with the log weights of its partial means as outputs of their own."""
    found = (dict(reductions[0]), dict(reductions[1]))
    means = [name for name, how in reductions[together.axis].items() if how == "mean_under"]
    if not means:
        return tile, found
    found[together.axis].update({UNDER + name: "logsumexp" for name in means})

    def weighed(
        scores: Mapping[str, Tensor], pairs: Pairs, a: Side, c: Side, params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        outputs = tile(scores, pairs, a, c, params)
        return {**outputs, **{UNDER + name: outputs[name][1] for name in means}}

    return weighed, found


def put_together(found: dict[str, Tensor], how: Mapping[str, Reduction], together: Together) -> dict[str, Tensor]:
    """The whole results of a side from those of each process."""
    whole = {}
    for name, reduction in how.items():
        match reduction:
            case "total":
                whole[name] = _Whole.apply(found[name], None, together.shares)
            case "count":
                whole[name] = _own(all_sum(found[name]), together.shares)
            case "logsumexp":
                total = _log_sum(found[name].detach())
                share = torch.where(total > FLOOR / 2, (found[name].detach() - total).exp(), 0.0)
                whole[name] = _Whole.apply(found[name], (total, share), together.shares)
            case "maximum" | "minimum":
                sign = 1 if reduction == "maximum" else -1
                best = sign * all_max(sign * found[name].detach())
                here = (found[name].detach() == best).to(best)
                whole[name] = _Whole.apply(found[name], (best, here / all_sum(here)), together.shares)
            case "mean_under":
                whole[name] = _mean(found[name], found[UNDER + name], together.shares)
    return whole


def _own(x: Tensor, shares: Shares | None) -> Tensor:
    return x if shares is None else x[shares.own]


def _log_sum(log: Tensor) -> Tensor:
    """log of the sum over processes of exp; the floor where there is nothing."""
    best = all_max(log)
    total = all_sum((log - best).exp()).log() + best
    return torch.where(best > FLOOR / 2, total, FLOOR)


def _mean(mean: Tensor, log_weight: Tensor, shares: Shares | None) -> Tensor:
    """A mean from the means of processes and the logarithms of what they weigh."""
    total = _Whole.apply(log_weight, _lse_parts(log_weight), None)
    share = torch.where(total > FLOOR / 2, (log_weight - total).clamp(max=0.0).exp(), 0.0)
    return _Whole.apply(share * mean, None, shares)


def _lse_parts(log: Tensor) -> tuple[Tensor, Tensor]:
    total = _log_sum(log.detach())
    return total, torch.where(total > FLOOR / 2, (log.detach() - total).exp(), 0.0)


class _Whole(torch.autograd.Function):
    """A whole result from partial ones: the sum, or a given result whose derivative by this process's part is given.

    What comes back is cut to the rows of this process; the gradient of a row comes from whoever holds it, from all
    where the side is replicated.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, given: tuple[Tensor, Tensor] | None, shares: Shares | None) -> Tensor:
        whole, ctx.slope = (all_sum(part), None) if given is None else given
        ctx.shares = shares
        return _own(whole, shares).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if ctx.shares is None:
            grad = grads[0].contiguous().clone()
            dist.all_reduce(grad)
        else:
            grad = all_rows(grads[0], ctx.shares)
        return (grad if ctx.slope is None else grad * ctx.slope), None, None


def finished(
    by_side: tuple[dict[str, Tensor], dict[str, Tensor]],
    reductions: tuple[Mapping[str, Reduction], Mapping[str, Reduction]],
    together: Together,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The results of a sweep with the partial side put together."""
    whole = put_together(by_side[together.axis], reductions[together.axis], together)
    return (whole, by_side[1]) if together.axis == 0 else (by_side[0], whole)
