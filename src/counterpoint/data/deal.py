"""What all orders of batches share: numbers drawn from (seed, epoch) alone, and rows dealt in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from counterpoint.errors import Refusal

# Epoch -> the row numbers of one global batch after another: int64, exactly `batch` rows each, no row twice in a batch,
# nothing but (seed, epoch) deciding, so that every process and every resumed run draws the same.
Order = Callable[[int], Iterator[np.ndarray]]
Deal = Callable[[int], np.ndarray]


def generator_of(seed: int, *numbers: int) -> np.random.Generator:
    """A generator that depends on these numbers and on nothing else.

    >>> bool(generator_of(0, 1).random() == generator_of(0, 1).random() != generator_of(0, 2).random())
    True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=numbers))


def in_turn(rows: np.ndarray, *, batch: int, seed: int, epoch: int) -> np.ndarray:
    """The rows shuffled for an epoch, with those that fill no batch at the end: others each epoch, none twice in a row.

    The n % batch rows at the end are a window that moves through one fixed shuffle. They are fewer than n / 2, so the
    windows of two epochs that follow each other share no row.

    >>> [in_turn(np.arange(5), batch=2, seed=0, epoch=e)[-1:].tolist() for e in range(5)]
    [[2], [4], [3], [0], [1]]
    """
    n, left = len(rows), len(rows) % batch
    last = generator_of(seed).permutation(n)[(epoch * left + np.arange(left)) % max(n, 1)]
    first = np.setdiff1d(np.arange(n), last)
    return rows[np.concatenate([generator_of(seed, epoch).permutation(first), last])]


def dealer(rows: np.ndarray, generator: np.random.Generator, first: np.ndarray | None = None) -> Deal:
    """A function that deals the rows, so many at a time, in one shuffled pass after another.

    No row is twice in one deal, even where a pass ends in the middle of it.

    Args:
        rows: to deal, all different.
        generator: shuffles every pass.
        first: the rows in the order of the first pass; None: shuffled too.

    >>> deal = dealer(np.arange(3), np.random.default_rng(0))
    >>> [sorted(deal(2).tolist()) for _ in range(3)], len(set(deal(3).tolist()))
    ([[0, 2], [1, 2], [0, 1]], 3)
    """
    held = generator.permutation(rows) if first is None else first

    def deal(count: int) -> np.ndarray:
        nonlocal held
        dealt, held = held[:count], held[count:]
        if len(dealt) < count:
            fresh = generator.permutation(rows)
            again = np.isin(fresh, dealt)
            fresh, more = np.concatenate([fresh[~again], fresh[again]]), count - len(dealt)
            dealt, held = np.concatenate([dealt, fresh[:more]]), fresh[more:]
        return dealt

    return deal


def places_of(values: Sequence[str] | np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """The different values, sorted, and for each the rows that have it.

    >>> places_of(["b", "a", "b"])
    (['a', 'b'], [array([1]), array([0, 2])])
    """
    names, number, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(number, kind="stable").astype(np.int64), np.cumsum(sizes)[:-1])
    return [str(name) for name in names], rows if len(names) else []


def refuse_too_few(n: int, batch: int) -> None:
    """Refuse rows that fill no batch."""
    if n < batch:
        raise Refusal(f"at least {batch} rows for a batch of {batch}", n, where=f"--batch {batch}")
