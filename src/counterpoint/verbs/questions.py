"""What data can ask a model: the tasks that the roles allow, whatever the model and whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from counterpoint.data.arrays import MISSING, Arrays
from counterpoint.data.batches import Rows
from counterpoint.data.items import TEXTS, Items
from counterpoint.data.judged import is_judged, read_judged
from counterpoint.data.lint import Finding, accept, clean
from counterpoint.data.roles import Samples
from counterpoint.data.splits import GIANT, Split, connected_groups, split
from counterpoint.errors import Refusal, closest
from counterpoint.evaluation.labelled import Anomaly, Clustering, Regression, few_shot
from counterpoint.evaluation.matching import PairClassification
from counterpoint.evaluation.rerank import Reranking, among_given
from counterpoint.evaluation.tasks import Classification, Retrieval, Similarity, Task, halves
from counterpoint.verbs.prepare import Prepared, inspect
from counterpoint.verbs.settings import Run
from counterpoint.verbs.tasks import KNOWN, classification, corpus_texts, distinct, drawn, hidden, retrieval, similarity

# More than `fit` measures, which asks dev many times.
MEASURES: dict[type, tuple[str, ...]] = {
    Retrieval: ("ndcg@10", "mrr@10", "recall@10", "recall@1", "recall@100", "map@100"),
    Similarity: ("spearman", "pearson"),
    Classification: ("accuracy", "accuracy@1", "probe"),
}
HEADLINES = (
    "ndcg@10", "mrr@10", "recall@10", "map", "spearman", "pearson", "accuracy", "probe", "1-shot linear", "5-shot linear",
    "20-shot linear", "20-shot mean", "20-shot nearest", "v_measure", "ari", "r2", "ap", "auroc", "f1@best",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One task with its name.

    Args:
        name: retrieval, reranking, pair classification, similarity, classification, few-shot, clustering, regression,
            anomaly, second half, or hidden numbers.
        task: what is asked.
        among: words for what each answer is chosen from; "" where there is no choice.
    """

    name: str
    task: Task | Reranking
    among: str = ""

    @property
    def lexical(self) -> bool:
        """Whether BM25 can be asked too."""
        return self.name in ("retrieval", "reranking")


@dataclass(frozen=True)
class Questions:
    """All that some data ask.

    Args:
        asked: the tasks.
        items: what their keys stand for.
        samples: the rows that they come from; None of a folder with judgements.
        known: of arrays the train rows, where there is a split, else all rows; None of texts.
        findings: what is wrong with the data.
        notes: lines for a person.
    """

    asked: tuple[Question, ...]
    items: Items
    samples: Samples | None = None
    known: Rows | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def questions(data: object, run: Run, *, anomaly: str | None = None) -> Questions:
    """The tasks that data allow.

    pairs: each anchor finds its positives among all of the data (retrieval); with judged negatives also its positives before
    its own negatives (reranking), and all positive pairs before all negative ones (pair classification). Pairs with a value:
    similarity. Labels: classification by neighbours and a probe, few-shot, clustering; where train has one label only, anomaly
    alone. A value of a single item: regression. Texts alone: the first half finds the second. Arrays alone: one of which most
    numbers are replaced finds itself.

    Args:
        data: whatever `evaluate` takes.
        run: how data are read, and the seed.
        anomaly: the label of what is not normal; it is left out of the known items of that task.

    Raises:
        Refusal: for data that cannot be used, or that ask nothing.

    >>> rows = [{"query": f"q {i}", "doc": f"d {i}", "negative": f"n {i}"} for i in range(30)]
    >>> [question.name for question in questions(rows, Run()).asked]
    ['retrieval', 'reranking', 'pair classification']
    """
    if is_judged(data):
        return _of_folder(str(data), run, anomaly)
    samples, findings = inspect(data, run)
    accept(findings, run.allow, source=samples.source)
    samples = clean(samples)
    if anomaly is not None and (not samples.has("label") or samples.has("positive")):
        came = f"roles {', '.join(samples.columns)}"
        raise Refusal("items with a label for --anomaly", came, where=samples.source)
    if run.corpus and (samples.items.kind != "text" or samples.has("value") or not samples.has("positive")):
        came = samples.items.kind if samples.items.kind != "text" else f"roles {', '.join(samples.columns)}"
        raise Refusal("pairs of texts to rank for --corpus", came, where=samples.source)
    items = samples.items
    if samples.has("positive"):
        frame = _asked(samples)
        asked, known = _of_pairs(samples, frame, run), samples.frame
    elif samples.has("label") or samples.has("value"):
        parts = split(samples, seed=run.seed)
        asked, known = _of_items(samples, parts, run.seed, anomaly), parts.part("train")
    elif isinstance(items, Arrays):
        parts = split(samples, seed=run.seed)
        task, _, items = hidden(Prepared(samples, parts, findings, len(samples)), items, run.seed)
        asked, known = [Question("hidden numbers", task, "rows")], parts.part("train")
    else:
        frame = _asked(samples)
        asked, known = [Question("second half", halves(frame["anchor"].to_list(), frame["unit"].to_numpy()))], frame
    kept = tuple(_measured_fully(question) for question in asked if question.task.sizes()[0] > 1)
    if not kept:
        raise Refusal("at least two questions", "fewer", where=samples.source)
    rows = Rows.of(known, samples.items) if isinstance(items, Arrays) else None
    return Questions(kept, items, samples, rows, findings)


def _of_folder(folder: str, run: Run, anomaly: str | None) -> Questions:
    if run.corpus or run.roles or anomaly:
        raise Refusal("a table for --corpus, --anomaly and for roles", "a folder", where=folder)
    found = read_judged(folder)
    unit = np.arange(len(found.queries))
    task = Retrieval(found.queries, found.positives, found.documents, unit, gains=found.gains)
    notes = (f"{found.left} of the queries have no relevant document and are not asked",) if found.left else ()
    return Questions((_measured_fully(Question("retrieval", task, "documents")),), TEXTS, notes=notes)


def _measured_fully(question: Question) -> Question:
    task: Any = question.task
    measures = MEASURES.get(type(task))
    return question if measures is None else replace(question, task=replace(task, measures=measures))


def _asked(samples: Samples) -> pl.DataFrame:
    """The test rows where a column says which, else all; with the unit of each: its group, else rows that share an item."""
    if samples.has("group"):
        unit = samples.frame["group"].fill_null("")
    else:
        unit = pl.Series(connected_groups(samples.frame))
        if unit.value_counts()["count"].max() > GIANT * len(unit):  # type: ignore[operator]
            unit = samples.frame["anchor"]
    frame = samples.frame.with_columns(unit=unit.rank("dense").cast(pl.Int64))
    test = frame.filter(pl.col("split") == "test") if samples.has("split") else frame
    return test if len(test) else frame


def _of_pairs(samples: Samples, frame: pl.DataFrame, run: Run) -> list[Question]:
    if samples.has("value"):
        return [Question("similarity", similarity(frame))]
    texts = corpus_texts(run.corpus, run.delimiter) if run.corpus else distinct(samples.frame)
    found = [Question("retrieval", retrieval(frame, texts), "candidates")]
    apart = _apart(samples, frame)
    if samples.has("negative"):
        found.append(Question("reranking", _reranking(frame, run.seed), "given candidates at most"))
    pairs = _judged(frame, apart)
    return [*found, Question("pair classification", pairs)] if not pairs.together.all() else found


def _apart(samples: Samples, frame: pl.DataFrame) -> pl.DataFrame:
    """Judged pairs whose anchor has no positive, as anchor, other and unit: of the test where there is one, else all."""
    if samples.apart is None:
        return pl.DataFrame(schema={"anchor": pl.String, "other": pl.String, "unit": pl.Int64})
    rows = samples.apart
    tested = "split" in frame.columns and bool((frame["split"] == "test").all())
    rows = rows.filter(pl.col("split") == "test") if tested else rows
    key = "group" if samples.has("group") else "anchor"
    first = int(samples.frame.height)  # units of the frame are below
    rows = rows.with_columns(unit=pl.col(key).fill_null("").rank("dense").cast(pl.Int64) + first)
    if samples.has("group"):  # rows of one group belong together, whichever way they were judged
        known = frame.select("group", there="unit").unique("group")
        rows = rows.join(known, on="group", how="left").with_columns(unit=pl.coalesce("there", "unit"))
    rows = rows.select("anchor", other="positive", unit="unit").explode("other")
    return rows.filter((pl.col("other") != "") & (pl.col("other") != MISSING) & (pl.col("anchor") != pl.col("other")))


def _judged(frame: pl.DataFrame, apart: pl.DataFrame) -> PairClassification:
    """Every pair once, with what it was judged."""
    parts = [
        frame.select("anchor", pl.col(role).alias("other"), "unit", together=role == "positive").explode("other")
        for role in ("positive", "negative")
        if role in frame.columns
    ]
    parts.append(apart.with_columns(together=pl.lit(value=False)).select("anchor", "other", "unit", "together"))
    typed = [part.select("anchor", "other", pl.col("unit").cast(pl.Int64), "together") for part in parts]
    table = pl.concat(typed).drop_nulls().unique(["anchor", "other"], keep="first", maintain_order=True)
    return PairClassification(
        table["anchor"].to_list(), table["other"].to_list(), table["together"].to_numpy(), table["unit"].to_numpy()
    )


def _reranking(frame: pl.DataFrame, seed: int) -> Reranking:
    lists = ("positive", "negative")
    known = frame.group_by("anchor", maintain_order=True).agg(
        *(pl.col(role).explode().drop_nulls().unique(maintain_order=True) for role in lists), pl.col("unit").first()
    )
    texts = pl.concat([known[role].explode().drop_nulls() for role in lists]).unique(maintain_order=True).to_list()
    place = {text: i for i, text in enumerate(texts)}
    right, wrong = ([[place[t] for t in cell] for cell in known[role].to_list()] for role in lists)
    return among_given(known["anchor"].to_list(), right, wrong, texts, unit=known["unit"].to_numpy(), seed=seed)


def _of_items(samples: Samples, parts: Split, seed: int, anomaly: str | None) -> list[Question]:
    train, test = parts.part("train"), parts.part("test")
    unit, found = test["unit"].to_numpy(), []
    if samples.has("label"):
        sides = [(f["anchor"].to_list(), f["label"].to_numpy()) for f in (train, test)]
        one = train["label"].n_unique() == 1
        if not one:
            found.append(Question("classification", classification(train, test, seed), "labelled items"))
        if (task := few_shot(sides[0], sides[1], unit, seed=seed)) is not None:
            found.append(Question("few-shot", task))
        if not one and test["label"].n_unique() > 1:
            found.append(Question("clustering", Clustering(*sides[1], unit, seed), "clusters"))
        if one or anomaly is not None:
            found.append(_anomaly(samples, train, test, anomaly, seed=seed))
    if samples.has("value"):
        known = drawn(train, KNOWN, seed)
        right, asked = ((f["anchor"].to_list(), f["value"].to_numpy()) for f in (known, test))
        found.append(Question("regression", Regression(*right, *asked, unit), "known items"))
    return found


def _anomaly(samples: Samples, train: pl.DataFrame, test: pl.DataFrame, label: str | None, *, seed: int) -> Question:
    """The label of train is what is normal; or all labels but the one that was named."""
    labels = samples.frame["label"].unique().to_list()
    if label is not None and label not in labels:
        raise Refusal("a label for --anomaly", f"'{label}'", where=samples.source, remedy=closest(label, labels))
    normal = pl.col("label") != label if label is not None else pl.col("label") == train["label"][0]
    abnormal = ~test.select(normal).to_series().to_numpy()
    known = drawn(train.filter(normal), KNOWN, seed)
    if abnormal.all() or not abnormal.any() or not len(known):
        came = "normal ones only" if not abnormal.any() else "no normal one" if abnormal.all() else "none known"
        raise Refusal("normal and other items among the test rows", came, where=samples.source)
    task = Anomaly(known["anchor"].to_list(), test["anchor"].to_list(), abnormal, test["unit"].to_numpy())
    return Question("anomaly", task, "known normal items")


def texts_of(asked: Sequence[Question]) -> int:
    """How many items all tasks embed, those that several ask for counted each time."""
    return sum(
        len(q.task.queries) + len(q.task.candidates) if isinstance(q.task, Reranking) else q.task.texts() for q in asked
    )
