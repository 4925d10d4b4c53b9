"""Splits that do not leak, and the units that intervals resample."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.data.lint import clean
from counterpoint.data.roles import Samples, assign
from counterpoint.data.splits import connected_groups, split
from counterpoint.errors import Refusal


def samples(count: int = 300, **extra: list) -> Samples:
    rows = {"query": [f"q{i // 2}" for i in range(count)], "doc": [f"d{i}" for i in range(count)]}
    return clean(assign(pl.DataFrame(rows | extra)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20))
def test_connected_groups_equal_a_flood_fill(pairs: list[tuple[int, int]]) -> None:
    frame = pl.DataFrame({"anchor": [f"a{i}" for i, _ in pairs], "positive": [[f"p{j}"] for _, j in pairs]})
    found = connected_groups(frame).tolist()
    label = list(range(len(pairs)))
    for _ in pairs:
        for x, (i, j) in enumerate(pairs):
            for y, (k, m) in enumerate(pairs):
                if i == k or j == m:
                    label[x] = label[y] = min(label[x], label[y])
    for x in range(len(pairs)):
        for y in range(len(pairs)):
            assert (found[x] == found[y]) == (label[x] == label[y])


def test_no_text_stands_in_two_splits() -> None:
    result = split(samples())
    for role in ("anchor", "positive"):
        texts = [
            set(result.part(p)[role].explode() if role == "positive" else result.part(p)[role])
            for p in ("train", "dev", "test")
        ]
        assert not texts[0] & texts[1]
        assert not texts[0] & texts[2]
        assert not texts[1] & texts[2]
    assert 25 <= result.sizes["test"] <= 35
    assert 25 <= result.sizes["dev"] <= 35


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    one, two, again = split(samples(), seed=1), split(samples(), seed=2), split(samples(), seed=1)
    assert one.frame.equals(again.frame)
    assert not one.frame["split"].equals(two.frame["split"])


def test_a_popular_product_makes_the_split_go_by_anchor_and_say_so() -> None:
    count = 300
    rows = {"query": [f"q{i}" for i in range(count)], "doc": ["popular" if i % 3 else f"d{i}" for i in range(count)]}
    result = split(clean(assign(pl.DataFrame(rows))))
    assert "one connected group holds most rows" in result.how
    assert result.unit == "anchors"
    parts = [set(result.part(p)["anchor"]) for p in ("train", "dev", "test")]
    assert not parts[0] & parts[2]


def test_groups_stay_whole_and_are_resampled() -> None:
    result = split(samples(group=[f"g{i // 10}" for i in range(300)]))
    where = result.frame.group_by("group").agg(pl.col("split").n_unique())
    assert where["split"].max() == 1
    assert result.unit == "groups of 'group'"
    assert result.frame["unit"].n_unique() == 30


def test_time_puts_the_latest_rows_into_the_test() -> None:
    result = split(samples(date=[f"2026-01-{1 + i * 28 // 300:02d}" for i in range(300)]))
    assert result.part("train")["time"].max() <= result.part("dev")["time"].min()
    assert result.part("dev")["time"].max() <= result.part("test")["time"].min()
    assert result.sizes["test"] >= 15


def test_a_given_split_is_kept_and_dev_is_taken_from_train() -> None:
    given_split = ["train"] * 250 + ["test"] * 50
    result = split(samples(split=given_split))
    assert result.sizes["test"] == 50
    assert 15 <= result.sizes["dev"] <= 35
    assert set(result.part("dev")["anchor"]) <= {f"q{i}" for i in range(125)}
    assert not set(result.part("dev")["anchor"]) & set(result.part("train")["anchor"])


def test_a_split_without_a_test_is_refused() -> None:
    with pytest.raises(Refusal, match="train and test"):
        split(samples(split=["train"] * 300))
