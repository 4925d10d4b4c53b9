"""Mined negatives as part of the rows to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_ids


def pool_of(rows: Rows) -> list[str]:
    """The distinct texts that rows may take negatives from: their positives and given negatives, in a fixed order.

    >>> import polars as pl
    >>> pool_of(Rows.of(pl.DataFrame({"anchor": ["a", "b"], "positive": [["x", "y"], ["x"]]})))
    ['x', 'y']
    """
    return list(dict.fromkeys(text for lists in (rows.positives, rows.negatives) for texts in lists for text in texts))


def digest(texts: Sequence[str]) -> Int[Tensor, ""]:
    """One number that changes with any text and with their order."""
    ids = content_ids(texts)
    return (ids * torch.arange(1, 2 * len(ids), 2)).sum()  # wraps, as a hash may


def with_negatives(rows: Rows, candidate: Int[Tensor, "n k"], pool: Sequence[str]) -> Rows:
    """The rows with mined negatives added to the given ones; what was mined before is forgotten.

    Call it on the rows as they were read, not on its own result.

    Args:
        rows: n rows as read.
        candidate: places in the pool; -1 is nobody.
        pool: the texts that were mined.

    Raises:
        ValueError: for another number of rows, or places outside of the pool.

    >>> import polars as pl
    >>> rows = Rows.of(pl.DataFrame({"anchor": ["a", "b"], "positive": [["x"], ["y"]]}))
    >>> with_negatives(rows, torch.tensor([[1], [-1]]), ["x", "y"]).negatives
    [['y'], []]
    """
    if len(candidate) != len(rows):
        raise ValueError(f"wanted mined negatives of {len(rows)} rows, got {len(candidate)}")
    if candidate.numel() and int(candidate.max()) >= len(pool):
        raise ValueError(f"wanted places below {len(pool)}, got {int(candidate.max())}")
    both = zip(rows.negatives, candidate.tolist(), strict=True)
    return replace(
        rows, negatives=[list(dict.fromkeys([*given, *(pool[i] for i in at if i >= 0)])) for given, at in both]
    )
