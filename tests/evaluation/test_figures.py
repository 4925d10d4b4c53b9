"""The report's figures: what is not a number is a gap, lines stand where they are said to, colours differ."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from counterpoint.evaluation.figures import draw_lengths, draw_training, in_buckets, smooth


def test_buckets_hold_every_rank_once() -> None:
    assert in_buckets([1, 2, 3, 4, 10, 11, 100, 101]) == [1, 2, 2, 2, 1]


def test_loss_that_is_not_a_number_is_a_gap() -> None:
    drawing = draw_training([2.0, float("nan"), float("inf"), 1.0], [], metric="mrr@10", kept=None).drawing
    assert drawing["data"][0]["y"] == [2.0, None, None, 1.0]
    json.dumps(drawing, allow_nan=False)
    assert smooth([float("nan")] * 2, width=1.0) == [None, None]
    steps = smooth([0.0] * 50 + [1.0] * 50, width=5.0)
    assert steps == sorted(steps)
    assert steps[49] + steps[50] == pytest.approx(1, abs=1e-4)  # the step stays where it is


def test_long_run_is_thinned_to_what_a_screen_shows() -> None:
    trace = draw_training([1.0] * 50_000, [], metric="mrr@10", kept=None).drawing["data"][0]
    assert len(trace["x"]) <= 1500
    assert (trace["x"][0], trace["x"][-1]) == (1, 50_000)


def test_kept_step_is_marked() -> None:
    kept = draw_training([1.0] * 40, [(30, 0.5)], metric="mrr@10", kept=30)
    assert [shape["x0"] for shape in kept.drawing["layout"]["shapes"]] == [30]
    assert "kept: step 30" in kept.drawing["layout"]["annotations"][0]["text"]
    assert "shapes" not in draw_training([1.0] * 40, [], metric="mrr@10", kept=None).drawing["layout"]


@pytest.mark.parametrize("cut", [None, 1, 7, 48, 97, 2000])
def test_lengths_are_cut_at_an_edge(cut: int | None) -> None:
    lengths = [0, 1, 5, 40, 48, 49, 96, 97, 98, 400, 9000]
    figure = draw_lengths("anchor", lengths, cut=cut, share=None)
    bars, shapes = figure.drawing["data"][0], figure.drawing["layout"].get("shapes", [])
    assert sum(bars["y"]) == len(lengths)
    assert [shape["x0"] for shape in shapes] == ([cut] if cut else [])
    over = [count for count, colour in zip(bars["y"], bars["marker"]["color"], strict=True) if "bm25" in colour]
    assert sum(over) == (sum(n > cut for n in lengths) if cut else 0)


def test_cut_is_seen_beyond_the_longest_text() -> None:
    layout = draw_lengths("anchor", [3, 4], cut=16, share=0.0).drawing["layout"]
    assert layout["xaxis"]["range"][1] > layout["shapes"][0]["x0"] == 16


def brightness(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio."""
    low, high = sorted([brightness(one), brightness(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_both_schemes() -> None:
    css = resources.files("counterpoint.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in css.split("@media")[:2])
    assert set(light) == set(dark)
    for scheme in (light, dark):
        for text in ("ink", "muted", "link", "after"):
            assert contrast(scheme[text], scheme["page"]) >= 4.5
            assert contrast(scheme[text], scheme["panel"]) >= 4.5
        for verdict in ("good", "even", "bad"):
            assert contrast(scheme[verdict], scheme[f"{verdict}-panel"]) >= 4.5
            assert contrast(scheme["ink"], scheme[f"{verdict}-panel"]) >= 4.5
        assert contrast(scheme["good"], scheme["page"]) >= 4.5
        for mark in (*(f"group-{i}" for i in range(10)), "before", "after", "bm25", "raw", "pca", "random", "dev"):
            assert contrast(scheme[mark], scheme["page"]) >= 3
