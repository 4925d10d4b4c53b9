"""How batches are put together: the orders that --order names, each a pure function of seed and epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from counterpoint.data.classes import balanced, grouped
from counterpoint.data.deal import Order, in_turn, refuse_too_few
from counterpoint.data.distinct import distinct
from counterpoint.data.hard import hard
from counterpoint.data.mixtures import by_source, mixed
from counterpoint.errors import Refusal

# Each takes what it needs of the rows first, under the name of a column that `verbs.orders` can bring, then keywords.
__all__ = ["balanced", "by_source", "distinct", "grouped", "hard", "mixed", "shuffled"]


def shuffled(n: int, *, batch: int, seed: int) -> Order:
    """A fresh shuffle each epoch. The n % batch rows that fill no batch are others each epoch, none twice in a row.

    Args:
        n: how many rows there are.
        batch: rows a batch.
        seed: decides the shuffles.

    Raises:
        Refusal: fewer rows than a batch.

    >>> [[b.tolist() for b in shuffled(3, batch=2, seed=0)(epoch)] for epoch in range(3)]
    [[[1, 0]], [[1, 2]], [[2, 0]]]
    """
    refuse_too_few(n, batch)

    def order(epoch: int) -> Iterator[np.ndarray]:
        rows = in_turn(np.arange(n), batch=batch, seed=seed, epoch=epoch)
        yield from rows[: n - n % batch].reshape(-1, batch)

    return order


class Used(NamedTuple):
    """What one epoch of an order does: its batches, how many different rows they use, how many of n they leave out, and
    how many places go to rows that were used before in the epoch."""

    batches: int
    rows: int
    left: int
    again: int


def used(order: Order, n: int, *, epoch: int = 0) -> Used:
    """Count what an epoch of an order uses of n rows, by going through it.

    >>> used(shuffled(10, batch=4, seed=0), 10)
    Used(batches=2, rows=8, left=2, again=0)
    """
    times = np.zeros(n, dtype=np.int64)
    batches = 0
    for at in order(epoch):
        np.add.at(times, at, 1)
        batches += 1
    rows = int((times > 0).sum())
    return Used(batches, rows, n - rows, int(times.sum()) - rows)


def endless(order: Order) -> Iterator[np.ndarray]:
    """One batch after another, epoch after epoch.

    Raises:
        Refusal: an epoch without a batch.
    """
    for epoch in itertools.count():
        empty = True
        for at in order(epoch):
            empty = False
            yield at
        if empty:
            raise Refusal("rows that fill a batch", "none in an epoch", where="--order", remedy="a smaller --batch")
