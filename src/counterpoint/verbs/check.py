"""`check`: what the data hold and what is wrong with them, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.table import Table

from counterpoint.data.lint import Finding
from counterpoint.data.roles import ITEMS, Samples
from counterpoint.verbs.console import Screen
from counterpoint.verbs.prepare import inspect
from counterpoint.verbs.settings import Run

SOURCES = 12  # lines of the table of sources


def check(data: object, *, quiet: bool = False, **settings: Any) -> tuple[Finding, ...]:
    """Lint data and return what was found, the hopeless first; an empty tuple is good news.

    Args:
        data: whatever `fit` takes.
        quiet: print nothing.
        settings: roles, delimiter, match and allow of `Run`.

    Raises:
        Refusal: data that cannot be read at all.

    >>> rows = [{"query": f"question {i}", "doc": "the same answer"} for i in range(30)]
    >>> [f.code for f in check(rows, quiet=True)]
    ['no-negatives']
    """
    run, screen = Run(**settings), Screen(quiet=quiet)
    samples, findings = inspect(data, run)
    show_data(samples, screen)
    show_findings(findings, screen, run.allow)
    return findings


def show_data(samples: Samples, screen: Screen) -> None:
    """The roles, as a table with an example of each."""
    table = Table("role", "column", "example", box=None, pad_edge=False, padding=(0, 2))
    for role, column in samples.columns.items():
        cell = samples.frame[role][0]
        first = (cell[0] if len(cell) else "") if hasattr(cell, "__len__") and not isinstance(cell, str) else cell
        first = samples.items.show(first) if role in ITEMS else first
        table.add_row(role, _plain(column), _plain(first))
    screen.console.print(table)
    if samples.has("source"):
        show_sources(samples, screen)
    left = f"; not used: {', '.join(samples.unused)}" if samples.unused else ""
    screen.say(f"{len(samples):,} rows in {samples.source}{left}")


def show_sources(samples: Samples, screen: Screen) -> None:
    """How many rows each source has, and which: rows of several files are numbered through."""
    found = samples.frame.group_by("source", maintain_order=True).agg(
        rows=pl.len(), first=pl.col("row").min() + 1, last=pl.col("row").max() + 1
    )
    table = Table("source", "rows", "numbered", box=None, pad_edge=False, padding=(0, 2))
    for name, rows, first, last in found.head(SOURCES).rows():
        span = f"{first:,} to {last:,}" if last - first + 1 == rows else "here and there"
        table.add_row(_plain(name), f"{rows:,}", span)
    screen.console.print(table)
    if len(found) > SOURCES:
        screen.say(f"... and {len(found) - SOURCES:,} more sources")


def _plain(value: object) -> str:
    """One line that fits the table; square brackets are not markup."""
    text = " ".join(str(value).split()).replace("[", r"\[")
    return text[:67] + "..." if len(text) > 70 else text


def show_findings(findings: tuple[Finding, ...], screen: Screen, allow: tuple[str, ...] = ()) -> None:
    """One line a finding."""
    colours: Mapping[str, str] = {"refuse": "bold red", "warn": "yellow"}
    for finding in findings:
        level = "allowed" if finding.code in allow else {"refuse": "refused", "warn": "warning"}[finding.level]
        screen.say(f"{level:>8}  {finding.code}: {finding}", style=colours[finding.level])
    if not findings:
        screen.say("nothing to complain of", style="green")
