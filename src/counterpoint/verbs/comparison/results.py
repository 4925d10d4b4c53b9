"""What came out of the runs of a comparison: numbers of every method and seed, and the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.errors import Refusal
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.ranking import Ranking, over_items, over_seeds, paired_t
from counterpoint.evaluation.verdict import value_of
from counterpoint.verbs import folder
from counterpoint.verbs.answers import FILE, Answers, read_answers
from counterpoint.verbs.comparison.entries import Entry, place_of
from counterpoint.verbs.comparison.protocol import Over, Protocol
from counterpoint.verbs.comparison.runs import chosen_of

AFTER = "after"


@dataclass(frozen=True)
class Outcome:
    """One finished run: what it says of itself.

    Args:
        label: of its method.
        seed: of the run.
        place: its folder.
        run: run.json.
        metrics: metrics.json.
        cost: cost.json.
        sick: how many findings its health has.
        answers: to the test, of all systems.
    """

    label: str
    seed: int
    place: Path
    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    cost: Mapping[str, Any]
    sick: int
    answers: Answers

    def value(self, metric: str, system: str = AFTER) -> float:
        """A metric of one of its systems."""
        return value_of(self.answers.values[system][metric], metric)


@dataclass(frozen=True)
class Results:
    """All runs, by method and seed, and the systems that stand beside them.

    Args:
        runs: label -> its runs, in the order of the seeds.
        beside: systems that are not trained here, such as the given model ("before") and BM25.
        metric: the one that decides.
        metrics: all that were measured, the deciding one first.
        unit: [n] of the questions.
        units: what a unit is, in words.
        ranking: of methods and of what stands beside them.
        chosen: label -> what tuning chose, in words.
    """

    runs: Mapping[str, tuple[Outcome, ...]]
    beside: tuple[str, ...]
    metric: str
    metrics: tuple[str, ...]
    unit: np.ndarray
    units: str
    ranking: Ranking
    chosen: Mapping[str, str]

    def values(self, system: str, metric: str) -> np.ndarray:
        """A metric of a method, or of what stands beside it, for each seed."""
        if system in self.runs:
            return np.array([one.value(metric) for one in self.runs[system]])
        return np.array([one.value(metric, system) for one in next(iter(self.runs.values()))])

    def elsewhere(self) -> dict[str, dict[str, Any]]:
        """What each method changed on other data: name -> its metric, its value before, and for each method the mean change.

        Over seeds each change has the interval of Student's t over them. Over items it has that of the run's own questions
        where there is one seed, and none where there are more: changes of several seeds are then not mixed with it.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, asked in (next(iter(self.runs.values()))[0].metrics.get("others") or {}).items():
            metric = asked["metric"]
            changes = {
                label: _change(
                    [one.metrics["others"][name]["difference"][metric] for one in several], self.ranking.over
                )
                for label, several in self.runs.items()
            }
            before = asked["before"][metric]["value"]
            found[name] = {"task": asked["task"], "metric": metric, "before": before, "changes": changes}
        return found

    def training_seconds(self, system: str) -> np.ndarray:
        """How long each run of a method trained."""
        return np.array([one.cost["training_seconds"] for one in self.runs.get(system, ())])


def _change(measured: Sequence[Mapping[str, float]], over: Over) -> Interval:
    """The mean change of a method on other data."""
    values = np.array([one["value"] for one in measured])
    if over == "seeds" and len(values) > 1:
        return paired_t(values)[0]
    if len(values) == 1:
        return Interval(*(measured[0][end] for end in ("value", "low", "high")))
    return Interval(float(values.mean()), np.nan, np.nan)


def outcome_of(entry: Entry, seed: int, place: Path) -> Outcome:
    """A finished run, from its folder.

    Raises:
        Refusal: files of it are missing.
    """
    run, metrics, cost, health = (folder.read_json(place / f"{n}.json") for n in ("run", "metrics", "cost", "health"))
    sick = len(health.get("findings") or ())
    return Outcome(entry.label, seed, place, run, metrics, cost, sick, read_answers(place / FILE))


def gather(protocol: Protocol) -> Results:
    """Read all runs and rank them.

    Raises:
        Refusal: runs that were not asked the same.
    """
    runs = {
        entry.label: tuple(outcome_of(entry, seed, place_of(protocol.out, entry, seed=seed)) for seed in protocol.seeds)
        for entry in protocol.entries
    }
    everything = [one for several in runs.values() for one in several]
    first = everything[0]
    for one in everything:
        if not np.array_equal(one.answers.question, first.answers.question):
            remedy = "remove it and give the command again"
            raise Refusal("runs that were asked the same", "other questions", where=str(one.place), remedy=remedy)
    beside = tuple(name for name in first.answers.values if name != AFTER)
    metric, unit, units = str(first.metrics["metric"]), first.answers.unit, str(first.run["split"]["unit"])
    if len(np.unique(unit)) < 2:
        unit, units = np.arange(len(unit)), "rows"
    ranking = _rank(runs, beside, metric, unit, over=protocol.over, seed=protocol.base.asked_by)
    chosen = {entry.label: str(chosen_of(protocol, entry)) for entry in protocol.entries}
    metrics = tuple(dict.fromkeys([metric, *first.answers.values[AFTER]]))
    return Results(runs, beside, metric, metrics, unit, units, ranking, chosen)


def _rank(
    runs: Mapping[str, Sequence[Outcome]],
    beside: Sequence[str],
    metric: str,
    unit: np.ndarray,
    *,
    over: Over,
    seed: int,
) -> Ranking:
    """Over seeds from the value of each run, over items from its answers; one or the other."""
    any_one = next(iter(runs.values()))
    given = {name: [one.answers.values[AFTER][metric] for one in several] for name, several in runs.items()}
    given |= {name: [one.answers.values[name][metric] for one in any_one] for name in beside}
    if over == "seeds":
        return over_seeds({name: np.array([value_of(x, metric) for x in rows]) for name, rows in given.items()})
    given = {name: rows[:1] if all(np.array_equal(x, rows[0]) for x in rows) else rows for name, rows in given.items()}
    correlated = given["before"][0].ndim == 2
    return over_items(given, unit, statistic=(lambda rows: value_of(rows, metric)) if correlated else None, seed=seed)
