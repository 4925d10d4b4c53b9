"""The backend of tiles: never holds the n x m matrix. Forward reduces tile by tile; backward makes each tile again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from counterpoint._ops.layout import Layout, by_key, lay_out, sort_by_key
from counterpoint._ops.running import START, Count, LogSumExp, Term, Value, combine, safe_shift
from counterpoint._ops.task import Task, column, columns_of, facts_only, first_order, parts
from counterpoint._ops.tile import COLUMNS, ROWS, Side, constant_pairs
from counterpoint.types import Embeddings, Pairs

SIDE = 1024  # rows and columns of a tile of plain scores on a CPU: three of them fit a third-level cache
LIVE = 6  # tiles of numbers that are alive at once
Where = tuple[int, int, slice, slice]
Leaves = tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]]  # facts of both sides, params


@dataclass(frozen=True)
class Inputs:
    """Names of the tensors that get a gradient: columns that scores read, facts that tiles read, params."""

    columns: tuple[tuple[str, ...], tuple[str, ...]]
    facts: tuple[tuple[str, ...], tuple[str, ...]]
    params: tuple[str, ...]

    @classmethod
    def of(cls, task: Task) -> Inputs:
        """Those that require grad."""
        both = (task.anchors, task.candidates)
        sides = list(zip(both, task.read, strict=True))
        columns = tuple(tuple(n for n in read if column(rows, n).requires_grad) for rows, read in sides)
        facts = tuple(
            tuple(n for n, fact in rows.facts.items() if fact.requires_grad and fact.ndim == 1 and n not in read)
            for rows, read in sides
        )
        params = tuple(n for n, p in task.params.items() if p.requires_grad)
        return cls((columns[0], columns[1]), (facts[0], facts[1]), params)

    def tensors(self, task: Task) -> list[Tensor]:
        """In one order, for autograd."""
        both = (task.anchors, task.candidates)
        columns = [
            column(r, n)
            for names in (self.columns, self.facts)
            for r, own in zip(both, names, strict=True)
            for n in own
        ]
        return columns + [task.params[n] for n in self.params]

    def split(self, tensors: Sequence[Tensor]) -> Sums:
        """By name again."""
        rest = iter(tensors)
        found = [{n: next(rest) for n in names} for names in (*self.columns, *self.facts, self.params)]
        return Sums((found[0], found[1]), (found[2], found[3]), found[4])


def detached(rows: Embeddings) -> Embeddings:
    """The rows without the graph behind them."""
    return replace(rows, z=rows.z.detach(), facts={name: fact.detach() for name, fact in rows.facts.items()})


def sides_of(task: Task, memory: int) -> tuple[int, int]:
    """Rows and columns of a tile, so that those alive at once fit the memory."""
    inner = max(s.inner(*columns_of(s, task.anchors, task.candidates)) for s in task.scores.values())
    most = memory / (LIVE * inner * task.anchors.z.element_size() * len(task.scores))
    if task.anchors.z.device.type == "cpu":
        most = min(most, SIDE**2 / inner)
    wide = max(1, min(len(task.candidates), int(most**0.5)))
    return max(1, min(len(task.anchors), int(most / wide), SIDE * 8)), wide


class Sums(NamedTuple):
    """Gradients by name: of the columns that scores read, of facts that tiles read, of params."""

    columns: tuple[dict[str, Tensor], dict[str, Tensor]]
    facts: tuple[dict[str, Tensor], dict[str, Tensor]]
    params: dict[str, Tensor]


class Live(NamedTuple):
    """A reduction whose result has a gradient."""

    axis: int
    name: str
    state: Any
    grad: Tensor
    result: Tensor


class Grid:
    """A task over a grid of tiles: gives each tile its scores and values."""

    def __init__(self, task: Task, layout: Layout, constants: Mapping[str, tuple[float, ...]]) -> None:
        self.task, self.layout, self.constants = task, layout, constants
        self.plain = None if layout.elsewhere is None else constant_pairs(layout.elsewhere, task.anchors.z)
        both = (task.anchors, task.candidates)
        self.slices = [[slice(*ends) for ends in pairwise(cuts)] for cuts in layout.cuts]
        self.rows = [[rows.rows(at) for at in slices] for rows, slices in zip(both, self.slices, strict=True)]
        self.facts = [[facts_only(rows) for rows in side] for side in self.rows]

    def tiles(self) -> Iterator[Where]:
        """All tiles, row by row."""
        for i, at_i in enumerate(self.slices[0]):
            for j, at_j in enumerate(self.slices[1]):
                yield i, j, at_i, at_j

    def varies(self, where: Where) -> bool:
        """Whether any output of the tile is more than one number that all its pairs share."""
        i, j, *_ = where
        special = self.layout.matrix[i][j] or self.layout.listed(i, j) is not None
        return special or len(self.constants) < len(self.task.names)

    def scores(self, where: Where) -> dict[str, Tensor]:
        """The scores of a tile."""
        a, c = self.rows[0][where[0]], self.rows[1][where[1]]
        return {name: self.task.score(name, a, c) for name in self.task.scores}

    def unvaried(self, where: Where) -> dict[str, tuple[Value, ...]]:
        """The outputs of a tile that does not vary."""
        shape, like = (where[2].stop - where[2].start, where[3].stop - where[3].start), self.task.anchors.z
        return {
            n: tuple(Value(torch.tensor(v, dtype=like.dtype), shape, like.device) for v in vs)
            for n, vs in self.constants.items()
        }

    def values(
        self, where: Where, scores: Mapping[str, Tensor], leaves: Leaves | None = None
    ) -> dict[str, tuple[Value, ...]]:
        """The outputs of a tile; leaves take the place of facts and params."""
        i, j, at_i, at_j = where
        names, device = self.task.names, self.task.anchors.z.device
        shape = (at_i.stop - at_i.start, at_j.stop - at_j.start)
        own_a, own_c, params = leaves or ({}, {}, self.task.params)
        sides = Side(self.facts[0][i], ROWS, own_a), Side(self.facts[1][j], COLUMNS, own_c)
        pairs = None if self.layout.matrix[i][j] else self.plain
        if pairs is None:
            pairs = self.task.pairs(self.rows[0][i], self.rows[1][j])
        found = self.task.outputs(scores, pairs, *sides, params)
        edges = self.layout.listed(i, j)
        if edges is None:
            return {n: tuple(Value(v, shape, device) for v in parts(found[n])) for n in names}
        row, col = edges.row - at_i.start, edges.col - at_j.start
        special = self.task.outputs(
            {name: s[row, col] for name, s in scores.items()},
            Pairs(edges.attract, edges.repel),
            Side(self.facts[0][i].rows(row), None, {n: leaf[row] for n, leaf in own_a.items()}),
            Side(self.facts[1][j].rows(col), None, {n: leaf[col] for n, leaf in own_c.items()}),
            params,
        )
        both = {n: zip(parts(found[n]), parts(special[n]), strict=True) for n in names}
        return {n: tuple(_merged(v, own, (row, col), shape) for v, own in pair) for n, pair in both.items()}


def _merged(value: Tensor, special: Tensor, at: tuple[Tensor, Tensor], shape: tuple[int, int]) -> Value:
    """A tile's value with those of its listed pairs in their places."""
    device = at[0].device
    listed = special.to(device).expand(len(at[0]))
    if value.ndim == 0 and not value.requires_grad:
        return Value(value, shape, device, (*at, listed))
    return Value(value.to(device).expand(shape).index_put(at, listed), shape, device)


class _Tiled(torch.autograd.Function):
    """Rows and columns of a sweep, differentiable once."""

    @staticmethod
    def forward(ctx: Any, grid: Grid, inputs: Inputs, budget: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Reduce tile by tile; tiles of scores are kept while they fit the budget."""
        task, kept = grid.task, {}
        running = [(axis, name, _start(task, axis, name)) for axis in (0, 1) for name in task.reductions[axis]]
        keeps = any(tensor.requires_grad for tensor in tensors)
        for where in grid.tiles():
            scores = grid.scores(where) if grid.varies(where) else None
            values = grid.unvaried(where) if scores is None else grid.values(where, scores)
            for axis, name, state in running:
                state.add(*values[name][:1], where[2 + axis], *values[name][1:])
            size = sum(s.nbytes for s in scores.values()) if scores and keeps else budget + 1
            if size <= budget:
                kept[where[:2]] = scores
                budget -= size
        results = [state.result() for _, _, state in running]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.state = grid, inputs, running, results, kept
        ctx.mark_non_differentiable(*(r for r, (_, _, s) in zip(results, running, strict=True) if isinstance(s, Count)))
        return tuple(results)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Make each tile again, and send its gradient back."""
        grid, inputs, running, results, kept = ctx.state
        saved = ctx.saved_tensors  # raises where one of them was changed in place
        sums = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in saved]
        live = [
            Live(axis, name, state, state.share(grad), result)
            for (axis, name, state), grad, result in zip(running, grads, results, strict=True)
            if grad is not None
        ]
        with torch.autocast(saved[0].device.type, enabled=False):
            for where in grid.tiles() if live else ():
                if grid.varies(where):
                    _pull_tile(grid, where, live, inputs.split(sums), kept.pop(where[:2], None))
        return None, None, None, *sums


def _start(task: Task, axis: int, name: str) -> Any:
    """A running reduction at its beginning."""
    size, like = len((task.anchors, task.candidates)[axis]), task.anchors.z
    how = task.reductions[axis][name]
    if how == "logsumexp":
        shift = safe_shift(task.bounds.get(name), max(len(task.anchors), len(task.candidates)), like.dtype)
        return LogSumExp(size, axis, like, shift)
    return START[how](size, axis, like)


def _pull_tile(grid: Grid, where: Where, live: list[Live], sums: Sums, kept: dict[str, Tensor] | None) -> None:
    """Add one tile's share of the gradient to the sums."""
    task, at = grid.task, where[2:]
    rows = (grid.rows[0][where[0]], grid.rows[1][where[1]])
    scores = {name: s.requires_grad_() for name, s in (kept or grid.scores(where)).items()}
    own = [{n: rows[side].facts[n].detach().requires_grad_() for n in sums.facts[side]} for side in (0, 1)]
    params = {n: task.params[n].detach().requires_grad_() for n in sums.params}
    with torch.enable_grad():
        values = grid.values(where, scores, (own[0], own[1], {**task.params, **params}))
    outs, gradients = _gradients(values, live, at)
    if not outs:
        return
    leaves = [*own[0].values(), *own[1].values(), *params.values()]
    to = [total[at[side]] for side in (0, 1) for total in sums.facts[side].values()] + list(sums.params.values())
    found = torch.autograd.grad(outs, [*scores.values(), *leaves], gradients, allow_unused=True)
    for score, gradient in zip(task.scores.values(), found, strict=False):
        if gradient is not None:
            x, y = columns_of(score, *rows)
            totals = [[sums.columns[side].get(read) for read in score.reads[side]] for side in (0, 1)]
            into = [tuple(None if t is None else t[at[side]] for t in own) for side, own in enumerate(totals)]
            score.pull(gradient, x, y, (into[0], into[1]), task.precision)
    for total, gradient in zip(to, found[len(scores) :], strict=True):
        if gradient is not None:
            total.add_(gradient)


def _gradients(
    values: Mapping[str, tuple[Value, ...]], live: list[Live], at: tuple[slice, slice]
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of a tile that need a gradient, with their gradients from all reductions."""
    terms: dict[tuple[str, int], list[Term]] = {}
    for axis, name, state, grad, result in live:
        for k, term in enumerate(state.pull(*values[name], grad=grad[at[axis]], result=result[at[axis]], at=at[axis])):
            terms.setdefault((name, k), []).append(term)
    outs, gradients = [], []
    for (name, k), found in terms.items():
        value = values[name][k]
        target = value.tensor if value.listed is None else value.listed[2]
        if target.requires_grad:
            whole = combine(found, value)
            outs.append(target)
            gradients.append(whole[value.listed[:2]] if value.listed else whole.sum() if value.constant else whole)
    return outs, gradients


def sweep_tiles(task: Task, constants: Mapping[str, tuple[float, ...]], memory: int) -> list[Tensor]:
    """Rows, then columns, in the order of the task's reductions."""
    orders: tuple[Tensor | None, Tensor | None] = (None, None)
    keyed = by_key(task.rule)
    if keyed is not None:
        orders = sort_by_key(keyed.keys(task.anchors, task.candidates))
        both = [r if o is None else r.rows(o) for r, o in zip((task.anchors, task.candidates), orders, strict=True)]
        task = replace(task, anchors=both[0], candidates=both[1])
    inputs = Inputs.of(task)
    tensors = inputs.tensors(task)
    bare = replace(
        task,
        anchors=detached(task.anchors),
        candidates=detached(task.candidates),
        params={name: p.detach() for name, p in task.params.items()},
    )
    size = sides_of(bare, memory)
    layout = lay_out(task.rule, bare.anchors, bare.candidates, size)
    budget = max(0, memory - LIVE * size[0] * size[1] * task.anchors.z.element_size())
    results = list(cast(tuple[Tensor, ...], _Tiled.apply(Grid(bare, layout, constants), inputs, budget, *tensors)))
    places = [axis for axis in (0, 1) for _ in task.reductions[axis]]
    for k, axis in enumerate(places):
        order = orders[axis]
        if order is not None:
            results[k] = torch.empty_like(results[k]).index_copy(0, order, results[k])
    return results
