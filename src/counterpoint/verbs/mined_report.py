"""What mining kept and why the rest was left, for people to judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.table import Table
from torch import Tensor

from counterpoint.data.sources import short
from counterpoint.pairs.limits import Mining
from counterpoint.pairs.mining import Mined
from counterpoint.verbs.console import Screen

SHOWN = 4  # examples


@dataclass(frozen=True)
class Found:
    """What was mined for the rows of one split: distinct queries, candidates, and unit vectors of both."""

    frame: pl.DataFrame
    queries: Sequence[str]
    pool: Sequence[str]
    vectors: tuple[Tensor, Tensor]
    mined: Mined


def report_of(found: Sequence[Found]) -> dict[str, Any]:
    """All counts as plain data."""
    kept = Counter(n for f in found for n in f.mined.kept.tolist())
    score = torch.cat([f.mined.score for f in found])
    bar = torch.cat([f.mined.bar for f in found])
    return {
        "queries": sum(len(f.queries) for f in found),
        "candidates": sum(len(f.pool) for f in found),
        "kept": sum(len(f.mined.query) for f in found),
        "per_query": dict(sorted(kept.items())),
        "dropped": {name: sum(f.mined.dropped[name] for f in found) for name in found[0].mined.dropped},
        "negative_cosine": round(float(score.sum() / max(len(score), 1)), 4),
        "positive_cosine": round(float(bar.nanmean()), 4),
    }


def words_of(how: Mining, name: str | None) -> dict[str, str]:
    """What each reason means with the settings of this run."""
    return {
        "known": "positives, given negatives and equal texts (not ranked)",
        "rank": f"among the first {how.skip} ranks (--skip)",
        "no positive": "the query has no positive to compare with",
        "highest": f"score above {how.highest} (--highest)",
        "lowest": f"score below {how.lowest} (--lowest)",
        "margin": f"score above the {how.against} positive less {how.margin} (--margin)",
        "relative margin": f"score above {1 - (how.relative_margin or 0):.0%} of the {how.against} positive "
        "(--relative-margin)",
        "filter": f"{name} scores it above the {how.against} positive"
        + (f" less {how.filter_margin}" if how.filter_margin else ""),
        "spare": f"would do, but {how.count} were enough (--count)",
    }


def show_mined(
    found: Sequence[Found], how: Mining, screen: Screen, *, name: str | None, path: Path | None
) -> dict[str, Any]:
    """The report as a table, the most suspicious examples, and where it was written."""
    report = report_of(found)
    queries, per_query = report["queries"], report["per_query"]
    screen.say()
    screen.say(
        f"{report['kept']:,} negatives for {queries:,} queries among {report['candidates']:,} candidates", style="bold"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_header=False)
    for wanted, words in (
        (how.count, f"all {how.count}"),
        (None, "1" if how.count == 2 else f"1 to {how.count - 1}"),
        (0, "none"),
    ):
        if wanted is None and how.count == 1:
            continue
        n = (
            per_query.get(wanted, 0)
            if wanted is not None
            else queries - per_query.get(how.count, 0) - per_query.get(0, 0)
        )
        table.add_row(f"queries with {words}", f"{n:,}", f"{n / max(queries, 1):.1%}")
    screen.console.print(table)
    screen.say(f"candidates that were looked at (the nearest {how.depth} of each query) and left:")
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_header=False)
    for reason, words in words_of(how, name).items():
        if report["dropped"][reason]:
            table.add_row(f"  {report['dropped'][reason]:,}", words)
    screen.console.print(table)
    screen.say(
        f"cosine with the query: positives {report['positive_cosine']:.3f}, negatives {report['negative_cosine']:.3f} (means)"
    )
    screen.say("the nearest of all negatives; are they really wrong?")
    for line in examples(found):
        screen.say(line)
    if path is not None:
        screen.say(f"written {path}")
        screen.say(f"next    counterpoint fit {path} --recipe pairs_with_negatives")
    return report


def examples(found: Sequence[Found]) -> list[str]:
    """Lines for the kept negatives of the highest scores, one a query: false negatives are most frequent there."""
    highest: list[tuple[float, int, int]] = []
    for number, f in enumerate(found):
        order = f.mined.score.argsort(descending=True, stable=True)[: SHOWN * 8]
        highest += [(-float(f.mined.score[i]), number, i) for i in order.tolist()]
    lines: list[str] = []
    seen: set[tuple[int, int]] = set()
    for _, number, i in sorted(highest):
        f, m = found[number], found[number].mined
        q, c = int(m.query[i]), int(m.candidate[i])
        if (number, q) in seen or len(seen) == SHOWN:
            continue
        seen.add((number, q))
        positives = next(
            t for a, t in zip(f.frame["anchor"], f.frame["positive"].to_list(), strict=True) if a == f.queries[q]
        )
        judged = f", filter {float(m.judged[i]):.2f}" if m.judged is not None else ""
        wanted = f", filter {float(m.judged_bar[q]):.2f}" if m.judged_bar is not None else ""
        lines += [
            f"  query     {_line(f.queries[q])}",
            f"  positive  {_line(positives[0])}  ({float(m.bar[q]):.3f}{wanted})",
            f"  negative  {_line(f.pool[c])}  ({float(m.score[i]):.3f}{judged})",
            "",
        ]
    return lines


def _line(text: str) -> str:
    return short(" ".join(text.split()))
