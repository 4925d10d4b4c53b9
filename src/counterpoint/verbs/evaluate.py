"""`evaluate`: how good a model is on data, beside others on the same questions, every number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from counterpoint.data.arrays import Arrays
from counterpoint.errors import Refusal, closest
from counterpoint.evaluation.rerank import Reranking
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.evaluation.verdict import difference, summarise
from counterpoint.verbs import table_file
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.others import FORGOTTEN, Other, others_of
from counterpoint.verbs.questions import HEADLINES, Question, Questions, questions
from counterpoint.verbs.settings import Run
from counterpoint.verbs.shifts import shift, show_shift
from counterpoint.verbs.systems import FRESH, NUMBERS, PCA, RANDOM, ask, system_of, without_training

BM25, FUSION = "BM25", "BM25 + model"
RESERVED = (BM25, FUSION, NUMBERS, PCA, FRESH)
READ = ("roles", "delimiter", "match", "allow", "corpus", "prompts", "lengths", "precision", "device", "seed")
SCHEMA = 2


@dataclass(frozen=True)
class Answered:
    """What was found on one task.

    Args:
        task: its name, such as retrieval.
        questions: how many were asked, and candidates: among how many each was answered; among: what they are.
        metric: the one that says most.
        resampled: how many independent groups of rows the intervals are over.
        results: system -> metric -> value, low and high of its 95 % interval; the first system is the model.
        differences: other system -> metric -> the model's value less the other's, paired, with its interval.
        draws: system -> metric -> its value in each draw, of metrics that are the mean of several draws.
    """

    task: str
    questions: int
    candidates: int
    among: str
    metric: str
    resampled: int
    results: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, dict[str, float]]]
    draws: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Args:
        tasks: one for each that the data allow, the main one first.
        shifts: other model -> what becomes of its cut-offs, see `verbs.shifts.shift`.
        others: name -> the main task of other data.

    Indexing by the name of a task gives what was found on it.
    """

    tasks: tuple[Answered, ...]
    shifts: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, Answered] = field(default_factory=dict)

    def __getitem__(self, task: str) -> Answered:
        found = next((one for one in self.tasks if one.task == task), None)
        if found is None:
            raise KeyError(f"{task}; asked were {', '.join(one.task for one in self.tasks)}")
        return found


def evaluate(
    model: str | Path,
    data: object,
    *,
    against: Sequence[str | Path] = (),
    anomaly: str | None = None,
    evals: Mapping[str, str | Path] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Measure a model on data, and other systems on the same questions.

    The roles decide what is asked, see `verbs.questions.questions`. Where the data have a split column with test rows, those
    are asked; labels and values of single items are read from train rows, split as `fit` does; else all rows are asked. Beside
    the model stand, for texts, BM25 and its rank fusion with the model; for a model of arrays the numbers themselves,
    standardised, their principal components, and the model with random weights.

    Args:
        model: whatever `--model` of `fit` takes; "raw" takes arrays as they are. A cross-encoder answers reranking and pair
            classification.
        data: whatever `fit` takes; or a folder in the layout of BEIR (corpus.jsonl, queries.jsonl, qrels/test.tsv).
        against: other models; "random" is the model with random weights. Of pairs, what becomes of their cut-offs is told.
        anomaly: the label of what is not normal.
        evals: name -> other data, whose main task is asked too; where the model is worse than another, that is told.
        out: a .json file that does not exist yet for the numbers; None writes nothing.
        quiet: print nothing.
        settings: fields of `Run` that say how data are read and texts encoded: roles, delimiter, match, allow, corpus,
            prompts, lengths, precision, device, seed (of the split, of what is drawn, and of the resamples), trust_remote_code.

    Returns:
        Every number with its 95 % interval over independent groups of rows: BCa bootstrap of means, Student's t below 10
        groups, percentile bootstrap of all others.

    Raises:
        Refusal: for input that cannot be used; nothing is written then.

    >>> rows = [{"query": f"number {i}", "doc": f"about number {i} and no other"} for i in range(30)]
    >>> found = evaluate("sentence-transformers/all-MiniLM-L6-v2", rows, quiet=True)["retrieval"]
    >>> found.questions, list(found.results)
    (30, ['sentence-transformers/all-MiniLM-L6-v2', 'BM25', 'BM25 + model'])
    """
    unknown = next((name for name in settings if name not in (*READ, "trust_remote_code")), None)
    if unknown is not None:
        raise Refusal("a setting of evaluate", f"'{unknown}'", remedy=closest(unknown, READ))
    names = [str(model), *(str(other) for other in against)]
    if repeated := next((name for name in names if names.count(name) > 1 or name in RESERVED), None):
        raise Refusal("different models to compare", f"'{repeated}' twice", where="--against")
    run = Run(model=names[0], **settings)
    place = None if out is None else table_file.place_of(out, endings=(".json",))
    screen = Screen(quiet=quiet)
    with screen.stage("reading and checking data"):
        asked = questions(data, run, anomaly=anomaly)
    if asked.samples is not None:
        show_data(asked.samples, screen)
        show_findings(asked.findings, screen, run.allow)
    for line in asked.notes:
        screen.say(line)
    others = others_of(replace(run, evals=evals or {}), asked.items.kind, screen)
    measured = _measured(names, asked, run, screen)
    found = _found(names, asked, measured, seed=run.seed)
    found = replace(found, others=_elsewhere(names, others, run, screen))
    if place is not None:
        table_file.write_json({"schema": SCHEMA, "model": names[0], **asdict(found)}, place)
    show(found, screen)
    return found


def _measured(names: Sequence[str], asked: Questions, run: Run, screen: Screen) -> dict[str, dict[str, Measured]]:
    """Question -> system -> answers, the model first."""
    answers: dict[str, dict[str, Measured]] = {}
    for place, name in enumerate(names):
        system = system_of(name, asked.items, run, screen, first=names[0])
        if not any(system.answers(question) for question in asked.asked):
            can = "pairs with judged negatives for a cross-encoder"
            raise Refusal(can, ", ".join(question.name for question in asked.asked), where=name)
        for one in [system, *(without_training(system, asked, run) if place == 0 else [])]:
            for task, measured in ask(one, asked.asked, screen).items():
                answers.setdefault(task, {})[one.name] = measured
    for question in asked.asked:
        if question.lexical and asked.items.kind == "text" and question.name in answers:
            with screen.stage(f"BM25 on {question.name}"):
                answers[question.name] |= lexical(question, next(iter(answers[question.name].values())))
    return {name: own for name, own in answers.items() if names[0] in own}


def _elsewhere(names: Sequence[str], others: Sequence[Other], run: Run, screen: Screen) -> dict[str, Answered]:
    """The main task of other data by the same models."""
    found: dict[str, dict[str, Measured]] = {other.name: {} for other in others}
    quiet = Screen(quiet=True)
    for name in names:
        for place, other in enumerate(others):
            if not place or isinstance(other.items, Arrays):  # of texts a model reads them all
                system = system_of(name, other.items, run, quiet, first=names[0])
            if not system.answers(other.question):
                raise Refusal("a task that a cross-encoder answers", other.question.name, where=f"--eval {other.name}")
            answer = ask(replace(system, name=f"{Path(name).name} on {other.name}"), [other.question], screen)
            found[other.name][name] = answer[other.question.name]
    return {other.name: compared(other.question, found[other.name], seed=run.seed) for other in others}


def lexical(question: Question, model: Measured) -> dict[str, Measured]:
    """BM25, and of a ranking of all candidates also its fusion with a model's."""
    task = question.task
    assert isinstance(task, Retrieval | Reranking)
    words = task.lexical()
    return {BM25: words} | ({FUSION: task.fused(words, model)} if isinstance(task, Retrieval) else {})


def _found(
    names: Sequence[str], asked: Questions, measured: Mapping[str, Mapping[str, Measured]], *, seed: int
) -> Evaluation:
    tasks = tuple(compared(q, measured[q.name], seed=seed) for q in asked.asked if q.name in measured)
    shifts: dict[str, dict[str, Any]] = {}
    pairs = [q for q in asked.asked if q.name in ("pair classification", "retrieval") and q.name in measured]
    for other in names[1:]:
        for question in reversed(pairs):  # judged pairs first
            own = measured[question.name]
            if other in own and other not in shifts and other != RANDOM:
                told = shift(question, own[other], own[names[0]], seed=seed)
                shifts |= {other: told} if told is not None else {}
    return Evaluation(tasks, shifts)


def compared(question: Question, measured: Mapping[str, Measured], *, seed: int) -> Answered:
    """The answers of several systems to one question, with intervals; the first is the model."""
    first, *others = measured
    if len(np.unique(measured[first].unit)) < 2:  # one group of everything: rows are all there is to resample
        rows = np.arange(len(measured[first].unit))
        measured = {name: replace(one, unit=rows) for name, one in measured.items()}
    count, candidates = question.task.sizes()
    changes = {name: difference(measured[name], measured[first], seed=seed) for name in others}
    return Answered(
        question.name,
        count,
        candidates,
        question.among,
        question.task.metric,
        len(np.unique(measured[first].unit)),
        {name: summarise(one, seed=seed) for name, one in measured.items()},
        {name: {metric: x.as_dict() for metric, x in change.items()} for name, change in changes.items()},
        {name: {m: list(v) for m, v in one.draws.items()} for name, one in measured.items() if one.draws},
    )


def show(found: Evaluation, screen: Screen) -> None:
    """A block for each task: a line for each system and metric that says most; then what becomes of cut-offs."""
    for task in found.tasks:
        show_task(task, screen)
    show_others(found.others, screen)
    model = next(iter(found.tasks[0].results))
    for other, told in found.shifts.items():
        show_shift(told, screen, old=Path(other).name, new=Path(model).name)


def show_others(others: Mapping[str, Answered], screen: Screen) -> None:
    """A block for the main task of each, and what the model can no longer do that another does."""
    for name, one in others.items():
        show_task(one, screen, before=f"on other data, {name}: ")
        for other, change in one.differences.items():
            if change[one.metric]["high"] < 0:
                said = f"{FORGOTTEN}: {one.metric} of {name} is below that of {Path(other).name}"
                screen.say(said, style="bold yellow")


def show_task(found: Answered, screen: Screen, *, before: str = "") -> None:
    """A line for each metric and system, under a title: the value with its interval, and how far the model is ahead."""
    first = next(iter(found.results))
    among = f", {found.candidates:,} {found.among}" if found.among else ""
    screen.say()
    screen.say(f"{before}{found.task}: {found.questions:,} questions{among}; 95 % intervals", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "system", "value", "model less this") if len(found.results) > 1 else ("", "system", "value"):
        table.add_column(title, no_wrap=True)
    for metric in (m for m in HEADLINES if m in found.results[first]):
        for name, values in found.results.items():
            cells = [_spanned(values[metric], ".3f")]
            cells += [_spanned(found.differences[name][metric], "+.3f")] if name != first else []
            table.add_row(metric if name == first else "", escape(Path(name).name), *map(escape, cells))
    screen.console.print(table)
    draws = [(m, v) for m, v in found.draws.get(first, {}).items() if m in HEADLINES]
    if draws:
        spans = "; ".join(f"{metric} {min(v):.3f} to {max(v):.3f}" for metric, v in draws)
        screen.say(f"over {len(draws[0][1])} draws of the labelled items: {spans}", style="dim")


def _spanned(number: Mapping[str, float], form: str) -> str:
    return f"{number['value']:{form}} [{number['low']:{form}}, {number['high']:{form}}]"
