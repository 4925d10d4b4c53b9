"""Training rows as columns of items with identities, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from counterpoint.data.items import TEXTS, Items
from counterpoint.types import Batch, Relation


def relation_of(frame: pl.DataFrame, items: Items = TEXTS) -> Relation:
    """The labelled pairs of a table as edges by content identity; listed negatives have grade 0.

    The values of a table are those of its positives; a listed negative has the value 0.

    >>> from counterpoint.data.identity import content_id
    >>> relation_of(pl.DataFrame({"anchor": ["a"], "positive": [["b"]]})).positives(content_id("a")) == {content_id("b"): 1}
    True
    """
    anchor, candidate, grade, value = [], [], [], []
    values = frame["value"].to_list() if "value" in frame.columns else None
    weights = frame["weight"].to_list() if "weight" in frame.columns else [1.0] * len(frame)
    for role in ("positive", "negative"):
        if role not in frame.columns:
            continue
        told = values if values and role == "positive" else [0.0] * len(frame)
        columns = (items.ids(frame["anchor"]), frame[role].to_list(), weights, told)
        for known, others, weight, score in zip(*columns, strict=True):
            anchor += [known] * len(others)
            candidate += items.ids(others)
            grade += [weight if role == "positive" else 0.0] * len(others)
            value += [float(score)] * len(others)
    return Relation.of(anchor, candidate, grade, value=None if values is None else value)


@dataclass(frozen=True)
class Rows:
    """Rows to train on.

    Args:
        anchors: one key a row; a text is its own key.
        positives: a list of keys a row, empty where the data have none.
        negatives: likewise.
        labels: class numbers, or None.
        ids: content ids of the anchors.
        relation: all labelled pairs of these rows.
        sources: where each row comes from, or None.
        classes: the name of each class number, or None.
        items: what the keys stand for.
    """

    anchors: list[str]
    positives: list[list[str]]
    negatives: list[list[str]]
    labels: Int[Tensor, " n"] | None
    ids: Int[Tensor, " n"]
    relation: Relation
    items: Items = TEXTS
    sources: list[str] | None = None
    classes: list[str] | None = None

    @classmethod
    def of(cls, frame: pl.DataFrame, items: Items = TEXTS) -> Rows:
        """The rows of a table of roles."""
        nothing: list[list[str]] = [[] for _ in range(len(frame))]
        anchors = frame["anchor"].to_list()
        positives = frame["positive"].to_list() if "positive" in frame.columns else nothing
        negatives = frame["negative"].to_list() if "negative" in frame.columns else nothing
        labels, classes = None, None
        if "label" in frame.columns:
            labels = torch.from_numpy(frame["label"].rank("dense").to_numpy().astype(np.int64) - 1)
            classes = frame["label"].unique().sort().to_list()
        relation = relation_of(
            frame.select("anchor", *(c for c in ("positive", "negative", "weight", "value") if c in frame.columns)),
            items,
        )
        ids = torch.tensor(items.ids(anchors), dtype=torch.int64)
        sources = frame["source"].fill_null("").to_list() if "source" in frame.columns else None
        return cls(anchors, positives, negatives, labels, ids, relation, items, sources, classes)

    def __len__(self) -> int:
        return len(self.anchors)

    def take(self, at: np.ndarray) -> Batch:
        """The rows at these places as a batch."""
        rows = torch.from_numpy(at)
        batch = {
            "id": self.ids[rows],
            "row": rows,
            "anchor": self.items.take([self.anchors[i] for i in at]),
            "positive": [self.items.take(self.positives[i]) if self.positives[i] else [] for i in at],
            "negative": [self.items.take(self.negatives[i]) if self.negatives[i] else [] for i in at],
        }
        source = {"source": self.source_numbers[rows]} if self.sources is not None else {}
        return batch | source | ({"label": self.labels[rows]} if self.labels is not None else {})

    @cached_property
    def source_names(self) -> list[str]:
        """The sources in alphabetical order; a batch has each row's as its place in this list."""
        return sorted(set(self.sources or ()))

    @cached_property
    def source_numbers(self) -> Int[Tensor, " n"]:
        """The source of each row as its place among `source_names`.

        >>> Rows.of(pl.DataFrame({"anchor": ["a", "b"], "source": ["web", "qa"]})).source_numbers.tolist()
        [1, 0]
        """
        places = {name: place for place, name in enumerate(self.source_names)}
        return torch.tensor([places[name] for name in self.sources or ()], dtype=torch.int64)
