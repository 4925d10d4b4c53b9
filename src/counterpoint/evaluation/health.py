"""The health of a run, drawn: small curves over its steps, with what was found marked where it was first seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from counterpoint.evaluation.figures import MOST_POINTS, TABLE_ROWS, Figure, finite, laid_out, some, upright
from counterpoint.evaluation.markup import Html, tag

ACROSS, HIGH, GAP = 2, 180, 0.12  # panels beside each other, pixels of a row of them, space between two


class Panel(NamedTuple):
    """One small picture: a title, the columns it shows with their names and colours, and whether its axis is of powers."""

    title: str
    lines: Mapping[str, tuple[str, str]]
    log: bool = False


PANELS = (
    Panel("cosine of pairs", {"positive": ("positive", "after"), "negative": ("negative", "before")}),
    Panel("RankMe", {"rank": ("RankMe", "after"), "rank_most": ("largest possible", "before")}),
    Panel("spread (0 collapsed, 1 even)", {"width": ("width", "after")}),
    Panel("uniformity (lower is more even)", {"uniformity": ("uniformity", "after")}),
    Panel("alignment (0: positives are equal)", {"alignment": ("alignment", "after")}),
    Panel("norm of the gradient", {"gradient": ("gradient", "after")}, log=True),
    Panel(
        "share of anchors",
        {
            "beaten": ("a negative is nearer", "after"),
            "saturated": ("decided", "before"),
            "no_positive": ("no positive", "bm25"),
        },
    ),
    Panel("share of repeated rows", {"duplicates": ("repeated rows", "after")}),
    Panel("temperature", {"temperature": ("temperature", "after")}),
)
WORTH_A_CHANGE = {"duplicates", "temperature"}  # panels that a constant would fill with nothing


def _shown(columns: Mapping[str, Sequence[float | None]]) -> list[Panel]:
    """The panels that have something to show."""
    panels = []
    for panel in PANELS:
        lines = {
            name: told
            for name, told in panel.lines.items()
            if any(finite(x) is not None for x in columns.get(name, ()))
        }
        dull = (
            WORTH_A_CHANGE & set(lines)
            and len({columns[name][i] for name in lines for i in range(len(columns[name]))}) < 2
        )
        if lines and not dull:
            panels.append(panel._replace(lines=lines))
    return panels


def draw_health(record: Mapping[str, Any]) -> Figure | None:
    """Curves of the readings of a run; a dashed line stands at the first step of each finding.

    Args:
        record: columns (with "step") and findings, as `training.health.Health.record` gives them.

    Returns:
        None where nothing was read.
    """
    import plotly.graph_objects as go

    columns, findings = record.get("columns") or {}, record.get("findings") or []
    panels = _shown(columns)
    if not columns.get("step") or not panels:
        return None
    at = some(len(columns["step"]), MOST_POINTS)
    steps, rows = [columns["step"][i] for i in at], -(-len(panels) // ACROSS)
    traces, notes, shapes, layout = [], [], [], {}
    for place, panel in enumerate(panels):
        row, column = divmod(place, ACROSS)
        key = str(place + 1) if place else ""
        tall, wide = 1 / rows, (1 + GAP) / ACROSS
        top, left = 1 - row * tall, column * wide
        right, bottom = left + wide - GAP, top - tall * 0.74
        layout[f"xaxis{key}"] = {"domain": [left, right], "anchor": f"y{key}", "nticks": 5, "rangemode": "tozero"}
        layout[f"yaxis{key}"] = {"domain": [bottom, top - tall * 0.1], "anchor": f"x{key}", "nticks": 4}
        layout[f"yaxis{key}"] |= {"type": "log", "dtick": 1, "exponentformat": "power"} if panel.log else {}
        for name, (words, colour) in panel.lines.items():
            line = {"color": f"var(--{colour})", "width": 2, "dash": "solid" if colour == "after" else "dot"}
            y = [finite(columns[name][i]) for i in at]
            mode = "lines" if len(at) > 1 else "markers"
            traces.append(go.Scatter(x=steps, y=y, name=words, mode=mode, line=line, xaxis=f"x{key}", yaxis=f"y{key}"))
        told = escape(panel.title) + (": " + ", ".join(_keyed(panel)) if len(panel.lines) > 1 else "")
        place_of = {"xref": "paper", "yref": "paper", "x": left, "y": top - tall * 0.1, "xanchor": "left"}
        notes.append(place_of | {"yanchor": "bottom", "showarrow": False, "text": told})
        for found in findings:
            mark = upright(found["step"], "dash") | {"xref": f"x{key}", "yref": f"y{key} domain"}
            shapes.append(mark | {"line": {"color": "var(--bm25)", "width": 1.5, "dash": "dash"}})
    drawing = laid_out(traces, height=HIGH * rows + 30, showlegend=False, shapes=shapes, annotations=notes, **layout)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    table = [
        [f"{columns['step'][i]:.0f}", *(_short(columns[name][i]) for name in names)]
        for i in some(len(columns["step"]), TABLE_ROWS)
    ]
    return Figure("health", _title(findings), _in_words(columns, panels, findings), ["step", *names], table, drawing)


def said_of(record: Mapping[str, Any]) -> list[Html]:
    """The findings of a record as items of a list."""
    found = record.get("findings") or ()
    return [tag("li", f"Step {f['step']}: {f['says']}. What to do: {f['remedy']}.") for f in found]


def _keyed(panel: Panel) -> list[str]:
    """The names of a panel's lines in their colours."""
    return [f'<span style="color:var(--{colour})">{escape(words)}</span>' for words, colour in panel.lines.values()]


def _short(value: object) -> str:
    known = finite(value)
    return "-" if known is None else f"{known:.3g}"


def _title(findings: Sequence[object]) -> str:
    return "Health, step by step" + (": a dashed line marks the first step of a finding" if findings else "")


def _in_words(
    columns: Mapping[str, Sequence[float | None]], panels: Sequence[Panel], findings: Sequence[Mapping[str, Any]]
) -> str:
    """First and last of each curve, and what was found."""
    said = []
    for name, (words, _) in (line for panel in panels for line in panel.lines.items()):
        known = [x for x in columns[name] if finite(x) is not None]
        said.append(f"{words} from {_short(known[0])} to {_short(known[-1])}")
    found = "; ".join(f"step {f['step']}: {f['says']}" for f in findings) or "nothing wrong was found"
    return f"Curves over {len(columns['step'])} readings. {', '.join(said)}. Findings: {found}."
