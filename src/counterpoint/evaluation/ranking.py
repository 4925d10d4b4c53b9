"""Several systems against each other: paired differences over seeds or over items, many comparisons, ranks with ties.

Over seeds asks whether training again would end alike; over items, whether other questions would. The two are different
kinds of chance, so a ranking is made over one of them and says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from string import ascii_lowercase
from typing import Literal

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from counterpoint.evaluation.intervals import LEVEL, Interval, jackknifed, of_difference, of_mean, of_statistic

ALPHA = 1 - LEVEL  # share of rankings in which chance alone may part two systems that are alike
NO_SPREAD = 1e-12  # of differences that are the same number, in units of their size: rounding


@dataclass(frozen=True)
class Pair:
    """Two systems against each other.

    Args:
        first: the one with the higher value.
        second: the other.
        difference: first - second, with its own 95 % interval; None where chance cannot be told.
        p: how often chance alone would part them as far; None where there is nothing to tell chance by.
        adjusted: p after the correction for all pairs.
    """

    first: str
    second: str
    difference: Interval
    p: float | None
    adjusted: float | None

    @property
    def apart(self) -> bool:
        """Whether the two can be told apart."""
        return self.adjusted is not None and self.adjusted < ALPHA


@dataclass(frozen=True)
class Ranking:
    """Systems in order of their values, and which of them can be told apart.

    Args:
        over: "seeds" or "items": what intervals are taken over.
        order: systems, the best first.
        values: system -> its value and interval; the ends are NaN where it has none.
        pairs: each two systems.
        ranks: system -> the first and the last rank that it may have.
        letters: system -> letters; two systems share one exactly where they cannot be told apart.
    """

    over: Literal["seeds", "items"]
    order: tuple[str, ...]
    values: Mapping[str, Interval]
    pairs: tuple[Pair, ...]
    ranks: Mapping[str, tuple[int, int]]
    letters: Mapping[str, str]

    def between(self, first: str, second: str) -> Interval:
        """The difference first - second."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair.difference
            if (pair.second, pair.first) == (first, second):
                value, low, high = pair.difference
                return Interval(-value, -high, -low)
        raise KeyError((first, second))

    @property
    def leaders(self) -> tuple[str, ...]:
        """The systems that none is shown to be better than."""
        return tuple(name for name in self.order if self.ranks[name][0] == 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that the chance of one false finding or more stays below the level.

    adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), with p_(1) <= ... <= p_(m).

    Args:
        p: in [0, 1], in any order and however dependent.

    Returns:
        The corrected ones, in the same order.

    References:
        Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.

    >>> [round(x, 3) for x in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order, adjusted, most = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for place, at in enumerate(order):
        most = max(most, min(1.0, (len(p) - place) * float(p[at])))
        adjusted[int(at)] = most
    return adjusted


def paired_t(differences: np.ndarray) -> tuple[Interval, float]:
    """The mean of paired differences with its 95 % interval, and the p-value of no difference.

    mean +- t_{n-1} s / sqrt(n), with s the standard deviation (n - 1 below it).

    Args:
        differences: [n], one a seed; at least two.

    Returns:
        The interval, and p in [0, 1].

    Raises:
        ValueError: for fewer than two.

    Differs:
        Differences without any spread have p = 1 and an interval of no width: where all seeds end alike, as when every run
        keeps the model it began with, they say nothing about chance. The formula would have p = 0.

    References:
        Student 1908, The probable error of a mean, Biometrika 6.

    >>> found, p = paired_t(np.array([0.01, 0.03, 0.02]))
    >>> round(found.low, 4), round(found.high, 4), round(p, 4)
    (-0.0048, 0.0448, 0.0742)
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"wanted at least two differences, got {count}")
    value = float(np.mean(differences))
    if np.ptp(differences) <= NO_SPREAD * max(1.0, abs(value)):
        return Interval(value, value, value), 1.0
    error = float(np.std(differences, ddof=1) / np.sqrt(count))
    reach = float(student.ppf((1 + LEVEL) / 2, count - 1) * error)
    return Interval(value, value - reach, value + reach), float(2 * student.sf(abs(value) / error, count - 1))


def p_of_mean(values: np.ndarray, unit: np.ndarray) -> float:
    """The p-value of a mean of 0 over rows, where rows of one unit are not independent.

    Student's t of the mean with its error by `intervals.jackknifed`, the one of which `intervals.of_difference` is made.

    Args:
        values: [n], paired differences.
        unit: [n], at least two units.

    Returns:
        p in [0, 1]; 1 where units do not differ at all.

    >>> round(p_of_mean(np.array([0.01, 0.03, 0.02]), np.arange(3)), 4)  # a unit a row: the paired t-test
    0.0742
    """
    value, error, count = jackknifed(values, unit)
    if error <= NO_SPREAD * max(1.0, abs(value)):
        return 1.0
    return float(2 * student.sf(abs(value) / error, count - 1))


def p_of_interval(found: Interval, units: int) -> float:
    """The p-value of no difference, read from a 95 % interval: its half width is 1.96 errors.

    Args:
        found: of a difference.
        units: that were resampled; Student's t has one degree of freedom less.

    >>> round(p_of_interval(Interval(0.0196, 0.0, 0.0392), 10**9), 3)
    0.05
    """
    error = (found.high - found.low) / (2 * float(norm.ppf((1 + LEVEL) / 2)))
    if error <= NO_SPREAD * max(1.0, abs(found.value)):
        return 1.0
    return float(2 * student.sf(abs(found.value) / error, units - 1))


def over_seeds(values: Mapping[str, np.ndarray]) -> Ranking:
    """Rank systems by their mean over seeds; each two are compared seed by seed.

    Args:
        values: system -> [s], its value for each seed, in the same order for all. One that has the same value for all of
            them, such as the model before training, is not trained and has no interval.

    Raises:
        ValueError: for fewer than two seeds.
    """
    if min(len(v) for v in values.values()) < 2:
        raise ValueError("wanted at least two seeds to compare over")
    still = {name for name, v in values.items() if np.ptp(v) == 0}

    def compared(first: str, second: str) -> tuple[Interval, float | None]:
        found, p = paired_t(values[first] - values[second])
        return (found._replace(low=np.nan, high=np.nan), None) if {first, second} <= still else (found, p)

    own = {name: paired_t(v)[0] for name, v in values.items()}
    own |= {name: own[name]._replace(low=np.nan, high=np.nan) for name in still}
    return _ranked("seeds", own, compared)


def over_items(
    answers: Mapping[str, Sequence[np.ndarray]],
    unit: np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    seed: int = 0,
) -> Ranking:
    """Rank systems by their mean over the questions of a test; each two are compared question by question.

    A system that was trained several times answers by the mean of its trainings: how much they differ is no part of the
    intervals, which say what other questions would give.

    Args:
        answers: system -> for each training [n] one number a question, or [n, 2] for a statistic.
        unit: [n] rows of one unit are not independent; at least two units.
        statistic: of [n, 2] rows, such as a correlation; None: answers are one number and the statistic is their mean.
        seed: decides the resamples.
    """
    units = len(np.unique(unit))
    if statistic is None:
        means = {name: np.mean(several, axis=0) for name, several in answers.items()}
        own = {name: of_mean(mean, unit, seed=seed) for name, mean in means.items()}

        def compared(first: str, second: str) -> tuple[Interval, float | None]:
            differences = means[first] - means[second]
            return of_difference(differences, unit), p_of_mean(differences, unit)

        return _ranked("items", own, compared)
    of_rows = {name: _remembered(several, statistic) for name, several in answers.items()}

    def resampled(first: str, second: str) -> tuple[Interval, float | None]:
        found = of_statistic(lambda at: of_rows[first](at) - of_rows[second](at), unit, seed=seed, difference=True)
        return found, p_of_interval(found, units)

    return _ranked("items", {name: of_statistic(value, unit, seed=seed) for name, value in of_rows.items()}, resampled)


def _remembered(
    several: Sequence[np.ndarray], statistic: Callable[[np.ndarray], float]
) -> Callable[[np.ndarray], float]:
    """The mean statistic of some rows over trainings; resamples are the same for each pair, so each is computed once."""
    known: dict[bytes, float] = {}

    def value(at: np.ndarray) -> float:
        key = blake2b(np.ascontiguousarray(at).tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = float(np.mean([statistic(rows[at]) for rows in several]))
        return known[key]

    return value


def _ranked(
    over: Literal["seeds", "items"],
    values: Mapping[str, Interval],
    compared: Callable[[str, str], tuple[Interval, float | None]],
) -> Ranking:
    """All pairs, corrected together, and the ranks that follow."""
    order = sorted(values, key=lambda name: -values[name].value)
    found = [(first, second, *compared(first, second)) for first, second in combinations(order, 2)]
    known = holm([p for *_, p in found if p is not None])
    adjusted = iter(known)
    pairs = tuple(Pair(*pair, None if pair[-1] is None else next(adjusted)) for pair in found)
    apart = {(pair.first, pair.second) for pair in pairs if pair.apart}
    ranks = {
        name: (1 + sum(low == name for _, low in apart), len(order) - sum(high == name for high, _ in apart))
        for name in order
    }
    return Ranking(over, tuple(order), values, pairs, ranks, letters(order, apart))


def letters(order: Sequence[str], apart: set[tuple[str, str]]) -> dict[str, str]:
    """A compact letter display: two systems share a letter exactly where they are not told apart.

    Begin with one column of all; for each pair that is apart, split each column that holds both; leave out a column that
    another one holds.

    Args:
        order: systems, the best first.
        apart: pairs that can be told apart, in either order.

    References:
        Piepho 2004, An algorithm for a letter-based representation of all-pairwise comparisons, Journal of Computational
        and Graphical Statistics 13 (insert and absorb).

    >>> letters("xyz", {("x", "z")})
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    columns = [frozenset(order)]
    for pair in sorted(apart):
        split = [part for column in columns for part in _split(column, pair)]
        columns = [c for i, c in enumerate(split) if not any(c < d or (c == d and j < i) for j, d in enumerate(split))]
    columns.sort(key=lambda column: [order.index(name) for name in sorted(column, key=order.index)])
    return {name: "".join(_letter(i) for i, c in enumerate(columns) if name in c) for name in order}


def _split(column: frozenset[str], pair: tuple[str, str]) -> list[frozenset[str]]:
    return [column - {name} for name in pair] if column.issuperset(pair) else [column]


def _letter(place: int) -> str:
    """a, b, ... z, a1, b1, ..."""
    turn, at = divmod(place, len(ascii_lowercase))
    return ascii_lowercase[at] + (str(turn) if turn else "")
