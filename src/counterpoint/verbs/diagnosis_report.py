"""What a person and a program read of a diagnosis: the verdict, the readings, each finding with what to type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from counterpoint.evaluation.diagnosis import FAULTS, Diagnosis, Finding
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.traits import TRAITS
from counterpoint.verbs.console import Screen
from counterpoint.verbs.mended import Mended
from counterpoint.verbs.prescriptions import REMEDIES, systems

CONTRAST = "share of texts nearer to themselves with a typo than with this changed"
COLOURS: Mapping[str, str] = {"severe": "bold red", "mild": "yellow", "none": "green"}


@dataclass(frozen=True)
class Report:
    """What was found, and what to do.

    Args:
        diagnosis: findings, the worst cause first, and all readings.
        commands: code of a finding -> what to type, in this order.
        examples: code of a finding -> lines that show it in the data.
        other: the diagnosis of the model that was named by `against`.
        overlap: the share of 10 nearest neighbours that the two models have in common.
        mended: what was changed in the data, where that was asked for.
    """

    diagnosis: Diagnosis
    commands: Mapping[str, list[str]]
    examples: Mapping[str, list[str]]
    other: Diagnosis | None = None
    overlap: float | None = None
    mended: Mended | None = None


def as_values(report: Report, model: str) -> dict[str, Any]:
    """A report as plain values for json."""
    diagnosis = report.diagnosis
    return {
        "schema": 1,
        "model": model,
        "findings": [_as_values(found, report) for found in diagnosis.findings],
        "readings": _rounded(diagnosis.readings),
        "limits": {f.code: {"mild": f.mild, "severe": f.severe} for f in FAULTS},
        "not_looked_for": {f.code: f.needs for f in FAULTS if f.code not in diagnosis.readings},
        "served": None if diagnosis.served is None else diagnosis.served.as_dict(),
        **_told(diagnosis),
        "against": None
        if report.other is None
        else {"readings": _rounded(report.other.readings), **_told(report.other)},
        "neighbours_in_common": report.overlap,
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _told(diagnosis: Diagnosis) -> dict[str, Any]:
    sets = {name: share.as_dict() for name, share in diagnosis.contrast.items()}
    return {"statistics": _rounded(diagnosis.statistics), "contrast_sets": sets}


def _as_values(found: Finding, report: Report) -> dict[str, Any]:
    code = found.fault.code
    here, not_yet = systems(code)
    return {
        "code": code,
        "name": found.fault.name,
        "level": found.level,
        "value": round(found.value, 6),
        "says": str(found),
        "effect": None if found.effect is None else found.effect.as_dict(),
        "follows": list(found.follows),
        "commands": report.commands[code],
        "systems": {"here": list(here), "not_yet": list(not_yet)},
        "examples": report.examples[code],
    }


def show(report: Report, screen: Screen, model: str, against: str | None) -> None:
    """The verdict, the readings beside what is healthy, and each finding with what to type."""
    diagnosis = report.diagnosis
    screen.say()
    screen.say(_verdict(diagnosis), style="bold")
    names = [Path(name).name for name in (model, against) if name is not None]
    _show_readings(report, screen, names)
    if report.overlap is not None:
        screen.say(f"the two models share {report.overlap:.0%} of the 10 nearest neighbours of an item")
    for number, found in enumerate(diagnosis.findings, start=1):
        _show_finding(number, found, report, screen)
    _show_further(report, screen, names)
    missing = [f"{f.code} ({f.needs})" for f in FAULTS if f.code not in diagnosis.readings]
    if missing:
        screen.say()
        screen.say(f"not looked for, for want of: {'; '.join(missing)}", style="dim")
    if report.mended is not None:
        screen.say(_changed(report.mended))


def _show_readings(report: Report, screen: Screen, names: Sequence[str]) -> None:
    """The statistic of each fault beside its limit."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", *names, "healthy", ""):
        table.add_column(escape(title), no_wrap=True)
    readings = report.diagnosis.readings
    for fault in FAULTS:
        if fault.code in readings:
            level = fault.level(readings[fault.code])
            beside = [] if report.other is None else [_number(report.other.readings.get(fault.code))]
            side = "below" if fault.severe > fault.mild else "above"
            word = "healthy" if level == "none" else level
            cells = (fault.code, _number(readings[fault.code]), *beside, f"{side} {fault.mild:g}")
            table.add_row(*cells, f"[{COLOURS[level]}]{word}[/]")
    screen.console.print(table)


def _show_further(report: Report, screen: Screen, names: Sequence[str]) -> None:
    """The numbers without a limit, each with what it is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("also read", *names):
        table.add_column(escape(title), no_wrap=True)
    table.add_column("", overflow="fold")
    both = [d for d in (report.diagnosis, report.other) if d is not None]
    for name, value in report.diagnosis.statistics.items():
        numbers = [_number(value), *(_number(d.statistics.get(name)) for d in both[1:])]
        table.add_row(name, *numbers, TRAITS[name][0])
    for name in report.diagnosis.contrast:
        shares = [_share(d.contrast.get(name)) for d in both]
        table.add_row(f"typo or {name}", *shares, CONTRAST)
    screen.say()
    screen.console.print(table, style="dim")


def _verdict(diagnosis: Diagnosis) -> str:
    severe = [f for f in diagnosis.findings if f.level == "severe"]
    if not diagnosis.findings:
        return f"nothing wrong in {len(diagnosis.readings)} readings"
    first = diagnosis.findings[0]
    others = len(diagnosis.findings) - 1
    more = f", and {others} more finding{'s' if others > 1 else ''}" if others else ""
    return ("" if severe else "nothing severe; ") + f"{first.fault.name}{more}"


def _show_finding(number: int, found: Finding, report: Report, screen: Screen) -> None:
    code = found.fault.code
    screen.say()
    screen.say(f"{number}. {found.fault.name} ({found.level})", style=COLOURS[found.level])
    screen.say(f"   {found}")
    if found.follows:
        screen.say(f"   it follows from: {', '.join(found.follows)}; mend that first")
    if found.effect is not None and report.diagnosis.served is not None:
        effect = found.effect
        task = "accuracy of the 5 nearest" if report.diagnosis.seen.space.relation is None else "MRR@10"
        span = f"(95 % interval {effect.low:+.3f} to {effect.high:+.3f})"
        screen.say(
            f"   without it, {task} would be {effect.value:+.3f} from {report.diagnosis.served.value:.3f} {span}"
        )
    for line in report.examples[code]:
        screen.say(f"   e.g. {line}", style="dim")
    if report.commands[code]:
        screen.say(f"   {REMEDIES[code].why}:")
    for line in report.commands[code]:
        screen.say(f"     {line}")
    here, not_yet = systems(code)
    about = [*here, *(f"{name} (not here yet)" for name in not_yet)]
    if about:
        screen.say(f"   methods about it: {', '.join(about)}", style="dim")


def _changed(mended: Mended) -> str:
    counts = {
        "copies of held-out items left out of train": mended.copies,
        "rows whose copy has another label left out": mended.contradicting,
        "likely positives listed": mended.added,
    }
    return f"mended: {', '.join(f'{n:,} {words}' for words, n in counts.items())}; {len(mended.frame):,} rows left"


def _share(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
