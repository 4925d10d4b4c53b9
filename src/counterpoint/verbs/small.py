"""A small model and a few rows of every kind of data, made on the spot: what a recipe is proved on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from counterpoint.data.batches import Rows
from counterpoint.data.roles import assign

ROLES = ("anchor", "positive", "negative", "label")
KINDS = ("text", "arrays")
WORDS = tuple(f"w{i}" for i in range(40))
LONGEST = 6  # words of a text: some are shorter, so that passes are padded
SHAPE = (2, 3)  # of an array
CLASSES = 4


def small_rows(kind: str, count: int, *, roles: Sequence[str] = ROLES, seed: int = 0) -> Rows:
    """Rows of random texts or arrays with the roles that are asked for.

    >>> rows = small_rows("text", 12, roles=("anchor", "positive"))
    >>> len(rows), len(rows.positives[0]), rows.negatives[0], rows.labels
    (12, 1, [], None)
    """
    draw = np.random.default_rng(seed)

    def column() -> Any:
        if kind == "arrays":
            return draw.normal(size=(count, *SHAPE))
        return [" ".join(draw.choice(WORDS, draw.integers(1, LONGEST + 1))) for _ in range(count)]

    items = {role: pl.Series(column()) for role in ROLES[:3] if role in roles}
    labels = {"label": [f"c{i % CLASSES}" for i in range(count)]} if "label" in roles else {}
    samples = assign(pl.DataFrame(items | labels), {role: role for role in (*items, *labels)})
    return Rows.of(samples.frame, samples.items)


def small_encoder(kind: str, rows: Rows, folder: Path, *, pairs: bool = False) -> Callable[[], Any]:
    """What makes an encoder with dropout for the rows, with the same weights each time.

    Args:
        kind: "text" or "arrays".
        rows: what it will read.
        folder: an empty one; the model of texts is written there.
        pairs: a model that scores pairs of texts.
    """
    import torch

    from counterpoint.encoders import cross, mlp, text, tiny

    def arrays() -> Any:
        torch.manual_seed(0)
        sizes = mlp.Sizes(hidden=32, depth=2, width=16, dropout=0.1)
        return mlp.MLP(SHAPE, sizes).fitted(rows.items.take(rows.anchors))

    def pairwise() -> Any:
        torch.manual_seed(0)  # of the new head
        return cross.load_cross(folder)

    if kind == "arrays":
        return arrays
    text.quiet_libraries()
    tiny.write_tiny(folder, WORDS)
    return pairwise if pairs else lambda: text.load(str(folder))
