"""Figures of an embedding space before and after: how scores are spread, how near and how even rows lie, their spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from counterpoint.evaluation.figures import MARKERS, SYSTEMS, TABLE_ROWS, Figure, laid_out, number, percent, some

TIMES = ("before", "after")
KINDS = {"after": "solid", "bm25": "dot"}  # colour and line of positive and of negative pairs
MOST_AXES = 400  # of a spectrum that are drawn
HALF = 0.5


def draw_plane(plane: Mapping[str, Any]) -> Figure:
    """Alignment and uniformity before and after, as two points and an arrow."""
    import plotly.graph_objects as go

    at = list(zip(plane["alignment"], plane["uniformity"], strict=True))
    traces = []
    for time, (x, y) in zip(TIMES, at, strict=True):
        colour = f"var(--{time})"
        dot = go.Scatter(x=[x], y=[y], name=SYSTEMS[time], mode="markers", cliponaxis=False)
        dot.marker = {"size": 14, "color": colour, "symbol": MARKERS[time], "line": {"width": 2, "color": colour}}
        dot.hovertemplate = f"alignment %{{x:.3f}}, uniformity %{{y:.3f}}<extra>{SYSTEMS[time]}</extra>"
        traces.append(dot)
    (x0, y0), (x1, y1) = at
    arrow = {"x": x1, "y": y1, "ax": x0, "ay": y0, "axref": "x", "ayref": "y", "showarrow": True, "text": ""}
    arrow |= {"arrowhead": 2, "arrowwidth": 1.5, "arrowcolor": "var(--ink)", "standoff": 9, "startstandoff": 9}
    axes = {
        "xaxis": _axis("← positive pairs closer (alignment)", _around(x0, x1)),
        "yaxis": _axis("← more evenly spread (uniformity)", _around(y0, y1)),
    }
    drawing = laid_out(traces, height=340, annotations=[arrow], **axes)
    rows = [
        ["alignment: mean squared distance of positive pairs", *map(number, plane["alignment"])],
        ["uniformity: log of the mean of exp(-2 x squared distance)", *map(number, plane["uniformity"])],
    ]
    label = f"Two points joined by an arrow. Alignment from {rows[0][1]} to {rows[0][2]}, lower is closer; "
    label += f"uniformity from {rows[1][1]} to {rows[1][2]}, lower is more even."
    return Figure(
        "plane", "How close positives are, and how evenly items are spread", label, _heads("what"), rows, drawing
    )


def _axis(title: str, reach: Sequence[float]) -> dict[str, Any]:
    return {"title": {"text": escape(title), "font": {"size": 13}}, "range": reach, "nticks": 6}


def _around(one: float, other: float) -> list[float]:
    """A range that holds both with room, and shows a small change as small."""
    room = max(0.6 * abs(one - other), 0.1)
    return [min(one, other) - room, max(one, other) + room]


def _heads(first: str) -> list[str]:
    return [first, *(SYSTEMS[time] for time in TIMES)]


def draw_scores(scores: Mapping[str, Any]) -> Figure:
    """The scores of positive and of negative pairs, before above after, on one scale."""
    import plotly.graph_objects as go

    edges, names = scores["edges"], scores["names"]
    bins = range(len(edges) - 1)
    filled = [i for i in bins if any(kind[i] for of_one in scores["counts"] for kind in of_one)]
    low, high = (filled[0], filled[-1] + 1) if filled else (0, len(edges) - 1)
    traces, notes, layout = [], [], {}
    for place, (time, of_one) in enumerate(zip(TIMES, scores["counts"], strict=True)):
        key = str(place + 1) if place else ""
        for (colour, dash), name, counts in zip(KINDS.items(), names, of_one, strict=True):
            shares = [100 * c / max(1, sum(counts)) for c in counts]
            line = go.Scatter(
                x=edges[low : high + 1], y=[*shares[low:high], shares[high - 1]], yaxis=f"y{key}", mode="lines"
            )
            line.update(name=escape(name), showlegend=not place, legendgroup=colour, fill="tozeroy")
            line.update(
                line={"color": f"var(--{colour})", "width": 2, "dash": dash, "shape": "hv"},
                fillcolor="rgba(128,128,128,0.14)",
            )
            line.hovertemplate = "%{y:.1f} % from %{x:.2f} on<extra>" + f"{escape(name)}, {SYSTEMS[time]}</extra>"
            traces.append(line)
        top = 1 - 0.53 * place
        layout[f"yaxis{key}"] = {"domain": [top - 0.42, top], "nticks": 4, "rangemode": "tozero", "ticksuffix": " %"}
        where = {"xref": "paper", "yref": "paper", "x": 0.01, "y": top, "xanchor": "left", "yanchor": "top"}
        notes.append(where | {"showarrow": False, "text": f"<b>{SYSTEMS[time]}</b>"})
    layout["xaxis"] = {"title": {"text": "score (cosine)", "font": {"size": 13}}, "anchor": "y2", "nticks": 8}
    drawing = laid_out(traces, height=430, annotations=notes, **layout)
    kinds = [kind for of_one in scores["counts"] for kind in of_one]
    rows = [
        [f"{edges[i]:.2f} to {edges[i + 1]:.2f}", *(percent(kind[i] / max(1, sum(kind))) for kind in kinds)]
        for i in range(low, high)
    ]
    head = ["score", *(f"{name}, {SYSTEMS[time]}" for time in TIMES for name in names)]
    said = [
        f"{name} have a median score of {number(before)} before and {number(after)} after training"
        for name, before, after in zip(names, *scores["medians"], strict=True)
    ]
    return Figure("scores", "Scores of pairs", f"Two histograms. {'; '.join(said)}.", head, rows, drawing)


def draw_spectrum(spectra: Sequence[Sequence[float]]) -> Figure:
    """The share of the variance along each principal axis, on a logarithmic scale."""
    import plotly.graph_objects as go

    traces, shares = [], [[v / (sum(values) or 1.0) for v in values] for values in spectra]
    for time, of_one in zip(TIMES, shares, strict=True):
        at = [i for i in some(len(of_one), MOST_AXES) if of_one[i] > 1e-9]  # below are rounding errors
        line = go.Scatter(x=[i + 1 for i in at], y=[100 * of_one[i] for i in at], name=SYSTEMS[time], mode="lines")
        line.line = {"color": f"var(--{time})", "width": 2, "dash": "solid" if time == "after" else "dash"}
        line.hovertemplate = "axis %{x}: %{y:.3~g} %<extra>" + SYSTEMS[time] + "</extra>"
        traces.append(line)
    across = {"title": {"text": "principal axis, largest first", "font": {"size": 13}}, "nticks": 6}
    upward = {"type": "log", "title": {"text": "share of the variance (%)", "font": {"size": 13}}, "dtick": 1}
    drawing = laid_out(traces, height=340, xaxis=across, yaxis=upward)
    rows = [
        [i + 1, *(f"{100 * of_one[i]:.3g}\N{NO-BREAK SPACE}%" if i < len(of_one) else "-" for of_one in shares)]
        for i in some(max(map(len, shares)), TABLE_ROWS)
    ]
    halves = " and ".join(
        f"{axes_for(of_one, HALF)} {SYSTEMS[time]}" for time, of_one in zip(TIMES, shares, strict=True)
    )
    label = f"Falling curves. Half of the variance lies along {halves}."
    return Figure("spectrum", "Along how many directions items differ", label, _heads("axis"), rows, drawing)


def axes_for(variances: Sequence[float], share: float) -> int:
    """How many of the first axes hold this share of the variance.

    >>> axes_for([0.5, 0.3, 0.2], 0.5), axes_for([0.5, 0.3, 0.2], 0.6)
    (1, 2)
    """
    total, held = sum(variances), 0.0
    for place, value in enumerate(variances, start=1):
        held += value
        if held >= share * total:
            return place
    return len(variances)


def effective_dimensions(variances: Sequence[float]) -> float:
    """How many directions the variance is spread over: exp of the entropy of its shares.

    >>> round(effective_dimensions([0.25, 0.25, 0.25, 0.25, 0.0]), 6)
    4.0
    """
    total = sum(variances)
    shares = [v / total for v in variances if v > 0] if total > 0 else []
    return math.exp(-sum(p * math.log(p) for p in shares)) if shares else 0.0
