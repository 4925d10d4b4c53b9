"""From data to rows that may be trained on: read, roles, lint, clean, split. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from counterpoint.data.lint import Finding, accept, clean, lint
from counterpoint.data.matches import read_matches
from counterpoint.data.roles import Samples, assign
from counterpoint.data.sources import read
from counterpoint.data.splits import Split, split
from counterpoint.errors import Refusal, closest
from counterpoint.verbs.settings import Run


@dataclass(frozen=True)
class Prepared:
    """Usable rows, how they were split, and what was wrong with the rest."""

    samples: Samples
    split: Split
    findings: tuple[Finding, ...]
    given: int


def name_of(data: object) -> str:
    """The name of the data for messages and folders."""
    return Path(data).name if isinstance(data, str | Path) else "data"


def inspect(data: object, run: Run, *, checked: bool = False) -> tuple[Samples, tuple[Finding, ...]]:
    """Read the data, give the columns roles, and lint, unless that is done."""
    ignored = [column for role, column in run.roles.items() if role.startswith("ignore:")]
    frame = read(data, delimiter=run.delimiter)
    unknown = next((c for c in ignored if c not in frame.columns), None)
    if unknown is not None:
        raise Refusal(
            "a column for --ignore", f"'{unknown}'", where=name_of(data), remedy=closest(unknown, frame.columns)
        )
    kept = [c for c in frame.columns if c not in ignored]
    given = {role: column for role, column in run.roles.items() if not role.startswith("ignore:")}
    samples = assign(frame.select(kept), given, source=name_of(data))
    samples = read_matches(samples, run.match)
    return samples, () if checked else lint(samples)


def prepare(data: object, run: Run, *, checked: bool = False) -> Prepared:
    """All that happens before a model is loaded.

    Args:
        data: what to train on.
        run: the settings.
        checked: another process has linted them.

    Raises:
        Refusal: data that cannot be read, or that lint refuses.
    """
    samples, findings = inspect(data, run, checked=checked)
    accept(findings, run.allow, source=samples.source)
    usable = clean(samples)
    return Prepared(usable, split(usable, seed=run.seed), findings, len(samples))
