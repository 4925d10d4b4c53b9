"""Files that a verb writes: whole or not at all, never over another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from counterpoint.errors import Refusal

ENDINGS = (".parquet", ".jsonl", ".csv")


def place_of(out: str | Path, flag: str = "--out", endings: Sequence[str] = ENDINGS) -> Path:
    """Where the file will be; `flag` is what named it.

    Raises:
        Refusal: something is there, the folder is not, or the ending is none that is written.
    """
    path = Path(out)
    where = f"{flag} {out}"
    if path.suffix.lower() not in endings:
        came = f"the ending {path.suffix}" if path.suffix else "none"
        ends = f"that ends in {endings[0]}" if len(endings) == 1 else "with one of the endings " + ", ".join(endings)
        raise Refusal(f"a file {ends}", came, where=where)
    if os.path.lexists(path):
        remedy = "nothing is written over; name another file"
        raise Refusal("a file that does not exist yet", "one that does", where=where, remedy=remedy)
    if not path.parent.is_dir():
        raise Refusal("a folder to write the file in", f"no folder {path.parent}", where=where)
    if not os.access(path.parent, os.W_OK):
        raise Refusal("a folder that may be written", f"no permission for {path.parent}", where=where)
    return path


def write(frame: pl.DataFrame, path: Path, flag: str = "--out") -> None:
    """Write a table beside the place, then take it.

    Raises:
        Refusal: the disk is full, or something took the place meanwhile.
    """
    _take(path, flag, lambda scratch: _write(frame, scratch, path.suffix.lower()))


def write_json(value: object, path: Path, flag: str = "--out") -> None:
    """Write plain values beside the place, then take it.

    Raises:
        Refusal: as `write`.
    """
    _take(path, flag, lambda scratch: scratch.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8"))


def _take(path: Path, flag: str, fill: Callable[[Path], object]) -> None:
    scratch = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        fill(scratch)
        place_of(path, flag, (path.suffix.lower(),))  # nobody took it meanwhile
        scratch.replace(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        came = getattr(error, "strerror", None) or str(error).splitlines()[0]
        remedy = "nothing was kept"
        raise Refusal("room and permission to write the file", came, where=f"{flag} {path}", remedy=remedy) from error
    finally:
        scratch.unlink(missing_ok=True)


def _write(frame: pl.DataFrame, path: Path, ending: str) -> None:
    if ending == ".parquet":
        frame.write_parquet(path)
    elif ending == ".jsonl":
        frame.write_ndjson(path)
    else:
        lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
        cells = {name: [json.dumps(cell, ensure_ascii=False) for cell in frame[name].to_list()] for name in lists}
        frame.with_columns(pl.Series(name, column, dtype=pl.String) for name, column in cells.items()).write_csv(path)
