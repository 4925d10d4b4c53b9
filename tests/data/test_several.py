"""Several files as one table: names, roles, numbering, and what cannot stand together."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from counterpoint.data.roles import assign
from counterpoint.data.several import names_of, together
from counterpoint.errors import Refusal


def part(columns: dict, source: str = "a.csv") -> object:
    return assign(pl.DataFrame(columns), source=source)


def test_files_are_named_as_shortly_as_tells_them_apart(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return names_of([tmp_path / p for p in paths])

    assert names("a.csv", "b.v2.jsonl.gz") == ["a", "b.v2"]
    assert names("x/t.csv", "y/t.csv", "u.csv") == ["x/t", "y/t", "u"]
    assert names("p/x/t.csv", "q/x/t.csv", "q/y/t.csv") == ["p/x/t", "q/x/t", "y/t"]
    assert names("a.csv", "a.tsv") == ["a.csv", "a.tsv"]
    with pytest.raises(Refusal, match=r"different data files, got '.*a.csv' twice"):
        names("a.csv", "x/../a.csv")


def test_a_role_may_have_another_column_in_each_file() -> None:
    a = part({"query": ["q"], "doc": ["d"], "page": ["1"]})
    b = part({"Answer": ["e", "f"], "question": ["r", "s"]}, "b.csv")
    both = together([a, b], ["a", "b"])
    assert both.frame.select("row", "anchor", "positive", "source").rows() == [
        (0, "q", ["d"], "a"), (1, "r", ["e"], "b"), (2, "s", ["f"], "b"),
    ]  # fmt: skip
    assert dict(both.columns) == {"anchor": "query | question", "positive": "doc | Answer", "source": "the file"}
    assert both.unused == ("page",)
    assert both.source == "a.csv + b.csv"


def test_a_column_of_sources_goes_before_the_names_of_files() -> None:
    a, b = (part({"text": ["x"], "source": [name]}) for name in ("web", "books"))
    assert together([a, b], ["a", "b"]).frame["source"].to_list() == ["web", "books"]


def test_roles_that_one_file_lacks_are_refused() -> None:
    a, b = (
        part({"query": ["q"], "doc": ["d"]}),
        part({"query": ["q"], "doc": ["d"], "label": ["1"], "x": [""]}, "b.csv"),
    )
    for pair in ([a, b], [b, a]):
        with pytest.raises(Refusal, match=r"a label in b.csv \(column 'label'\) and none in a.csv .*--ignore 'label'"):
            together(pair, ["a", "b"])


def test_kinds_that_do_not_go_together_are_refused_and_numbers_do() -> None:
    a, b = part({"text": ["x"], "time": [1]}), part({"text": ["x"], "time": ["2026-01-31"]}, "b.csv")
    with pytest.raises(Refusal, match=r"same kind of time in all files, got Int64 in a.csv and String in b.csv"):
        together([a, b], ["a", "b"])
    c = part({"text": ["x"], "time": [2.5]})
    assert together([a, c], ["a", "c"]).frame["time"].to_list() == [1, 2.5]


def test_many_files_have_a_short_name() -> None:
    parts = [part({"text": [str(i)]}, f"{i}.csv") for i in range(9)]
    assert together(parts, [str(i) for i in range(9)]).source == "0.csv + 1.csv + 2.csv and 6 more"
