"""Before against after: paired differences with intervals, and one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from counterpoint.evaluation.intervals import Interval, of_difference, of_mean, of_statistic
from counterpoint.evaluation.statistics import SHARED, STATISTICS
from counterpoint.evaluation.tasks import Measured

DOUBTFUL = 10  # units below which a person is warned
BETTER, SAME, WORSE = "better", "no difference shown", "worse, keep what you had"
NAMES = {"mrr@10": "MRR@10", "recall@1": "recall@1", "recall@10": "recall@10", "ndcg@10": "nDCG@10"} | {
    "spearman": "Spearman correlation",
    "accuracy": "accuracy of the 5 nearest",
    "accuracy@1": "accuracy of the nearest",
    "probe": "accuracy of a linear probe",
    "pearson": "Pearson correlation",
    "recall@100": "recall@100",
    "map@100": "MAP@100",
    "map": "MAP",
    "r2": "R^2",
    "ap": "average precision",
    "auroc": "AUROC",
    "accuracy@best": "accuracy at the best cut-off",
    "f1@best": "F1 at the best cut-off",
    "v_measure": "V-measure",
    "ari": "adjusted Rand index",
}


def value_of(values: np.ndarray, metric: str) -> float:
    """The metric of a set of rows: the mean, or the statistic of that name."""
    return float(values.mean()) if values.ndim == 1 else STATISTICS[metric](values)(np.arange(len(values)))


def summarise(measured: Measured, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Each metric with its interval."""
    return {name: _interval(values, name, measured.unit, seed).as_dict() for name, values in measured.values.items()}


def difference(before: Measured, after: Measured, *, seed: int = 0) -> dict[str, Interval]:
    """after - before, paired: the same resamples of the same rows for both."""
    return {name: _change(old, after.values[name], name, before.unit, seed=seed) for name, old in before.values.items()}


def _change(old: np.ndarray, new: np.ndarray, metric: str, unit: np.ndarray, *, seed: int) -> Interval:
    if old.ndim == 1:
        return of_difference(new - old, unit)
    before, after, shared = STATISTICS[metric](old), STATISTICS[metric](new), metric in SHARED
    return of_statistic(lambda at: after(at) - before(at), unit, seed=seed, difference=True, centred=shared)


def _interval(values: np.ndarray, metric: str, unit: np.ndarray, seed: int) -> Interval:
    if values.ndim == 1:
        return of_mean(values, unit, seed=seed)
    return of_statistic(STATISTICS[metric](values), unit, seed=seed, centred=metric in SHARED)


def decide(change: Interval) -> str:
    """Better or worse only when the interval of the difference excludes 0."""
    if change.low > 0:
        return BETTER
    return WORSE if change.high < 0 else SAME


def judge(
    before: Measured,
    after: Measured,
    *,
    metric: str,
    unit: str,
    beside: Mapping[str, Measured] = MappingProxyType({}),
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that a run says of its result, ready for metrics.json.

    Args:
        before: answers of the model you had.
        after: answers of the trained one, to the same questions.
        metric: the one that decides.
        unit: what is not dependent on each other, in words.
        beside: name -> answers of other systems, such as BM25.
        seed: decides the resamples.
    """
    if len(np.unique(before.unit)) < 2:
        unit, rows = "rows", np.arange(len(before.unit))
        before, after = replace(before, unit=rows), replace(after, unit=rows)
        beside = {name: replace(other, unit=rows) for name, other in beside.items()}
    changes = difference(before, after, seed=seed)
    change, units = changes[metric], len(np.unique(before.unit))
    verdict = decide(change)
    old, new = (value_of(m.values[metric], metric) for m in (before, after))
    sentence = (
        f"{NAMES.get(metric, metric)} {_moved(change.value)} from {old:.3f} to {new:.3f}: {change.value:+.3f} "
        f"(95 % interval {change.low:+.3f} to {change.high:+.3f} over {units} {unit})"
    )
    if units < DOUBTFUL:
        sentence += f"; {units} {unit} are few"
    if verdict == WORSE:
        sentence += "; keep the model you had"
    result = {
        "schema": 1,
        "metric": metric,
        "verdict": verdict,
        "sentence": sentence,
        "queries": len(before.unit),
        "candidates": before.candidates,
        "resampled": f"{units} {unit}",
        "before": summarise(before, seed=seed),
        "after": summarise(after, seed=seed),
        "difference": {name: interval.as_dict() for name, interval in changes.items()},
    }
    return result | {name: summarise(other, seed=seed) for name, other in beside.items()}


def _moved(change: float) -> str:
    if round(change, 3) == 0:
        return "stayed"
    return "rose" if change > 0 else "fell"
