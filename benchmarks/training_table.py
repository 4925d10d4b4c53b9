"""The result of benchmarks/training.py as tables: for a terminal, and in Markdown between two marks of a file.

python benchmarks/training_table.py RESULT.json [FILE.md ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loss_table import bar, between, gigabytes, is_number, median, number
from table import aligned

BEGIN = "<!-- training table -->"
SIDES = {"ours": "counterpoint", "peer": "sentence-transformers"}
Runs = Sequence[Mapping[str, Any]]
Table = list[tuple[str, ...]]
STEPS = (
    "steps",
    "products",
    "by",
    "pairs/s",
    "times theirs",
    "range",
    "s a step",
    "extra GB",
    "tokens",
    "with padding",
)
PARTS = ("cached step", "products", "s", "plain s", "forward s", "over plain + forward", "range")
MEMORY = ("memory of", "products", "extra GB", "times a plain batch", "process GB", "times")
HEALTH = ("health on", "step", "share by the clock", "range", "share by its own count", "allowed", "readings")


def of_kind(found: Mapping[str, Any], kind: str) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of one kind, by measure."""
    whole = {name: [r for r in m["runs"] if r["kind"] == kind] for name, m in found["measures"].items()}
    return {name: runs for name, runs in whole.items() if runs}


def spread(values: Sequence[float], form: str) -> str:
    """From the lowest to the highest."""
    return f"{min(values):{form}} to {max(values):{form}}"


def title(run: Mapping[str, Any]) -> str:
    """A batch in words."""
    return f"{run['batch']:,} pairs" + (f", {run['micro']} at a time" if run["micro"] else "")


def ratios(runs: Runs) -> list[float]:
    """Our pairs a second over theirs, round by round."""
    by = {side: {r["repeat"]: r["samples_per_second"] for r in runs if r["side"] == side} for side in SIDES}
    return [by["ours"][n] / by["peer"][n] for n in sorted(by["ours"].keys() & by["peer"].keys())]


def steps(found: Mapping[str, Any]) -> Table:
    """Steps of both sides."""
    lines = []
    for name, runs in of_kind(found, "steps").items():
        if name == "memory":
            continue
        times = ratios(runs)
        for side, by in SIDES.items():
            own = [r for r in runs if r["side"] == side]
            if not own:
                continue
            ours = side == "ours" and times
            cells = (title(own[0]), own[0]["precision"], by, f"{median(r['samples_per_second'] for r in own):.1f}")
            cells += (f"{median(times):.2f}", spread(times, ".2f")) if ours else ("", "")
            cells += (f"{median(s for r in own for s in r['seconds']):.3g}",)
            cells += (gigabytes(median(r["extra_bytes"] for r in own)),)
            lines.append((*cells, f"{own[0]['tokens']:,}", f"{own[0]['padded_tokens']:,}"))
    return lines


def parts(found: Mapping[str, Any]) -> Table:
    """A cached step beside what it is made of."""
    lines = []
    for runs in of_kind(found, "parts").values():
        for run in runs:
            seconds = [f"{median(run['parts'][name]):.3g}" for name in ("cached", "plain", "forward")]
            ratio = (f"{median(run['ratios']):.3f}", spread(run["ratios"], ".3f"))
            lines.append((title(run), run["precision"], *seconds, *ratio))
    return lines


def memory(found: Mapping[str, Any]) -> Table:
    """The peak of a large cached step beside that of plain ones."""
    runs = of_kind(found, "steps").get("memory", [])
    plain = [r for r in runs if not r["micro"]]
    lines = []
    for own in ([r for r in runs if r["micro"]], plain):
        if own and plain:
            bytes_ = {name: median(r[name] for r in own) for name in ("extra_bytes", "peak_bytes")}
            base = {name: median(r[name] for r in plain) for name in bytes_}
            cells = [c for name in bytes_ for c in (gigabytes(bytes_[name]), f"{bytes_[name] / base[name]:.2f}")]
            what = title(own[0]) + ("" if own[0]["micro"] else f", {own[0]['steps']} steps")
            lines.append((what, own[0]["precision"], *cells))
    return lines


def health(found: Mapping[str, Any]) -> Table:
    """What health takes."""
    lines = []
    for runs in of_kind(found, "health").values():
        for r in runs:
            model = "all-MiniLM-L6-v2" if r["model"] == "minilm" else "an MLP"
            cells = (
                f"{model}, {r['batch']:,} pairs",
                f"{1000 * r['step_seconds']:.3g} ms",
                f"{median(r['shares']):+.2%}",
            )
            cells += (spread(r["shares"], "+.2%"), number(r["taken"], ".2%"), f"{r['allowed']:.0%}", str(r["readings"]))
            lines.append(cells)
    return lines


def tables(found: Mapping[str, Any]) -> list[Table]:
    """All that were measured, with their heads."""
    pairs = ((STEPS, steps(found)), (PARTS, parts(found)), (MEMORY, memory(found)), (HEALTH, health(found)))
    return [[head, *lines] for head, lines in pairs if lines]


def about(found: Mapping[str, Any]) -> str:
    """Where and with what."""
    machine, versions = found["machine"], found["versions"]
    commits = ", ".join(sorted({m["commit"][:10] for m in found["measures"].values()}))
    repeats = sorted({m["settings"]["repeats"] for m in found["measures"].values()})
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "sentence-transformers", "transformers"))
    rounds = f"medians of {', '.join(map(str, repeats))} rounds"
    where = f"{machine['processor']} ({machine['vectors']}), {machine['cores']} threads"
    return f"{where}; {named}; {rounds}, seed {found['seed']}, commit {commits}."


def notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader has to know."""
    runs = [r for m in found["measures"].values() for r in m["runs"]]
    lines = []
    for side, by in SIDES.items():
        kinds = sorted({r["optimizer"] for r in runs if r.get("optimizer") and r["side"] == side})
        lines += [f"{by}: {'; '.join(kinds)}."] if kinds else []
    steps = of_kind(found, "steps")
    differ = [name for name, own in steps.items() if name != "memory" and len({r["tokens"] for r in own}) > 1]
    lines += [f"The two sides did not read the same tokens in {', '.join(differ)}."] if differ else []
    loads = [r["load_before"] for r in runs]
    return lines + ([f"Load of the machine before the jobs: {spread(loads, '.2f')}."] if loads else [])


def table(found: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = [about(found)]
    for part in tables(found):
        lines += ["", *aligned(part)]
    return "\n".join([*lines, "", *notes(found)])


def markdown(found: Mapping[str, Any]) -> str:
    """The result for a page."""
    lines = [about(found), ""]
    for head, *rows in tables(found):
        rule = ["---", *("---:" if is_number(cell) else "---" for cell in rows[0][1:])]
        lines += [bar(head), bar(rule), *map(bar, rows), ""]
    return "\n".join([*lines, *(f"- {line}" for line in notes(found))]).rstrip()


def main() -> None:
    """Print the tables, or put them between the marks of files."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) < 3:
        print(markdown(found))
        return
    for name in sys.argv[2:]:
        page = Path(name)
        page.write_text(between(page.read_text(encoding="utf-8"), markdown(found), BEGIN), encoding="utf-8")


if __name__ == "__main__":
    main()
