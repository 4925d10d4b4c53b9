"""Rankings: corrections by hand, tests of others, letters and ranks that agree with the pairs, error rates that hold."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm, ttest_1samp, ttest_rel
from scipy.stats import t as student

from counterpoint.evaluation.intervals import Interval, of_mean, of_statistic
from counterpoint.evaluation.ranking import holm, letters, over_items, over_seeds, p_of_interval, p_of_mean, paired_t
from counterpoint.evaluation.statistics import correlation


def test_holm_by_hand() -> None:
    # Holm 1979: at .05 with p = .01, .02, .03, .04 only the first is below .05/4 and the second fails .05/3
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.01, 0.02, 0.05]) == pytest.approx([0.03, 0.04, 0.05])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_is_its_own_definition_and_lies_between_its_neighbours() -> None:
    """Rejecting where adjusted p < level is the sequential procedure; it rejects at least what Bonferroni does, and at most
    what a control of the false discovery rate does."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        p = draw.uniform(0, 0.2, int(draw.integers(1, 9)))
        adjusted, level = np.array(holm(list(p))), 0.05
        rejected: set[int] = set()
        for place, at in enumerate(np.argsort(p)):
            if p[at] >= level / (len(p) - place):
                break
            rejected.add(int(at))
        assert set(np.flatnonzero(adjusted < level)) == rejected
        assert (adjusted <= np.minimum(1, len(p) * p) + 1e-15).all()
        assert (adjusted >= false_discovery_control(p) - 1e-15).all()


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_paired_t_is_scipys(count: int) -> None:
    draw = np.random.default_rng(count)
    a, b = draw.normal(0.5, 1, count), draw.normal(0, 1, count)
    found, p = paired_t(a - b)
    theirs = ttest_rel(a, b)
    ends = theirs.confidence_interval(0.95)
    assert p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=1e-12)
    assert p_of_mean(a - b, np.arange(count)) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_a_unit_of_equal_size_counts_as_its_mean() -> None:
    draw = np.random.default_rng(7)
    values = draw.normal(0.2, 1, 60)
    unit = np.repeat(np.arange(12), 5)
    assert p_of_mean(values, unit) == pytest.approx(ttest_1samp(values.reshape(12, 5).mean(1), 0).pvalue, abs=1e-12)
    shuffled = draw.permutation(60)
    assert p_of_mean(values[shuffled], unit[shuffled] + 3) == pytest.approx(p_of_mean(values, unit), abs=1e-12)
    assert p_of_mean(-values, unit) == pytest.approx(p_of_mean(values, unit), abs=1e-12)


def test_the_p_value_and_the_interval_of_few_units_agree() -> None:
    """Below ten units both are the same Student's t: one says .05 where the other touches 0."""
    draw = np.random.default_rng(3)
    unit = np.repeat(np.arange(6), [2, 9, 4, 4, 1, 7])
    for _ in range(50):
        values = draw.normal(0.3, 1, len(unit))
        found = of_mean(values, unit)
        assert (found.low > 0 or found.high < 0) == (p_of_mean(values, unit) < 0.05)
        at_zero = values - found.low  # its interval begins at 0
        assert p_of_mean(at_zero, unit) == pytest.approx(0.05, abs=1e-9)


def test_where_nothing_varies_nothing_is_shown() -> None:
    assert paired_t(np.zeros(3))[1] == paired_t(np.full(3, 0.25))[1] == 1.0
    assert paired_t(np.full(3, 0.25))[0] == Interval(0.25, 0.25, 0.25)
    assert paired_t(np.array([0.1, 0.1, 0.1]) * 3)[1] == 1.0
    assert p_of_mean(np.full(6, 0.5), np.arange(6)) == 1.0
    assert p_of_interval(Interval(0.5, 0.5, 0.5), 9) == 1.0
    assert p_of_interval(Interval(0.2, 0.1, 0.3), 30) == pytest.approx(p_of_interval(Interval(-0.2, -0.3, -0.1), 30))
    with pytest.raises(ValueError, match="two differences"):
        paired_t(np.ones(1))
    with pytest.raises(ValueError, match="two seeds"):
        over_seeds({"a": np.ones(1), "b": np.ones(1)})


def test_an_interval_that_touches_zero_has_p_05() -> None:
    """Of a normal estimate the 95 % interval touches 0 where p is .05; of few units p is larger."""
    assert p_of_interval(Interval(0.3, 0.0, 0.6), 10**9) == pytest.approx(0.05, abs=1e-6)
    assert p_of_interval(Interval(0.3, 0.0, 0.6), 5) == pytest.approx(2 * student.sf(norm.ppf(0.975), 4))


def test_letters_share_exactly_where_pairs_are_not_apart() -> None:
    draw = np.random.default_rng(1)
    for _ in range(300):
        order = list("abcdefg"[: int(draw.integers(1, 8))])
        share = draw.uniform()
        apart = {pair for pair in combinations(order, 2) if draw.uniform() < share}
        found = letters(order, apart)
        assert all(found.values())
        for pair in combinations(order, 2):
            assert bool(set(found[pair[0]]) & set(found[pair[1]])) == (pair not in apart), (apart, found)
        assert found[order[0]][0] == "a"
        columns = [frozenset(n for n in order if x in found[n]) for x in sorted(set("".join(found.values())))]
        assert not any(one <= other for one, other in [*combinations(columns, 2), *combinations(columns[::-1], 2)])


def test_ranks_and_letters_of_a_hand_sized_case() -> None:
    """a and b alike, c far below, and a baseline that is not trained below it: each rank can be told by eye."""
    seeds = np.array([0.0, 0.01, -0.01, 0.004])
    values = {
        "c": 0.5 + seeds[[1, 0, 3, 2]],
        "a": 0.9 + seeds,
        "before": np.full(4, 0.2),
        "b": 0.899 + seeds[::-1],
        "bm25": np.full(4, 0.3),
    }
    found = over_seeds(values)
    assert found.order == ("a", "b", "c", "bm25", "before")
    assert found.ranks == {"a": (1, 2), "b": (1, 2), "c": (3, 3), "bm25": (4, 5), "before": (4, 5)}
    assert found.letters == {"a": "a", "b": "a", "c": "b", "bm25": "c", "before": "c"}
    assert found.leaders == ("a", "b")
    tested = [pair for pair in found.pairs if pair.p is not None]
    assert len(found.pairs) == 10
    assert len(tested) == 9  # two that are not trained differ by no chance of training
    assert [pair.adjusted for pair in tested] == holm([pair.p for pair in tested if pair.p is not None])
    assert np.isnan(found.values["before"].low)
    assert found.values["a"].low < 0.9 < found.values["a"].high
    ahead = paired_t(values["a"] - values["c"])[0]
    assert found.between("a", "c") == ahead
    assert found.between("c", "a") == Interval(-ahead.value, -ahead.high, -ahead.low)
    with pytest.raises(KeyError):
        found.between("a", "nobody")


def test_seeds_are_paired() -> None:
    """Seeds that are good for both hide nothing: apart by pairs, though their ranges overlap."""
    seeds = np.array([0.0, 0.2, -0.2, 0.1])
    found = over_seeds({"a": seeds + 0.01 + np.array([0, 1e-4, 0, -1e-4]), "b": seeds})
    assert found.pairs[0].apart
    assert found.values["a"].low < found.values["b"].value
    unpaired = over_seeds({"a": (seeds + 0.01)[::-1] + np.array([0, 1e-4, 0, -1e-4]), "b": seeds})
    assert not unpaired.pairs[0].apart


def test_over_items_averages_trainings_and_resamples_units() -> None:
    draw = np.random.default_rng(5)
    base, unit = draw.uniform(size=120), np.repeat(np.arange(24), 5)
    answers = {"a": [base + 0.1 + draw.normal(0, 0.1, 120) for _ in range(3)], "b": [base], "c": [base + 0.3]}
    found = over_items(answers, unit, seed=4)
    mean = np.mean(answers["a"], axis=0)
    assert found.over == "items"
    assert found.order == ("c", "a", "b")
    assert found.values["a"] == of_mean(mean, unit, seed=4)
    assert found.between("a", "b") == of_mean(mean - base, unit, seed=4)
    pair = next(p for p in found.pairs if (p.first, p.second) == ("a", "b"))
    assert pair.p == p_of_mean(mean - base, unit)
    # c is b plus a number: without spread over items nothing is told apart
    assert next(p for p in found.pairs if (p.first, p.second) == ("c", "b")).p == 1.0
    assert found.between("b", "a") == pytest.approx(
        Interval(-pair.difference.value, -pair.difference.high, -pair.difference.low)
    )


def test_a_correlation_over_items_is_the_mean_of_its_trainings() -> None:
    draw = np.random.default_rng(6)
    truth = draw.normal(size=80)

    def rows(noise: float) -> np.ndarray:
        return np.stack([truth + draw.normal(0, noise, 80), truth], 1)

    answers = {"good": [rows(0.5), rows(0.5)], "bad": [rows(3.0)]}
    found = over_items(answers, np.arange(80), statistic=correlation, seed=2)
    good = [correlation(x) for x in answers["good"]]
    assert found.values["good"].value == pytest.approx(np.mean(good))
    assert found.pairs[0].difference.value == pytest.approx(np.mean(good) - correlation(answers["bad"][0]))
    alone = of_statistic(
        lambda at: (correlation(answers["good"][0][at]) + correlation(answers["good"][1][at])) / 2
        - correlation(answers["bad"][0][at]),
        np.arange(80), seed=2, difference=True,
    )  # fmt: skip
    assert found.pairs[0].difference == alone
    assert found.pairs[0].p == pytest.approx(p_of_interval(alone, 80))
    assert found.pairs[0].apart


def test_equal_systems_are_parted_as_rarely_as_stated() -> None:
    """Four equal systems, five seeds, 1,000 comparisons: one false finding or more in at most 5 % of them; without the
    correction there would be three times as many."""
    draw, false, uncorrected, trials = np.random.default_rng(11), 0, 0, 1000
    for _ in range(trials):
        shared = draw.normal(size=5)
        found = over_seeds({name: shared + draw.normal(size=5) for name in "abcd"})
        false += any(pair.apart for pair in found.pairs)
        uncorrected += any(pair.p is not None and pair.p < 0.05 for pair in found.pairs)
    assert 0.02 < false / trials < 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)
    assert uncorrected / trials > 0.12


def test_equal_systems_over_items_too() -> None:
    """The same with rows in units, where taking rows as independent would part them far too often."""
    draw, false, trials = np.random.default_rng(12), 0, 1000
    unit = np.repeat(np.arange(15), 4)
    for _ in range(trials):
        differences = np.repeat(draw.normal(size=15), 4) + draw.normal(0, 0.3, 60)
        false += p_of_mean(differences, unit) < 0.05
    assert false / trials == pytest.approx(0.05, abs=0.02)


def test_the_interval_of_three_seeds_covers_as_stated() -> None:
    draw, trials = np.random.default_rng(13), 2000
    found = [paired_t(draw.normal(0.3, 1, 3))[0] for _ in range(trials)]
    assert np.mean([one.low <= 0.3 <= one.high for one in found]) == pytest.approx(0.95, abs=0.015)
