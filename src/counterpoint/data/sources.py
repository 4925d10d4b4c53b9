"""Files and in-memory tables, read into one polars frame. Every way that a file can be wrong ends in one line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from counterpoint.errors import Refusal

TABLES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
NOT_YET = {
    ".npz": "arrays",
    ".npy": "arrays",
    ".png": "images",
    ".jpg": "images",
    ".jpeg": "images",
    ".wav": "audio",
    ".flac": "audio",
    ".pt": "tensors",
}
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def read(data: object, *, delimiter: str | None = None) -> pl.DataFrame:
    """A table from a csv, tsv, jsonl or parquet file (csv, tsv and jsonl also as .gz), or from an object in memory.

    csv follows RFC 4180 (quotes, line breaks in cells); tsv has no quoting, as registered for text/tab-separated-values.
    Cells of csv and tsv stay text, so labels such as 007 keep their zeros; an empty cell is missing.

    Args:
        data: a path; a polars or pandas frame; a `datasets.Dataset`; a list of dicts; a dict of arrays or lists.
        delimiter: one character, for files that do not follow their ending.

    Raises:
        Refusal: what was wanted, what came, and where.

    >>> read([{"query": "a", "doc": "b"}]).columns
    ['query', 'doc']
    """
    if not isinstance(data, str | Path):
        return _from_memory(data)
    path = Path(data)
    suffix = _suffix_of(path)
    if delimiter is not None and len(delimiter.encode()) != 1:
        raise Refusal("one character as the delimiter", repr(delimiter), where="--delimiter")
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path)
        content = _bytes_of(path)
        if not content.strip():
            raise Refusal("a table with a header and rows", "an empty file", where=str(path))
        if suffix in TABLES or delimiter:
            return _delimited(content, path, delimiter or TABLES[suffix], given=delimiter is not None)
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise _explain(error, path, suffix) from error
    except PermissionError as error:
        raise Refusal("a file that may be read", "no permission to read it", where=str(path)) from error
    except OSError as error:
        raise Refusal(f"a readable {suffix} file", error.strerror or error, where=str(path)) from error


def _suffix_of(path: Path) -> str:
    if not path.exists():
        raise Refusal("a data file", "no such file", where=str(path), remedy="check the path for a typing mistake")
    if path.is_dir():
        raise Refusal(
            "a data file", "a folder", where=str(path), remedy=f"name one file in it, with one of {', '.join(SUFFIXES)}"
        )
    suffixes = [s.lower() for s in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]
    if suffix in NOT_YET:
        raise Refusal(
            "text in a csv, tsv, jsonl or parquet file",
            f"{NOT_YET[suffix]} ({suffix})",
            where=str(path),
            remedy="this kind of data does not work yet; 'counterpoint kinds' says what does",
        )
    if suffix not in SUFFIXES:
        raise Refusal("a file with one of the endings " + ", ".join(SUFFIXES), path.name, where=str(path))
    return suffix


def _bytes_of(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Refusal("a whole gzip file", str(error), where=str(path), remedy="copy the file again") from error


def _delimited(content: bytes, path: Path, delimiter: str, *, given: bool) -> pl.DataFrame:
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
    header = content.split(b"\n", 1)[0].decode("utf-8").lstrip("\ufeff")
    other = next((d for d in DELIMITERS if d != delimiter and d in header), None)
    if delimiter not in header and other and not given:
        raise Refusal(
            f"columns separated by {DELIMITERS[delimiter]}",
            f"a header with {DELIMITERS[other]}: {header.strip()[:60]!r}",
            where=str(path),
            remedy=f"add --delimiter '{other}'",
        )
    names = [name.strip() for name in header.rstrip("\r").split(delimiter)]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise Refusal("column names that differ", f"'{doubled}' twice", where=f"{path}, line 1")
    quote = None if delimiter == "\t" else '"'
    return pl.read_csv(content, separator=delimiter, quote_char=quote, infer_schema=False)


def _explain(error: Exception, path: Path, suffix: str) -> Refusal:
    first = str(error).strip().splitlines()[0]
    if suffix == ".parquet":
        return Refusal("a whole parquet file", first, where=str(path), remedy="it was cut short or is not parquet")
    if suffix in (".jsonl", ".ndjson"):
        import json

        for number, line in enumerate(_bytes_of(path).splitlines(), start=1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return Refusal("one JSON object a line", line[:40].decode(errors="replace"), where=f"{path}, line {number}")
            except ValueError as wrong:
                return Refusal("one JSON object a line", str(wrong), where=f"{path}, line {number}")
        return Refusal("the same type in one field of all lines", first, where=str(path))
    return Refusal(
        f"a table that follows its {suffix} ending",
        first,
        where=str(path),
        remedy="likely causes: a quote that is never closed, or a row with more cells than the header",
    )


def _from_memory(data: object) -> pl.DataFrame:
    """polars and pandas frames, datasets, lists of dicts, dicts of columns."""
    try:
        if isinstance(data, pl.DataFrame):
            return data
        if isinstance(data, pl.LazyFrame):
            return data.collect()
        if type(data).__module__.startswith("pandas."):
            return pl.from_dict({str(name): data[name].tolist() for name in data.columns}, strict=False)  # type: ignore[attr-defined]
        if type(data).__module__.startswith("datasets."):
            return _from_dataset(data)
        if isinstance(data, Mapping):
            return pl.from_dict({str(k): _column(v) for k, v in data.items()}, strict=False)
        if isinstance(data, Sequence) and data and all(isinstance(row, Mapping) for row in data):
            return pl.from_dicts(list(data), infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise Refusal("columns of equal length and one type each", str(error).splitlines()[0]) from error
    raise Refusal(
        "a path, a polars or pandas frame, a datasets.Dataset, a list of dicts or a dict of columns",
        f"{type(data).__name__} without rows" if isinstance(data, Sequence) else type(data).__name__,
    )


def _from_dataset(data: Any) -> pl.DataFrame:  # noqa: ANN401 - the library is optional
    if isinstance(data, Mapping):
        raise Refusal(
            "one datasets.Dataset", f"a DatasetDict of {', '.join(data)}", remedy="pick one, such as data['train']"
        )
    frame = pl.from_arrow(data.with_format("arrow")[:])
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


def _column(values: Any) -> list:  # noqa: ANN401 - anything with tolist or an iterator
    return values.tolist() if hasattr(values, "tolist") else list(values)
