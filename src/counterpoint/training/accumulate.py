"""Several batches before one update: the gradient of the mean of their losses, each with negatives of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import nn

from counterpoint.types import Outcome

T = TypeVar("T")
U = TypeVar("U")


def in_groups(batches: Iterable[T], count: int) -> Iterator[tuple[T, ...]]:
    """Batches in groups of `count`; a last group that is not full is left out, as a last short batch is.

    >>> list(in_groups("abcde", 2))
    [('a', 'b'), ('c', 'd')]
    """
    rest = iter(batches)
    while len(group := tuple(islice(rest, count))) == count:
        yield group


def over(batches: Sequence[T], backward: Callable[[T], U], parameters: Iterable[nn.Parameter]) -> list[U]:
    """Run forward and backward of each batch; the gradient is then that of the mean of their losses.

    It is not the gradient of one batch of all rows: a row of one batch is no negative of a row of another.

    Args:
        batches: k of them.
        backward: a batch -> anything; adds the gradient of its loss to the parameters.
        parameters: whose gradients were empty before, and are divided by k after.

    Returns:
        What `backward` gave for each batch.
    """
    found = [backward(batch) for batch in batches]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if len(batches) > 1 and gradients:
        torch._foreach_div_(gradients, len(batches))
    return found


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """What several batches say together: the mean of each term, detached, and the notes of all rows.

    >>> halves = [Outcome({"x": torch.tensor(v)}, {"x": 1.0}, {"gap": torch.tensor([v])}) for v in (1.0, 3.0)]
    >>> mean_of(halves).loss.item(), mean_of(halves).notes["gap"].tolist()
    (2.0, [1.0, 3.0])
    """
    if len(outcomes) == 1:
        return outcomes[0]
    first = outcomes[0]
    terms = {name: torch.stack([o.terms[name].detach() for o in outcomes]).mean() for name in first.terms}
    notes = {name: torch.cat([o.notes[name].reshape(-1) for o in outcomes]) for name in first.notes}
    return Outcome(terms, first.weights, notes)
