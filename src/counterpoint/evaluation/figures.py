"""The report's figures: plotly's json, and what each of them says in words and numbers.

Colours are named after the variables of report.css, so one figure serves the light, the dark and the printed page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import exp, isfinite
from typing import Any

METRIC_NAMES = {"spearman": "Spearman correlation", "accuracy": "kNN accuracy"}
SYSTEMS = {"before": "before", "after": "after training", "bm25": "BM25 (words only)"} | {
    "raw": "the numbers themselves",
    "pca": "principal components",
    "random": "random weights",
}
MARKERS = {
    "before": "circle-open",
    "after": "circle",
    "bm25": "diamond",
    "raw": "square",
    "pca": "diamond",
    "random": "x",
}
RANKS = {"1": (1, 1), "2-3": (2, 3), "4-10": (4, 10), "11-100": (11, 100), ">100": (101, None)}
MOST_POINTS = 1_500  # more points than pixels are not seen, only paid for
SMOOTHING = 40  # the smooth line looks 1/40 of the run to either side
BINS = 24
TABLE_ROWS = 12


@dataclass(frozen=True)
class Figure:
    """A drawing and what a person has who cannot see it; plain text, not yet escaped.

    Args:
        name: makes the id; the same for every run.
        title: what it shows.
        label: what it says, for a screen reader.
        head: columns of the numbers behind it.
        rows: the numbers.
        drawing: plotly's json.
    """

    name: str
    title: str
    label: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    drawing: Mapping[str, Any]


def metric_name(metric: str) -> str:
    """A metric as people write it.

    >>> metric_name("mrr@10"), metric_name("recall@1"), metric_name("ndcg@10")
    ('MRR@10', 'Recall@1', 'nDCG@10')
    """
    short = {"mrr": "MRR", "ndcg": "nDCG", "map": "MAP"}
    kind, at, k = metric.partition("@")
    return METRIC_NAMES.get(metric) or short.get(kind, kind.capitalize()) + at + k


def finite(value: object) -> float | None:
    """The number, or None where there is none that can be drawn."""
    try:
        known = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return known if isfinite(known) else None


def number(value: object, *, sign: bool = False) -> str:
    """Three decimals, the precision of every metric on the page; a dash where there is no number."""
    known = finite(value)
    return "-" if known is None else f"{known:{'+' if sign else ''}.3f}"


def percent(share: float) -> str:
    """A share as people write it, with a space that no line breaks at.

    >>> percent(0.613)
    '61\xa0%'
    """
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def duration(seconds: object) -> str:
    """Seconds as people say them.

    >>> duration(20.14), duration(125), duration(7300)
    ('20.1 s', '2 min 5 s', '2 h 1 min')
    """
    known = finite(seconds) or 0.0
    if known < 60:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def span(measured: Mapping[str, Any], *, sign: bool = False) -> str:
    """A value with its interval.

    >>> span({"value": 0.046, "low": 0.031, "high": 0.06}, sign=True)
    '+0.046 (+0.031 to +0.060)'
    """
    value = number(measured.get("value"), sign=sign)
    if finite(measured.get("low")) is None or finite(measured.get("high")) is None:
        return value
    return f"{value} ({number(measured['low'], sign=sign)} to {number(measured['high'], sign=sign)})"


def laid_out(traces: Sequence[Any], *, height: int, **layout: Any) -> dict[str, Any]:
    """Traces on the common ground: no zoom to get lost in, no background of its own."""
    import plotly.graph_objects as go

    plain = {"fixedrange": True, "gridcolor": "var(--line)", "zeroline": False, "automargin": True}
    axes = {key: plain | value for key, value in layout.items() if key.startswith(("xaxis", "yaxis"))}
    common = {
        "template": "none",
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 36, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink)"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "var(--panel)", "font": {"color": "var(--ink)"}},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "dragmode": False,
    }
    return go.Figure(data=list(traces), layout=common | layout | axes).to_plotly_json()


def upright(x: float, dash: str) -> dict[str, Any]:
    """A vertical line from top to bottom."""
    line = {"color": "var(--ink)", "width": 1.5, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _titled(title: str, **axis: Any) -> dict[str, Any]:
    return {"title": {"text": escape(title), "font": {"size": 13}}} | axis


def _row_for_each(metrics: Sequence[str]) -> dict[str, Any]:
    names = [escape(metric_name(m)) for m in metrics]
    return {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5]}


def metrics_order(metrics: Mapping[str, Any]) -> list[str]:
    """All metrics that were measured, the deciding one first."""
    before, after = metrics.get("before") or {}, metrics.get("after") or {}
    return [m for m in dict.fromkeys([metrics.get("metric", ""), *after, *before]) if m in after or m in before]


def _whiskers(measured: Sequence[Mapping[str, Any]], at: Sequence[float], name: str, **marker: Any) -> Any:
    import plotly.graph_objects as go

    values = [finite(m.get("value")) for m in measured]
    reach = []
    for end in ("high", "low"):
        ends = [finite(m.get(end)) for m in measured]
        reach.append([abs(e - v) if e is not None and v is not None else 0 for e, v in zip(ends, values, strict=True)])
    bars = {"type": "data", "symmetric": False, "array": reach[0], "arrayminus": reach[1], "color": marker["color"]}
    return go.Scatter(
        x=values,
        y=list(at),
        name=name,
        mode="markers",
        marker={"size": 11, "line": {"width": 2, "color": marker["color"]}} | marker,
        error_x=bars | {"thickness": 2, "width": 5},
        text=[span(m) for m in measured],
        hovertemplate="%{text}<extra>" + escape(name) + "</extra>",
    )


def draw_metrics(metrics: Mapping[str, Any]) -> Figure:
    """Each metric before and after training (and of other systems) as a dot with its interval."""
    order = metrics_order(metrics)
    systems = [s for s in SYSTEMS if metrics.get(s)]
    traces = []
    for place, system in enumerate(systems):
        at = [row + 0.25 * (place - (len(systems) - 1) / 2) for row in range(len(order))]
        measured = [metrics[system].get(m, {}) for m in order]
        traces.append(_whiskers(measured, at, SYSTEMS[system], color=f"var(--{system})", symbol=MARKERS[system]))
    drawing = laid_out(traces, height=110 + 74 * len(order), yaxis=_row_for_each(order), xaxis={"nticks": 6})
    head = ["metric (95 % interval)", *(SYSTEMS[s] for s in systems)]
    rows = [[metric_name(m), *(span(metrics[s].get(m, {})) for s in systems)] for m in order]
    said = [f"{row[0]}: " + ", ".join(f"{n} {v}" for n, v in zip(head[1:], row[1:], strict=True)) for row in rows]
    label = f"Dots with 95 % intervals. {'; '.join(said)}."
    return Figure("metrics", "Each metric, before and after", label, head, rows, drawing)


def change_in_words(difference: Mapping[str, Any]) -> str:
    """What an interval of a difference allows to say.

    >>> change_in_words({"value": 0.02, "low": -0.01, "high": 0.05})
    'no difference shown'
    """
    low, high = finite(difference.get("low")), finite(difference.get("high"))
    if low is None or high is None or low <= 0 <= high:
        return "no difference shown"
    return "better" if low > 0 else "worse"


def draw_difference(metrics: Mapping[str, Any]) -> Figure | None:
    """The paired difference of each metric as a dot with its interval, beside the line of no difference."""
    differences = metrics.get("difference") or {}
    order = [m for m in metrics_order(metrics) if m in differences]
    if not order:
        return None
    measured = [differences[m] for m in order]
    drawing = laid_out(
        [_whiskers(measured, range(len(order)), "after - before", color="var(--after)", symbol="circle")],
        height=110 + 74 * len(order),
        yaxis=_row_for_each(order),
        xaxis=_titled("left of 0 worse, right of 0 better", nticks=5, tickformat="+.2~f"),
        shapes=[upright(0, "dot")],
    )
    rows = [[metric_name(m), span(differences[m], sign=True), change_in_words(differences[m])] for m in order]
    label = "Differences with 95 % intervals. " + "; ".join(f"{name}: {value}, {words}" for name, value, words in rows)
    head = ["metric (95 % interval)", "after - before", "shown"]
    return Figure("difference", "The difference, on the same questions", f"{label}.", head, rows, drawing)


def smooth(values: Sequence[float], width: float) -> list[float | None]:
    """A mean over the steps before and after, in which a value counts 1/e at a distance of `width` steps.

    What is not finite stays a gap and counts nowhere.

    >>> smooth([1.0, 1.0, float("nan"), 1.0], width=2.0)
    [1.0, 1.0, None, 1.0]
    """
    known, keep = [finite(value) for value in values], exp(-1 / max(width, 1e-9))
    forward, backward = _fading(known, keep), _fading(known[::-1], keep)[::-1]
    return [None if k is None else (f + b) / 2 for k, f, b in zip(known, forward, backward, strict=True)]


def _fading(values: Sequence[float | None], keep: float) -> list[float]:
    """The mean of what came so far, in which older values count less."""
    total = weight = 0.0
    line = []
    for value in values:
        total, weight = keep * total + (value or 0.0), keep * weight + (value is not None)
        line.append(total / weight if weight else 0.0)
    return line


def some(count: int, most: int) -> list[int]:
    """At most so many places in 0..count-1, evenly apart, with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def draw_training(loss: Sequence[float], dev: Sequence[tuple[int, float]], *, metric: str, kept: int | None) -> Figure:
    """The loss of each step and, on a second panel, the metric on dev; the step that was kept is marked."""
    import plotly.graph_objects as go

    line, shown, name = smooth(loss, len(loss) / SMOOTHING), some(len(loss), MOST_POINTS), metric_name(metric)
    steps, colour = [i + 1 for i in shown], "var(--after)"
    dots, raw = {"color": colour, "size": 4, "opacity": 0.55}, [finite(loss[i]) for i in shown]
    traces = [
        go.Scatter(x=steps, y=raw, name="loss of a step", mode="markers", marker=dots),
        go.Scatter(
            x=steps, y=[line[i] for i in shown], name="smoothed", mode="lines", line={"color": colour, "width": 2}
        ),
    ]
    layout: dict[str, Any] = {"xaxis": _titled("step", rangemode="tozero"), "yaxis": _titled("loss", nticks=5)}
    if len(dev):
        x, y = [int(step) for step, _ in dev], [finite(value) for _, value in dev]
        marks = {"color": "var(--dev)", "size": 8, "symbol": "square"}
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                yaxis="y2",
                name=escape(f"{name} on dev"),
                mode="lines+markers",
                marker=marks,
                cliponaxis=False,
            )
        )
        layout["yaxis"]["domain"], layout["xaxis"]["anchor"] = [0.54, 1], "y2"
        layout["yaxis2"] = _titled(name, domain=[0, 0.44], anchor="x", nticks=5)
    if kept is not None:
        layout["shapes"] = [upright(kept, "dash")]
        side = "right" if kept > len(loss) / 2 else "left"
        place = {"x": kept, "yref": "paper", "y": 1, "yanchor": "top", "xanchor": side, "showarrow": False}
        layout["annotations"] = [place | {"text": f" kept: {_step(kept)} "}]
    drawing = laid_out(traces, height=420 if len(dev) else 280, **layout)
    title = f"Loss and {name} on the dev rows, step by step" if len(dev) else "Loss, step by step"
    head, rows = _training_rows(line, dict(dev), name, kept)
    return Figure("training", title, _training_in_words(line, dev, name, kept), head, rows, drawing)


def _step(kept: int) -> str:
    return f"step {kept}" if kept else "the start"


def _training_rows(
    line: Sequence[float | None], dev: Mapping[int, float], name: str, kept: int | None
) -> tuple[list[str], list[list[object]]]:
    asked = list(dev)
    places = {i + 1 for i in some(len(line), TABLE_ROWS)} | {asked[i] for i in some(len(asked), TABLE_ROWS)}
    rows: list[list[object]] = []
    for step in sorted(places if kept is None else places | {kept}):
        loss = number(line[step - 1]) if 1 <= step <= len(line) else "-"
        rows.append([f"{step} (kept)" if step == kept else step, loss, *([number(dev.get(step))] if dev else [])])
    return ["step", "smoothed loss", *([f"{name} on dev"] if dev else [])], rows


def _training_in_words(
    line: Sequence[float | None], dev: Sequence[tuple[int, float]], name: str, kept: int | None
) -> str:
    known = [value for value in line if value is not None]
    said = [f"Smoothed loss from {number(known[0])} to {number(known[-1])} in {len(line)} steps."] if known else []
    if len(dev):
        said.append(f"{name} on dev from {number(dev[0][1])} to {number(dev[-1][1])}.")
    if kept is not None:
        said.append(f"Kept: {_step(kept)}.")
    return " ".join(said)


def in_buckets(ranks: Iterable[int]) -> list[int]:
    """How many queries find their first positive at these ranks.

    >>> in_buckets([1, 1, 3, 11, 101])
    [2, 1, 0, 1, 1]
    """
    known = [int(r) for r in ranks]
    return [sum(low <= r and (high is None or r <= high) for r in known) for low, high in RANKS.values()]


def draw_ranks(before: Iterable[int], after: Iterable[int]) -> Figure:
    """How many queries find their first positive how far up, before and after."""
    import plotly.graph_objects as go

    counts = {"before": in_buckets(before), "after": in_buckets(after)}
    fills = {"before": {"shape": "/", "fgcolor": "var(--before)", "bgcolor": "var(--page)"}, "after": {"shape": ""}}
    traces = []
    for system, count in counts.items():
        colour = f"var(--{system})"
        bars = go.Bar(x=list(RANKS), y=count, name=SYSTEMS[system], text=[f"{c:,}" for c in count])
        bars.update(textposition="outside", cliponaxis=False, hovertemplate="%{y:,} queries<extra></extra>")
        bars.marker = {"color": colour, "pattern": fills[system], "line": {"color": colour, "width": 1}}
        traces.append(bars)
    axes = {"xaxis": _titled("rank of the first positive", type="category", tickangle=0), "yaxis": _titled("queries")}
    drawing = laid_out(traces, height=320, barmode="group", bargap=0.25, **axes)
    rows = [[name, f"{b:,}", f"{a:,}"] for name, b, a in zip(RANKS, counts["before"], counts["after"], strict=True)]
    label = "Queries by rank. " + "; ".join(f"rank {name}: {b} before, {a} after" for name, b, a in rows)
    head = ["rank of the first positive", "queries before", "queries after training"]
    return Figure("ranks", "Where the first positive of a query stands", f"{label}.", head, rows, drawing)


def _bins(lengths: Sequence[int], cut: int | None) -> list[tuple[int, int, int]]:
    """(above, up to, how many); an edge lies on the cut, and the last bin may hold the longest 1 % of the texts.

    >>> _bins([1, 2, 3, 4, 4], 3)
    [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 4, 2)]
    """
    known = sorted(max(1, int(n)) for n in lengths)
    top = max(known[int(0.99 * (len(known) - 1))], cut or 1)
    width = -(-top // BINS)
    start = -(-cut % width) if cut else 0
    last = (top - 1 - start) // width + 1
    counts = Counter(min((n - 1 - start) // width, last) for n in known)
    edges = [start + i * width for i in range(max(counts) + 2)]
    return [(low, high, counts[i]) for i, (low, high) in enumerate(pairwise(edges))]


def draw_lengths(role: str, lengths: Sequence[int], *, cut: int | None, share: float | None) -> Figure:
    """How long the texts of a role are, and from where on they are cut."""
    import plotly.graph_objects as go

    bins, longest = _bins(lengths, cut), max(int(n) for n in lengths)
    lost = [cut is not None and low >= cut for low, _, _ in bins]
    ends = [f"{max(low, 0) + 1} to {max(high, longest if high == bins[-1][1] else 0)}" for low, high, _ in bins]
    bars = go.Bar(x=[(low + high) / 2 for low, high, _ in bins], y=[count for _, _, count in bins], text=ends)
    bars.update(width=0.94 * (bins[0][1] - bins[0][0]), textposition="none")
    bars.update(hovertemplate="%{text} tokens: %{y:,} texts<extra></extra>")
    hatched = {"shape": ["/" if gone else "" for gone in lost], "fgcolor": "var(--page)", "size": 6}
    bars.marker = {"color": ["var(--bm25)" if gone else "var(--after)" for gone in lost], "pattern": hatched}
    said = f"{len(lengths):,} sampled texts of the {role}"
    if cut:
        said += f", cut after {cut} tokens" + ("" if share is None else f": {percent(share)} lose their end")
    across = _titled("tokens in a text", nticks=8, range=[0, max(bins[-1][1], 1.03 * (cut or 0))])
    shapes = [upright(cut, "dash")] if cut else []
    drawing = laid_out([bars], height=240, showlegend=False, xaxis=across, yaxis=_titled("texts"), shapes=shapes)
    rows = [[end, f"{count:,}"] for end, (_, _, count) in zip(ends, bins, strict=True) if count]
    label = f"Histogram of token counts: {said}."
    return Figure(f"lengths-{role}", said, label, ["tokens", "texts"], rows, drawing)
