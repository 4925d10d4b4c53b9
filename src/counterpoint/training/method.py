"""A method makes views, encodes them into embeddings with identities, says who attracts whom, and scores that."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from counterpoint._ops.lean import clear_gradients, lean
from counterpoint._ops.processes import joined
from counterpoint.objectives.custom import Objective, Rule
from counterpoint.training.cached import cached
from counterpoint.training.processes import sum_gradients
from counterpoint.training.sharded import clip_gradients, reduce_gradients
from counterpoint.types import Batch, Embeddings, Outcome


def nothing_after(_modules: nn.ModuleDict, _sets: dict[str, Embeddings], _outcome: Outcome) -> None:
    """The `after` of a method without teacher, queue or prototypes."""


@dataclass(frozen=True)
class Method:
    """One training method: five functions over its modules.

    Args:
        modules: everything with state; the functions get it, they never capture it.
        views: a batch and a generator -> named batches.
        encode: named batches -> named embeddings; row by row, local rows only. Gradient caching asks for some rows of one
            view at a time, so it takes the batches that it gets.
        objective: named embeddings -> outcome; may look across rows.
        model: modules -> the module that is saved for use.
        after: teacher, queue, prototypes: the only mutation.
    """

    modules: nn.ModuleDict
    views: Callable[[Batch, torch.Generator], dict[str, Batch]]
    encode: Callable[[nn.ModuleDict, dict[str, Batch]], dict[str, Embeddings]]
    objective: Callable[[nn.ModuleDict, dict[str, Embeddings]], Outcome]
    model: Callable[[nn.ModuleDict], nn.Module]
    after: Callable[[nn.ModuleDict, dict[str, Embeddings], Outcome], None] = nothing_after


@dataclass(frozen=True)
class Contrast:
    """The objective of most methods: a loss of two sets under a rule.

    Args:
        anchors: names of the sets whose rows are anchors; several are taken together.
        candidates: names of the sets whose rows are candidates.
        rule: who attracts and who repels whom.
        loss: (anchors, candidates, rule=) -> outcome.
    """

    anchors: tuple[str, ...]
    candidates: tuple[str, ...]
    rule: Rule
    loss: Objective

    def __call__(self, _modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        """The outcome of the named sets."""
        both = [joined([sets[name] for name in names]) for names in (self.anchors, self.candidates)]
        return self.loss(*both, rule=self.rule)


def replace(method: Method, **changes: Any) -> Method:
    """The method with some parts replaced; an `objective` of two sets and a rule keeps the method's sets and rule.

    So `replace(method, objective=mine)` changes the loss and nothing else.

    Args:
        method: what to start from.
        changes: fields of `Method`. `objective` may also be a function (anchors, candidates, *, rule) -> outcome, such
            as one of `objectives.custom` or `objectives.dense`.

    Raises:
        TypeError: for such a function where the method's own objective is not a loss of two sets.
    """
    loss = changes.get("objective")
    if loss is not None and not isinstance(loss, Contrast) and "rule" in inspect.signature(loss).parameters:
        if not isinstance(method.objective, Contrast):
            raise TypeError(
                "this method's objective is not a loss of two sets under a rule, so yours cannot take its place as it is; "
                "pass objective=(modules, sets) -> Outcome"
            )
        changes["objective"] = dataclasses.replace(method.objective, loss=loss)
    return dataclasses.replace(method, **changes)


class Stepped(NamedTuple):
    """What an update did: the sets and the outcome of its last batch, its loss, the norm of the gradient, whether it was
    taken, and the sums of what travelled with the gradient."""

    sets: dict[str, Embeddings]
    outcome: Outcome
    loss: float
    norm: float
    taken: bool
    beside: list[float]


def gradients(
    method: Method,
    batch: Batch,
    *,
    generator: torch.Generator,
    autocast: torch.autocast,
    micro: int | None,
    share: float = 1.0,
) -> tuple[dict[str, Embeddings], Outcome]:
    """Views, embeddings, loss, and this process's part of the gradient, times `share`, added to what is there.

    With `micro` the encoders see that many rows at a time, and the loss sees all of them.
    """
    views = method.views(batch, generator)
    if micro is not None:
        return cached(
            method.modules, views, encode=method.encode, objective=method.objective, micro=micro, autocast=autocast,
            share=share,
        )  # fmt: skip
    with autocast:
        sets = method.encode(method.modules, views)
    outcome = method.objective(method.modules, sets)
    (outcome.loss * share).backward()
    return sets, outcome


def step(
    method: Method,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator,
    autocast: torch.autocast,
    clip: float,
    micro: int | None = None,
    beside: Callable[[], Sequence[float]] = tuple,
) -> Stepped:
    """The path of a batch: views, embeddings, loss, gradients, their sum over processes, update.

    Several batches share one update, by the mean of their losses; each has only its own negatives. An update whose loss or
    gradient is not finite is not taken, on any process.

    Args:
        method: what to train.
        batches: of this process.
        optimizer: of the method's parameters.
        generator: of the views.
        autocast: precision of the encoders.
        clip: largest norm of the gradient.
        micro: rows that the encoders see at a time; None: all.
        beside: makes numbers that are added up over processes on the way, once the gradient is there.
    """
    clear_gradients(method.modules.parameters())  # before the forward pass, so that they take no memory in it
    with lean():
        found = [
            gradients(method, batch, generator=generator, autocast=autocast, micro=micro, share=1 / len(batches))
            for batch in batches
        ]
    loss = sum(float(outcome.loss.detach()) for _, outcome in found) / len(found)
    reduce_gradients(method.modules)
    bad, *sums = sum_gradients(method.modules.parameters(), (float(not math.isfinite(loss)), *beside()))
    norm = float(clip_gradients(method.modules.parameters(), clip))
    taken = not bad and math.isfinite(norm)
    if taken:
        optimizer.step()
        for sets, outcome in found:
            method.after(method.modules, sets, outcome)
    return Stepped(*found[-1], loss, norm, taken, sums)
