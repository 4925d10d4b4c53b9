"""Roles by name, never by position; cells that are lists; labels beside pairs."""

from __future__ import annotations

import polars as pl
import pytest

from counterpoint.data.matches import read_matches
from counterpoint.data.roles import ALIASES, assign, guess
from counterpoint.errors import Refusal


def test_order_of_columns_does_not_matter() -> None:
    forward = assign(pl.DataFrame({"query": ["a"], "answer": ["b"]}))
    backward = assign(pl.DataFrame({"answer": ["b"], "query": ["a"]}))
    assert forward.frame.select("anchor", "positive").equals(backward.frame.select("anchor", "positive"))


def test_no_alias_stands_for_two_roles() -> None:
    names = [alias for aliases in ALIASES.values() for alias in aliases]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["Hard Negatives", "hard_negatives", "HARD-NEGATIVES"])
def test_case_and_separators_do_not_matter(name: str) -> None:
    assert guess(["query", name])["negative"] == name


def test_two_columns_for_one_role_name_both_flags() -> None:
    with pytest.raises(Refusal, match="--anchor query or --anchor question"):
        guess(["query", "question", "doc"])


def test_a_flag_settles_what_would_be_ambiguous() -> None:
    assert guess(["query", "question", "doc"], {"anchor": "question"}) == {"anchor": "question", "positive": "doc"}


def test_columns_without_a_role_are_listed() -> None:
    assert assign(pl.DataFrame({"text": ["a"], "page": ["3"]})).unused == ("page",)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["b", " c "], ["b", "c"]),
        ('["b", "c"]', ["b", "c"]),
        ("[b", ["[b"]),
        ("[1, 2]", ["[1, 2]"]),
        ("", []),
        (None, []),
    ],
)
def test_cells_of_positives(cell: object, expected: list[str]) -> None:
    frame = pl.DataFrame(
        {"query": ["a"], "doc": pl.Series([cell], dtype=pl.List(pl.String) if isinstance(cell, list) else pl.String)}
    )
    assert assign(frame).frame["positive"].to_list() == [expected]


def test_labels_keep_their_zeros() -> None:
    assert assign(pl.DataFrame({"text": ["a"], "label": ["007"]})).frame["label"].to_list() == ["007"]


def test_a_relevance_label_becomes_positives_and_given_negatives() -> None:
    frame = pl.DataFrame(
        {"question": ["a", "a", "a", "b", "c"], "answer": ["yes", "no", "never", "b1", "c0"], "label": [1, 0, 0, 1, 0]}
    )
    samples = read_matches(assign(frame))
    assert samples.frame.select("anchor", "positive", "negative").rows() == [
        ("a", ["yes"], ["never", "no"]),
        ("b", ["b1"], []),
    ]
    assert "label" not in samples.columns
    assert samples.columns["negative"] == "label"


def test_labels_of_unknown_meaning_beside_a_pair_are_refused() -> None:
    frame = pl.DataFrame({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": ["entailment", "neutral"]})
    with pytest.raises(Refusal, match="--match entailment"):
        read_matches(assign(frame))
    samples = read_matches(assign(frame), "entailment")
    assert samples.frame["anchor"].to_list() == ["a"]


def test_matches_need_a_pair() -> None:
    with pytest.raises(Refusal, match="--match"):
        read_matches(assign(pl.DataFrame({"text": ["a"], "label": ["x"]})), "x")
