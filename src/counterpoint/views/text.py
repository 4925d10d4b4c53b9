"""Views of text: the sides of a labelled pair, and the same text twice."""

from __future__ import annotations

from collections.abc import Callable

import torch

from counterpoint.data.identity import content_ids
from counterpoint.types import Batch

Views = Callable[[Batch, torch.Generator], dict[str, Batch]]


def anchors_and_candidates(*, negatives: int) -> Views:
    """The views of labelled pairs: "anchor", and "candidate" with one positive of each row and then its negatives.

    Where a row lists several positives or negatives, some are drawn for each batch.

    Args:
        negatives: how many negatives of each row to draw, at most; 0 takes none.

    >>> batch = {"id": torch.tensor([1]), "anchor": ["a"], "positive": [["b"]], "negative": [["c", "d"]]}
    >>> anchors_and_candidates(negatives=2)(batch, torch.Generator())["candidate"]["text"]
    ['b', 'c', 'd']
    """

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        chosen = [text for texts in batch["positive"] for text in draw(texts, 1, generator)]
        if negatives:
            chosen += [text for texts in batch["negative"] for text in draw(texts, negatives, generator)]
        return {
            "anchor": {"text": batch["anchor"], "id": batch["id"], "role": "anchor"},
            "candidate": {"text": chosen, "id": content_ids(chosen), "role": "positive"},
        }

    return views


def draw(texts: list[str], count: int, generator: torch.Generator) -> list[str]:
    """At most `count` of the texts, without replacement, in the order of the list.

    >>> draw(["a"], 3, torch.Generator())
    ['a']
    """
    if len(texts) <= count:
        return texts
    picked = torch.randperm(len(texts), generator=generator)[:count]
    return [texts[i] for i in sorted(picked.tolist())]


def twice(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
    """Each text twice; the encoder's dropout makes the two views differ.

    >>> sorted(twice({"anchor": ["a"], "id": torch.tensor([1])}, torch.Generator()))
    ['first', 'second']
    """
    shared = {"text": batch["anchor"], "id": batch["id"], "role": "anchor"}
    shared |= {"label": batch["label"]} if "label" in batch else {}
    return {"first": {**shared, "view": 0}, "second": {**shared, "view": 1}}
