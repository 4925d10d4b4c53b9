"""Intervals: coverage on data whose truth is known, units, pairing, the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, ttest_1samp
from scipy.stats import t as student

from counterpoint.evaluation.intervals import Interval, of_difference, of_mean, of_statistic
from counterpoint.evaluation.statistics import correlation
from counterpoint.evaluation.tasks import Measured
from counterpoint.evaluation.verdict import decide, judge


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2000)
    found = of_mean(values, np.arange(2000))
    error = values.std(ddof=1) / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        group = rng.normal(0, 1, 30).repeat(5) + rng.normal(0, 0.5, 150)
        found = of_mean(group, np.arange(30).repeat(5), seed=trial)
        hits += found.low <= 0 <= found.high
    assert 87 <= hits <= 100


def test_rows_of_one_unit_count_as_one() -> None:
    values = np.random.default_rng(2).normal(size=20).repeat(50)
    by_row, by_unit = of_mean(values, np.arange(1000)), of_mean(values, np.arange(20).repeat(50))
    assert by_unit.high - by_unit.low > 4 * (by_row.high - by_row.low)


def test_any_statistic_gets_an_interval_too() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    pairs = np.stack([x, y], 1)
    found = of_statistic(lambda at: correlation(pairs[at]), np.arange(400))
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(6 / np.pi * np.arcsin(np.sqrt(0.5) / 2), abs=0.06)  # of two normals


def test_few_units_get_an_interval_that_covers_too() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        sizes = rng.integers(5, 100, 5)
        values = np.concatenate([rng.normal(m, 0.5, n) for m, n in zip(rng.normal(0, 0.1, 5), sizes, strict=True)])
        found = of_mean(values, np.arange(5).repeat(sizes))
        hits += found.low <= 0 <= found.high
    assert hits >= 0.9 * 400


def test_rows_that_do_not_differ_leave_room_for_others_that_would() -> None:
    few, many = (of_difference(np.zeros(n), np.arange(n)) for n in (9, 2000))
    assert few.low < -0.1 < 0.1 < few.high
    assert -0.002 < many.low < 0 < many.high < 0.002
    assert of_difference(np.zeros(40), np.arange(20).repeat(2)) == Interval(0, 0, 0), "groups have but their spread"


def test_shares_have_wilsons_interval() -> None:
    found = of_mean(np.array([1.0] * 9 + [0.0]), np.arange(10))
    theirs = binomtest(9, 10).proportion_ci(method="wilson")
    assert found == pytest.approx((0.9, theirs.low, theirs.high))
    assert of_mean(np.ones(10), np.arange(10)).low < 0.75, "ten of ten are not certainty"


def test_a_difference_of_shares_is_no_share() -> None:
    """Three gained and none lost: McNemar's p is 0.25."""
    gained = np.array([1.0] * 3 + [0.0] * 17)
    assert of_difference(gained, np.arange(20)).low < 0 < of_mean(gained, np.arange(20)).low
    assert of_difference(-gained, np.arange(20)).high == pytest.approx(-of_difference(gained, np.arange(20)).low)
    n, p, q = 22, 4 / 22, 1 / 22
    reach = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / n)
    assert of_difference(gained, np.arange(20)) == pytest.approx((0.15, p - q - reach, p - q + reach), abs=1e-6)


def test_a_few_numbers_have_students_t() -> None:
    values = np.random.default_rng(6).normal(size=12)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    for interval in (of_mean, of_difference):
        assert interval(values, np.arange(12)) == pytest.approx((values.mean(), theirs.low, theirs.high))


def test_groups_of_unequal_size_have_the_error_of_a_jackknife() -> None:
    rng = np.random.default_rng(7)
    unit = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    values = rng.normal(size=len(unit))
    without = np.array([values[unit != u].mean() for u in range(60)])
    reach = student.ppf(0.975, 59) * np.sqrt(59 / 60 * np.square(without - values.mean()).sum())
    found = of_mean(values, unit)
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), rel=1e-9)


def test_a_bounded_statistic_of_few_is_not_symmetric() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=25)
    pairs = np.stack([x, x + 0.3 * rng.normal(size=25)], 1)
    found = of_statistic(lambda at: correlation(pairs[at]), np.arange(25))
    assert found.high - found.value < found.value - found.low
    change = of_statistic(lambda at: correlation(pairs[at]), np.arange(25), difference=True)
    resampled = bootstrap(
        (np.arange(25),), lambda at: correlation(pairs[at]), n_resamples=1999, method="percentile", vectorized=False,
        batch=100, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (change.low, change.high) == pytest.approx(tuple(resampled)), "percentiles for a difference"
    assert found.low != change.low


def test_one_unit_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="two units"):
        of_mean(np.ones(4), np.zeros(4))
    with pytest.raises(ValueError, match="two units"):
        of_statistic(lambda at: 0.0, np.zeros(4))


def test_a_test_of_one_group_resamples_rows_and_says_so() -> None:
    one = Measured({"mrr@10": np.linspace(0, 1, 50)}, np.zeros(50), 50)
    assert "over 50 rows" in judge(one, one, metric="mrr@10", unit="groups")["sentence"]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.1, 0.01, 0.2), "better"), ((0.1, -0.01, 0.2), "no difference shown"), ((-0.1, -0.2, -0.01), "worse, keep what you had"),
     ((0.0, 0.0, 0.0), "no difference shown")],
)  # fmt: skip
def test_a_verdict_needs_an_interval_without_zero(interval: tuple, verdict: str) -> None:
    assert decide(Interval(*interval)) == verdict


def measured(values: np.ndarray) -> Measured:
    return Measured({"mrr@10": values}, np.arange(len(values)), 50)


def test_a_small_but_steady_gain_is_seen_because_rows_are_paired() -> None:
    rng = np.random.default_rng(4)
    old = rng.uniform(size=300)
    result = judge(measured(old), measured(old + rng.normal(0.01, 0.01, 300)), metric="mrr@10", unit="queries")
    assert result["verdict"] == "better"
    assert result["before"]["mrr@10"]["high"] > result["after"]["mrr@10"]["low"], "unpaired intervals overlap"
    assert "over 300 queries" in result["sentence"]


def test_few_units_are_said_to_be_few() -> None:
    result = judge(measured(np.zeros(4)), measured(np.array([0.1, 0.2, 0.0, 0.3])), metric="mrr@10", unit="queries")
    assert "4 queries are few" in result["sentence"]
    assert result["verdict"] == "no difference shown"


def test_a_constant_side_has_no_correlation() -> None:
    assert correlation(np.array([[1.0, 2.0], [1.0, 3.0]])) == 0
