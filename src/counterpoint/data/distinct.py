"""Batches in which no content stands twice, from rows in memory or from a stream."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Sequence

import numpy as np

from counterpoint.data.deal import Order, generator_of, refuse_too_few

Entry = tuple[int, Sequence[int]]


def distinct(ids: Sequence[Sequence[int]], *, batch: int, seed: int) -> Order:
    """Batches in which no two rows share a content: not an anchor, not a positive, not a given negative, in any role.

    The rows of a shuffle are taken one after another; one that shares a content with the batch waits for the next. Equal
    contents in a batch are harmless to our losses, which know them by their ids; here they do not waste a place either.
    Rows that still wait at the end of an epoch, and those of the last short batch, are left over: others each epoch,
    and as few as the content that stands in most rows allows (it gets one place in every batch).

    Args:
        ids: for each row the ids of all the contents that it brings.
        batch: rows a batch, at least 1.
        seed: decides the shuffles.

    Raises:
        Refusal: fewer rows than a batch.

    Differs:
        From the sampler NO_DUPLICATES of sentence-transformers, which goes through all deferred rows again for every
        batch: a row waits for the very content that stood in its way, so an epoch takes time in proportion to its rows.

    >>> [b.tolist() for b in distinct([[1, 7], [2, 7], [3, 8], [4, 8]], batch=2, seed=0)(0)]
    [[1, 3], [0, 2]]
    """
    refuse_too_few(len(ids), batch)

    def order(epoch: int) -> Generator[np.ndarray, None, int]:
        rows = generator_of(seed, epoch).permutation(len(ids)).tolist()
        return distinct_stream(((row, ids[row]) for row in rows), batch=batch, window=len(rows))

    return order


def distinct_stream(stream: Iterable[Entry], *, batch: int, window: int) -> Generator[np.ndarray, None, int]:
    """Batches without equal contents from a stream of (row, ids) that never has to be in memory.

    Args:
        stream: a row number and the ids of the contents that the row brings, one row after another.
        batch: rows a batch, at least 1.
        window: how many rows may wait at a time. Where so many wait already, a row that would have to is left over.

    Returns:
        A generator of the row numbers of each batch; the value it returns is how many rows were left over.

    >>> rows = distinct_stream(((i, [i // 2]) for i in range(6)), batch=2, window=4)
    >>> [b.tolist() for b in rows]
    [[0, 2], [1, 3]]
    """
    waiting: OrderedDict[int, deque[Entry]] = OrderedDict()  # the content in the way -> who waits for it, in turn
    stream, held, left = iter(stream), 0, 0
    while True:
        rows: list[int] = []
        taken: set[int] = set()
        _wake(waiting, rows, taken, batch=batch)
        held -= len(rows)
        while len(rows) < batch and (entry := next(stream, None)) is not None:
            barrier = _enter(entry, rows, taken)
            if barrier is not None and held < window:
                waiting.setdefault(barrier, deque()).append(entry)
                held += 1
            elif barrier is not None:
                left += 1
        if len(rows) < batch:
            return left + held + len(rows)
        yield np.array(rows, dtype=np.int64)


def _enter(entry: Entry, rows: list[int], taken: set[int]) -> int | None:
    """Put a row into the batch, or say which content stands in its way."""
    row, ids = entry
    barrier = next((i for i in ids if i in taken), None)
    if barrier is None:
        rows.append(row)
        taken.update(ids)
    return barrier


def _wake(waiting: OrderedDict[int, deque[Entry]], rows: list[int], taken: set[int], *, batch: int) -> None:
    """Begin a batch with rows that wait: one for each content, since it can stand in the batch only once."""
    for _ in range(len(waiting)):
        if len(rows) == batch:
            return
        barrier, queue = waiting.popitem(last=False)
        while queue and barrier not in taken:
            entry = queue.popleft()
            other = _enter(entry, rows, taken)
            if other is not None:  # now it waits for that one
                waiting.setdefault(other, deque()).append(entry)
        if queue:
            waiting.setdefault(barrier, deque()).extend(queue)
