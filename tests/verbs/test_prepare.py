"""What training gets to see: the rows that lint left, in the split that was asked for."""

from __future__ import annotations

from counterpoint.verbs.prepare import inspect, prepare
from counterpoint.verbs.settings import Run

from ..conftest import toy_rows


def test_rows_that_lint_leaves_out_reach_no_split() -> None:
    rows = toy_rows(100)
    bad = [{"query": "same", "doc": "same"}, {"query": "", "doc": "x"}, rows[3]]
    prepared = prepare([*rows, *bad], Run())
    kept = prepared.split.frame
    assert prepared.given == 103
    assert {f.code for f in prepared.findings} >= {"positive-is-anchor", "empty-text", "duplicate-rows"}
    assert len(kept) == len(prepare(rows, Run()).split.frame)
    assert not {"same", ""} & set(kept["anchor"])


def test_ignored_columns_have_no_role() -> None:
    rows = [{**row, "question": "other"} for row in toy_rows(30)]
    samples, _ = inspect(rows, Run(roles={"ignore:question": "question"}))
    assert dict(samples.columns) == {"anchor": "query", "positive": "doc"}
