"""What is wrong with the data, before anything trains on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import polars as pl

from counterpoint.data.arrays import MISSING, Arrays
from counterpoint.data.roles import ITEMS, Samples
from counterpoint.errors import Refusal, closest

Level = Literal["refuse", "warn"]
LONGEST = 1_000_000  # characters in a cell; beyond it a quote was never closed more often than a text was meant
FEWEST = 20  # rows; fewer cannot be split into train, dev and test with anything left to measure
SWAPPED = 4  # an anchor column whose median text is this many times longer than the positive's looks swapped
SHOWN = 5  # row numbers in a finding


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, how bad, in how many rows, and the first of them (1-based)."""

    code: str
    level: Level
    message: str
    count: int
    rows: tuple[int, ...]

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.rows)) + (", ..." if self.count > len(self.rows) else "")
        return f"{self.message} (rows {rows})" if self.rows else self.message


# code -> (level, what it means and what to do)
CODES: Mapping[str, tuple[Level, str]] = MappingProxyType(
    {
        "empty-column": ("refuse", "A column with a role has no text at all. Most often the wrong column was named, or "
            "an export wrote the header only. Name another column, or leave the role out with --ignore. --allow "
            "empty-column leaves out a role that can be missed, such as the label."),
        "too-few-rows": ("refuse", f"Fewer than {FEWEST} usable rows are left. Nothing can be learned and, above all, "
            "nothing can be measured on so few. Add data."),
        "no-negatives": ("refuse", "All positives are the same text, so there is nothing to tell it apart from: the loss "
            "would be exactly 0 from the first step. Add rows with other positives."),
        "missing-label": ("refuse", "Some rows have no label (empty, NaN). --allow missing-label trains without them."),
        "one-class": ("refuse", "All rows have one label, or all pairs one value; there is nothing to tell apart. Add "
            "rows of another class, or leave the column out with --ignore."),
        "class-per-row": ("refuse", "Nearly every row has a label of its own, so no two rows are positives of each other. "
            "Most often the column is an identifier: name the label column with --label."),
        "missing-number": ("refuse", "Some cells of a weight or value column are empty or NaN. --allow missing-number "
            "trains without those rows."),
        "negative-weight": ("refuse", "A weight says how often or how strongly a pair was seen; at 0 or below there was "
            "no such pair. --allow negative-weight trains without those rows."),
        "leak": ("refuse", "The same pair stands in train and in dev or test, so the score would measure memory. Remove "
            "it from one, drop the split column, or --allow leak takes those pairs out of train."),
        "huge-text": ("refuse", f"A cell has more than {LONGEST:,} characters; most often a quote was never closed and the "
            "cell swallowed the rest of the file. --allow huge-text cuts it to the model's length."),
        "not-finite": ("refuse", "Arrays hold NaN or infinite numbers, numbers too large for float32, or nothing at all. "
            "Fill them with what is meant, such as the mean of the column. --allow not-finite leaves those rows out."),
        "constant-numbers": ("warn", "Some numbers of the arrays are the same in every row. They tell nothing apart and are "
            "read as 0; often a column that was meant to be filled."),
        "empty-text": ("warn", "Rows without a text in the anchor or positive column are left out."),
        "empty-negative": ("warn", "Some negatives are empty texts; they teach nothing and are left out."),
        "positive-is-anchor": ("warn", "Rows whose positive is the anchor itself are left out: they are solved before "
            "training starts and hide that nothing is learned."),
        "negative-is-positive": ("warn", "A negative that is listed as a positive of the same anchor elsewhere; it is "
            "left out of the negatives."),
        "duplicate-rows": ("warn", "Rows that repeat an earlier one in every role are left out."),
        "shared-across-splits": ("warn", "Texts that stand in train and in dev or test, in other pairs. The score "
            "measures new pairs of known texts; without a split column whole groups are kept apart."),
        "swapped-columns": ("warn", "The anchor column holds much longer and fewer different texts than the positive "
            "column. If the roles are swapped, the model learns to find queries for documents: check --anchor, --positive."),
        "damaged-text": ("warn", "Texts hold the replacement character U+FFFD or a zero byte: they were decoded with the "
            "wrong encoding, or cut in the middle of a character, before they came here."),
    }
)  # fmt: skip


def explain(code: str) -> str:
    """What a code means and what to do about it."""
    if code not in CODES:
        raise Refusal("a code of 'counterpoint check'", f"'{code}'", remedy=closest(code, CODES))
    level, text = CODES[code]
    return f"{code} ({'refused' if level == 'refuse' else 'warning'}): {text}"


def _finding(code: str, message: str, rows: pl.Series | None = None, count: int | None = None) -> list[Finding]:
    """No finding where no row shows it."""
    if rows is not None and not len(rows):
        return []
    shown = tuple(int(r) + 1 for r in rows.head(SHOWN)) if rows is not None else ()
    return [Finding(code, CODES[code][0], message, len(rows) if rows is not None else (count or 0), shown)]


def _empties(samples: Samples) -> list[Finding]:
    found = []
    for role in samples.columns:
        if role in ("split", "time", "id", "group", "source"):
            continue
        column = samples.frame[role]
        empty = _empty(column)
        if empty.all():
            found += _finding("empty-column", f"column '{samples.columns[role]}' ({role}) is empty", count=len(column))
        elif role in ("anchor", "positive") and not isinstance(samples.items, Arrays):  # see `_arrays`
            rows = samples.frame["row"].filter(empty)
            found += _finding("empty-text", f"{len(rows)} rows without a text for the {role}", rows)
        elif role == "label":
            rows = samples.frame["row"].filter(empty)
            found += _finding("missing-label", f"{len(rows)} rows without a label", rows)
        elif role in ("value", "weight"):
            rows = samples.frame["row"].filter(empty)
            found += _finding("missing-number", f"{len(rows)} rows without a number in '{samples.columns[role]}'", rows)
    return found


def _empty(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        return (column.list.eval(pl.element().filter(pl.element() != "")).list.len() == 0).fill_null(value=True)
    if column.dtype == pl.String:
        blank = column.str.strip_chars().str.to_lowercase()
        return column.is_null() | (blank == "") | (blank == "nan")
    return column.is_null()


def _arrays(samples: Samples) -> list[Finding]:
    if not isinstance(samples.items, Arrays):
        return []
    found = []
    for role in (r for r in ITEMS if samples.has(r)):
        flat = samples.frame.select("row", key=pl.col(role))
        flat = flat.explode("key") if role != "anchor" else flat
        missing = (
            pl.col("key") == MISSING if role == "negative" else (pl.col("key") == MISSING) | pl.col("key").is_null()
        )
        rows = flat.filter(missing)["row"].unique(maintain_order=True)
        name = samples.columns[role]
        found += _finding("not-finite", f"{len(rows)} rows of '{name}' hold NaN, infinite or missing numbers", rows)
    numbers = samples.items.values.reshape(len(samples.items.values), -1)
    still = np.flatnonzero((numbers == numbers[:1]).all(axis=0)) if len(numbers) > 1 else np.empty(0)
    if len(still):
        first = ", ".join(str(i + 1) for i in still[:SHOWN]) + (", ..." if len(still) > SHOWN else "")
        message = f"{len(still)} of {numbers.shape[1]} numbers of an array never change (numbers {first})"
        found += _finding("constant-numbers", message, count=len(still))
    return found


def _known(samples: Samples) -> Samples:
    """Without arrays that are not finite: they share one key and are no repetition of each other."""
    if not isinstance(samples.items, Arrays):
        return samples
    return samples.with_frame(samples.frame.filter(pl.col("anchor") != MISSING))


def _texts(samples: Samples) -> list[Finding]:
    if isinstance(samples.items, Arrays):
        return []
    found = []
    for role in (r for r in ITEMS if samples.has(r)):
        flat = samples.frame.select("row", text=pl.col(role))
        flat = flat.explode("text") if role != "anchor" else flat
        name = samples.columns[role]
        long = flat.filter(pl.col("text").str.len_chars() > LONGEST)
        longest = max(long["text"].str.len_chars().to_list(), default=0)
        message = f"a cell of {longest:,} characters in column '{name}'"
        found += _finding("huge-text", message, long["row"].unique())
        damaged = flat.filter(pl.col("text").str.contains("\ufffd|\0"))["row"].unique(maintain_order=True)
        message = f"{len(damaged)} rows of '{name}' hold a replacement character or a zero byte"
        found += _finding("damaged-text", message, damaged)
        if role == "negative":
            empty = flat.filter(pl.col("text") == "")["row"].unique(maintain_order=True)
            found += _finding("empty-negative", f"{len(empty)} rows with an empty negative", empty)
    return found


def _pairs(samples: Samples) -> list[Finding]:
    if not samples.has("positive"):
        return []
    frame = samples.frame
    flat = frame.select("row", "anchor", "positive").explode("positive").filter(pl.col("positive") != "")
    itself = flat.filter(pl.col("anchor") == pl.col("positive"))["row"].unique(maintain_order=True)
    found = _finding("positive-is-anchor", f"{len(itself)} rows whose positive is the anchor itself", itself)
    distinct = flat["positive"].n_unique()
    if distinct == 1 and not samples.has("value"):
        noun = "array" if isinstance(samples.items, Arrays) else "text"
        found += _finding("no-negatives", f"all positives are the same {noun}", count=len(flat))
    lengths = [
        float(np.median(flat[c].str.len_chars().to_numpy())) if len(flat) else 0.0 for c in ("anchor", "positive")
    ]
    if lengths[0] > SWAPPED * max(lengths[1], 1) and flat["anchor"].n_unique() < distinct and not samples.has("value"):
        found += _finding(
            "swapped-columns",
            f"anchors have {lengths[0]:.0f} characters and positives {lengths[1]:.0f} (medians), and anchors repeat more",
            count=len(flat),
        )
    if samples.has("negative"):
        negatives = frame.select("row", "anchor", "negative").explode("negative")
        both = negatives.join(flat.rename({"positive": "negative"}).drop("row"), on=["anchor", "negative"], how="semi")
        rows = both["row"].unique(maintain_order=True)
        found += _finding(
            "negative-is-positive", f"{len(rows)} rows with a negative that is a positive elsewhere", rows
        )
    return found


def _rows(samples: Samples) -> list[Finding]:
    roles = [r for r in samples.columns if r not in ("id", "time", "weight", "group", "source")]
    first = samples.frame.unique(subset=roles, keep="first", maintain_order=True)
    again = samples.frame.join(first, on="row", how="anti", maintain_order="left")["row"]
    found = _finding("duplicate-rows", f"{len(again)} rows repeat an earlier one", again)
    if samples.has("weight"):
        below = samples.frame.filter(pl.col("weight") <= 0)["row"]
        found += _finding("negative-weight", f"{len(below)} weights that are 0 or less", below)
    return found


def _labels(samples: Samples) -> list[Finding]:
    if samples.has("value"):
        values = samples.frame["value"].drop_nulls()
        if values.n_unique() == 1:
            return _finding("one-class", f"all pairs have the value {values[0]}", count=len(values))
    if not samples.has("label"):
        return []
    labels = samples.frame.filter(~_empty(samples.frame["label"]))["label"]
    if len(labels) and labels.n_unique() == 1:
        return _finding("one-class", f"all rows have the label '{labels[0]}'", count=len(labels))
    if labels.n_unique() > 0.9 * len(labels) > 0:
        return _finding("class-per-row", f"{labels.n_unique()} labels for {len(labels)} rows", count=len(labels))
    return []


def _splits(samples: Samples) -> list[Finding]:
    if not samples.has("split"):
        return []
    key = ["anchor", "positive"] if samples.has("positive") else ["anchor"]
    flat = samples.frame.select("row", "split", *key)
    flat = flat.explode("positive") if samples.has("positive") else flat
    train, held = flat.filter(pl.col("split") == "train"), flat.filter(pl.col("split") != "train")
    leaked = train.join(held, on=key, how="semi")["row"].unique(maintain_order=True)
    found = _finding("leak", f"{len(leaked)} rows of train stand in dev or test too", leaked)
    if samples.has("positive"):
        for role in key:
            shared = (
                train.join(held, on=role, how="semi").join(held, on=key, how="anti")["row"].unique(maintain_order=True)
            )
            message = f"{len(shared)} rows of train share their {role} with dev or test"
            found += _finding("shared-across-splits", message, shared)
    return found


OF_CELLS = (_empties, _texts, _arrays)
CHECKS: tuple[Callable[[Samples], list[Finding]], ...] = (*OF_CELLS, _pairs, _rows, _labels, _splits)


def lint(samples: Samples) -> tuple[Finding, ...]:
    """Everything that is wrong with the data, the hopeless first.

    >>> from counterpoint.data.roles import assign
    >>> [f.code for f in lint(assign(pl.DataFrame({"query": ["a", "b"], "doc": ["c", "c"]})))]
    ['no-negatives', 'too-few-rows']
    """
    known = _known(samples)
    found = [finding for check in CHECKS for finding in check(samples if check in OF_CELLS else known)]
    left = len(clean(samples))
    if left < FEWEST:
        found += _finding("too-few-rows", f"{left} usable rows of {len(samples)}", count=left)
    return tuple(sorted(found, key=lambda f: f.level != "refuse"))


def accept(findings: Iterable[Finding], allow: Collection[str] = (), *, source: str = "data") -> None:
    """Refuse the hopeless, unless it was allowed.

    Raises:
        Refusal: for the first finding of level "refuse" whose code is not allowed, or an allowed code that is unknown.
    """
    for code in allow:
        explain(code)
    for finding in findings:
        if finding.level == "refuse" and finding.code not in allow:
            others = [f.code for f in findings if f.level == "refuse" and f.code not in (*allow, finding.code)]
            raise Refusal(
                "data that can be trained on",
                f"{finding}" + (f", and {', '.join(dict.fromkeys(others))}" if others else ""),
                where=source,
                remedy=f"'counterpoint check --explain {finding.code}' says what to do",
            )


def clean(samples: Samples) -> Samples:
    """The rows that are left when what every finding of level "warn" or allowed says is done."""
    empty = [r for r in ("label", "value", "weight", "negative") if samples.has(r) and _empty(samples.frame[r]).all()]
    left = {role: column for role, column in samples.columns.items() if role not in empty}
    samples = replace(samples, frame=samples.frame.drop(empty), columns=left)
    frame = samples.frame
    keep = ~_empty(frame["anchor"])
    for role in ("label", "value", "weight"):
        if samples.has(role):
            keep &= ~_empty(frame[role])
    if samples.has("weight"):
        keep &= frame["weight"] > 0
    frame = frame.with_columns(pl.col("anchor").str.slice(0, LONGEST)).filter(keep)
    for role in ("positive", "negative"):
        if samples.has(role):
            texts = pl.col(role).list.eval(pl.element().filter(pl.element() != "").str.slice(0, LONGEST))
            frame = frame.with_columns(texts.list.unique(maintain_order=True))
    if samples.has("positive"):
        if not samples.has("value"):
            frame = frame.with_columns(pl.col("positive").list.set_difference(pl.concat_list("anchor")).list.sort())
        frame = frame.filter(pl.col("positive").list.len() > 0)
    if samples.has("negative") and samples.has("positive"):
        known = frame.group_by("anchor").agg(known=pl.col("positive").explode())
        frame = frame.join(known, on="anchor", how="left", maintain_order="left")
        frame = frame.with_columns(pl.col("negative").list.set_difference("known").list.sort()).drop("known")
    roles = [r for r in samples.columns if r not in ("id", "time", "weight", "group", "source")]
    frame = frame.unique(subset=roles, keep="first", maintain_order=True)
    if samples.has("split"):
        frame = _without_leaks(frame, paired=samples.has("positive"))
    return samples.with_frame(frame)


def _without_leaks(frame: pl.DataFrame, *, paired: bool) -> pl.DataFrame:
    """Train rows that also stand in dev or test go; those of dev and test stay."""
    key = ["anchor", "positive"] if paired else ["anchor"]
    flat = frame.select("row", "split", *key)
    flat = flat.explode("positive") if paired else flat
    held = flat.filter(pl.col("split") != "train")
    leaked = flat.filter(pl.col("split") == "train").join(held, on=key, how="semi")["row"]
    return frame.filter(~pl.col("row").is_in(leaked.implode()))
