"""`evaluate`: how good a model is on data, beside others on the same questions, every number with its interval."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.markup import escape
from rich.table import Table

from counterpoint.data.judged import is_judged, read_judged
from counterpoint.data.lint import accept, clean
from counterpoint.data.roles import Samples
from counterpoint.data.splits import connected_groups, split
from counterpoint.encoders.text import embed, load
from counterpoint.errors import Refusal, closest
from counterpoint.evaluation.tasks import Classification, Measured, Retrieval, Similarity, Task, halves
from counterpoint.evaluation.verdict import difference, summarise
from counterpoint.training.machine import pick_device, pick_precision
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.prepare import inspect
from counterpoint.verbs.settings import Run
from counterpoint.verbs.tasks import classification, corpus_texts, distinct, retrieval, similarity

RANKED = ("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100", "map@100")
MEASURES = {
    Retrieval: RANKED,
    Similarity: ("spearman", "pearson"),
    Classification: ("accuracy", "accuracy@1", "probe"),
}
BM25 = "BM25"
READ = ("roles", "delimiter", "match", "allow", "corpus", "prompts", "lengths", "precision", "device", "seed")


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Args:
        results: system -> metric -> value, low and high of its 95 % interval; the first system is the model.
        differences: other system -> metric -> the model's value less the other's, paired, with its interval.
        questions: how many were asked, and candidates: among how many each was answered.
        task: retrieval, similarity or classification.
    """

    results: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, dict[str, float]]]
    questions: int
    candidates: int
    task: str


def evaluate(
    model: str | Path,
    data: object,
    *,
    against: Sequence[str | Path] = (),
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Measure a model of texts on data, and other systems on the same questions.

    Pairs are ranked among all positives of the data, and BM25 is measured beside; pairs with a value are compared with
    it; labels are read from at most 5,000 train rows and asked of the test rows, split as `fit` does; of texts alone the
    first half has to find the second. Where the data have a split column with test rows, those are asked, else all.

    Args:
        model: whatever `--model` of `fit` takes.
        data: whatever `fit` takes; or a folder in the layout of BEIR (corpus.jsonl, queries.jsonl, qrels/test.tsv).
        against: other models.
        out: a .json file that does not exist yet for the numbers; None writes nothing.
        quiet: print nothing.
        settings: fields of `Run` that say how data are read and texts encoded: roles, delimiter, match, allow, corpus,
            prompts, lengths, precision, device, seed (of the split and of the resamples), trust_remote_code.

    Returns:
        Every number with its 95 % interval over independent groups of rows: BCa bootstrap of means, Student's t below 10
        groups, percentile bootstrap of correlations.

    Raises:
        Refusal: for input that cannot be used; nothing is written then.

    >>> rows = [{"query": f"number {i}", "doc": f"about number {i} and no other"} for i in range(30)]
    >>> found = evaluate("sentence-transformers/all-MiniLM-L6-v2", rows, quiet=True)
    >>> found.task, found.questions, sorted(found.results)
    ('retrieval', 30, ['BM25', 'sentence-transformers/all-MiniLM-L6-v2'])
    """
    unknown = next((name for name in settings if name not in (*READ, "trust_remote_code")), None)
    if unknown is not None:
        raise Refusal("a setting of evaluate", f"'{unknown}'", remedy=closest(unknown, READ))
    names = [str(model), *(str(other) for other in against)]
    if repeated := next((name for name in names if names.count(name) > 1 or name == BM25), None):
        raise Refusal("different models to compare", f"'{repeated}' twice", where="--against")
    run = Run(model=names[0], **settings)
    place = None if out is None else _place_of(Path(out))
    screen = Screen(quiet=quiet)
    with screen.stage("reading and checking data"):
        task, samples = _task_of(data, run, screen)
    measured = {name: _measure(name, task, run, screen) for name in names}
    if isinstance(task, Retrieval) and (samples is None or samples.has("positive")):
        with screen.stage("measuring BM25"):
            measured[BM25] = task.lexical()
    found = _compared(measured, task, seed=run.seed)
    if place is not None:
        _write(found, place)
    show(found, screen)
    return found


def _task_of(data: object, run: Run, screen: Screen) -> tuple[Task, Samples | None]:
    """The questions, and the rows that they come from where they are a table."""
    if is_judged(data):
        if run.corpus or run.roles:
            raise Refusal("a table for --corpus and for roles", "a folder", where=str(data))
        judged = read_judged(str(data))
        if judged.left:
            screen.say(f"{judged.left} of the queries have no relevant document and are not asked")
        unit = np.arange(len(judged.queries))
        ranked = Retrieval(judged.queries, judged.positives, judged.documents, unit, gains=judged.gains)
        return _with_measures(ranked), None
    samples, findings = inspect(data, run)
    if samples.items.kind != "text":
        raise Refusal("texts to evaluate", samples.items.kind, where=samples.source)
    accept(findings, run.allow, source=samples.source)
    samples = clean(samples)
    show_data(samples, screen)
    show_findings(findings, screen, run.allow)
    task = _of_roles(samples, run)
    if task.sizes()[0] < 2:
        raise Refusal("at least two questions", task.sizes()[0], where=samples.source)
    return _with_measures(task), samples


def _with_measures(task: Any) -> Any:
    return replace(task, measures=MEASURES[type(task)])


def _of_roles(samples: Samples, run: Run) -> Task:
    if run.corpus and (samples.has("value") or not samples.has("positive")):
        raise Refusal("pairs to rank for --corpus", f"roles {', '.join(samples.columns)}", where=samples.source)
    if samples.has("label") and not samples.has("positive"):
        parts = split(samples, seed=run.seed)
        return classification(parts.part("train"), parts.part("test"), run.seed)
    frame = _asked(samples)
    if not samples.has("positive"):
        return halves(frame["anchor"].to_list(), frame["unit"].to_numpy())
    if samples.has("value"):
        return similarity(frame)
    return retrieval(frame, corpus_texts(run.corpus, run.delimiter) if run.corpus else distinct(samples.frame))


def _asked(samples: Samples) -> pl.DataFrame:
    """The test rows where a column says which, else all; with the unit of each."""
    unit = samples.frame["group"].fill_null("") if samples.has("group") else connected_groups(samples.frame)
    frame = samples.frame.with_columns(pl.Series("unit", unit))
    test = frame.filter(pl.col("split") == "test") if samples.has("split") else frame
    return test if len(test) else frame


def _measure(name: str, task: Task, run: Run, screen: Screen) -> Measured:
    device = pick_device(run.device)
    with screen.stage(f"loading {name}"):
        code = run.trust_remote_code
        encoder = load(name, prompts=run.prompts, lengths=run.lengths, device=device, trust_remote_code=code)
    precision = pick_precision(run.precision, device)
    with screen.stage(f"measuring {name}", total=task.texts()) as tick:
        return task.measure(lambda texts, role: embed(encoder, list(texts), role, precision=precision, tick=tick))


def _compared(measured: dict[str, Measured], task: Task, *, seed: int) -> Evaluation:
    first, *others = measured
    if len(np.unique(measured[first].unit)) < 2:  # one group of everything: rows are all there is to resample
        rows = np.arange(len(measured[first].unit))
        measured = {name: replace(one, unit=rows) for name, one in measured.items()}
    questions, candidates = task.sizes()
    return Evaluation(
        {name: summarise(one, seed=seed) for name, one in measured.items()},
        {
            name: {
                metric: change.as_dict()
                for metric, change in difference(measured[name], measured[first], seed=seed).items()
            }
            for name in others
        },
        questions,
        candidates,
        type(task).__name__.lower(),
    )


def show(found: Evaluation, screen: Screen) -> None:
    """A line for each metric and system: the value with its interval, and how far the model is ahead."""
    first = next(iter(found.results))
    among = f" among {found.candidates:,} candidates" if found.task == "retrieval" else ""
    screen.say()
    screen.say(f"{found.task}: {found.questions:,} questions{among}; 95 % intervals", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "system", "value", "model less this"):
        table.add_column(title, no_wrap=True)
    for metric in found.results[first]:
        for name, values in found.results.items():
            cells = [_spanned(values[metric], ".3f")]
            cells += [_spanned(found.differences[name][metric], "+.3f")] if name != first else []
            table.add_row(metric if name == first else "", escape(Path(name).name), *map(escape, cells))
    screen.console.print(table)


def _spanned(number: dict[str, float], form: str) -> str:
    return f"{number['value']:{form}} [{number['low']:{form}}, {number['high']:{form}}]"


def _place_of(path: Path) -> Path:
    where = f"--out {path}"
    if path.suffix.lower() != ".json":
        raise Refusal("a file that ends in .json", path.name, where=where)
    if os.path.lexists(path):
        raise Refusal("a file that does not exist yet", "one that does", where=where, remedy="name another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise Refusal("a folder that may be written", str(path.parent), where=where)
    return path


def _write(found: Evaluation, path: Path) -> None:
    """Whole or not at all."""
    values = {"schema": 1} | {f.name: getattr(found, f.name) for f in fields(found)}
    scratch = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        scratch.write_text(json.dumps(values, indent=1) + "\n")
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise Refusal("a file that can be written", error.strerror or str(error), where=f"--out {path}") from error
