"""Intervals by resampling what is independent: queries, or whole groups of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap
from scipy.stats import t as student

MEANS, OTHERS = 9_999, 1_999  # resamples: a mean is a sum over units and cheap, any other statistic is not
LEVEL = 0.95
FEW = 10  # units below which a bootstrap is not trusted


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For json, to six digits."""
        return {name: round(float(x), 6) for name, x in self._asdict().items()}


def of_mean(values: np.ndarray, unit: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean over rows and its 95 % interval, where rows of one unit are not independent.

    With 10 units or more the bias-corrected and accelerated bootstrap over units. With fewer, where a bootstrap is known
    to be too narrow, the linearised ratio of sums with Student's t on the number of units less one.

    Args:
        values: [n], one number a row; for a difference, the paired differences.
        unit: [n], which unit a row belongs to; at least two units.
        seed: decides the resamples.

    Raises:
        ValueError: for fewer than two units.

    References:
        Efron 1987, Better bootstrap confidence intervals, by scipy.stats.bootstrap; Cochran 1977, Sampling Techniques,
        section 9A (ratio estimate for clusters of unequal size).

    >>> of_mean(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    Interval(value=0.5, low=0.5, high=0.5)
    """
    _, unit = np.unique(unit, return_inverse=True)
    sums, sizes = np.bincount(unit, weights=values), np.bincount(unit).astype(float)
    if len(sums) < 2:
        raise ValueError(f"wanted at least two units to resample, got {len(sums)}")
    value = float(values.mean())
    if len(sums) < FEW:
        residual = sums - value * sizes
        error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(residual).sum()) / sizes.sum()
        reach = float(student.ppf((1 + LEVEL) / 2, len(sums) - 1) * error)
        return Interval(value, value - reach, value + reach)

    def ratio(total: Any, size: Any, axis: int = -1) -> Any:
        return total.sum(axis) / size.sum(axis)

    return _bootstrap((sums, sizes), ratio, value, seed, means=True)


def of_statistic(
    statistic: Callable[[np.ndarray], float], unit: np.ndarray, *, seed: int = 0, centred: bool = False
) -> Interval:
    """Any statistic of a set of rows and its percentile bootstrap interval, resampling units.

    Args:
        statistic: row numbers (with repeats) -> number.
        unit: [n], which unit a row belongs to; at least two units.
        seed: decides the resamples.
        centred: move the interval by the mean of the resamples less the value. For statistics of how rows agree with each
            other, where a row drawn twice agrees with itself and every resample is too high.

    Raises:
        ValueError: for fewer than two units.
    """
    _, unit = np.unique(unit, return_inverse=True)
    order = np.argsort(unit, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(unit))[:-1])
    if len(rows) < 2:
        raise ValueError(f"wanted at least two units to resample, got {len(rows)}")

    def on_units(picked: np.ndarray) -> float:
        return statistic(np.concatenate([rows[int(u)] for u in picked]))

    value = float(statistic(np.arange(len(unit))))
    return _bootstrap((np.arange(len(rows)),), on_units, value, seed, means=False, centred=centred)


def _bootstrap(
    data: tuple[np.ndarray, ...], statistic: Callable, value: float, seed: int, *, means: bool, centred: bool = False
) -> Interval:
    """By scipy; where BCa is not defined (its jackknife has no spread), the percentile interval."""
    for method in ("BCa", "percentile") if means else ("percentile",):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is degenerate is told by NaN
            result = bootstrap(
                data,
                statistic,
                paired=True,
                vectorized=means,
                n_resamples=MEANS if means else OTHERS,
                batch=100,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(seed),
            )
        found = result.confidence_interval
        if not np.isnan(found).any():
            break
    excess = float(np.mean(result.bootstrap_distribution)) - value if centred else 0.0
    return Interval(value, float(found.low) - excess, float(found.high) - excess)
