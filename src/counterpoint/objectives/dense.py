"""Any loss from a notebook, as an objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.processes import everywhere, shared
from counterpoint.objectives.custom import Objective, Rule, as_embeddings
from counterpoint.types import Embeddings, Outcome, PairRule, same_sample

MANY = 8000  # rows from which a matrix of fp32 scores and its gradient pass half a gigabyte


def dense(fn: Callable[[Tensor, Tensor], Tensor], *, name: str = "dense") -> Objective:
    """Run a notebook's loss `fn(za, zb)` as it is: row i of `zb` is a positive of row i of `za`.

        loss = fn(za, zb),    za = anchors that have a positive, zb = the first positive of each

    Args:
        fn: two tensors [n, d] with paired rows -> a number. It gets rows as the encoder made them, not scaled.
        name: of the term in the outcome.

    Returns:
        A function of embeddings (or two plain tensors whose rows pair up) and a rule, which returns an `Outcome`. Without
        any pair the loss is 0.

    Raises:
        ValueError: if `fn` does not return one number.

    Differs:
        `fn` knows nothing of identity: an equal text elsewhere in the batch is a negative to it, and further positives
        and given hard negatives are not shown to it. It holds whatever it makes: above 8,000 rows this warns. Of several
        processes each computes the whole.

    Relations:
        `custom` is the form in linear memory that knows all pairs; `testing.assert_tiled_equals` proves it against `fn`.

    >>> cross_entropy = torch.nn.functional.cross_entropy
    >>> mine = dense(lambda za, zb: cross_entropy(za @ zb.T, torch.arange(len(za))))
    >>> round(mine(torch.eye(2), torch.eye(2)).loss.item(), 4)
    0.3133
    """

    def objective(
        anchors: Embeddings | Float[Tensor, "n d"],
        candidates: Embeddings | Float[Tensor, "m d"] | None = None,
        *,
        rule: Rule = same_sample,
    ) -> Outcome:
        anchors, candidates = (everywhere(rows) for rows in as_embeddings(anchors, candidates))
        row, col = first_positives(anchors, candidates, rule)
        if len(row) > MANY:
            warnings.warn(
                f"a dense loss of {len(row)} rows holds every pair; write it as objectives.custom(tile, row), and prove it "
                "by testing.assert_tiled_equals",
                stacklevel=2,
            )
        value = fn(anchors.z[row], candidates.z[col]) if len(row) else (anchors.z.sum() + candidates.z.sum()) * 0
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"wanted one number from the loss (has it a reduction?), got {came}")
        return Outcome({name: shared(value.reshape(()))}, {name: 1.0}, {})

    return objective


def first_positives(a: Embeddings, c: Embeddings, rule: Rule) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """The anchors that have a positive, and the first positive of each, in the order of the anchors."""
    if hasattr(rule, "edges"):
        edges = cast(PairRule, rule).edges(a, c)
        row, col = edges.row[edges.attract > 0], edges.col[edges.attract > 0]
    else:
        row, col = torch.nonzero(rule(a, c).attract > 0, as_tuple=True)
    first = torch.full((len(a),), len(c), device=row.device).scatter_reduce(0, row, col, "amin")
    found = torch.nonzero(first < len(c)).flatten()
    return found, first[found]
