"""One comparison of two sets of rows, as all backends see it; and the check that its tile is what a tile has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor

from counterpoint._ops.layout import Rule
from counterpoint._ops.products import Precision
from counterpoint._ops.running import Bound, Reduction
from counterpoint._ops.scores import Columns, Score
from counterpoint._ops.tile import COLUMNS, ROWS, Output, Side, Tile, constant_pairs
from counterpoint.types import Embeddings, Pairs

PROBED = 2  # rows of each side that a tile is tried on


def column(rows: Embeddings, name: str) -> Tensor:
    """The vectors, or a fact."""
    if name == "z":
        return rows.z
    if name not in rows.facts:
        known = ", ".join(sorted(rows.facts)) or "none"
        raise KeyError(f"a score reads the fact '{name}', which its rows do not have; they have: {known}")
    return rows.facts[name]


def columns_of(score: Score, a: Embeddings, c: Embeddings) -> tuple[Columns, Columns]:
    """What a score reads of both sides."""
    x, y = (tuple(column(rows, name) for name in names) for rows, names in zip((a, c), score.reads, strict=True))
    return x, y


def facts_only(rows: Embeddings) -> Embeddings:
    """The same rows without vectors: what a tile may read of them."""
    facts = {name: fact for name, fact in rows.facts.items() if fact.ndim == 1}
    return replace(rows, z=rows.z.reshape(len(rows), -1)[:, :0], facts=facts)


@dataclass(frozen=True)
class Task:
    """The arguments of a sweep, checked, with what every backend asks of them."""

    tile: Tile
    anchors: Embeddings
    candidates: Embeddings
    scores: Mapping[str, Score]
    rule: Rule | None
    params: Mapping[str, Tensor]
    reductions: tuple[Mapping[str, Reduction], Mapping[str, Reduction]]  # of rows, of columns
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    precision: Precision = "fp32"

    @cached_property
    def names(self) -> list[str]:
        """The outputs of the tile that somebody wants."""
        return list(dict.fromkeys([*self.reductions[0], *self.reductions[1]]))

    @cached_property
    def read(self) -> tuple[list[str], list[str]]:
        """The columns that the scores read, of anchors and of candidates."""
        both = [dict.fromkeys(n for score in self.scores.values() for n in score.reads[side]) for side in (0, 1)]
        return list(both[0]), list(both[1])

    @cached_property
    def sides(self) -> tuple[Embeddings, Embeddings]:
        """Both sides without vectors."""
        return facts_only(self.anchors), facts_only(self.candidates)

    def pairs(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The rule's matrix for two tiles."""
        with torch.no_grad():
            if self.rule is None:
                one = torch.ones(len(a), len(c), dtype=a.z.dtype, device=a.z.device)
                return Pairs(torch.zeros_like(one), one)
            pairs = self.rule(a, c)
            return Pairs(*(weight.to(a.z.dtype) for weight in pairs))

    def score(self, name: str, a: Embeddings, c: Embeddings) -> Tensor:
        """One score of two tiles."""
        score = self.scores[name]
        x, y = columns_of(score, a, c)
        return score.of(x, y, self.precision)

    def outputs(
        self, scores: Mapping[str, Tensor], pairs: Pairs, a: Side, c: Side, params: Mapping[str, Tensor] | None = None
    ) -> Mapping[str, Output]:
        """What the tile gives, or why it cannot be swept; `params` in place of the task's own."""
        try:
            found = self.tile(scores, pairs, a, c, self.params if params is None else params)
        except RuntimeError as error:
            raise ValueError(
                f"the tile failed on a block of the pairs; a tile is elementwise in the pair and reads facts by "
                f"a['name'] and c['name'] ({error})"
            ) from error
        missing = [name for name in self.names if name not in found]
        if missing:
            raise KeyError(f"wanted tile outputs {missing}, which are to be reduced; it gave {sorted(found)}")
        return found


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that refuses to be differentiated, where torch's own mark lets some second derivatives be lost."""

    @wraps(backward)
    def once(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("a sweep can be differentiated once; create_graph=True asks for a second derivative")
        return backward(ctx, *grads)

    return once


def parts(output: Output) -> tuple[Tensor, ...]:
    """A value, or a value and its weight."""
    return (output,) if isinstance(output, Tensor) else output


def probe(task: Task, elsewhere: tuple[float, float] | None) -> dict[str, tuple[float, ...]]:
    """Try the tile on two rows of each side; returns the outputs that are one number on pairs that are not special.

    Raises:
        ValueError: where the tile is not elementwise in the pair, or reads a tensor with a gradient that came neither
            by a score, nor a fact, nor `params`: its gradient would be lost.
    """
    a, c = (rows.rows(slice(0, PROBED)) for rows in (task.anchors, task.candidates))
    if not len(a) or not len(c):
        return {}
    with torch.no_grad():
        scores = {name: task.score(name, a, c) for name in task.scores}
    pairs = task.pairs(a, c)
    inputs = {id(tensor) for rows in (task.anchors, task.candidates) for tensor in rows.facts.values()}
    inputs |= {id(tensor) for tensor in task.params.values()}
    with torch.enable_grad():
        whole = task.outputs(scores, pairs, Side(a, ROWS), Side(c, COLUMNS))
        one = task.outputs(
            {name: s[-1:, -1:] for name, s in scores.items()},
            Pairs(*(weight[-1:, -1:] for weight in pairs)),
            Side(a.rows(slice(-1, None)), ROWS),
            Side(c.rows(slice(-1, None)), COLUMNS),
        )
    for name in task.names:
        for value, alone in zip(parts(whole[name]), parts(one[name]), strict=True):
            _check_elementwise(name, value, alone, (len(a), len(c)))
            for leaf in _captured(value, inputs, a, c, task):
                raise ValueError(
                    f"the tile's '{name}' reads a tensor of shape {list(leaf.shape)} that requires grad but is neither a "
                    "score, a fact of its rows nor one of `params`: its gradient would be lost; pass it in `params`"
                )
    if elsewhere is None:
        return {}
    plain = constant_pairs(elsewhere, a.z)
    with torch.no_grad():
        found = task.outputs(scores, plain, Side(a, ROWS), Side(c, COLUMNS))
    numbers = {name: parts(found[name]) for name in task.names}
    return {
        name: tuple(float(value) for value in values)
        for name, values in numbers.items()
        if all(value.ndim == 0 for value in values)
        and not any(v.requires_grad for v in parts(whole[name]) if v.ndim == 0)
    }


def _check_elementwise(name: str, value: Tensor, alone: Tensor, shape: tuple[int, int]) -> None:
    if value.ndim and (
        value.ndim != 2 or any(got not in (1, size) for got, size in zip(value.shape, shape, strict=True))
    ):
        raise ValueError(
            f"wanted the tile's '{name}' as one value for each pair {list(shape)}, got {list(value.shape)}"
        )
    corner = value.detach() if value.ndim == 0 else value.detach()[-1, -1]
    if not torch.allclose(corner.double(), alone.detach().double().squeeze(), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"the tile's '{name}' of a pair changes with its neighbours; a tile is elementwise in the pair: what looks "
            "across pairs (mean, softmax, max) belongs to `rows` and `columns`"
        )


def _captured(value: Tensor, inputs: set[int], a: Embeddings, c: Embeddings, task: Task) -> Iterator[Tensor]:
    """Leaves of the value's graph that the sweep did not hand to the tile."""
    known = set(inputs)
    for rows in (a, c):
        known |= {id(fact) for fact in rows.facts.values()}
    stops = {fact.grad_fn for rows in (a, c) for fact in rows.facts.values()}
    stops |= {tensor.grad_fn for tensor in task.params.values()}
    stack, seen = [value.grad_fn] if value.grad_fn else [], set()
    if value.grad_fn is None and value.requires_grad and id(value) not in known:
        yield value
    while stack:
        node = stack.pop()
        if node in seen or node in stops:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            yield leaf
        stack += [following for following, _ in node.next_functions if following is not None]
