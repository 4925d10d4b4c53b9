"""The report of a comparison: it says what the ranking says, draws what was measured, and escapes what it is given."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from counterpoint.evaluation.comparison_figures import draw_cost, draw_curves, draw_pairs, draw_values, mean_curve
from counterpoint.evaluation.comparison_report import (
    Comparison,
    against_before,
    headline_of,
    render_comparison,
    sentence_of,
    verdict_of,
)
from counterpoint.evaluation.ranking import over_items, over_seeds
from tests.evaluation.test_report import ATTACK, Page

NOISE = np.random.default_rng(0).normal(0, 0.01, (12, 4))


def compared(**means: float) -> Comparison:
    """Methods with these means over four seeds; `before` is not trained."""
    values = {name: mean + NOISE[i] * (name != "before") for i, (name, mean) in enumerate(means.items())}
    trained = [name for name in means if name != "before"]
    curves = {name: [[[0, 0.1], [10, float(v)]] for v in values[name]] for name in trained}
    return Comparison(
        ranking=over_seeds(values),
        metric="mrr@10",
        trained=trained,
        lines={"protocol": "fixed-steps", "data": "x"},
        values={name: v.tolist() for name, v in values.items()},
        others={"ndcg@10": {name: float(v.mean()) for name, v in values.items()}},
        curves=curves,
        seconds={name: [10.0 + i, 11.0 + i, 10.5 + i, 12.0 + i] for i, name in enumerate(trained)},
        seeds=(0, 1, 2, 3),
        chosen=dict.fromkeys(trained, "lr=1"),
        about={"command": "counterpoint compare x", "machine": {"memory_bytes": 2e9, "accelerator": None}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("means", "headline", "verdict", "sentence"),
    [
        ({"a": 0.9, "b": 0.5, "before": 0.3}, "a is first", "better", "better than what you had (0.300): a and b"),
        ({"a": 0.9, "b": 0.901, "before": 0.3}, "are tied at the top", "better", "better than what you had (0.300): "),
        ({"a": 0.1, "b": 0.2, "before": 0.6}, "before (what you had) is first", "worse",
            "worse than what you had (0.600): a and b"),
        ({"a": 0.3, "b": 0.301, "before": 0.3}, "No system can be told from another", "no difference shown",
            "no difference shown to what you had (0.300): a and b"),
        ({"a": 0.9, "b": 0.1, "before": 0.3}, "a is first", "better", "better than what you had (0.300): a; worse than it: b"),
    ],
)  # fmt: skip
def test_the_words_follow_from_the_ranking(means: dict[str, float], headline: str, verdict: str, sentence: str) -> None:
    shown = compared(**means)
    assert headline in headline_of(shown)
    assert verdict_of(shown) == verdict
    assert sentence in sentence_of(shown)
    assert sum(map(len, against_before(shown).values())) == 2
    page = Page(render_comparison(shown))
    assert page.all("h1") == [headline_of(shown)]
    box = next(found["class"] for name, found in page.elements if (found.get("class") or "").startswith("verdict"))
    assert box == f"verdict {verdict.split(maxsplit=1)[0]}"


def test_the_page_is_sound_and_says_the_protocol() -> None:
    shown = compared(a=0.9, b=0.5, before=0.3)
    page = Page(render_comparison(shown))
    assert page.open == []
    for words in ("fixed-steps", "nDCG@10", "counterpoint compare x", "2.0 GB", "a less b", "over seeds"):
        assert words in page.seen
    assert len(page.all("figure")) == 4
    assert {found.get("role") for name, found in page.elements if found.get("class") == "plot"} == {"img"}
    assert render_comparison(shown) == render_comparison(shown)


def test_names_are_escaped_everywhere() -> None:
    shown = compared(**{ATTACK: 0.9, "b": 0.5, "before": 0.3})
    page = render_comparison(shown)
    assert "<img" not in page.replace("\\u003c", "<").split("<main>")[0].split("</style>")[1]
    found = Page(page)
    assert not [name for name, _ in found.elements if name == "img"]
    assert sum(name == "script" for name, _ in found.elements) == 6
    for drawing in re.findall(r'<script type="application/json">(.*?)</script>', page):
        assert "<img" not in json.dumps(json.loads(drawing)["layout"])
        assert all("<img" not in str(trace.get("name", "")) for trace in json.loads(drawing)["data"])


def test_figures_draw_the_numbers() -> None:
    shown = compared(a=0.9, b=0.5, before=0.3)
    drawn: Any = draw_values(shown.ranking, shown.values, metric="mrr@10", trained=shown.trained, seeds=shown.seeds)
    means = [trace["x"] for trace in drawn.drawing["data"] if "error_x" in trace]
    assert [x[0] for x in means] == pytest.approx([shown.ranking.values[s].value for s in ("a", "b", "before")])
    assert [list(t["x"]) for t in drawn.drawing["data"] if "error_x" not in t] == [shown.values["a"], shown.values["b"]]
    pairs: Any = draw_pairs(shown.ranking, metric="mrr@10")
    for trace, pair in zip(pairs.drawing["data"], shown.ranking.pairs, strict=True):
        assert trace["x"][0] == pytest.approx(pair.difference.value)
        assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(pair.difference.high)
        assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(pair.difference.low)
        assert trace["marker"]["symbol"] == "circle"
    tied: Any = draw_pairs(compared(a=0.5, b=0.501, before=0.3).ranking, metric="mrr@10")
    assert [trace["marker"]["symbol"] for trace in tied.drawing["data"]].count("circle-open") == 1
    cost: Any = draw_cost(shown.ranking, shown.values, shown.seconds, metric="mrr@10")
    large = {t["name"]: (t["x"][0], t["y"][0]) for t in cost.drawing["data"] if t.get("name")}
    assert large == {n: pytest.approx((np.mean(shown.seconds[n]), shown.ranking.values[n].value)) for n in ("a", "b")}


def test_whiskers_reach_to_either_side_as_far_as_the_interval() -> None:
    right = (np.arange(60) < 6).astype(float)
    ranking = over_items({"a": [right], "b": [np.zeros(60)]}, np.arange(60))
    pairs: Any = draw_pairs(ranking, metric="mrr@10")
    (trace,), found = pairs.drawing["data"], ranking.pairs[0].difference
    assert found.value - found.low > 1.05 * (found.high - found.value)
    assert trace["error_x"]["array"][0] == pytest.approx(found.high - found.value)
    assert trace["error_x"]["arrayminus"][0] == pytest.approx(found.value - found.low)


def test_of_many_systems_only_those_with_the_first_are_drawn_and_all_are_told() -> None:
    shown = compared(**{f"m{i}": 0.5 + 0.03 * i for i in range(9)}, before=0.3)
    pairs = draw_pairs(shown.ranking, metric="mrr@10")
    assert pairs is not None
    assert len(pairs.drawing["data"]) == 9
    assert len(pairs.rows) == 45
    assert "with m8 alone" in pairs.title
    render_comparison(shown)


def test_curves_end_where_a_seed_ends() -> None:
    assert mean_curve([]) == []
    assert mean_curve([[[0, 1.0]], [[0, float("nan")]]]) == []
    assert draw_curves({"a": [[], []]}, metric="mrr@10") is None
    one: Any = draw_curves({"a": [[[0, 0.1], [5, 0.2]]]}, metric="mrr@10")
    assert len(one.drawing["data"]) == 1
    assert one.title == "Learning curves"
