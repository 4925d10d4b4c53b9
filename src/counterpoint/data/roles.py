"""Columns into roles: by name, by one table, never by position."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import polars as pl

from counterpoint.data.arrays import is_array, to_keys
from counterpoint.data.items import TEXTS, Items
from counterpoint.data.sources import short
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
        "source": ("source", "dataset"),
    }
)  # fmt: skip
# More of them where the anchor is a column of arrays; a table of text may hold such names for other things.
OF_ARRAYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"anchor": ("x", "features", "data", "inputs", "arr0"), "label": ("y", "target", "targets")}
)
ITEMS = ("anchor", "positive", "negative")
NUMBERS = ("value", "weight")
ISO_DATE = r"^\d{4}-\d\d(-\d\d([T ]\d\d:\d\d.*)?)?$"
NAMES = 12  # of columns, in a message
SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "train", "training": "train", "test": "test",
     "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev"}
)  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """A table whose columns are roles.

    Args:
        frame: columns among `ALIASES`; anchor is a key, positive and negative are lists of keys (a text is its own key),
            value and weight are float, label is text, split is train, dev or test; and "row", the 0-based row of the source.
        columns: role -> the column it was made from.
        unused: columns that have no role.
        source: the name of the data, for messages and folders.
        items: what the keys stand for.
        apart: pairs that were judged not to belong together and whose anchor has no positive; no row of `frame`, since there
            is nothing to train on, but a score can be asked of them. None: there are none.
    """

    frame: pl.DataFrame
    columns: Mapping[str, str]
    unused: tuple[str, ...]
    source: str
    items: Items = TEXTS
    apart: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def has(self, role: str) -> bool:
        """Whether the data have this role."""
        return role in self.columns

    def with_frame(self, frame: pl.DataFrame) -> Samples:
        """The same roles over other rows."""
        return replace(self, frame=frame)


def aliases_of(frame: pl.DataFrame, given: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    """The table of aliases for this table: that of arrays where the anchor is one.

    >>> table = pl.DataFrame({"x": [[1.0, 2.0]], "y": [1]})
    >>> guess(table.columns, aliases=aliases_of(table, {}))
    {'anchor': 'x', 'label': 'y'}
    """
    arrays = [name for name, kind in frame.schema.items() if is_array(kind)]
    named = [name for name in frame.columns if _plain_name(name) in ALIASES["anchor"]]
    anchors = [given["anchor"]] if "anchor" in given else named or arrays
    if not any(name in arrays for name in anchors):
        return ALIASES
    return {role: names + OF_ARRAYS.get(role, ()) for role, names in ALIASES.items()}


def _plain_name(name: str) -> str:
    return "".join(ch for ch in name.lower() if ch not in "_- ")


def guess(
    columns: list[str],
    given: Mapping[str, str] | None = None,
    source: str = "data",
    *,
    aliases: Mapping[str, tuple[str, ...]] = ALIASES,
) -> dict[str, str]:
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
        flags = " and ".join("--" + r for r in given if given[r] == doubled)
        raise Refusal("one role a column", f"'{doubled}' for {flags}", where=source)
    roles = dict(given)
    for role, names in aliases.items():
        if role in given:
            continue
        found = [c for c in columns if c not in taken and _plain_name(c) in names]
        if len(found) > 1:
            raise Refusal(
                f"one column for the role '{role}'",
                f"{len(found)}: {listed(found)}",
                where=source,
                remedy="type " + " or ".join(f"--{role} {shlex.quote(c)}" for c in found[:NAMES]),
            )
        if found:
            roles[role] = found[0]
    if "anchor" not in roles:
        raise Refusal(
            "a column for the anchor (the query, question or text)",
            f"columns {listed(columns)}",
            where=source,
            remedy="name it with --anchor COLUMN"
            + ("" if "positive" in roles else ", and its match with --positive COLUMN"),
        )
    return {role: roles[role] for role in ALIASES if role in roles}


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first few of many, each cut where it is long.

    >>> listed(["query", "doc"])
    'query, doc'
    """
    names = list(names)
    more = [f"... ({len(names)} in all)"] if len(names) > NAMES else []
    return ", ".join([*map(short, names[:NAMES]), *more]) or "none"


def assign(frame: pl.DataFrame, given: Mapping[str, str] | None = None, *, source: str = "data") -> Samples:
    """Give the columns of a table their roles and their types.

    Cells of positive and negative may be lists, or JSON lists in a csv or tsv; missing text becomes "" or []. Where the
    anchor is a column of arrays, arrays become keys.

    Raises:
        Refusal: as `guess`; a value or weight that is not a number, a split that is not known, a time that has no
            order, text that is not text, arrays of different shapes.

    >>> assign(pl.DataFrame({"q": ["a"], "doc": ['["b", "c"]']}), {"anchor": "q"}).frame["positive"].to_list()
    [['b', 'c']]
    """
    roles = guess(frame.columns, given, source, aliases=aliases_of(frame, given or {}))
    if not len(frame):
        raise Refusal("rows", "a header and no row", where=source)
    columns: dict[str, pl.Series] = {"row": pl.Series(range(len(frame)), dtype=pl.Int64)}
    items: Items = TEXTS
    if is_array(frame.schema[roles["anchor"]]):
        keys, items = _arrays(frame, roles, source)
        columns |= keys
    for role, name in roles.items():
        column, where = frame[name], f"{source}, column '{name}'"
        if role in columns:
            continue
        if role in ITEMS:
            columns[role] = _texts(column, where, lists=role != "anchor")
        elif role in NUMBERS:
            columns[role] = _numbers(column, where)
        elif role == "split":
            columns[role] = _splits(column, where)
        elif role == "time":
            columns[role] = column if "split" in roles else _times(column, where)
        else:
            columns[role] = _plain(column, where, "one name or number a cell").cast(pl.String).str.strip_chars()
    table = pl.DataFrame({role: columns[role] for role in ("row", *roles)})
    return Samples(table, roles, tuple(c for c in frame.columns if c not in roles.values()), source, items)


def _arrays(frame: pl.DataFrame, roles: Mapping[str, str], source: str) -> tuple[dict[str, pl.Series], Items]:
    """The columns of arrays as keys.

    Raises:
        Refusal: a positive or negative that is no array where the anchor is one.
    """
    mine = {role: name for role, name in roles.items() if role in ITEMS}
    where = {role: f"{source}, column '{name}'" for role, name in mine.items()}
    for role, name in mine.items():
        if not is_array(frame.schema[name]):
            remedy = f"anchor and {role} are read by one encoder; leave it out with --ignore {shlex.quote(name)}"
            raise Refusal(
                "arrays, as the anchor is", f"cells of type {frame.schema[name]}", where=where[role], remedy=remedy
            )
    return to_keys({role: frame[name] for role, name in mine.items()}, where)


def _texts(column: pl.Series, where: str, *, lists: bool) -> pl.Series:
    kind = column.dtype
    if kind.base_type() in (pl.List, pl.Array):
        if not lists:
            raise Refusal("one text a cell", f"a list of {kind.inner}", where=where)  # type: ignore[attr-defined]
        _plain(column.explode(), where, "a list of texts")
        cells = [
            [str(x).strip() for x in cell if x is not None] if cell is not None else [] for cell in column.to_list()
        ]
        return pl.Series(cells, dtype=pl.List(pl.String))
    _plain(column, where, "text")
    stripped = column.cast(pl.String).fill_null("").str.strip_chars()
    if not lists:
        return stripped
    return pl.Series([_as_list(cell) for cell in stripped.to_list()], dtype=pl.List(pl.String))


def _as_list(cell: str) -> list[str]:
    """One text, or the texts of a JSON list."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            inner = json.loads(cell)
        except (ValueError, RecursionError):
            return [cell]
        if all(isinstance(x, str | None) for x in inner):
            return [x.strip() for x in inner if x is not None]
    return [cell] if cell else []


def _plain(column: pl.Series, where: str, wanted: str) -> pl.Series:
    """The column, unless its cells are no plain values."""
    others = {pl.Struct: "fields", pl.Binary: "bytes", pl.Object: "Python objects"}
    kind = column.dtype.base_type()
    if column.dtype.is_nested() or kind in others:
        came = f"cells that hold {others.get(kind, 'lists')}"
        raise Refusal(wanted, came, where=where, remedy="make a column of what is meant, or leave it out with --ignore")
    return column


def _numbers(column: pl.Series, where: str) -> pl.Series:
    kind = _plain(column, where, "a number a cell").dtype
    if not (kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Null)):
        raise Refusal("a number a cell", f"cells of type {kind}", where=where)
    numbers = column.cast(pl.Float64, strict=False)
    wrong = ((numbers.is_null() & column.is_not_null()) | numbers.is_infinite().fill_null(value=False)).arg_true()
    if len(wrong):
        raise Refusal("a number", f"'{short(str(column[wrong[0]]))}'", where=f"{where}, row {wrong[0] + 1}")
    return numbers.fill_nan(None)


def _times(column: pl.Series, where: str) -> pl.Series:
    """Numbers, dates, or text that sorts as one of them."""
    kind = _plain(column, where, "a time a cell").dtype
    if kind != pl.String:
        return column.fill_nan(None) if kind.is_float() else column
    texts = column.str.strip_chars().replace("", None)
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() == texts.null_count():
        return numbers.fill_nan(None)
    wrong = (~texts.str.contains(ISO_DATE)).fill_null(value=False).arg_true()
    if len(wrong):
        came, row = f"'{short(texts[wrong[0]])}'", f"{where}, row {wrong[0] + 1}"
        raise Refusal("a time that sorts: a number, or a date such as 2026-01-31", came, where=row)
    return texts


def _splits(column: pl.Series, where: str) -> pl.Series:
    _plain(column, where, "train, dev or test")
    names = [SPLITS.get(str(cell).strip().lower()) for cell in column.to_list()]
    wrong = next((i for i, name in enumerate(names) if name is None), None)
    if wrong is not None:
        came = "an empty cell" if column[wrong] is None else f"'{short(str(column[wrong]))}'"
        raise Refusal("train, dev or test", came, where=f"{where}, row {wrong + 1}")
    return pl.Series(names, dtype=pl.String)
