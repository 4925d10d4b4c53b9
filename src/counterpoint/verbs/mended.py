"""Data with their own faults mended: copies of held-out items out of train, likely positives listed as such."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import polars as pl
import torch

from counterpoint.data.roles import ITEMS
from counterpoint.evaluation.faults import over_split, suspects, twins_of
from counterpoint.evaluation.space import ASKED, Look, look
from counterpoint.verbs.spaces import Material


@dataclass(frozen=True)
class Mended:
    """A table that `fit` takes, and what was changed.

    Args:
        frame: the rows by role; arrays as lists of numbers.
        copies: rows of train that were left out since they stand in dev or test too.
        contradicting: rows of train that were left out since a copy of them has another label.
        added: positives that were listed.
    """

    frame: pl.DataFrame
    copies: int
    contradicting: int
    added: int


def mend(material: Material, seen: Look) -> Mended:
    """Leave out and list what `diagnose` found, in all rows of train.

    Args:
        material: what was diagnosed; from rows, not from a folder with judgements.
        seen: the look that it was read from.
    """
    assert material.samples is not None
    frame, keys = material.samples.frame, material.anchors.keys
    known, held = over_split(seen, most=len(keys))
    twin = twins_of(seen, known, held)[0] if len(known) and len(held) else torch.zeros(len(known), dtype=torch.bool)
    copies = {keys[i] for i in known[twin].tolist()}
    train = frame["split"] == "train" if "split" in frame.columns else pl.repeat(value=True, n=len(frame), eager=True)
    away = train & frame["anchor"].is_in(list(copies))
    whole = seen if len(seen.at) == len(keys) else look(seen.space, most=max(len(keys), ASKED))
    unlisted = suspects(whole) & ~whole.held[:, None]
    contradicting = pl.repeat(value=False, n=len(frame), eager=True)
    added = 0
    if material.relation is None:
        double = {keys[i] for i in whole.at[unlisted.any(1)].tolist()} if "label" in seen.asked.facts else set()
        contradicting = train & frame["anchor"].is_in(list(double)) & ~away
    elif material.candidates is not None:
        more: dict[str, list[str]] = defaultdict(list)
        for i, j in torch.nonzero(unlisted).tolist():
            more[keys[int(whole.at[i])]].append(material.candidates.keys[int(whole.near.index[i, j])])
        lists = [
            [*old, *(new for new in more.get(anchor, ()) if new not in old)] if mine else old
            for anchor, old, mine in zip(frame["anchor"], frame["positive"].to_list(), train, strict=True)
        ]
        added = sum(map(len, lists)) - int(frame["positive"].list.len().sum())
        frame = frame.with_columns(positive=pl.Series(lists, dtype=pl.List(pl.String)))
    kept = frame.filter(~(away | contradicting)).drop("row", "fine", strict=False)
    return Mended(_spelled(kept, material), int(away.sum()), int(contradicting.sum()), added)


def _spelled(frame: pl.DataFrame, material: Material) -> pl.DataFrame:
    """Keys of arrays as the numbers that they stand for."""
    if material.items.kind == "text":
        return frame
    columns = {}
    for role in (r for r in ITEMS if r in frame.columns):
        if role == "anchor":
            columns[role] = material.items.take(frame[role].to_list()).tolist()
        else:
            columns[role] = [material.items.take(cell).tolist() for cell in frame[role].to_list()]
    return frame.with_columns(pl.Series(role, cells) for role, cells in columns.items())
