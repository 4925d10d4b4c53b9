"""The figures of a comparison: values with their seeds, paired differences, learning curves, cost against quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

import numpy as np

from counterpoint.evaluation.figures import (
    MARKERS,
    Figure,
    duration,
    finite,
    laid_out,
    metric_name,
    number,
    span,
    upright,
)
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.ranking import Pair, Ranking

NAMES = {
    "before": "before (what you had)",
    "bm25": "BM25",
    "raw": "the numbers themselves",
    "pca": "principal components",
    "random": "random weights",
}
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
COLOURS = len(SYMBOLS)
# of a method, in both lights; what is not trained has the colours of the other reports
STYLE = """
:root { --s0: #0b5fc0; --s1: #0f7a5a; --s2: #a3386c; --s3: #6a3fb0; --s4: #b3261e; --s5: #5b6b00; --s6: #8a4b00; --s7: #4a5560; }
@media (prefers-color-scheme: dark) { :root:not(.paper) { --s0: #5aa9ff; --s1: #4cc9a0; --s2: #f08fbd; --s3: #c79bf2;
  --s4: #ff8a80; --s5: #c5d24a; --s6: #e6a54a; --s7: #b4c0cc; } }
"""
MOST_PAIRS = 21  # seven systems; of more only those with the first are drawn, the table has all


def name_of(system: str) -> str:
    """A system as people call it.

    >>> name_of("bm25"), name_of("simcse")
    ('BM25', 'simcse')
    """
    return NAMES.get(system, system)


def looks_of(trained: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and symbol of each method, and of what stands beside them."""
    own = {name: {"color": f"var(--s{i % COLOURS})", "symbol": SYMBOLS[i % COLOURS]} for i, name in enumerate(trained)}
    return {name: {"color": f"var(--{name})", "symbol": MARKERS[name]} for name in NAMES} | own


def titled(title: str, **axis: Any) -> dict[str, Any]:
    """An axis with its title."""
    return {"title": {"text": escape(title), "font": {"size": 13}}} | axis


def _rows(names: Sequence[str]) -> dict[str, Any]:
    return {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [len(names) - 0.4, -0.6]}


def _whisker(interval: Interval, at: float, **marker: Any) -> Any:
    import plotly.graph_objects as go

    ends = [finite(interval.high), finite(interval.low)]
    reach = [0.0 if end is None else abs(end - interval.value) for end in ends]
    bars = {"type": "data", "symmetric": False, "array": reach[:1], "arrayminus": reach[1:], "color": marker["color"]}
    return go.Scatter(
        x=[interval.value],
        y=[at],
        mode="markers",
        marker={"size": 12, "line": {"width": 2, "color": marker["color"]}} | marker,
        error_x=bars | {"thickness": 2, "width": 5},
        text=[span(interval._asdict())],
        hovertemplate="%{text}<extra></extra>",
    )


def draw_values(
    ranking: Ranking,
    values: Mapping[str, Sequence[float]],
    *,
    metric: str,
    trained: Sequence[str],
    seeds: Sequence[int],
) -> Figure:
    """Each system's value with its interval, and below it a small dot for every seed."""
    import plotly.graph_objects as go

    looks, traces = looks_of(trained), []
    for at, system in enumerate(ranking.order):
        look = looks[system]
        traces.append(_whisker(ranking.values[system], at, **look))
        if system in trained and len(seeds) > 1:
            dots = {"size": 6, "opacity": 0.75, "color": look["color"], "symbol": "circle"}
            said = [f"seed {seed}: {number(value)}" for seed, value in zip(seeds, values[system], strict=True)]
            traces.append(go.Scatter(x=list(values[system]), y=[at + 0.3] * len(seeds), mode="markers", marker=dots,
                text=said, hovertemplate="%{text}<extra></extra>"))  # fmt: skip
    labels = [f"{escape(name_of(system))} <b>{ranking.letters[system]}</b>" for system in ranking.order]
    drawing = laid_out(traces, height=90 + 48 * len(labels), showlegend=False, yaxis=_rows(labels),
        xaxis=titled(metric_name(metric), nticks=5))  # fmt: skip
    head = ["system", "ties", f"{metric_name(metric)} (95 % interval)", *(f"seed {seed}" for seed in seeds)]
    rows = [
        [name_of(s), ranking.letters[s], span(ranking.values[s]._asdict()), *(number(v) for v in values[s])]
        for s in ranking.order
    ]
    label = f"Values with intervals over {ranking.over}. " + "; ".join(f"{row[0]} {row[2]}" for row in rows) + "."
    title = f"{metric_name(metric)} of each system" + ("; small dots are seeds" if len(seeds) > 1 else "")
    return Figure("values", title, label, head, rows, drawing)


def words_of(pair: Pair) -> str:
    """What a pair's difference shows; of two that are not trained, seeds show nothing.

    >>> words_of(Pair("a", "b", Interval(0.1, 0.05, 0.15), 0.01, 0.03))
    'a is higher'
    """
    if pair.p is None:
        return "neither is trained"
    return f"{name_of(pair.first)} is higher" if pair.apart else "a tie"


def draw_pairs(ranking: Ranking, *, metric: str) -> Figure | None:
    """The difference of each two systems with its interval; full where the two are told apart after the correction."""
    first = ranking.order[0]
    known = [p for p in ranking.pairs if p.p is not None]
    shown = known if len(known) <= MOST_PAIRS else [p for p in known if p.first == first]
    if not shown:
        return None
    colour = "var(--after)"
    traces = [
        _whisker(p.difference, at, color=colour, symbol="circle" if p.apart else "circle-open")
        for at, p in enumerate(shown)
    ]
    labels = [f"{escape(name_of(p.first))}<br>less {escape(name_of(p.second))}" for p in shown]
    drawing = laid_out(
        traces,
        height=90 + 46 * len(shown),
        showlegend=False,
        yaxis=_rows(labels),
        xaxis=titled(f"difference of {metric_name(metric)}", nticks=5, tickformat="+.2~f"),
        shapes=[upright(0, "dot")],
    )
    rows = [
        [
            f"{name_of(p.first)} less {name_of(p.second)}",
            span(p.difference._asdict(), sign=True),
            _p(p.p),
            _p(p.adjusted),
            words_of(p),
        ]
        for p in ranking.pairs
    ]
    said = [f"{pair}: {difference}, {words}" for pair, difference, _, _, words in rows]
    label = f"Paired differences with intervals over {ranking.over}. {'; '.join(said)}."
    only = "" if len(shown) == len(known) else f", with {name_of(first)} alone"
    title = f"Paired differences{only}; full dots are told apart after the correction"
    head = ["pair", "difference (95 % interval)", "p", "p, corrected", "shown"]
    return Figure("pairs", title, label, head, rows, drawing)


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def mean_curve(curves: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float]]:
    """The mean step and the mean value of each measurement, as far as all seeds have it.

    >>> mean_curve([[[0, 0.2], [10, 0.4]], [[0, 0.2], [12, 0.6], [20, 0.7]]])
    [(0.0, 0.2), (11.0, 0.5)]
    """
    found = []
    for points in zip_longest(*curves):
        if any(point is None or finite(point[1]) is None for point in points):
            break
        found.append((float(np.mean([p[0] for p in points])), float(np.mean([p[1] for p in points]))))
    return found


def draw_curves(curves: Mapping[str, Sequence[Sequence[Sequence[float]]]], *, metric: str) -> Figure | None:
    """The metric on dev while training: a thin line for each seed, a thick one for their mean."""
    import plotly.graph_objects as go

    if not any(curve for several in curves.values() for curve in several):
        return None
    looks, traces, rows = looks_of(list(curves)), [], []
    for name, several in curves.items():
        look = looks[name]
        for curve in several if len(several) > 1 else ():
            line = {"color": look["color"], "width": 1}
            traces.append(go.Scatter(x=[p[0] for p in curve], y=[finite(p[1]) for p in curve], mode="lines", line=line,
                opacity=0.45, showlegend=False, hoverinfo="skip"))  # fmt: skip
        mean = mean_curve(several)
        traces.append(go.Scatter(x=[x for x, _ in mean], y=[y for _, y in mean], name=escape(name), mode="lines+markers",
            line={"color": look["color"], "width": 3}, marker={"size": 8, **look}, cliponaxis=False,
            hovertemplate="step %{x}: %{y:.3f}<extra>" + escape(name) + "</extra>"))  # fmt: skip
        rows += [[name, f"{x:g}", number(y)] for x, y in mean]
    drawing = laid_out(traces, height=360, xaxis=titled("step", rangemode="tozero"),
        yaxis=titled(f"{metric_name(metric)} on dev", nticks=5))  # fmt: skip
    said = []
    for name, several in curves.items():
        mean = mean_curve(several)
        said += [f"{name} from {number(mean[0][1])} to {number(mean[-1][1])}"] if mean else []
    label = f"{metric_name(metric)} on the dev rows, mean over seeds: {'; '.join(said)}."
    title = (
        "Learning curves: thick lines are means over seeds"
        if len(next(iter(curves.values()))) > 1
        else "Learning curves"
    )
    return Figure("curves", title, label, ["training method", "step", f"{metric_name(metric)} on dev"], rows, drawing)


def draw_cost(
    ranking: Ranking, values: Mapping[str, Sequence[float]], seconds: Mapping[str, Sequence[float]], *, metric: str
) -> Figure:
    """Seconds of training against the metric: a small dot for each seed, a large one for their mean."""
    import plotly.graph_objects as go

    looks, traces, rows = looks_of(list(seconds)), [], []
    for name, took in seconds.items():
        look, own = looks[name], ranking.values[name]
        if len(took) > 1:
            dots = {"size": 6, "opacity": 0.6, "color": look["color"], "symbol": "circle"}
            traces.append(go.Scatter(x=list(took), y=list(values[name]), mode="markers", marker=dots, showlegend=False,
                hoverinfo="skip"))  # fmt: skip
        mean = float(np.mean(took))
        trace = go.Scatter(x=[mean], y=[own.value], mode="markers", name=escape(name), marker={"size": 13, **look})
        trace.update(hovertemplate=f"{escape(name)}: {duration(mean)}, {number(own.value)}<extra></extra>")
        traces.append(trace)
        rows.append([name, duration(mean), span(own._asdict())])
    drawing = laid_out(traces, height=340, xaxis=titled("seconds of training", rangemode="tozero", nticks=6),
        yaxis=titled(metric_name(metric), nticks=5))  # fmt: skip
    label = "Cost against quality. " + "; ".join(f"{a}: {b}, {c}" for a, b, c in rows) + "."
    head = ["training method", "training", f"{metric_name(metric)} (95 % interval)"]
    return Figure("cost", "Cost against quality; upper left is best", label, head, rows, drawing)
