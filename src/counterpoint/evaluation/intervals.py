"""Intervals by resampling what is independent: queries, or whole groups of rows. evidence/intervals.json has their coverage."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap
from scipy.stats import t as student

MEANS, OTHERS = 9_999, 1_999  # resamples: a mean is a sum over units and cheap, any other statistic is not
LEVEL = 0.95
Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
FEW = 50  # units below which a bootstrap of a mean is too narrow
MANY = 200  # units from which on the skewness of a statistic is too small to pay a jackknife for


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

    Shares (every value 0 or 1, every row a unit of its own) have Wilson's interval. Other means of fewer than 50 units, and
    those over groups of rows, have Student's t with the error of a jackknife over units, since a bootstrap of them is too
    narrow; other means of 50 or more the bias-corrected and accelerated bootstrap.

    Args:
        values: [n], one number a row.
        unit: [n], which unit a row belongs to; at least two units.
        seed: decides the resamples.

    Raises:
        ValueError: for fewer than two units.

    Relations:
        For differences of two systems `of_difference`.

    References:
        Wilson 1927, Probable inference; Efron 1987, Better bootstrap confidence intervals, by scipy.stats.bootstrap.

    >>> of_mean(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    Interval(value=0.5, low=0.5, high=0.5)
    """
    sums, sizes = _by_unit(values, unit)
    if (sizes == 1).all() and np.isin(values, (0, 1)).all():
        return _share(int(values.sum()), len(values))
    if len(sums) < FEW or (sizes != sizes[0]).any():
        return _student(values, unit)

    def mean(total: Any, axis: int = -1) -> Any:
        return total.mean(axis)

    return _bootstrap((sums / sizes,), mean, float(values.mean()), seed, vectorized=True, corrected=True)


def of_difference(values: np.ndarray, unit: np.ndarray) -> Interval:
    """The mean of paired differences, one a row, and its 95 % interval.

    Student's t with the error of a jackknife over units; where every row is a unit of its own and every difference -1, 0
    or 1 (right or wrong, before and after), the adjusted interval of Bonett and Price: it has a width also where no row
    differs.

        d +- z sqrt( (p + q - d^2) / (n + 2) ),    p = (gained + 1) / (n + 2),  q = (lost + 1) / (n + 2),  d = p - q

    Args:
        values: [n], new less old.
        unit: [n], which unit a row belongs to; at least two units.

    Raises:
        ValueError: for fewer than two units.

    References:
        Bonett, Price 2012, Adjusted Wald confidence interval for a difference of binomial proportions based on paired data.

    >>> found = of_difference(np.array([1.0, 1.0, 1.0] + [0.0] * 17), np.arange(20))
    >>> found.value, round(found.low, 3), round(found.high, 3)  # three of twenty are not enough
    (0.15, -0.055, 0.327)
    """
    _, sizes = _by_unit(values, unit)
    if (sizes == 1).all() and np.isin(values, (-1, 0, 1)).all():
        n = len(values) + 2
        gained, lost = ((values == sign).sum() / n + 1 / n for sign in (1, -1))
        middle, reach = gained - lost, Z * math.sqrt((gained + lost - (gained - lost) ** 2) / n)
        return Interval(float(values.mean()), float(middle - reach), float(middle + reach))
    return _student(values, unit)


def of_statistic(
    statistic: Callable[[np.ndarray], float],
    unit: np.ndarray,
    *,
    seed: int = 0,
    difference: bool = False,
    centred: bool = False,
) -> Interval:
    """Any statistic of a set of rows and its 95 % bootstrap interval, resampling units.

    Percentiles for a difference of two systems and from 200 units on. A statistic of one system that has a bound, such
    as a correlation, is skewed when units are fewer: there the bias-corrected and accelerated bootstrap.

    Args:
        statistic: row numbers (with repeats) -> number.
        unit: [n], which unit a row belongs to; at least two units.
        seed: decides the resamples.
        difference: it compares two systems on the same rows.
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
        single = len(rows) == len(order)
        return statistic(order[picked] if single else np.concatenate([rows[int(u)] for u in picked]))

    value = float(statistic(np.arange(len(unit))))
    corrected = not (difference or centred) and len(rows) < MANY
    return _bootstrap(
        (np.arange(len(rows)),), on_units, value, seed, vectorized=False, corrected=corrected, centred=centred
    )


def _by_unit(values: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of rows of each unit."""
    _, unit = np.unique(unit, return_inverse=True)
    sums, sizes = np.bincount(unit, weights=values), np.bincount(unit).astype(float)
    if len(sums) < 2:
        raise ValueError(f"wanted at least two units to resample, got {len(sums)}")
    return sums, sizes


def jackknifed(values: np.ndarray, unit: np.ndarray) -> tuple[float, float, int]:
    """The mean over rows, its standard error by leaving out one of k units at a time, and k.

        error^2 = (1 - 1/k) sum_u ( (sum_u - mean size_u) / (rows of all units but u) )^2

    Args:
        values: [n], one number a row.
        unit: [n], which unit a row belongs to; at least two units.

    Raises:
        ValueError: for fewer than two units.

    References:
        Efron, Stein 1981, The jackknife estimate of variance.

    >>> mean, error, k = jackknifed(np.array([1.0, 2.0, 3.0]), np.arange(3))
    >>> mean, round(error, 6), k  # of single rows: their standard deviation over the root of 3
    (2.0, 0.57735, 3)
    """
    sums, sizes = _by_unit(values, unit)
    mean = float(sums.sum() / sizes.sum())
    residual = (sums - mean * sizes) / (sizes.sum() - sizes)
    return mean, float(np.sqrt((1 - 1 / len(sums)) * np.square(residual).sum())), len(sums)


def _share(right: int, n: int) -> Interval:
    """Wilson's interval of a share."""
    share, more = right / n, Z**2 / n
    middle = (share + more / 2) / (1 + more)
    reach = Z / (1 + more) * math.sqrt(share * (1 - share) / n + more / n / 4)
    return Interval(share, middle - reach, middle + reach)


def _student(values: np.ndarray, unit: np.ndarray) -> Interval:
    """A mean, by t with the jackknife's error."""
    value, error, k = jackknifed(values, unit)
    reach = float(student.ppf((1 + LEVEL) / 2, k - 1)) * error
    return Interval(value, value - reach, value + reach)


def _bootstrap(
    data: tuple[np.ndarray, ...],
    statistic: Callable,
    value: float,
    seed: int,
    *,
    vectorized: bool,
    corrected: bool,
    centred: bool = False,
) -> Interval:
    """By scipy; where BCa is not defined (its jackknife has no spread), the percentile interval."""
    for method in ("BCa", "percentile") if corrected else ("percentile",):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is degenerate is told by NaN
            result = bootstrap(
                data,
                statistic,
                paired=True,
                vectorized=vectorized,
                n_resamples=MEANS if vectorized else OTHERS,
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
