"""A method makes views, encodes them into embeddings with identities, says who attracts whom, and scores that."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from counterpoint.objectives.custom import Objective, Rule
from counterpoint.training.accumulate import mean_of, over
from counterpoint.training.cached import Sets, cached
from counterpoint.types import Batch, Embeddings, Outcome


def nothing_after(_modules: nn.ModuleDict, _sets: dict[str, Embeddings], _outcome: Outcome) -> None:
    """The `after` of a method without teacher, queue or prototypes."""


@dataclass(frozen=True)
class Method:
    """One training method: five functions over its modules.

    Args:
        modules: everything with state; the functions get it, they never capture it.
        views: a batch and a generator -> named batches.
        encode: named batches -> named embeddings; row by row, local rows only.
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
        both = [Embeddings.cat([sets[name] for name in names]) for names in (self.anchors, self.candidates)]
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


def step(
    method: Method,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator,
    autocast: torch.autocast,
    clip: float,
    micro: int | None = None,
    also: Sequence[Batch] = (),
) -> tuple[Outcome, float]:
    """The path of a batch: views, embeddings, loss, gradients, update. Returns the outcome and the gradient's norm.

    With `micro` the encoders see that many rows at a time, and the loss sees all of them. `also` are further batches of
    the same update, each with negatives of its own: the gradient is that of the mean of the losses.
    """
    optimizer.zero_grad(set_to_none=True)  # before the forward pass, so that old gradients take no memory in it

    def backward(batch: Batch) -> tuple[Sets, Outcome]:
        views = method.views(batch, generator)
        if micro is None:
            with autocast:
                sets = method.encode(method.modules, views)
            outcome = method.objective(method.modules, sets)
            outcome.loss.backward()
            return sets, outcome
        return cached(
            method.modules, views, encode=method.encode, objective=method.objective, micro=micro, autocast=autocast
        )

    found = over((batch, *also), backward, method.modules.parameters())
    norm = nn.utils.clip_grad_norm_(method.modules.parameters(), clip)
    optimizer.step()
    for sets, outcome in found:
        method.after(method.modules, sets, outcome)
    return mean_of([outcome for _, outcome in found]), float(norm)
