"""`embed`: the vectors of a data file as parquet, written a group of rows at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

import counterpoint
from counterpoint.data.roles import Samples
from counterpoint.errors import Refusal, closest
from counterpoint.verbs import table_file
from counterpoint.verbs.console import Screen
from counterpoint.verbs.prepare import inspect
from counterpoint.verbs.settings import Run
from counterpoint.verbs.systems import System, system_of

ROWS = 8192  # of a group, whose vectors are in memory at a time
CHUNK = 1024  # items between two movements of the bar
DTYPES = ("float32", "float16", "int8", "binary")
ROLES = ("anchor", "positive")
KEPT = ("id", "label", "group", "split", "time", "source")  # roles whose columns go with the vectors
SETTINGS = ("roles", "delimiter", "prompts", "lengths", "precision", "device", "trust_remote_code")


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Args:
        path: the file.
        rows: in it.
        width: d, dimensions of a vector.
        items: different texts or arrays among the rows; each was embedded once.
        empty: rows of the data without a text, which are left out.
        resumed: rows whose vectors an earlier run that was killed had left.
    """

    path: Path
    rows: int
    width: int
    items: int
    empty: int
    resumed: int


def embed(
    model: str | Path,
    data: object,
    out: str | Path,
    *,
    role: str = "anchor",
    dtype: str = "float32",
    quiet: bool = False,
    **settings: Any,
) -> Embedded:
    """Write the unit-length vector of every row of a data file as parquet: row (from 1), the text, its vector, and the
    id, label, group, split, time and source of the row where the data have them.

    The file appears when it is whole. Until then groups of rows lie in a folder beside it, .<name>.unfinished; the same
    call goes on with them after it was killed, and begins anew where the data, the model or a setting changed. The data
    are read as `fit` reads them; of the vectors one group is in memory, and those of texts that come again later.

    Args:
        model: whatever `--model` of `evaluate` takes.
        data: whatever `fit` takes.
        out: a .parquet file that does not exist yet.
        role: "anchor", or "positive": that role's prompt and length, and its column where the data have one; a row with
            several positives is several rows.
        dtype: of the numbers: "float32"; "float16"; "int8": 127 times the row over its largest absolute number, whose
            cosines are those of the row but for rounding; "binary": one bit a dimension, set above 0, eight of them a byte,
            the first the highest.
        quiet: print nothing.
        settings: roles, delimiter, prompts, lengths, precision, device and trust_remote_code of `Run`.

    Raises:
        Refusal: for input that cannot be used, or a place that cannot be written.

    >>> import tempfile
    >>> rows = [{"query": "a text"}, {"query": "another"}, {"query": "a text"}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = embed("sentence-transformers/all-MiniLM-L6-v2", rows, f"{folder}/x.parquet", quiet=True)
    >>> found.rows, found.items, found.width
    (3, 2, 384)
    """
    run = _settings(model, role, dtype, settings)
    path, screen = table_file.place_of(out, "OUT", (".parquet",)), Screen(quiet=quiet)
    with screen.stage("reading the data"):
        samples, _ = inspect(data, run, checked=True, matched=False)
        frame, empty = _rows_of(samples, role)
    system = system_of(str(model), samples.items, run, screen)
    if system.embed is None:
        raise Refusal("a model that embeds", "a cross-encoder, which scores pairs", where=str(model))
    place = path.with_name(f".{path.name}.unfinished")
    whole = _Whole(frame, system, role, dtype)
    with screen.stage("embedding", total=len(frame)) as tick:
        try:
            resumed = whole.parts(place, _mark(whole, run), tick)
            with screen.stage("putting the file together"):
                _together(place, path)
        except (OSError, pl.exceptions.PolarsError) as error:
            came = getattr(error, "strerror", None) or str(error).splitlines()[0]
            remedy = f"the same command goes on with what is in {place}"
            raise Refusal("room and permission to write the file", came, where=f"OUT {out}", remedy=remedy) from error
    found = Embedded(path, len(frame), whole.width, frame["key"].n_unique(), empty, resumed)
    _tell(found, screen)
    return found


def _settings(model: str | Path, role: str, dtype: str, given: Mapping[str, Any]) -> Run:
    """The settings of a run that matter here."""
    unknown = next((name for name in given if name not in SETTINGS), None)
    if unknown is not None:
        raise Refusal("a setting of embed", f"'{unknown}'", remedy=closest(unknown, SETTINGS))
    if role not in ROLES:
        raise Refusal("the role anchor or positive", f"'{role}'", where="--role")
    if dtype not in DTYPES:
        raise Refusal("one of " + ", ".join(DTYPES), f"'{dtype}'", where="--dtype")
    if dtype == "float16" and not hasattr(pl, "Float16"):
        raise Refusal("a polars that has float16", f"polars {pl.__version__}", where="--dtype", remedy="update polars")
    return Run(model=str(model), **given)


def _rows_of(samples: Samples, role: str) -> tuple[pl.DataFrame, int]:
    """A row for each vector, with the item as "key", and how many were left out because they are empty."""
    column = role if samples.has(role) else "anchor"
    frame = samples.frame.select(pl.col("row") + 1, *(r for r in KEPT if samples.has(r)), key=pl.col(column))
    if isinstance(frame.schema["key"], pl.List):
        frame = frame.explode("key")
    whole = frame.filter(pl.col("key").is_not_null())
    if samples.items.kind == "text":
        whole = whole.filter(pl.col("key").str.strip_chars() != "").with_columns(text=pl.col("key"))
    if not len(whole):
        raise Refusal("at least one text", "none", where=f"{samples.source}, column '{samples.columns[column]}'")
    return whole, len(frame) - len(whole)


class _Whole:
    """All rows and the model that reads them.

    Args:
        frame: a row for each vector; of equal keys one is embedded.
        system: the model.
        role: as `embed`.
        dtype: as `embed`.
    """

    def __init__(self, frame: pl.DataFrame, system: System, role: str, dtype: str) -> None:
        self.frame, self.system, self.dtype = frame, system, dtype
        self.role: Any = role
        self.probe = self.of(frame["key"][:1].to_list())
        self.width = self.probe.shape[1]
        if dtype == "binary" and self.width % 8:
            raise Refusal("a width that eight divides", self.width, where="--dtype binary")
        group = pl.int_range(pl.len()) // ROWS
        seen = (
            frame.select("key", group=group).group_by("key").agg(pl.col("group").min().alias("first"), pl.max("group"))
        )
        again = seen.filter(pl.col("first") < pl.col("group"))
        self.last: dict[str, int] = dict(zip(again["key"].to_list(), again["group"].to_list(), strict=True))
        self.held: dict[str, Tensor] = {}

    def of(self, keys: Sequence[str]) -> Tensor:
        """The vectors of some keys."""
        assert self.system.embed is not None
        return self.system.embed(keys, self.role)

    def parts(self, place: Path, mark: str, tick: Callable[..., None]) -> int:
        """Write a file for each group that is not there yet; how many rows were there."""
        begun = place / "begun.json"
        if not begun.exists() or begun.read_text(encoding="utf-8") != mark:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            begun.write_text(mark, encoding="utf-8")
        resumed = 0
        for g, start in enumerate(range(0, len(self.frame), ROWS)):
            part, file = self.frame.slice(start, ROWS), place / f"part-{g:06}.parquet"
            if file.exists():
                resumed += len(part)
                tick(len(part))
                continue
            table = part.drop("key").with_columns(packed(self._vectors(part["key"].to_list(), g, tick), self.dtype))
            scratch = file.with_suffix(".unfinished")
            table.write_parquet(scratch)
            scratch.replace(file)
        return resumed

    def _vectors(self, keys: list[str], g: int, tick: Callable[..., None]) -> Tensor:
        """The rows of a group; a key that comes again in a later group is held until then."""
        fresh = sorted((key for key in dict.fromkeys(keys) if key not in self.held), key=len)
        found: dict[str, Tensor] = {}
        for some in _chunks(fresh):
            started = time.monotonic()
            found |= zip(some, self.of(some), strict=True)
            rate = len(some) / (time.monotonic() - started)
            tick(len(keys) * len(some) / len(fresh), note=f"{rate:,.0f} a second")
        z = torch.stack([found[key] if key in found else self.held[key] for key in keys])
        self.held |= {key: row.clone() for key, row in found.items() if self.last.get(key, g) > g}
        self.held = {key: row for key, row in self.held.items() if self.last[key] > g}
        return z


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    yield from (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))


def packed(z: Tensor, dtype: str) -> pl.Series:
    """Unit rows [n, d] as a column "vector" of fixed-size lists; `embed` says what each kind of number means.

    >>> [packed(torch.tensor([[0.6, -0.8, 0, 0, 0, 0, 0, 0]]), kind).to_list()[0] for kind in ("int8", "binary")]
    [[95, -127, 0, 0, 0, 0, 0, 0], [128]]
    """
    if dtype == "binary":
        return pl.Series("vector", np.packbits(z.numpy() > 0, axis=1))
    if dtype == "int8":
        largest = z.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
        return pl.Series("vector", (z / largest * 127).round().to(torch.int8).numpy())
    column = pl.Series("vector", z.numpy())
    return column if dtype == "float32" else column.cast(pl.Array(pl.Float16, z.shape[1]))


def _mark(whole: _Whole, run: Run) -> str:
    """What has to be equal for parts to be gone on with: all rows, the vector of the first, how numbers are written."""
    content = hashlib.sha256(whole.frame.hash_rows(seed=0).to_numpy().tobytes() + whole.probe.numpy().tobytes())
    told = {"rows": ROWS, "dtype": whole.dtype, "version": counterpoint.__version__, "polars": pl.__version__}
    told |= {"prompts": dict(run.prompts), "lengths": dict(run.lengths), "precision": run.precision}
    return json.dumps(told | {"content": content.hexdigest()})


def _together(place: Path, path: Path) -> None:
    """One file of all parts, which takes its place whole."""
    scratch = place / "whole.unfinished"
    pl.scan_parquet(sorted(place.glob("part-*.parquet"))).sink_parquet(scratch, row_group_size=ROWS)
    table_file.place_of(path, "OUT", (".parquet",))  # nobody took it meanwhile
    scratch.replace(path)
    shutil.rmtree(place, ignore_errors=True)


def _tell(found: Embedded, screen: Screen) -> None:
    """What was written, in a line."""
    more = [f"{found.items:,} different"] if found.items < found.rows else []
    more += [f"{found.empty:,} empty ones left out"] if found.empty else []
    more += [f"{found.resumed:,} were there from a run before"] if found.resumed else []
    screen.say(
        f"{found.rows:,} vectors of width {found.width} in {found.path}" + "".join(f"; {words}" for words in more)
    )
