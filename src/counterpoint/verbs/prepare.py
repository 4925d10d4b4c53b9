"""From data to rows that may be trained on: read, roles, lint, clean, split. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoint.data.lint import Finding, accept, clean, lint
from counterpoint.data.matches import read_matches
from counterpoint.data.roles import Samples, assign
from counterpoint.data.several import names_of, together
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
    if (paths := files_of(data)) is not None:
        return " + ".join(path.name for path in paths)
    return Path(data).name if isinstance(data, str | Path) else "data"


def files_of(data: object) -> list[Path] | None:
    """The paths of data that are several files."""
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | Path) for item in data):
        return [Path(item) for item in data]
    return None


def inspect(
    data: object, run: Run, *, checked: bool = False, matched: bool = True
) -> tuple[Samples, tuple[Finding, ...]]:
    """Read the data, give the columns roles, say which pairs belong together where that matters, and lint, unless that
    is done."""
    ignored = [column for role, column in run.roles.items() if role.startswith("ignore:")]
    files = files_of(data) or []
    names = names_of(files) if len(files) > 1 else []
    paths: Sequence[object] = files or [data]
    frames = [read(path, delimiter=run.delimiter) for path in paths]
    there = [column for frame in frames for column in frame.columns]
    unknown = next((c for c in ignored if c not in there), None)
    if unknown is not None:
        raise Refusal("a column for --ignore", f"'{unknown}'", where=name_of(data), remedy=closest(unknown, there))
    given = {role: column for role, column in run.roles.items() if not role.startswith("ignore:")}
    parts = [
        assign(frame.select(c for c in frame.columns if c not in ignored), given, source=name_of(path))
        for frame, path in zip(frames, paths, strict=True)
    ]
    samples = together(parts, names) if names else parts[0]
    samples = read_matches(samples, run.match) if matched else samples
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
    return Prepared(usable, split(usable, seed=run.asked_by), findings, len(samples))
