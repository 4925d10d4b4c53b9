"""A label beside a pair says whether the two belong together; it is not a class of the anchor."""

from __future__ import annotations

import shlex
from dataclasses import replace

import polars as pl

from counterpoint.data.roles import NAMES, Samples, listed
from counterpoint.data.sources import short
from counterpoint.errors import Refusal, closest

YES = ("1", "1.0", "true")
NO = ("0", "0.0", "false")


def read_matches(samples: Samples, match: str | None = None) -> Samples:
    """Pairs with a label into positives and negatives: rows whose label is `match` keep their positive; the text of
    every other row becomes a given negative of its anchor, or, where that has no positive, stands apart.

    Without `match`, labels that are all 0 or 1 (or true and false) are understood.

    Raises:
        Refusal: a label beside a pair whose meaning is not known, or no row that matches.

    >>> from counterpoint.data.roles import assign
    >>> s = assign(pl.DataFrame({"question": ["a", "a"], "answer": ["b", "c"], "label": [1, 0]}))
    >>> read_matches(s).frame.select("positive", "negative").rows()
    [(['b'], ['c'])]
    """
    match = None if match is None else str(match).strip()
    if not (samples.has("positive") and samples.has("label")):
        if match is not None:
            raise Refusal("a pair and a label for --match", f"roles {', '.join(samples.columns)}", where=samples.source)
        return samples
    column = samples.columns["label"]
    where, ignored = f"{samples.source}, column '{column}'", f"give the column no role: --ignore {shlex.quote(column)}"
    labels = samples.frame["label"].fill_null("").str.strip_chars()
    missing = labels.str.to_lowercase().is_in(["", "nan"]).arg_true()
    if len(missing):
        row, remedy = f"{where}, row {missing[0] + 1}", f"fill it, take the row out, or {ignored}"
        raise Refusal("a label for every pair", "an empty cell", where=row, remedy=remedy)
    found = labels.unique().sort().to_list()
    if match is None and not set(labels.str.to_lowercase()) <= {*YES, *NO}:
        choice = " or ".join(f"--match {shlex.quote(short(label))}" for label in found[:4])
        raise Refusal(
            "to know which label says that a pair belongs together",
            f"{len(found)} labels: {listed(found)}",
            where=where,
            remedy=f"type it ({choice}), or {ignored}",
        )
    yes = labels == match if match is not None else labels.str.to_lowercase().is_in(YES)
    if not yes.any():
        remedy = closest(match, map(short, found[:NAMES])) if match is not None else f"add such rows, or {ignored}"
        raise Refusal(f"rows with the label '{match or 1}'", f"labels {listed(found)}", where=where, remedy=remedy)
    frame = samples.frame.with_columns(yes=yes)
    judged = frame.filter(~pl.col("yes")).group_by("anchor").agg(judged=pl.col("positive").explode().unique().sort())
    alone = frame.filter(~pl.col("yes")).join(frame.filter("yes"), on="anchor", how="anti", maintain_order="left")
    frame = frame.filter("yes").join(judged, on="anchor", how="left", maintain_order="left").drop("label", "yes")
    given = pl.col("negative") if samples.has("negative") else pl.lit([], dtype=pl.List(pl.String))
    both = pl.concat_list(given.fill_null([]), pl.col("judged").fill_null([]))
    columns = {role: name for role, name in samples.columns.items() if role != "label"}
    if frame["judged"].null_count() < len(frame):  # else every row that does not match has an anchor of its own
        columns |= {"negative": samples.columns.get("negative", column)}
        frame = frame.with_columns(negative=both)
    apart = alone.drop("label", "yes").filter(pl.col("anchor") != "") if len(alone) else None
    return replace(samples, frame=frame.drop("judged"), columns=columns, apart=apart)
