"""Other data that a model is measured on beside its own: whether training for one thing cost it another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterpoint.data.arrays import Arrays
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.mlp import MLP
from counterpoint.encoders.text import embed
from counterpoint.errors import Refusal
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.tasks import Measured
from counterpoint.evaluation.verdict import SAME, WORSE, decide, difference, summarise
from counterpoint.verbs.console import Screen
from counterpoint.verbs.kinds import is_new, raw_features
from counterpoint.verbs.questions import Question, questions
from counterpoint.verbs.settings import Run
from counterpoint.verbs.systems import System, ask

FORGOTTEN = "forgotten"  # what a worse result is called where it was not what was trained for


@dataclass(frozen=True)
class Other:
    """The main question of other data.

    Args:
        name: of the data, as it was given.
        question: what they ask.
        items: what its keys stand for.
    """

    name: str
    question: Question
    items: Any


def others_of(run: Run, kind: str, screen: Screen) -> tuple[Other, ...]:
    """The main question of each data set of `run.evals`.

    Columns get roles by their names; what was said of the roles of the training data does not hold for others. Findings of
    `check` other than the hopeless are not repeated here.

    Args:
        run: the settings.
        kind: of the training data, text or arrays.
        screen: shows the stage.

    Raises:
        Refusal: naming the set and what is wrong with it.
    """
    if not run.evals:
        return ()
    found = []
    plain = replace(run, evals={}, roles={}, match=None, corpus=None, delimiter=None)
    with screen.stage("reading other data"):
        for name, path in run.evals.items():
            try:
                asked = questions(Path(path), plain)
            except Refusal as refusal:
                raise refusal.at(f"--eval {name}") from refusal
            if asked.items.kind != kind:
                raise Refusal(f"{kind} as in the training data", asked.items.kind, where=f"--eval {name}={path}")
            found.append(Other(name, asked.asked[0], asked.items))
    return tuple(found)


def texts_of(others: tuple[Other, ...]) -> int:
    """How many items all of them embed."""
    return sum(other.question.task.texts() for other in others)


def measure_others(
    others: tuple[Other, ...], encoder: Encoder, run: Run, screen: Screen, *, precision: str, trained: bool
) -> dict[str, Measured]:
    """The answers of a model to all of them.

    An encoder of arrays that starts from nothing is, before its training, the numbers themselves, as for its own data.
    """
    found = {}
    for other in others:
        name = f"{other.name}, {'trained' if trained else 'before'}"
        if isinstance(other.items, Arrays) and isinstance(encoder, MLP) and is_new(run) and not trained:
            system = System(name, raw_features(encoder, other.items))
        else:
            system = System(name, _embedder(other, encoder, precision))
        found[other.name] = ask(system, [other.question], screen)[other.question.name]
    return found


def _embedder(other: Other, encoder: Encoder, precision: str) -> Any:
    return lambda keys, role: embed(encoder, other.items.take(keys), role, precision=precision)


def judge_others(
    others: tuple[Other, ...], before: Mapping[str, Measured], after: Mapping[str, Measured], *, seed: int
) -> dict[str, Any]:
    """For metrics.json: name -> what was asked, before, after, the paired difference, and a verdict.

    The verdict is better, no difference shown, or forgotten, by the deciding metric of that data: forgotten where the 95 %
    interval of the difference lies below 0.
    """
    found = {}
    for other in others:
        old, new, task = before[other.name], after[other.name], other.question.task
        changes = difference(old, new, seed=seed)
        found[other.name] = {
            "task": other.question.name,
            "metric": task.metric,
            "questions": task.sizes()[0],
            "before": summarise(old, seed=seed),
            "after": summarise(new, seed=seed),
            "difference": {name: change.as_dict() for name, change in changes.items()},
            "verdict": in_words(changes[task.metric]),
        }
    return found


def in_words(change: Interval) -> str:
    """The verdict on data that was not trained for.

    >>> in_words(Interval(-0.02, -0.03, -0.01)), in_words(Interval(0.0, -0.01, 0.01))
    ('forgotten', 'no difference shown')
    """
    verdict = decide(change)
    return {WORSE: FORGOTTEN, SAME: SAME}.get(verdict, verdict)


def lines_of(metrics: Mapping[str, Any]) -> list[str]:
    """A line for each other set of a finished run."""
    others = metrics.get("others") or {}
    wide = max((len(name) for name in others), default=0)
    found = []
    for name, one in others.items():
        metric = one["metric"]
        old, new, change = (one[part][metric] for part in ("before", "after", "difference"))
        span = f"{change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"
        found.append(f"{name:<{wide}}  {metric} {old['value']:.3f} to {new['value']:.3f}: {span}  {one['verdict']}")
    return found
