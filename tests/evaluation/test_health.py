"""The drawing of health: a mark at each finding's step on each panel, gaps where nothing is known, no panel of nothing."""

from __future__ import annotations

import json
from typing import Any

from counterpoint.evaluation.health import draw_health
from counterpoint.evaluation.report import Story, render

FOUND = {"code": "collapse", "level": "warn", "step": 2, "value": 0.01, "says": "rows <fell>", "remedy": "lower --lr"}


def record(**changes: Any) -> dict[str, Any]:
    columns = {
        "step": [1.0, 2.0, 3.0],
        "positive": [0.5, None, 0.7],
        "negative": [0.2, None, 0.1],
        "width": [0.9, 0.01, 0.01],
        "temperature": [0.05, 0.05, 0.05],
        "gradient": [1.0, 2.0, 0.1],
        **changes,
    }
    return {"columns": columns, "findings": [FOUND], "share": 0.01}


def story(health: dict[str, Any]) -> Story:
    return Story(
        run={}, metrics={}, cost={}, loss=[1.0], dev=[], ranks=None, examples=[], searches=[], token_lengths={}, health=health
    )  # fmt: skip


def test_curves_keep_their_gaps_and_findings_stand_on_every_panel() -> None:
    figure = draw_health(record())
    assert figure is not None
    json.dumps(figure.drawing, allow_nan=False)
    lines = {trace["name"]: trace for trace in figure.drawing["data"]}
    assert set(lines) == {"positive", "negative", "width", "gradient"}  # a temperature that stands still is no picture
    assert lines["positive"]["y"] == [0.5, None, 0.7]
    panels = {trace["xaxis"] for trace in lines.values()}
    assert panels == {"x", "x2", "x3"}
    assert lines["positive"]["xaxis"] == lines["negative"]["xaxis"] != lines["width"]["xaxis"]
    shapes = figure.drawing["layout"]["shapes"]
    marks = [(mark["x0"], mark["xref"], mark["yref"]) for mark in shapes]
    assert marks == [(2, f"x{k}", f"y{k} domain") for k in ("", "2", "3")]
    assert figure.drawing["layout"]["yaxis3"]["type"] == "log"
    assert "step 2: rows <fell>" in figure.label
    assert figure.rows[1][0] == "2"


def test_a_temperature_that_moves_is_drawn() -> None:
    figure = draw_health(record(temperature=[0.05, 0.04, 0.03]))
    assert figure is not None
    assert "temperature" in {trace["name"] for trace in figure.drawing["data"]}


def test_panels_do_not_overlap() -> None:
    names = ("rank", "rank_most", "uniformity", "alignment", "beaten", "saturated", "no_positive", "duplicates")
    figure = draw_health(record(**{name: [0.1, 0.2, 0.3] for name in names}, temperature=[1.0, 2.0, 3.0]))
    assert figure is not None
    layout = figure.drawing["layout"]
    boxes = [(layout[f"xaxis{k}"]["domain"], layout[f"yaxis{k}"]["domain"]) for k in ("", *range(2, 10))]
    for place, (x, y) in enumerate(boxes):
        assert 0 <= x[0] < x[1] <= 1 + 1e-9
        assert -1e-9 <= y[0] < y[1] <= 1
        for u, v in boxes[:place]:
            assert x[0] >= u[1] or u[0] >= x[1] or y[0] >= v[1] or v[0] >= y[1]


def test_nothing_read_draws_nothing() -> None:
    for empty in ({}, {"columns": {"step": []}}, {"columns": {"step": [1.0], "width": [None]}}):
        assert draw_health(empty) is None
    assert "Health of the training" not in render(story({}))


def test_the_report_says_what_was_found_and_what_to_do() -> None:
    page = render(story(record()))
    assert "Step 2: rows &lt;fell&gt;. What to do: lower --lr." in page
    assert "1 thing went wrong" in page
    assert "Nothing wrong was found while training." in render(story(record() | {"findings": []}))
