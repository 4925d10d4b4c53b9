"""The result of the code-search benchmark as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {"mrr@10": "MRR@10", "recall@1": "recall@1", "recall@10": "recall@10"}
NAMES = {"ours": "counterpoint", "steps": "peer, equal steps", "time": "peer, equal time"}


def middle(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    """The median over repeats."""
    ordered = sorted(float(run[name]) for run in runs)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def with_interval(entry: Mapping[str, Any], sign: str = "") -> str:
    """A value and its interval, as text."""
    return f"{entry['value']:{sign}.3f} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"


def table(found: Mapping[str, Any]) -> str:
    """The result for people."""
    s, machine = found["settings"], found["machine"]
    columns = ("", "steps", "seconds", "steps/s", "pairs/s", "peak GB", *METRICS.values())
    lines = [
        f"code search: {s['steps']} steps of {s['batch']} pairs, learning rate {s['lr']:g}, {s['precision']} products, "
        f"seed {found['seed']}, {found['repeats']} repeat(s)",
        f"{found['queries']:,} queries, {found['candidates']:,} candidates; "
        f"{machine['processor']}, {machine['cores']} threads",
        "",
        *aligned([columns, *(row_of(found, side) for side in found["metrics"])]),
    ]
    for side, entries in found["difference"].items():
        lines += ["", f"counterpoint - {NAMES[side]}"]
        for name, entry in entries.items():
            low, high = entry["over_queries"]
            interval = f"{with_interval(entry, '+')}   over queries [{low:+.3f}, {high:+.3f}]"
            lines += [f"  {METRICS[name]:<10}{interval}"]
        lines += ["  steps/s   " + ", ".join(f"{r:.2f}" for r in ratios(found, side)) + " times theirs"]
    return "\n".join([*lines, "", *notes(found)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns: the first to the left, numbers to the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]) for row in rows]


def row_of(found: Mapping[str, Any], side: str) -> tuple[str, ...]:
    """One line of the table."""
    runs = [run for run in found["runs"] if run["side"] == side]
    metrics = tuple(with_interval(found["metrics"][side][m]) for m in METRICS)
    if not runs:
        return (side, *[""] * 5, *metrics)
    shown = {"steps": ".0f", "seconds": ".1f", "steps_per_second": ".3f", "pairs_per_second": ".1f"}
    peak = f"{max(run['peak_memory_bytes'] for run in runs) / 1e9:.2f}"
    return (NAMES[side], *(f"{middle(runs, name):{how}}" for name, how in shown.items()), peak, *metrics)


def ratios(found: Mapping[str, Any], side: str) -> list[float]:
    """Our steps per second over theirs, repeat by repeat, from the lowest."""
    ours, theirs = ([r["steps_per_second"] for r in found["runs"] if r["side"] == name] for name in ("ours", side))
    return sorted(a / b for a, b in zip(ours, theirs, strict=True))


def notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader has to know to read the table fairly."""
    lines = [f"intervals: 95 % over {found['packages']} packages"]
    lines += ["seconds: training only, without start-up and evaluation; peak: the whole training process"]
    for name in ("counterpoint", "peer"):
        run = next((r for r in found["runs"] if (r["side"] == "ours") == (name == "counterpoint")), None)
        lines += [f"{name}: {run['rows']:,} rows; its own defaults: {run['defaults']}"] if run is not None else []
    starts = [r["seed"] for r in found["runs"] if r["side"] == "ours" and r["kept_step"] == 0]
    lines += [f"counterpoint kept the untrained weights for seed {', '.join(map(str, starts))}"] if starts else []
    return lines
