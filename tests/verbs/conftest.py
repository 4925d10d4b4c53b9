"""Intervals of few resamples where a statistic is no mean: what they are worth is proved in tests/evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from counterpoint.evaluation import intervals

FEW = ("arrays", "compare", "cross", "fit", "orders", "others", "stages")  # none compares with a process of its own


@pytest.fixture(scope="module", autouse=True)
def few_resamples(request: pytest.FixtureRequest) -> Iterator[None]:
    """Before all other fixtures of a module, whose runs are compared with those of its tests."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition("test_")[2] in FEW:
            patch.setattr(intervals, "OTHERS", 199)
        yield
