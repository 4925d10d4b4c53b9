"""What the workers of benchmarks/training.py train: our model and recipe, and the rows in the order of both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import torch
from code_search import LENGTHS, TEMPERATURE
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import TextEncoder, load
from counterpoint.recipes.text import pairs
from counterpoint.training.method import Method
from training import Job

MODEL = "all-MiniLM-L6-v2"
LR = 5e-5


class Tokens:
    """Counts what a model reads: tokens, and with padding."""

    def __init__(self, model: nn.Module) -> None:
        self.real = self.padded = 0
        model.register_forward_pre_hook(self)

    def __call__(self, _model: nn.Module, args: tuple[Any, ...]) -> None:
        """One pass."""
        mask = args[0]["attention_mask"]
        self.real += int(mask.sum())
        self.padded += mask.numel()


def table_of(job: Job, rows: int | None = None) -> pl.DataFrame:
    """Train rows in the order in which both sides take them; as many as the job needs, or all."""
    frame = pl.read_parquet(job.data).filter(pl.col("split") == "train")
    frame = frame.select(anchor="docstring", positive="code")
    order = np.random.default_rng(job.seed).permutation(len(frame))
    if rows is not None and rows > len(order):
        raise SystemExit(f"wanted {rows} train rows, got {len(order)}")
    return frame[order if rows is None else order[:rows]]


def ours(job: Job) -> tuple[Method, Rows, TextEncoder]:
    """The model under the recipe `pairs`, in training mode, and all train rows."""
    torch.manual_seed(job.seed)
    encoder = load(MODEL, lengths=LENGTHS)
    rows = Rows.of(table_of(job).with_columns(pl.concat_list("positive").alias("positive")))
    method = pairs(encoder, rows, temperature=TEMPERATURE, directions="both")
    method.modules.train()
    return method, rows, encoder


def in_order(rows: int, batch: int) -> Callable[[int], Iterator[np.ndarray]]:
    """Batches of the rows as they stand."""
    return lambda _epoch: (np.arange(start, start + batch) for start in range(0, rows - batch + 1, batch))
