"""Which questions a split can ask: one task for the test rows and one for dev."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from counterpoint.data.arrays import Arrays
from counterpoint.data.items import Items
from counterpoint.data.roles import assign
from counterpoint.data.sources import read
from counterpoint.errors import Refusal
from counterpoint.evaluation.tasks import Classification, Retrieval, Similarity, Task, halves
from counterpoint.verbs.prepare import Prepared
from counterpoint.verbs.recipes import Choice
from counterpoint.views.arrays import corrupted

KNOWN = 5_000  # labelled training items that a class is read from; more would cost time and change little
HIDDEN = 0.6  # share of an array's numbers that are replaced before it has to find itself; SCARF's own


def corpus_texts(path: str, delimiter: str | None = None) -> list[str]:
    """The distinct texts of a corpus file: its document column, else its only text column.

    Raises:
        Refusal: a file without a text column that can be told, or without texts.
    """
    frame = read(path, delimiter=delimiter)
    columns = [
        c for c in frame.columns if c.lower() in ("text", "doc", "document", "passage", "positive", "answer", "code")
    ]
    columns = columns or ([frame.columns[0]] if frame.width == 1 else [])
    if len(columns) != 1:
        raise Refusal(
            "one text column in the corpus (text, doc, document, passage, answer or code)",
            f"columns {', '.join(frame.columns)}",
            where=f"--corpus {Path(path).name}",
        )
    samples = assign(frame.select(columns), {"anchor": columns[0]}, source=Path(path).name)
    texts = [t for t in samples.frame["anchor"].unique(maintain_order=True) if t]
    if not texts:
        raise Refusal("texts to rank against", "blank cells only", where=f"--corpus {Path(path).name}")
    return texts


def tasks(
    prepared: Prepared, choice: Choice, corpus: Sequence[str] | None, *, seed: int
) -> tuple[Task, Task | None, Items]:
    """The test task, the dev task, and the items that both ask for; dev is None where its rows are too few to tell a step
    from another.

    Args:
        prepared: the split data.
        choice: which roles there are and which metric they allow.
        corpus: texts that the test ranks against; None: all distinct positives. Dev ranks against its own positives.
        seed: decides which training items a class is read from, and what is hidden of arrays.
    """
    items = prepared.samples.items
    if isinstance(items, Arrays):
        if corpus is not None:
            remedy = "arrays are ranked among all positives of the data"
            raise Refusal("texts for --corpus", "arrays", where="--corpus", remedy=remedy)
        if choice.roles == ("anchor",):
            return hidden(prepared, items, seed)
    test, dev = _of_roles(prepared, choice, corpus, seed=seed)
    return test, dev, items


def hidden(prepared: Prepared, items: Arrays, seed: int) -> tuple[Task, Task | None, Items]:
    """Arrays without labels: one in which most numbers were replaced by other rows' has to find itself as it was.

    It is a stand-in for meaning, not meaning itself. What is hidden is drawn once, so that every encoder is asked the same.
    """
    marginals = items.take(prepared.split.part("train")["anchor"].to_list())
    found: list[Task] = []
    for number, part in enumerate(("test", "dev")):
        frame = prepared.split.part(part).unique("anchor", keep="first", maintain_order=True)
        keys, rows = frame["anchor"].to_list(), torch.from_numpy(frame["row"].to_numpy().copy())
        generator = torch.Generator().manual_seed((seed + number) % 2**63)
        asked = corrupted(items.take(keys), rows, marginals, rate=HIDDEN, generator=generator)
        items, queries = items.added(asked.numpy(), (rows + 1).tolist(), f"{HIDDEN:.0%} of its numbers replaced")
        place = [[i] for i in range(len(keys))]
        found.append(Retrieval(queries, place, keys, frame["unit"].to_numpy(), roles=("anchor", "anchor")))
    return found[0], found[1] if found[1].sizes()[0] > 1 else None, items


def _of_roles(
    prepared: Prepared, choice: Choice, corpus: Sequence[str] | None, *, seed: int
) -> tuple[Task, Task | None]:
    parts = {name: prepared.split.part(name) for name in ("train", "dev", "test")}
    if corpus is not None and (choice.metric != "mrr@10" or "positive" not in choice.roles):
        raise Refusal("pairs to rank for --corpus", f"roles {', '.join(prepared.samples.columns)}")
    if choice.metric == "spearman":
        return similarity(parts["test"]), similarity(parts["dev"])
    if choice.metric == "accuracy":
        return classification(parts["train"], parts["test"], seed), classification(
            parts["train"], parts["dev"], seed, most=1000
        )
    if "positive" not in choice.roles:
        found = [halves(parts[p]["anchor"].to_list(), parts[p]["unit"].to_numpy()) for p in ("test", "dev")]
        if len(found[0].queries) < 2:
            raise Refusal(
                "texts of 8 words or more, or labelled pairs, to measure with", "shorter texts without labels"
            )
        return found[0], found[1] if len(found[1].queries) > 1 else None
    everything = corpus if corpus is not None else distinct(prepared.split.frame)
    return retrieval(parts["test"], everything), retrieval(parts["dev"], distinct(parts["dev"]))


def distinct(frame: pl.DataFrame) -> list[str]:
    """All positives of a table, each once."""
    return frame["positive"].explode().unique(maintain_order=True).to_list()


def retrieval(frame: pl.DataFrame, candidates: Sequence[str]) -> Retrieval:
    """Each anchor has to find its positives among the candidates, to which missing positives are added."""
    known = frame.group_by("anchor", maintain_order=True).agg(
        pl.col("positive").explode().unique(maintain_order=True), pl.col("unit").first()
    )
    missing = known["positive"].explode().unique(maintain_order=True)
    place = {text: i for i, text in enumerate(dict.fromkeys([*candidates, *missing]))}
    positives = [[place[t] for t in texts] for texts in known["positive"].to_list()]
    return Retrieval(known["anchor"].to_list(), positives, list(place), known["unit"].to_numpy())


def similarity(frame: pl.DataFrame) -> Similarity:
    """Pairs beside their values."""
    right = [texts[0] for texts in frame["positive"].to_list()]
    return Similarity(frame["anchor"].to_list(), right, frame["value"].to_numpy(), frame["unit"].to_numpy())


def classification(train: pl.DataFrame, asked: pl.DataFrame, seed: int, most: int = KNOWN) -> Classification:
    """Classes are read from at most so many training rows."""
    sides = [(f["anchor"].to_list(), f["label"].to_numpy()) for f in (drawn(train, most, seed), asked)]
    return Classification(*sides[0], *sides[1], asked["unit"].to_numpy())


def drawn(frame: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    """At most so many rows, drawn by a seed, in their order.

    >>> drawn(pl.DataFrame({"x": [1, 2, 3]}), 5, 0)["x"].to_list()
    [1, 2, 3]
    """
    if len(frame) <= most:
        return frame
    return frame[np.sort(np.random.default_rng(seed).choice(len(frame), most, replace=False))]
