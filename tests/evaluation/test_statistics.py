"""Statistics of sets of rows are those of scikit-learn, scipy and MTEB, on rows and on resamples of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn import metrics

from counterpoint.evaluation.intervals import of_statistic
from counterpoint.evaluation.statistics import STATISTICS, adjusted_rand, v_measure
from counterpoint.evaluation.tasks import Measured
from counterpoint.evaluation.verdict import difference, summarise


def draws(count: int = 30) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores with ties beside 0 or 1, and rows with repeats."""
    draw = np.random.default_rng(0)
    for size in [2, 3, 5, 40, 300] * (count // 5):
        true = (draw.random(size) < 0.4).astype(float)
        true[:2] = 0, 1
        score = np.round(draw.normal(size=size) + true, 1)
        at = np.append(draw.integers(0, size, size), [0, 1])
        yield np.stack([score, true], axis=1), at


def test_average_precision_and_auroc_are_those_of_scikit_learn() -> None:
    for rows, at in draws():
        score, true = rows[at].T
        ap, area = STATISTICS["ap"](rows)(at), STATISTICS["auroc"](rows)(at)
        assert ap == pytest.approx(metrics.average_precision_score(true, score), abs=1e-6)
        assert area == pytest.approx(metrics.roc_auc_score(true, score), abs=1e-6)


def test_best_cut_offs_are_those_of_mteb() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mteb.abstasks.pair_classification import AbsTaskPairClassification as Theirs

    for rows, at in draws():
        score, true = rows[at].T
        judged = [score.tolist(), true.astype(np.int64), True]
        accuracy = Theirs._find_best_acc_and_threshold(None, *judged)[0]
        f1 = Theirs._find_best_f1_and_threshold(None, *judged)[0]
        assert STATISTICS["accuracy@best"](rows)(at) == pytest.approx(accuracy, abs=1e-6)
        assert STATISTICS["f1@best"](rows)(at) == pytest.approx(f1, abs=1e-6)


def test_a_hand_sized_ranking() -> None:
    """Two of four belong together, at ranks 1 and 3; the best cut-off lies below the first, or below the third for F1."""
    rows = np.array([[0.9, 1], [0.8, 0], [0.7, 1], [0.6, 0]])
    value = {name: STATISTICS[name](rows)(np.arange(4)) for name in ("ap", "auroc", "accuracy@best", "f1@best")}
    assert value["ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert value["auroc"] == 0.75
    assert value["accuracy@best"] == 0.75
    assert value["f1@best"] == pytest.approx(0.8)


def test_a_cut_off_lets_some_pass_and_some_not() -> None:
    """Letting all four pass would be right three times; no cut-off between two scores is, and MTEB looks at no other."""
    rows = np.array([[0.9, 0], [0.3, 1], [0.2, 1], [0.1, 1]])
    assert STATISTICS["accuracy@best"](rows)(np.arange(4)) == 0.5
    assert STATISTICS["f1@best"](rows)(np.arange(4)) == pytest.approx(2 / 3)
    assert STATISTICS["f1@best"](rows)(np.array([1, 1, 2])) == pytest.approx(0.8), "one of the rows drawn does not pass"


def test_without_one_of_both_kinds_nothing_is_said() -> None:
    rows = np.array([[0.9, 1], [0.8, 0]])
    assert STATISTICS["auroc"](rows)(np.array([0, 0])) == 0.5
    assert STATISTICS["ap"](rows)(np.array([1, 1])) == 0
    assert STATISTICS["f1@best"](rows)(np.array([1, 1])) == 0


def test_clusters_are_compared_with_classes_as_in_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    for size, classes, clusters in [(6, 2, 3), (50, 4, 4), (400, 9, 5), (30, 1, 3), (30, 3, 1)]:
        truth = draw.integers(0, classes, size)
        found = [np.where(draw.random(size) < 0.6, truth, draw.integers(0, clusters, size)) for _ in range(2)]
        rows, at = np.stack([truth, *found], axis=1), draw.integers(0, size, size)
        ours = [STATISTICS[name](rows)(at) for name in ("v_measure", "ari")]
        theirs = [
            np.mean([measure(truth[at], one[at]) for one in found])
            for measure in (metrics.v_measure_score, metrics.adjusted_rand_score)
        ]
        assert ours == pytest.approx(theirs, abs=1e-6)
        same = metrics.normalized_mutual_info_score(truth, found[0])
        assert STATISTICS["v_measure"](rows[:, :2])(np.arange(size)) == pytest.approx(same, abs=1e-6)


def test_names_of_clusters_do_not_matter() -> None:
    table = np.random.default_rng(0).integers(0, 20, (4, 6))
    for measure in (v_measure, adjusted_rand):
        assert measure(table[::-1][:, [3, 1, 0, 5, 4, 2]]) == pytest.approx(measure(table))


def test_explained_variance_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(50, 2))
    rows[:, 0] += rows[:, 1]
    at = draw.integers(0, 50, 50)
    assert STATISTICS["r2"](rows)(at) == pytest.approx(metrics.r2_score(rows[at, 1], rows[at, 0]), abs=1e-6)
    assert STATISTICS["r2"](np.array([[1.0, 2.0], [3.0, 2.0]]))(np.arange(2)) == 0


def test_intervals_of_shared_statistics_hold_their_value() -> None:
    """A row drawn twice agrees with itself: without the move every resample lies above what is measured."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 30, 600)
    rows = np.stack([truth, np.where(draw.random(600) < 0.7, truth, draw.integers(0, 30, 600))], axis=1)
    statistic = STATISTICS["v_measure"](rows)
    plain, moved = (of_statistic(statistic, np.arange(600), centred=centred) for centred in (False, True))
    assert plain.low > plain.value
    assert moved.low < moved.value < moved.high
    assert moved.high - moved.low == pytest.approx(plain.high - plain.low)
    middle = np.mean([statistic(draw.integers(0, 600, 600)) for _ in range(400)])
    assert plain.low - moved.low == pytest.approx(middle - plain.value, abs=0.002)


def test_numbers_of_clusters_lie_in_their_intervals() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 30, 400)
    found = [np.where(draw.random(400) < share, truth, draw.integers(0, 30, 400)) for share in (0.5, 0.8)]
    old, new = (
        Measured(dict.fromkeys(("v_measure", "ari"), np.stack([truth, one], axis=1)), np.arange(400), 30)
        for one in found
    )
    for name, value in summarise(old).items():
        assert value["low"] < value["value"] < value["high"], name
    for name, change in difference(old, new).items():
        assert change.low < change.value < change.high, name
        assert change.low > 0
