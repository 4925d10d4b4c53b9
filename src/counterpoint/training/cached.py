"""Gradient caching: the batch that the loss sees does not depend on memory.

Embeddings of all micro-batches are made without a graph; the objective sees them together and gives each its gradient;
each micro-batch is then encoded once more, with the same random numbers, and carries its share of the gradient on. Exact
means: the gradient of plain autograd through the same micro-batches with the same random numbers.

Gao, Zhang, Han, Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv:2101.06983, 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint._ops.pace import passes
from counterpoint.errors import Refusal
from counterpoint.types import Batch, Embeddings, Outcome

Sets = dict[str, Embeddings]
Encode = Callable[[nn.ModuleDict, dict[str, Batch]], Sets]
Objective = Callable[[nn.ModuleDict, Sets], Outcome]
RandomState = tuple[Tensor, list[Tensor]]


def part_of(view: Batch, at: Sequence[int]) -> dict[str, Any]:
    """Some rows of a named batch; what is not a column, such as a role, stays.

    >>> part_of({"id": torch.arange(3), "text": ["a", "b", "c"], "role": "anchor"}, [2, 1])["text"]
    ['c', 'b']
    """
    rows = len(view["id"])

    def some(column: Any) -> Any:
        if isinstance(column, str) or not hasattr(column, "__len__") or len(column) != rows:
            return column
        return [column[i] for i in at] if isinstance(column, list | tuple) else column[list(at)]

    return {name: some(column) for name, column in view.items()}


def pieces(views: Mapping[str, Batch], micro: int) -> Iterator[dict[str, Batch]]:
    """One named batch after another in pieces of at most `micro` rows; texts of like length come together.

    Pairs go by identity, so the order of rows is free.
    """
    for name, view in views.items():
        order = range(len(view["id"]))
        if "text" in view:
            order = sorted(order, key=lambda i: len(view["text"][i]))  # type: ignore[assignment]
        for start in range(0, micro * passes(-(-len(order) // micro)), micro):
            yield {name: part_of(view, order[start : start + micro])}


def random_state() -> RandomState:
    """The states of the generators that dropout draws from, on the CPU and on CUDA."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def set_random_state(state: RandomState) -> None:
    """Put the generators back."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


@contextmanager
def same_random(state: RandomState) -> Iterator[None]:
    """Random numbers as they were at a state; afterwards they go on as if nothing had been drawn."""
    now = random_state()
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(now)


def carriers(rows: Embeddings) -> list[Tensor]:
    """What of a set may carry a gradient: vectors and floating facts, in one order."""
    return [rows.z, *(fact for _, fact in sorted(rows.facts.items()) if fact.is_floating_point())]


def leaves(rows: Embeddings) -> Embeddings:
    """The rows as the beginning of a graph."""
    facts = {k: f.detach().requires_grad_() if f.is_floating_point() else f for k, f in rows.facts.items()}
    return replace(rows, z=rows.z.detach().requires_grad_(), facts=facts)


@contextmanager
def row_by_row(modules: nn.Module) -> Iterator[None]:
    """Inside, batch norm in training mode is refused: it would see other rows than without caching.

    Raises:
        Refusal: when such a layer is called; one that only the objective calls may stay.
    """

    def refuse(name: str) -> None:
        remedy = "train without --micro, or freeze its statistics by eval()"
        raise Refusal(
            "an encoder that treats rows one by one", f"batch norm in '{name}'", where="--micro", remedy=remedy
        )

    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: refuse(name))
        for name, module in modules.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cached(
    modules: nn.ModuleDict,
    views: Mapping[str, Batch],
    *,
    encode: Encode,
    objective: Objective,
    micro: int,
    autocast: torch.autocast,
    share: float = 1.0,
) -> tuple[Sets, Outcome]:
    """Forward and backward of a batch in pieces: gradients are added to the modules' parameters.

    Args:
        modules: of the method.
        views: named batches.
        encode: of the method; row-wise.
        objective: of the method; sees all rows.
        micro: rows of a piece, at least 1.
        autocast: precision of the encoders, in both passes.
        share: what the gradient is multiplied by.

    Returns:
        All embeddings, detached from the encoders, and the outcome.

    Raises:
        Refusal: for batch norm in training mode in an encoder.
    """
    states, found = [], []
    with row_by_row(modules):
        for piece in pieces(views, micro):
            states.append(random_state())
            with torch.no_grad(), autocast:
                found.append(encode(modules, piece))
    names = dict.fromkeys(name for sets in found for name in sets)
    whole = {name: leaves(Embeddings.cat([sets[name] for sets in found if name in sets])) for name in names}
    outcome = objective(modules, whole)
    (outcome.loss * share).backward()
    done = dict.fromkeys(names, 0)
    constant: set[str] = set()  # views that no gradient goes back to, such as a teacher's
    for piece, state in zip(pieces(views, micro), states, strict=True):
        if constant.issuperset(piece):
            continue
        with same_random(state), autocast:
            sets = encode(modules, piece)
        tensors, gradients = [], []
        for name, rows in sets.items():
            at = slice(done[name], done[name] + len(rows))
            done[name] = at.stop
            for tensor, total in zip(carriers(rows), carriers(whole[name]), strict=True):
                if tensor.requires_grad and total.grad is not None:
                    tensors.append(tensor)
                    gradients.append(total.grad[at].to(tensor.dtype))
        if tensors:
            torch.autograd.backward(tensors, gradients)
        else:
            constant.update(piece)
    return whole, outcome
