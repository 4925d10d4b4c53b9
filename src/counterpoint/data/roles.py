"""Columns into roles: by name, by one table, never by position."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from counterpoint.errors import Refusal, closest

# The one table of aliases. Names are compared in lower case, without "_", "-" and spaces.
ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "anchor": (
            "anchor", "query", "queries", "question", "sentence1", "sentence", "premise", "text", "text1", "docstring",
            "sourcetext", "utterance",
        ),
        "positive": (
            "positive", "positives", "pos", "doc", "document", "passage", "answer", "answers", "clicked", "sentence2",
            "hypothesis", "entailment", "text2", "code", "targettext", "response",
        ),
        "negative": ("negative", "negatives", "neg", "hardnegative", "hardnegatives", "contradiction"),
        "label": ("label", "class", "category", "intent", "labels"),
        "value": ("value", "score", "similarity", "similarityscore"),
        "weight": ("weight", "clicks", "count", "counts"),
        "id": ("id", "rowid", "pairid"),
        "group": ("group", "groupid", "cluster"),
        "split": ("split", "fold", "partition"),
        "time": ("time", "timestamp", "date", "datetime"),
    }
)  # fmt: skip
TEXTS = ("anchor", "positive", "negative")
NUMBERS = ("value", "weight")
SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "train", "training": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}
)


@dataclass(frozen=True)
class Samples:
    """A table whose columns are roles.

    Args:
        frame: columns among `ALIASES`; anchor is text, positive and negative are lists of text, value and weight are
            float, label is text, split is train, dev or test; and "row", the 0-based row of the source.
        columns: role -> the column it was made from.
        unused: columns that have no role.
        source: the name of the data, for messages and folders.
    """

    frame: pl.DataFrame
    columns: Mapping[str, str]
    unused: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.frame)

    def has(self, role: str) -> bool:
        """Whether the data have this role."""
        return role in self.columns

    def with_frame(self, frame: pl.DataFrame) -> Samples:
        """The same roles over other rows."""
        return Samples(frame, self.columns, self.unused, self.source)


def guess(columns: list[str], given: Mapping[str, str] | None = None, source: str = "data") -> dict[str, str]:
    """Which column has which role: what was given first, then the table of aliases.

    Raises:
        Refusal: a given column that does not exist; two columns for one role; no anchor.

    >>> guess(["question", "answer", "page"])
    {'anchor': 'question', 'positive': 'answer'}
    """
    given = dict(given or {})
    for role, column in given.items():
        if role not in ALIASES:
            raise Refusal("a role", f"'{role}'", remedy=closest(role, ALIASES))
        if column not in columns:
            raise Refusal(f"a column for --{role}", f"'{column}'", where=source, remedy=closest(column, columns))
    taken = {column: role for role, column in given.items()}
    if len(taken) < len(given):
        doubled = next(c for c in given.values() if list(given.values()).count(c) > 1)
        raise Refusal("one role a column", f"'{doubled}' for {' and '.join('--' + r for r in given if given[r] == doubled)}")
    roles = dict(given)
    for role, aliases in ALIASES.items():
        if role in given:
            continue
        found = [c for c in columns if c not in taken and "".join(ch for ch in c.lower() if ch not in "_- ") in aliases]
        if len(found) > 1:
            raise Refusal(
                f"one column for the role '{role}'",
                f"{len(found)}: {', '.join(found)}",
                where=source,
                remedy="type " + " or ".join(f"--{role} {c}" for c in found),
            )
        if found:
            roles[role] = found[0]
    if "anchor" not in roles:
        raise Refusal(
            "a column for the anchor (the query, question or text)",
            f"columns {', '.join(columns) or 'none'}",
            where=source,
            remedy="name it with --anchor COLUMN" + ("" if "positive" in roles else ", and its match with --positive COLUMN"),
        )
    return {role: roles[role] for role in ALIASES if role in roles}


def assign(frame: pl.DataFrame, given: Mapping[str, str] | None = None, *, source: str = "data") -> Samples:
    """Give the columns of a table their roles and their types.

    Cells of positive and negative may be lists, or JSON lists in a csv or tsv; missing text becomes "" or [].

    Raises:
        Refusal: as `guess`; a value or weight that is not a number, a split that is not known, text that is not text.

    >>> assign(pl.DataFrame({"q": ["a"], "doc": ['["b", "c"]']}), {"anchor": "q"}).frame["positive"].to_list()
    [['b', 'c']]
    """
    roles = guess(frame.columns, given, source)
    if not len(frame):
        raise Refusal("rows", "a header and no row", where=source)
    columns: dict[str, pl.Series] = {"row": pl.Series(range(len(frame)), dtype=pl.Int64)}
    for role, name in roles.items():
        column, where = frame[name], f"{source}, column '{name}'"
        if role in TEXTS:
            columns[role] = _texts(column, where, lists=role != "anchor")
        elif role in NUMBERS:
            columns[role] = _numbers(column, where)
        elif role == "split":
            columns[role] = _splits(column, where)
        elif role == "time":
            columns[role] = column
        else:
            columns[role] = column.cast(pl.String, strict=False)
    return Samples(pl.DataFrame(columns), roles, tuple(c for c in frame.columns if c not in roles.values()), source)


def _texts(column: pl.Series, where: str, *, lists: bool) -> pl.Series:
    kind = column.dtype
    if kind.base_type() in (pl.List, pl.Array):
        if not lists:
            raise Refusal("one text a cell", f"a list of {kind.inner}", where=where)  # type: ignore[attr-defined]
        cells = [[str(x).strip() for x in cell if x is not None] if cell is not None else [] for cell in column.to_list()]
        return pl.Series(cells, dtype=pl.List(pl.String))
    if kind.base_type() in (pl.Struct, pl.Binary, pl.Object):
        raise Refusal("text", f"cells of type {kind}", where=where, remedy="only text works in this role")
    stripped = column.cast(pl.String).fill_null("").str.strip_chars()
    if not lists:
        return stripped
    return pl.Series([_as_list(cell) for cell in stripped.to_list()], dtype=pl.List(pl.String))


def _as_list(cell: str) -> list[str]:
    """One text, or the texts of a JSON list."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            inner = json.loads(cell)
        except ValueError:
            return [cell]
        if all(isinstance(x, str) for x in inner):
            return [x.strip() for x in inner]
    return [cell] if cell else []


def _numbers(column: pl.Series, where: str) -> pl.Series:
    if column.dtype.is_nested():
        raise Refusal("a number a cell", f"cells of type {column.dtype}", where=where)
    numbers = column.cast(pl.Float64, strict=False)
    if column.dtype == pl.String:
        wrong = (numbers.is_null() & column.is_not_null()).arg_true()
        if len(wrong):
            raise Refusal("a number", f"'{column[wrong[0]]}'", where=f"{where}, row {wrong[0] + 1}")
    return numbers.fill_nan(None)


def _splits(column: pl.Series, where: str) -> pl.Series:
    names = [SPLITS.get(str(cell).strip().lower()) for cell in column.to_list()]
    wrong = next((i for i, name in enumerate(names) if name is None), None)
    if wrong is not None:
        raise Refusal("train, dev or test", f"'{column[wrong]}'", where=f"{where}, row {wrong + 1}")
    return pl.Series(names, dtype=pl.String)
