"""Four jobs that users have: what there is to train on, and what is asked of the model; dev for choices, test once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from texts import table

from counterpoint.data.identity import content_ids
from counterpoint.evaluation.tasks import Embed, Retrieval

ASKED = 1000  # questions of a retrieval job
REST = 2000  # texts of the training file, not drawn, that stand for dev where labels are few
STRENGTH = 10.0  # C of the logistic regression, for every model; the best of 1, 10 and 100 for the frozen one on dev


@dataclass(frozen=True)
class Work:
    """One job.

    Args:
        train: rows with the columns anchor and positive, or anchor and label.
        pairs: the same as pairs of texts, for a library that knows nothing else.
        measure: what is measured.
        asked: a model -> the number, question by question.
    """

    train: pl.DataFrame
    pairs: list[tuple[str, str]]
    measure: str
    asked: Callable[[Embed], np.ndarray]


def some(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """At most `ASKED` rows, by hash, so that every seed and version asks the same."""
    kept = frame.unique(column, maintain_order=True)
    return kept[content_ids(kept[column]).argsort()[:ASKED].numpy()]


def finding(left: Sequence[str], right: Sequence[Sequence[str]]) -> Retrieval:
    """Each text on the left has to find its own on the right, among those of all."""
    place = {text: at for at, text in enumerate(dict.fromkeys(text for own in right for text in own))}
    queries: dict[str, set[int]] = {}
    for text, own in zip(left, right, strict=True):
        queries.setdefault(text, set()).update(place[t] for t in own)
    return Retrieval(list(queries), [sorted(p) for p in queries.values()], list(place), np.arange(len(queries)))


def of_pairs(train: pl.DataFrame, asked: pl.DataFrame) -> Work:
    """A job of labelled pairs; a cell may list several positives."""
    pairs = [(a, p) for a, own in train.select("anchor", "positive").iter_rows() for p in own]
    task = finding(asked["anchor"].to_list(), asked["positive"].to_list())
    return Work(train, pairs, task.metric, lambda embed: task.measure(embed).values[task.metric])


def code_search(data: Path, part: str, _seed: int) -> Work:
    """The docstring of a function finds its code; packages of the test are in no training row."""
    frame = table(data, "code_search/py_docstring_code")
    pairs = frame.select("split", pl.col("docstring").alias("anchor"), pl.concat_list("code").alias("positive"))
    return of_pairs(pairs.filter(pl.col("split") == "train"), some(pairs.filter(pl.col("split") == part), "anchor"))


def captions(data: Path, part: str, _seed: int) -> Work:
    """A caption finds the other four of its photo among those of a thousand photos."""
    frame = table(data, "text_pairs/multi30k_5captions_en")
    others = pl.concat_list("c2", "c3", "c4", "c5").alias("positive")
    pairs = frame.select("split", pl.col("c1").alias("anchor"), others)
    held = {"dev": ("val",), "test": ("test_2016",)}[part]
    return of_pairs(pairs.filter(pl.col("split") == "train"), some(pairs.filter(pl.col("split").is_in(held)), "anchor"))


def translations(data: Path, part: str, _seed: int) -> Work:
    """An English caption finds its German translation."""
    frame = table(data, "parallel/multi30k_task1")
    pairs = frame.select("split", pl.col("en").alias("anchor"), pl.concat_list("de").alias("positive"))
    held = {"dev": ("val",), "test": ("test_2016_flickr",)}[part]
    return of_pairs(pairs.filter(pl.col("split") == "train"), some(pairs.filter(pl.col("split").is_in(held)), "anchor"))


def intents(data: Path, part: str, seed: int, *, shots: int = 8) -> Work:
    """A question belongs to one of 77 intents, of each of which a few were labelled; read by a logistic regression."""
    frame = table(data, "text_cls/banking77")
    rows = frame.filter(pl.col("split") == "train")
    draw, labels = np.random.default_rng(seed), rows["label"].to_numpy()
    shuffled = [draw.permutation(np.flatnonzero(labels == c)) for c in sorted(set(labels.tolist()))]
    few = rows[np.concatenate([at[:shots] for at in shuffled])]
    left = rows[draw.permutation(np.concatenate([at[shots:] for at in shuffled]))[:REST]]
    asked = left if part == "dev" else frame.filter(pl.col("split") == "test")
    texts: dict[Any, list[str]] = {}
    for label, text in few.select("label", "text").iter_rows():
        texts.setdefault(label, []).append(text)
    pairs = [(a, b) for own in texts.values() for a in own for b in own if a != b]
    known, wanted = few.select(pl.col("text").alias("anchor"), "label"), asked["label"].to_numpy()

    def read(embed: Embed) -> np.ndarray:
        reader = LogisticRegression(C=STRENGTH, max_iter=1000)
        reader.fit(embed(known["anchor"].to_list(), "anchor").numpy(), known["label"].to_numpy())
        return reader.predict(embed(asked["text"].to_list(), "anchor").numpy()) == wanted

    return Work(known, pairs, "accuracy of a logistic regression", read)


JOBS: dict[str, Callable[[Path, str, int], Work]] = {
    "code search": code_search,
    "captions": captions,
    "translations": translations,
    "intents": intents,
}
