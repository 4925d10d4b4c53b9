"""The one door for everything that compares n rows with m rows, without ever holding the n x m matrix.

A tile is a function of scores and pairs that is elementwise in the pair; the sweep reduces it over candidates (rows),
over anchors (columns), or both in one pass. Results are ordinary tensors, differentiable once, so one sweep's result can
be a fact of the next. Where a rule has a sparse form, tiles without a special pair run unmasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.layout import Rule, by_key, special
from counterpoint._ops.listed import on_pairs, sweep_listed
from counterpoint._ops.products import Precision
from counterpoint._ops.running import Bound, Reduction, whole
from counterpoint._ops.scores import Score, dot
from counterpoint._ops.task import Task, columns_of, parts, probe
from counterpoint._ops.tile import COLUMNS, ROWS, Side, Tile
from counterpoint._ops.tiled import sweep_tiles
from counterpoint._ops.together import arrange, finished, with_weights
from counterpoint.types import Edges, Embeddings, PairRule

Backend = Literal["tiled", "dense"]
KEPT_BLOCK = 31 * 2**20  # just under glibc's largest dynamic threshold, 32 MiB (mallopt(3))
MEMORY = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}  # bytes beside inputs, results and gradients


@dataclass(frozen=True)
class Settings:
    """How sweeps are computed; None: as the call or its surroundings say."""

    precision: Precision | None = None
    memory: int | None = None
    backend: Backend = "tiled"


_DEFAULT = Settings()
_settings: ContextVar[Settings] = ContextVar("sweeping", default=_DEFAULT)


@contextmanager
def sweeping(
    *, precision: Precision | None = None, memory: int | None = None, backend: Backend | None = None
) -> Iterator[None]:
    """Set how all sweeps inside are computed, as `torch.nn.attention.sdpa_kernel` does for attention.

    Args:
        precision: "bf16" lets inputs of matrix products be rounded to bfloat16 where that is faster; sums and results
            stay fp32.
        memory: bytes that a sweep may take beside its inputs, results and gradients.
        backend: "tiled", or "dense", the reference that holds every matrix.

    >>> with sweeping(backend="dense"):
    ...     pass
    """
    given = {"precision": precision, "memory": memory, "backend": backend}
    token = _settings.set(replace(_settings.get(), **{k: v for k, v in given.items() if v is not None}))  # type: ignore[arg-type]
    try:
        yield
    finally:
        _settings.reset(token)


@dataclass(frozen=True)
class Swept:
    """Results by name: `rows[name]` is [n], `columns[name]` is [m]."""

    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    _task: Task
    _memory: int

    def on_edges(self, score: str = "s") -> tuple[Edges, Float[Tensor, " e"]]:
        """The rule's listed pairs and one of the scores of each, differentiable.

        Raises:
            TypeError: for a rule without a sparse form.
        """
        rule = self._task.rule
        if special(rule) is None or not hasattr(rule, "edges"):
            raise TypeError("wanted a rule that lists its pairs by `edges`, got one without a sparse form")
        edges = cast(PairRule, rule).edges(self._task.anchors, self._task.candidates)
        return edges, on_pairs(self._task, score, edges.row, edges.col, self._memory)


def sweep(
    tile: Tile,
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    scores: Mapping[str, Score] | None = None,
    rule: Rule | None = None,
    params: Mapping[str, Tensor] | None = None,
    rows: Mapping[str, Reduction] | None = None,
    columns: Mapping[str, Reduction] | None = None,
    bounds: Mapping[str, Bound] | None = None,
    precision: Precision | None = None,
    memory: int | None = None,
) -> Swept:
    """Compare all anchors with all candidates and reduce.

    Args:
        tile: (scores, pairs, a, c, params) -> {name: value of each pair}, elementwise in the pair. `a["label"]` and
            `c["label"]` are facts, shaped to broadcast. Scores, pairs and facts come as blocks [n m], as lists of pairs
            [e], or (pairs only) as one number for all; so a tile never names a dimension. What it needs a gradient for
            comes in through scores, facts or `params`.
        anchors: n rows.
        candidates: m rows.
        scores: name -> how two rows are compared; {"s": dot()} by default.
        rule: who attracts and who repels whom; None: every pair repels.
        params: tensors that the tile reads, such as a bias.
        rows: name of a tile output -> its reduction over candidates: logsumexp (of a value, or of (value, weight):
            log sum w exp(value), weights without gradient), total, maximum, minimum, count (of values above 0), or
            mean_under (of (value, log_weight): the mean of values under the softmax of log weights).
        columns: the same over anchors.
        bounds: name of a logsumexp -> the range its values lie in (masked ones apart). A range of up to 160 in fp32 needs
            no running maximum, and rows and columns then share one exponential.
        precision: "fp32" as wide as the inputs; "bf16" lets inputs of products be rounded to bfloat16 where that is
            faster (on CPUs without AMX: of the gradient's products alone); sums and results stay fp32. None: as `sweeping`
            says, else bf16 inside a bfloat16 autocast, else fp32.
        memory: bytes that may be used beside inputs, results and gradients: tiles are as large as pays, and tiles of
            scores are kept for the backward pass while they fit. None: 64 MiB on a CPU, 2 GiB on CUDA.

    Returns:
        Differentiable tensors, [n] in `rows` and [m] in `columns`. First order only: a second derivative raises. A
        logsumexp, maximum or minimum of nothing is -1e9, -1e9 or 1e9, without gradient; a mean of nothing is 0.

    Raises:
        ValueError: for a tile that is not elementwise, or that captures a tensor which requires grad.
        KeyError: for a fact that rows do not have.

    >>> a = Embeddings.of(torch.eye(2))
    >>> sweep(lambda s, p, a, c, k: {"best": s["s"]}, a, a, rows={"best": "maximum"}).rows["best"].tolist()
    [1.0, 1.0]
    """
    here = _settings.get()
    _teach_allocator(anchors.z.device.type)
    anchors, candidates = _widened(anchors), _widened(candidates)
    precision = precision or here.precision or _of_autocast(anchors.z.device.type)
    memory = memory or here.memory or MEMORY.get(anchors.z.device.type, MEMORY["cpu"])
    wanted = (dict(rows or {}), dict(columns or {}))
    anchors, candidates, together = arrange(anchors, candidates)
    tile, reductions = (tile, wanted) if together is None else with_weights(tile, wanted, together)
    task = Task(
        tile, anchors, candidates, scores or {"s": dot()}, rule, params or {}, reductions, bounds or {}, precision
    )
    with torch.autocast(anchors.z.device.type, enabled=False):
        constants = probe(task, special(rule))
        if here.backend == "dense":
            results = sweep_dense(task)
        elif len(constants) == len(task.names) and hasattr(rule, "edges") and by_key(rule) is None:
            results = sweep_listed(task, cast(PairRule, rule).edges(anchors, candidates), constants, memory)
        else:
            results = sweep_tiles(task, constants, memory)
    found = iter(results)
    by_rows, by_columns = ({name: next(found) for name in names} for names in reductions)
    if together is not None:
        by_rows, by_columns = finished((by_rows, by_columns), wanted, together)
    return Swept(by_rows, by_columns, task, memory)


@cache
def _teach_allocator(device: str) -> None:
    """Let the C library keep freed tiles: it returns memory above twice the largest mapped block that it saw freed.

    A block of this size is never touched, so it costs nothing; without it tiles are given back and faulted in again.
    """
    if device == "cpu":
        torch.empty(KEPT_BLOCK, dtype=torch.uint8)


def _widened(rows: Embeddings) -> Embeddings:
    """Half-precision vectors as fp32: sums over many candidates need the digits."""
    return replace(rows, z=rows.z.float()) if rows.z.dtype in (torch.float16, torch.bfloat16) else rows


def _of_autocast(device: str) -> Precision:
    """Products are bf16 inside a bfloat16 autocast."""
    inside = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return "bf16" if inside else "fp32"


class _Rounded(torch.autograd.Function):
    """bfloat16 and back, with the gradient passed on."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def sweep_dense(task: Task) -> list[Tensor]:
    """The reference: every matrix at once, by plain autograd; bf16 rounds the inputs of products."""
    a, c = task.anchors, task.candidates
    scores = {}
    for name, score in task.scores.items():
        columns = [list(side) for side in columns_of(score, a, c)]
        if task.precision == "bf16":
            columns = [[_Rounded.apply(t) if t.is_floating_point() else t for t in side] for side in columns]
        scores[name] = score.of(tuple(columns[0]), tuple(columns[1]), "fp32")
    found = task.outputs(scores, task.pairs(a, c), Side(a, ROWS), Side(c, COLUMNS))
    results = []
    for axis in (0, 1):
        for name, how in task.reductions[axis].items():
            value, *under = (v.to(a.z.device).expand(len(a), len(c)) for v in parts(found[name]))
            results.append(whole(how, value, axis, *under))
    return results
