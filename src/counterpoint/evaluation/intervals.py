"""Intervals by resampling what is independent: queries, or whole groups of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

MEANS, OTHERS = 9_999, 1_999  # resamples: a mean is a sum over units and cheap, any other statistic is not
LEVEL = 0.95


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For json, to six digits."""
        return {name: round(float(x), 6) for name, x in self._asdict().items()}


def of_mean(values: np.ndarray, unit: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean over rows and its bias-corrected and accelerated bootstrap interval, resampling units.

    Args:
        values: [n], one number a row; for a difference, the paired differences.
        unit: [n], which unit a row belongs to; rows of one unit are drawn together.
        seed: decides the resamples.

    References:
        Efron 1987, Better bootstrap confidence intervals (BCa), by scipy.stats.bootstrap.

    >>> of_mean(np.ones(5), np.arange(5))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    _, unit = np.unique(unit, return_inverse=True)
    sums, sizes = np.bincount(unit, weights=values), np.bincount(unit).astype(float)
    value = float(values.mean())
    if len(sums) < 2 or np.ptp(sums / sizes) == 0:
        return Interval(value, value, value)

    def ratio(total: np.ndarray, size: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis) / size.sum(axis)

    return _bootstrap((sums, sizes), ratio, value, seed, vectorized=True, resamples=MEANS)


def of_statistic(statistic: Callable[[np.ndarray], float], unit: np.ndarray, *, seed: int = 0) -> Interval:
    """Any statistic of a set of rows and its percentile bootstrap interval, resampling units.

    Args:
        statistic: row numbers (with repeats) -> number.
        unit: [n], which unit a row belongs to.
        seed: decides the resamples.
    """
    _, unit = np.unique(unit, return_inverse=True)
    order = np.argsort(unit, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(unit))[:-1])
    value = float(statistic(np.arange(len(unit))))
    if len(rows) < 2:
        return Interval(value, value, value)

    def on_units(picked: np.ndarray) -> float:
        return statistic(np.concatenate([rows[int(u)] for u in picked]))

    return _bootstrap((np.arange(len(rows)),), on_units, value, seed, vectorized=False, resamples=OTHERS)


def _bootstrap(
    data: tuple[np.ndarray, ...], statistic: Callable, value: float, seed: int, *, vectorized: bool, resamples: int
) -> Interval:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate resample is told by NaN, below
        found = bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=vectorized,
            n_resamples=resamples,
            batch=100,
            confidence_level=LEVEL,
            method="BCa" if vectorized else "percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if np.isnan(found.low) or np.isnan(found.high):
        return Interval(value, value, value)
    return Interval(value, float(found.low), float(found.high))
