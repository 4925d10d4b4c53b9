"""Before against after: paired differences with intervals, and one verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from counterpoint.evaluation.intervals import Interval, of_difference, of_mean, of_statistic
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
}


def correlation(pairs: np.ndarray) -> float:
    """Spearman's rank correlation of two columns; 0 where one of them is constant.

    >>> correlation(np.array([[1, 10], [2, 20], [3, 30]]))
    1.0
    """
    if len(pairs) < 2 or (np.ptp(pairs, axis=0) == 0).any():
        return 0.0
    return round(float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic), 12)


def linear_correlation(pairs: np.ndarray) -> float:
    """Pearson's correlation of two columns; 0 where one of them is constant.

    >>> round(linear_correlation(np.array([[1, 10], [2, 20], [3, 30]])), 12)
    1.0
    """
    if len(pairs) < 2 or (np.ptp(pairs, axis=0) == 0).any():
        return 0.0
    return float(pearsonr(pairs[:, 0], pairs[:, 1]).statistic)


def value_of(values: np.ndarray, metric: str) -> float:
    """The metric of a set of rows: the mean, or the correlation of two columns."""
    return float(values.mean()) if values.ndim == 1 else _of_two(metric)(values)


def _of_two(metric: str) -> Callable[[np.ndarray], float]:
    return linear_correlation if metric == "pearson" else correlation


def summarise(measured: Measured, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Each metric with its interval."""
    return {name: _interval(values, name, measured.unit, seed).as_dict() for name, values in measured.values.items()}


def difference(before: Measured, after: Measured, *, seed: int = 0) -> dict[str, Interval]:
    """after - before, paired: the same resamples of the same rows for both."""
    return {name: _change(old, after.values[name], name, before.unit, seed=seed) for name, old in before.values.items()}


def _change(old: np.ndarray, new: np.ndarray, metric: str, unit: np.ndarray, *, seed: int) -> Interval:
    if old.ndim == 1:
        return of_difference(new - old, unit)
    statistic = _of_two(metric)
    return of_statistic(lambda at: statistic(new[at]) - statistic(old[at]), unit, seed=seed, difference=True)


def _interval(values: np.ndarray, metric: str, unit: np.ndarray, seed: int) -> Interval:
    if values.ndim == 1:
        return of_mean(values, unit, seed=seed)
    statistic = _of_two(metric)
    return of_statistic(lambda at: statistic(values[at]), unit, seed=seed)


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
