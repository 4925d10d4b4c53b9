"""Files and in-memory tables, read into one polars frame. Every way that a file can be wrong ends in one line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import polars as pl

from counterpoint.data.npz import as_frame, read_numpy
from counterpoint.errors import Refusal

TABLES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".npz", ".npy")
NOT_YET = {
    ".png": "images",
    ".jpg": "images",
    ".jpeg": "images",
    ".wav": "audio",
    ".flac": "audio",
    ".pt": "tensors",
}
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
# Other endings that tables have -> what to do.
ELSEWHERE = {
    ".json": "write one object a line and name the file .jsonl: jq -c '.[]' OLD.json > NEW.jsonl",
    ".txt": "name it .tsv or .csv after what is between its columns",
    ".xlsx": "save the sheet as csv in UTF-8",
    ".xls": "save the sheet as csv in UTF-8",
    ".zip": "unpack it first",
}
_UTF16 = ("text in UTF-16", "save it as UTF-8, or type: iconv -f utf-16 -t utf-8 OLD > NEW")
_WEB = ("a web page", "the download did not give the data; open the file to see why")
# How a file begins that is not what its ending says -> what it is, and what to do. Compared in lower case.
FOREIGN = {
    codecs.BOM_UTF16_LE: _UTF16,
    codecs.BOM_UTF16_BE: _UTF16,
    b"\x1f\x8b": ("gzip", "let its name end in .gz"),
    b"pk\x03\x04": ("a zip file, which Excel writes too", "save the sheet as csv in UTF-8, or unpack the file"),
    b"par1": ("parquet", "let its name end in .parquet"),
    b"version https://git-lfs": ("a pointer of Git LFS instead of the data", "type: git lfs pull"),
    b"<!doctype html": _WEB,
    b"<html": _WEB,
}
SHOWN = 80  # characters of what came that an error repeats


def read(data: object, *, delimiter: str | None = None) -> pl.DataFrame:
    """A table from a csv, tsv, jsonl or parquet file (csv, tsv and jsonl also as .gz), arrays from an npz or npy file, or
    either from an object in memory.

    csv follows RFC 4180 (quotes, line breaks in cells) and forgives a stray quote; tsv has no quoting, as registered
    for text/tab-separated-values. Cells of both stay text, so labels such as 007 keep their zeros; an empty cell is
    missing.

    Args:
        data: a path; a polars or pandas frame; a `datasets.Dataset`; a list of dicts; a dict of arrays or lists; one
            numpy array of anchors.
        delimiter: one character, for files that do not follow their ending.

    Raises:
        Refusal: what was wanted, what came, and where.

    >>> read([{"query": "a", "doc": "b"}]).columns
    ['query', 'doc']
    """
    if isinstance(data, np.ndarray):
        return as_frame({"anchor": data}, "the array")
    if not isinstance(data, str | Path):
        return _from_memory(data)
    path = Path(data)
    suffix = _suffix_of(path)
    delimiter = None if delimiter is None else _delimiter_of(delimiter, suffix)
    try:
        if suffix == ".parquet":
            return _parquet(path)
        if suffix in (".npz", ".npy"):
            return read_numpy(path)
        content = _bytes_of(path).removeprefix(codecs.BOM_UTF8)
        if not content.strip():
            raise Refusal("a table with a header and rows", "an empty file", where=str(path))
        _refuse_foreign(content, path)
        _refuse_encoding(content, path)
        if suffix in TABLES:
            return _delimited(content, path, delimiter or TABLES[suffix])
        return _json_lines(content, path)
    except PermissionError as error:
        raise Refusal("a file that may be read", "no permission to read it", where=str(path)) from error
    except OSError as error:
        raise Refusal(f"a readable {suffix} file", error.strerror or error, where=str(path)) from error


def _suffix_of(path: Path) -> str:
    where = short(str(path))
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise Refusal("a data file", "no such file", where=where, remedy="check the path for a typing mistake")
    if path.is_dir():
        raise Refusal(
            "a data file", "a folder", where=where, remedy=f"name one file in it, with one of {', '.join(SUFFIXES)}"
        )
    suffixes = [s.lower() for s in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]
    if suffix in NOT_YET:
        raise Refusal(
            "text in a csv, tsv, jsonl or parquet file, or arrays in npz or npy",
            f"{NOT_YET[suffix]} ({suffix})",
            where=where,
            remedy="this kind of data does not work yet; 'counterpoint kinds' says what does",
        )
    if suffix not in SUFFIXES:
        raise Refusal(
            "a file with one of the endings " + ", ".join(SUFFIXES),
            f"the ending {suffix}" if suffix else "none",
            where=where,
            remedy=ELSEWHERE.get(suffix),
        )
    return suffix


def short(text: str) -> str:
    """A text for a message: the beginning of a long one."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _delimiter_of(given: str, suffix: str) -> str:
    delimiter = "\t" if given == "\\t" else given  # as people type a tab
    if suffix not in TABLES:
        raise Refusal("a csv or tsv file", f"a {suffix} file", where="--delimiter", remedy="leave the flag out")
    if len(delimiter.encode("utf-8", "replace")) != 1 or delimiter in '"\r\n':
        raise Refusal("one character of ASCII as the delimiter", repr(short(given)), where="--delimiter")
    return delimiter


def _bytes_of(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Refusal("a whole gzip file", str(error), where=str(path), remedy="copy the file again") from error


def _refuse_foreign(head: bytes, path: Path) -> None:
    """Refuse a file that is something else than its ending says."""
    first = head.split(b"\n", 1)[0].lower()
    found = next((told for magic, told in FOREIGN.items() if first.startswith(magic.lower())), None)
    if found is None and b"\0" in first:
        found = ("zero bytes", "the file is damaged, or UTF-16: iconv -f utf-16le -t utf-8 OLD > NEW")
    if found is not None:
        raise Refusal("the data that the ending promises", found[0], where=f"{path}, line 1", remedy=found[1])


def _refuse_encoding(content: bytes, path: Path) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Refusal(
            "text in UTF-8",
            f"byte 0x{content[error.start]:02x}",
            where=f"{path}, line {line}",
            remedy="the file has another encoding; 'iconv -f latin1 -t utf-8' mends most",
        ) from error


def _parquet(path: Path) -> pl.DataFrame:
    with path.open("rb") as file:
        head = file.read(SHOWN)
    if not head.startswith(b"PAR1"):
        _refuse_foreign(head, path)
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # the second for some damaged pages
        came, remedy = str(error).strip().splitlines()[0], "it was cut short or is not parquet"
        raise Refusal("a whole parquet file", came, where=str(path), remedy=remedy) from error


def _delimited(content: bytes, path: Path, delimiter: str) -> pl.DataFrame:
    """polars reads what follows the rules; record by record what does not, to forgive it or to say the line."""
    names = _header(content, path, delimiter)
    quote = None if delimiter == "\t" else '"'
    try:
        frame = pl.read_csv(content, separator=delimiter, quote_char=quote, infer_schema=False)
    except pl.exceptions.PolarsError:
        return _by_record(content, path, delimiter, names)
    if [name.strip() for name in frame.columns] != names:
        return _by_record(content, path, delimiter, names)
    frame.columns = names
    return frame


def _header(content: bytes, path: Path, delimiter: str) -> list[str]:
    """The names of the columns.

    Raises:
        Refusal: another delimiter, Excel's own first line, or a name that stands twice.
    """
    line, cells = next((line, cells) for line, cells in _records(content, path, delimiter) if cells)
    where, names = f"{path}, line {line}", [cell.strip() for cell in cells]
    first = delimiter.join(names)
    if first.lower().startswith("sep=") and len(first) <= len("sep=;"):
        remedy = "delete that line" + (f", and add --delimiter {first[-1]!r}" if first[-1] != delimiter else "")
        raise Refusal("names of columns", f"the line {first!r} for Excel", where=where, remedy=remedy)
    other = next((d for d in DELIMITERS if d in first), None) if len(names) == 1 else None
    if other is not None:
        raise Refusal(
            f"columns separated by {DELIMITERS.get(delimiter, repr(delimiter))}",
            f"a header with {DELIMITERS[other]}: {short(first)!r}",
            where=str(path),
            remedy=f"add --delimiter {other!r}",
        )
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled == "":
        remedy = "name every column in line 1, or delete the empty ones"
        raise Refusal("a name for every column", f"{names.count('')} without one", where=where, remedy=remedy)
    if doubled is not None:
        raise Refusal("column names that differ", f"'{short(doubled)}' twice", where=where)
    return names


def _records(content: bytes, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record with the line that it starts in. Slower than polars; a stray quote in a cell is a quote.

    Raises:
        Refusal: a quote that is never closed, or text after one that is.
    """
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    longest = csv.field_size_limit(len(content) + 1)
    line = 1
    try:
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")  # in which \r ends a line too
        reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        came = "a quote that is never closed" if "end of data" in str(error) else "text after a closing quote"
        remedy = 'a quote inside of a quoted cell is written twice, ""'
        raise Refusal("cells quoted as in RFC 4180", came, where=f"{path}, line {line}", remedy=remedy) from error
    finally:
        csv.field_size_limit(longest)


def _by_record(content: bytes, path: Path, delimiter: str, names: list[str]) -> pl.DataFrame:
    rows, head = [], True
    for line, cells in _records(content, path, delimiter):
        if len(cells) > len(names):
            raise Refusal(
                f"a row with at most {len(names)} cells, as the header has",
                f"{len(cells)}",
                where=f"{path}, line {line}",
                remedy=f"put a cell that holds {DELIMITERS.get(delimiter, repr(delimiter))} in quotes",
            )
        if cells and not head:
            rows.append([*(cell or None for cell in cells), *[None] * (len(names) - len(cells))])
        head = head and not cells
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _json_lines(content: bytes, path: Path) -> pl.DataFrame:
    try:
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(content.splitlines(), start=1):
            _refuse_json(line, f"{path}, line {number}")
        came = short(str(error).strip().splitlines()[0])
        raise Refusal("the same type in one field of all lines", came, where=str(path)) from error


def _refuse_json(line: bytes, where: str) -> None:
    remedy = None
    if line.lstrip().startswith(b"["):
        remedy = "a JSON array becomes lines with: jq -c '.[]' OLD > NEW.jsonl"
    try:
        if line.strip() and not isinstance(json.loads(line, parse_constant=_no_constant), dict):
            raise Refusal("one JSON object a line", short(line.decode()), where=where, remedy=remedy)
    except (ValueError, RecursionError) as error:
        came = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise Refusal("one JSON object a line", came, where=where, remedy=remedy) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have (write null)")


def _from_memory(data: object) -> pl.DataFrame:
    """polars and pandas frames, datasets, lists of dicts, dicts of columns."""
    try:
        if isinstance(data, pl.DataFrame):
            return data
        if isinstance(data, pl.LazyFrame):
            return data.collect()
        if _library_of(data) == "pandas" and hasattr(data, "columns"):
            return _from_pandas(data)
        if _library_of(data) == "datasets":
            return _from_dataset(data)
        if isinstance(data, Mapping):
            return pl.from_dict({str(k): _column(v, f"the column '{k}'") for k, v in data.items()}, strict=False)
        if isinstance(data, Sequence) and data and all(isinstance(row, Mapping) for row in data):
            return pl.from_dicts(list(data), infer_schema_length=None)
    except Refusal:
        raise
    except UnicodeEncodeError as error:
        remedy = "text.encode('utf-8', 'replace').decode() puts a question mark there"
        came = f"half a character in {short(error.object)!r}"
        raise Refusal("text that UTF-8 can write", came, remedy=remedy) from error
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise Refusal("columns of equal length and one type each", str(error).splitlines()[0]) from error
    came = type(data).__name__
    if isinstance(data, list | tuple):
        other = next((type(row).__name__ for row in data if not isinstance(row, Mapping)), None)
        came = f"a {came} that holds {other}" if other else f"an empty {came}"
    raise Refusal("a path, a polars or pandas frame, a datasets.Dataset, a list of dicts or a dict of columns", came)


def _library_of(data: object) -> str:
    """The package of an object's class, without importing it."""
    return type(data).__module__.partition(".")[0]


def _from_dataset(data: Any) -> pl.DataFrame:
    if isinstance(data, Mapping):
        raise Refusal(
            "one datasets.Dataset", f"a DatasetDict of {', '.join(data)}", remedy="pick one, such as data['train']"
        )
    frame = pl.from_arrow(data.with_format("arrow")[:])
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


def _from_pandas(data: Any) -> pl.DataFrame:
    names = [str(name) for name in data.columns]
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled is not None:
        raise Refusal("column names that differ", f"'{doubled}' twice", where="the frame")
    return pl.from_dict({name: data.iloc[:, i].tolist() for i, name in enumerate(names)}, strict=False)


def _column(values: Any, where: str) -> list | pl.Series:
    if isinstance(values, pl.Series):
        return values
    if getattr(values, "ndim", 0) > 1:  # of numpy or torch; polars keeps the shape of each row
        return as_frame({"cells": np.asarray(values)}, where)["cells"]
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise Refusal("a list of cells", type(values).__name__, where=where)
    return values.tolist() if hasattr(values, "tolist") else list(values)
