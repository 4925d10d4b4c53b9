"""Cut-offs that mean the same for another model."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.evaluation.shift import THRESHOLDS, score_shift


def scores(seed: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(0.75, 0.1, n // 2), draw.normal(0.5, 0.15, n)


def test_the_same_model_keeps_its_thresholds_and_a_monotone_one_maps_them() -> None:
    old = scores(0)
    for found in score_shift(old, old):
        assert found.moved == pytest.approx(found.threshold, abs=0.03)
        assert found.kept == found.false_positives
        assert found.recall_after == pytest.approx(found.recall_before, abs=0.15)
    halved = (old[0] / 2 - 0.1, old[1] / 2 - 0.1)
    for plain, found in zip(score_shift(old, old), score_shift(old, halved), strict=True):
        assert found.moved == pytest.approx(plain.moved / 2 - 0.1)
        assert found.recall_after == plain.recall_after
        assert found.kept < found.false_positives or not found.false_positives


def test_as_many_pass_with_any_two_models() -> None:
    old, new = scores(0), scores(1)
    for found in score_shift(old, new):
        assert (new[1] >= found.moved).mean() == found.false_positives
        assert found.recall_after == (new[0] >= found.moved).mean()
        assert found.recall_before == (old[0] >= found.threshold).mean()
    assert [found.threshold for found in score_shift(old, new)] == list(THRESHOLDS)


@pytest.mark.parametrize(
    ("threshold", "old", "new", "passing"),
    [
        (0.95, [0.5, 0.4, 0.3], [0.2, 0.1, 0.0], 0),  # none passed: none passes
        (0.1, [0.5, 0.4, 0.3], [0.2, 0.1, 0.0], 3),  # all passed
        (0.45, [0.5, 0.4, 0.3], [0.2, 0.2, 0.0], 0),  # a tie: rather fewer
        (0.4, [0.5, 0.4, 0.3], [0.2, 0.1, 0.0], 2),  # the threshold itself passes
    ],
)
def test_ends_and_ties(threshold: float, old: list[float], new: list[float], passing: int) -> None:
    one = np.array([0.9])
    found = score_shift((one, np.array(old)), (one, np.array(new)), [threshold])[0]
    assert (np.array(new) >= found.moved).sum() == passing


def test_what_is_not_comparable_is_refused() -> None:
    old = scores(0)
    with pytest.raises(ValueError, match="as many negative scores before and after, got 2000 and 1999"):
        score_shift(old, (old[0], old[1][1:]))
    with pytest.raises(ValueError, match="got 0 and 0"):
        score_shift((old[0][:0], old[1]), (old[0][:0], old[1]))
    with pytest.raises(ValueError, match="finite positive"):
        score_shift((old[0] * np.nan, old[1]), old)
