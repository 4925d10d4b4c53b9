"""Metrics that are no mean over rows: each is a statistic of a set of rows, which an interval resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy.stats import pearsonr, spearmanr

# Row numbers, with repeats -> the metric of those rows.
OfRows = Callable[[np.ndarray], float]


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


def explained(pairs: np.ndarray) -> float:
    """R^2 of predictions in the first column of values in the second, as in scikit-learn; 0 where the values are constant.

        1 - sum (value - predicted)^2 / sum (value - mean value)^2

    >>> explained(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 6.0]]))
    0.3571428571428571
    """
    spread = float(np.square(pairs[:, 1] - pairs[:, 1].mean()).sum())
    return 1 - float(np.square(pairs[:, 1] - pairs[:, 0]).sum()) / spread if spread else 0.0


def _plain(statistic: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], OfRows]:
    return lambda rows: lambda at: statistic(rows[at])


def _counts(rows: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Scores beside 0 or 1 -> of some rows, how many of each kind score at least each distinct score, the highest first.

    Sorted once: a resample then costs no more than counting.
    """
    order = np.argsort(-rows[:, 0], kind="stable")
    score, true = rows[order, 0], rows[order, 1] > 0
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    last = np.append(np.flatnonzero(np.diff(score)), len(order) - 1)

    def counts(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = np.bincount(place[at], minlength=len(order))
        return np.cumsum(weight * true)[last], np.cumsum(weight * ~true)[last]

    return counts


def average_precision(rows: np.ndarray) -> OfRows:
    """Average precision of scores (first column) for the rows whose second column is 1, as in scikit-learn.

        sum_k (recall_k - recall_(k-1)) precision_k    over the distinct scores, the highest first

    >>> average_precision(np.array([[0.9, 1], [0.8, 0], [0.7, 1]]))(np.arange(3))
    0.8333333333333333
    """
    counts = _counts(rows)

    def of(at: np.ndarray) -> float:
        hits, misses = counts(at)
        precision = hits / np.maximum(hits + misses, 1)
        return float((np.diff(hits, prepend=0) * precision).sum() / max(hits[-1], 1))

    return of


def auroc(rows: np.ndarray) -> OfRows:
    """Area under the ROC curve of scores (first column): how often a row whose second column is 1 scores above one whose is 0.

    Ties count half. 0.5 where there are rows of one kind only.

    >>> auroc(np.array([[0.9, 1], [0.8, 0], [0.7, 1]]))(np.arange(3))
    0.5
    """
    counts = _counts(rows)

    def of(at: np.ndarray) -> float:
        hits, misses = counts(at)
        if not (hits[-1] and misses[-1]):
            return 0.5
        before = np.concatenate([[0], hits[:-1]])
        return float((np.diff(misses, prepend=0) * (hits + before)).sum() / (2.0 * hits[-1] * misses[-1]))

    return of


def _at_best(worth: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray], OfRows]:
    """The best over thresholds that lie between two distinct scores, as in MTEB: some rows pass, and some do not."""

    def statistic(rows: np.ndarray) -> OfRows:
        counts = _counts(rows)

        def of(at: np.ndarray) -> float:
            hits, misses = counts(at)
            passed = hits + misses
            inner = (passed > 0) & (passed < passed[-1])
            return float(np.max(worth(hits, misses)[inner], initial=0.0))

        return of

    return statistic


def _accuracy(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    return (hits + misses[-1] - misses) / (hits[-1] + misses[-1])


def _f1(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    return 2 * hits / np.maximum(hits + misses + hits[-1], 1)


def _tables(rows: np.ndarray) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Classes (first column) beside the clusters of several runs -> of some rows, the table of counts of each run."""
    classes = np.unique(rows[:, 0], return_inverse=True)[1]
    size, tables = int(classes.max()) + 1, []
    for column in rows.T[1:]:
        clusters = np.unique(column, return_inverse=True)[1]
        tables.append((classes * (int(clusters.max()) + 1) + clusters, int(clusters.max()) + 1))
    return lambda at: [np.bincount(c[at], minlength=size * k).reshape(size, k) for c, k in tables]


def _of_tables(measure: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], OfRows]:
    def statistic(rows: np.ndarray) -> OfRows:
        tables = _tables(rows)
        return lambda at: float(np.mean([measure(table) for table in tables(at)]))

    return statistic


def v_measure(table: np.ndarray) -> float:
    """V-measure of a table of counts, classes by clusters: the harmonic mean of homogeneity and completeness.

        2 I(class; cluster) / (H(class) + H(cluster))

    Relations:
        The normalised mutual information of scikit-learn (arithmetic mean) is the same number.

    References:
        Rosenberg and Hirschberg 2007, V-Measure: A Conditional Entropy-Based External Cluster Evaluation Measure.

    >>> v_measure(np.array([[3, 0], [0, 2]]))
    1.0
    """
    both = _entropy(table.sum(1)) + _entropy(table.sum(0))
    return 2 * (both - _entropy(table.ravel())) / both if both else 1.0


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def adjusted_rand(table: np.ndarray) -> float:
    """Rand index of a table of counts, adjusted for chance: 0 for random clusters, 1 for the classes themselves.

    References:
        Hubert and Arabie 1985, Comparing Partitions.

    >>> adjusted_rand(np.array([[3, 0], [0, 2]]))
    1.0
    """
    rows, columns, both = _pairs(table.sum(1)), _pairs(table.sum(0)), _pairs(table)
    expected = rows * columns / max(_pairs(table.sum(keepdims=True)), 1)
    most = (rows + columns) / 2
    return (both - expected) / (most - expected) if most != expected else 1.0


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1.0) / 2).sum())


# metric -> rows of values -> the metric of some of the rows. What is not here is a mean over rows.
STATISTICS: Mapping[str, Callable[[np.ndarray], OfRows]] = MappingProxyType(
    {
        "spearman": _plain(correlation),
        "pearson": _plain(linear_correlation),
        "r2": _plain(explained),
        "ap": average_precision,
        "auroc": auroc,
        "accuracy@best": _at_best(_accuracy),
        "f1@best": _at_best(_f1),
        "v_measure": _of_tables(v_measure),
        "ari": _of_tables(adjusted_rand),
    }
)
# Of rows that are compared with each other, so that a row drawn twice agrees with itself.
SHARED = ("v_measure", "ari")
