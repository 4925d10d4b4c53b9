"""A method makes views, encodes them into embeddings with identities, says who attracts whom, and scores that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

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


def step(
    method: Method,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator,
    autocast: torch.autocast,
    clip: float,
) -> tuple[Outcome, float]:
    """The path of a batch: views, embeddings, loss, gradients, update. Returns the outcome and the gradient's norm."""
    optimizer.zero_grad(set_to_none=True)  # before the forward pass, so that old gradients take no memory in it
    views = method.views(batch, generator)
    with autocast:
        sets = method.encode(method.modules, views)
    outcome = method.objective(method.modules, sets)
    outcome.loss.backward()
    norm = nn.utils.clip_grad_norm_(method.modules.parameters(), clip)
    optimizer.step()
    method.after(method.modules, sets, outcome)
    return outcome, float(norm)
