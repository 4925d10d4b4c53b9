"""A label beside a pair says whether the two belong together; it is not a class of the anchor."""

from __future__ import annotations

import polars as pl

from counterpoint.data.roles import Samples
from counterpoint.errors import Refusal

YES = ("1", "1.0", "true")
NO = ("0", "0.0", "false")


def read_matches(samples: Samples, match: str | None = None) -> Samples:
    """Pairs with a label into positives and negatives: rows whose label is `match` keep their positive; the text of
    every other row becomes a given negative of its anchor.

    Without `match`, labels that are all 0 or 1 (or true and false) are understood.

    Raises:
        Refusal: a label beside a pair whose meaning is not known, or no row that matches.

    >>> from counterpoint.data.roles import assign
    >>> s = assign(pl.DataFrame({"question": ["a", "a"], "answer": ["b", "c"], "label": [1, 0]}))
    >>> read_matches(s).frame.select("positive", "negative").rows()
    [(['b'], ['c'])]
    """
    if not (samples.has("positive") and samples.has("label")):
        if match is not None:
            raise Refusal("a pair and a label for --match", f"roles {', '.join(samples.columns)}", where=samples.source)
        return samples
    column = samples.columns["label"]
    labels = samples.frame["label"].fill_null("").str.strip_chars()
    found = labels.unique().sort().to_list()
    if match is None and not set(labels.str.to_lowercase()) <= {*YES, *NO}:
        raise Refusal(
            "to know which label says that a pair belongs together",
            f"{len(found)} labels: {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}",
            where=f"{samples.source}, column '{column}'",
            remedy=f"type --match {found[0] or found[-1]} (or the one that is meant), or give the column no role "
            f"with --ignore {column}",
        )
    yes = labels == match if match is not None else labels.str.to_lowercase().is_in(YES)
    if not yes.any():
        raise Refusal(f"rows with the label {match or 1}", f"labels {', '.join(found[:6])}", where=samples.source)
    frame = samples.frame.with_columns(yes=yes)
    judged = frame.filter(~pl.col("yes")).group_by("anchor").agg(judged=pl.col("positive").explode().unique().sort())
    frame = frame.filter("yes").join(judged, on="anchor", how="left", maintain_order="left").drop("label", "yes")
    given = pl.col("negative") if samples.has("negative") else pl.lit([], dtype=pl.List(pl.String))
    both = pl.concat_list(given.fill_null([]), pl.col("judged").fill_null([]))
    columns = {role: name for role, name in samples.columns.items() if role != "label"}
    columns |= {"negative": samples.columns.get("negative", column)} if len(judged) else {}
    frame = frame.with_columns(negative=both) if "negative" in columns else frame
    return Samples(frame.drop("judged"), columns, samples.unused, samples.source)
