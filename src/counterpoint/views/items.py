"""Views of any kind of item: the sides of a labelled pair, and the same item twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.data.identity import ids_of
from counterpoint.types import Batch
from counterpoint.views.draws import uniform

Views = Callable[[Batch, torch.Generator], dict[str, Batch]]


def anchors_and_candidates(*, negatives: int) -> Views:
    """The views of labelled pairs: "anchor", and "candidate" with one positive of each row and then its negatives.

    Where a row lists several positives or negatives, some are drawn for each batch.

    Args:
        negatives: how many negatives of each row to draw, at most; 0 takes none.

    >>> batch = {"id": torch.tensor([1]), "row": torch.tensor([0])}
    >>> batch |= {"anchor": ["a"], "positive": [["b"]], "negative": [["c", "d"]]}
    >>> anchors_and_candidates(negatives=2)(batch, torch.Generator())["candidate"]["text"]
    ['b', 'c', 'd']
    """

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        chosen = draw(batch["positive"], 1, rows=batch["row"], generator=generator)
        if negatives:
            chosen += draw(batch["negative"], negatives, rows=batch["row"], generator=generator)
        candidates = named(chosen)
        (items,) = candidates.values()
        return {
            "anchor": {**named(batch["anchor"]), "id": batch["id"], "role": "anchor"},
            "candidate": {**candidates, "id": ids_of(items), "role": "positive"},
        }

    return views


def named(items: Sequence[Any] | Tensor) -> dict[str, Any]:
    """Items under the name of their kind: a list of texts, or arrays as one tensor.

    >>> named(["a"]), named([torch.zeros(2), torch.ones(2)])["array"].shape
    ({'text': ['a']}, torch.Size([2, 2]))
    """
    if isinstance(items, Tensor):
        return {"array": items}
    if items and isinstance(items[0], Tensor):
        return {"array": torch.stack(list(items))}
    return {"text": items}


def draw(cells: Sequence[Any], count: int, *, rows: Tensor, generator: torch.Generator) -> list[Any]:
    """At most `count` items of each row's cell, without replacement, in the order of the cell.

    What a row gets depends on its number and the generator, not on the rows beside it.

    Args:
        cells: for each row its items.
        count: items to take of each.
        rows: [n] row numbers.
        generator: of the draws; moved on by one number, whatever the cells.

    >>> draw([["a"], ["b", "c"]], 3, rows=torch.arange(2), generator=torch.Generator())
    ['a', 'b', 'c']
    """
    longest = max((len(cell) for cell in cells), default=0)
    numbers = uniform(generator, rows, longest).tolist()
    taken = []
    for cell, order in zip(cells, numbers, strict=True):
        places = sorted(range(len(cell)), key=order.__getitem__)[:count]
        taken += [cell[i] for i in sorted(places)]
    return taken


def twice(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
    """Each item twice; the encoder's dropout makes the two views differ.

    >>> sorted(twice({"anchor": ["a"], "id": torch.tensor([1])}, torch.Generator()))
    ['first', 'second']
    """
    shared = {**named(batch["anchor"]), "id": batch["id"], "role": "anchor"}
    shared |= {name: batch[name] for name in ("label", "row") if name in batch}
    return {"first": {**shared, "view": 0}, "second": {**shared, "view": 1}}
