"""Arrays as items: cells of numbers in a table become keys, and a store that knows the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from counterpoint.data.identity import array_ids
from counterpoint.errors import Refusal

if TYPE_CHECKING:
    from torch import Tensor

MISSING = ""  # the key of an array with NaN, infinite or missing numbers: such a row cannot be used
FIRST = 6  # numbers of an array that are shown


def is_array(kind: Any) -> bool:
    """Whether cells of this type are arrays of numbers.

    >>> is_array(pl.Array(pl.Float32, 3)), is_array(pl.List(pl.List(pl.Int8))), is_array(pl.List(pl.String))
    (True, True, False)
    """
    return depth_of(kind) > 0 and (_inner(kind).is_numeric() or _inner(kind) == pl.Boolean)


def depth_of(kind: Any) -> int:
    """How many axes a cell of this type has."""
    return 1 + depth_of(kind.inner) if isinstance(kind, pl.List | pl.Array) else 0


def _inner(kind: Any) -> Any:
    return _inner(kind.inner) if isinstance(kind, pl.List | pl.Array) else kind


@dataclass(frozen=True)
class Arrays:
    """Arrays of one shape, each once, by key.

    Args:
        values: [m, ...] float32, all finite.
        place: key -> index in `values`.
        source: for each of them the row that it was seen in first, from 1, and a note such as its role.

    >>> store, keys = Arrays.of(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]), [1, 2, 3])
    >>> len(set(keys)), store.show(keys[2])
    (2, 'row 1: 1 2')
    """

    kind: ClassVar[str] = "arrays"
    values: np.ndarray
    place: Mapping[str, int] = field(repr=False)
    source: tuple[tuple[int, str], ...] = field(repr=False)

    @classmethod
    def of(cls, rows: np.ndarray, at: Sequence[int], note: str = "") -> tuple[Arrays, list[str]]:
        """A store of arrays, and the key of each."""
        return cls(np.empty((0, *rows.shape[1:]), np.float32), {}, ()).added(rows, at, note)

    def added(self, rows: np.ndarray, at: Sequence[int], note: str = "") -> tuple[Arrays, list[str]]:
        """A store with more arrays, and the key of each of these; `MISSING` for one that is not finite.

        Args:
            rows: [n, ...] of the store's shape.
            at: the row of the data that each is in, from 1.
            note: what they are, where they are no anchors.
        """
        with np.errstate(over="ignore"):  # what is too large for float32 is not finite
            rows = np.asarray(rows).astype(np.float32)
        finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
        place, fresh = dict(self.place), []
        keys = [f"{number:016x}" if good else MISSING for number, good in zip(array_ids(rows), finite, strict=True)]
        for i, key in enumerate(keys):
            if key != MISSING and key not in place:
                place[key] = len(place)
                fresh.append(i)
        values = np.concatenate([self.values, rows[fresh]])
        return Arrays(values, place, (*self.source, *((int(at[i]), note) for i in fresh))), keys

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one."""
        return self.values.shape[1:]

    def take(self, keys: Sequence[str]) -> Tensor:
        """The arrays of these keys, [n, ...]."""
        import torch

        return torch.from_numpy(self.values[[self.place[key] for key in keys]])

    def ids(self, keys: Iterable[str]) -> list[int]:
        """The content identity of each."""
        return [int(key, 16) for key in keys]

    def rows_of(self, keys: Iterable[str]) -> list[int]:
        """The row that each was seen in first, from 1."""
        return [self.source[self.place[key]][0] for key in keys]

    def show(self, key: str) -> str:
        """Where it was seen first, and its first numbers."""
        if key not in self.place:
            return "numbers that are missing or not finite"
        row, note = self.source[self.place[key]]
        numbers = self.values[self.place[key]].reshape(-1)
        more = f" ... ({' x '.join(map(str, self.shape))} numbers)" if len(numbers) > FIRST else ""
        return f"row {row}{f' ({note})' if note else ''}: {' '.join(f'{x:.4g}' for x in numbers[:FIRST])}{more}"


def to_keys(columns: Mapping[str, pl.Series], where: Mapping[str, str]) -> tuple[dict[str, pl.Series], Arrays]:
    """Columns of arrays as columns of keys, by role, and the store of all of them.

    A cell of positive or negative with one axis more than the anchor's holds several arrays.

    Args:
        columns: role -> cells of numbers; "anchor" is among them.
        where: role -> words for messages.

    Raises:
        Refusal: arrays of different shapes, empty arrays.
    """
    depth, store, keys = depth_of(columns["anchor"].dtype), None, {}
    for role, column in columns.items():
        several = role != "anchor" and depth_of(column.dtype) == depth + 1
        known = column.is_not_null()
        counts = np.ones(len(column), np.int64)
        flat = column
        if several:
            counts = _lengths(column).fill_null(0).to_numpy()
            flat = column.filter(counts > 0).explode()
        rows, whole = _dense(flat, where[role])
        if store is not None and rows.shape[1:] != store.shape:
            wanted, came = (" x ".join(map(str, s)) for s in (store.shape, rows.shape[1:]))
            remedy = "one encoder reads all roles"
            raise Refusal(f"arrays of the anchor's shape, {wanted}", came, where=where[role], remedy=remedy)
        at = np.repeat(np.arange(len(column)), counts)
        store = Arrays.of(rows[:0], [])[0] if store is None else store
        store, found = store.added(rows, (at[whole] + 1).tolist(), "" if role == "anchor" else role)
        flat_keys = np.full(len(at), MISSING, dtype=object)
        flat_keys[whole] = found
        if role == "anchor":
            keys[role] = pl.Series(flat_keys.tolist(), dtype=pl.String)
        else:
            ends = np.cumsum(counts)
            cells = [list(flat_keys[e - c : e]) if k else [] for c, e, k in zip(counts, ends, known, strict=True)]
            keys[role] = pl.Series(cells, dtype=pl.List(pl.String))
    assert store is not None
    return keys, store


def _lengths(column: pl.Series) -> pl.Series:
    return column.arr.len() if isinstance(column.dtype, pl.Array) else column.list.len()


def _dense(column: pl.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The cells that are there as one array, and which of them are.

    Raises:
        Refusal: cells of different shapes, or without a number.
    """
    whole = column.is_not_null().to_numpy()
    column, rows, shape = column.drop_nulls(), np.flatnonzero(whole), []
    count = len(column)
    while isinstance(column.dtype, pl.List | pl.Array):
        lengths = _lengths(column).fill_null(0).to_numpy()
        odd = np.flatnonzero(lengths != lengths[:1])
        if len(odd) or (len(lengths) and not lengths[0]):
            row = int(odd[0] if len(odd) else 0) * count // len(lengths)
            came = f"{lengths[odd[0]]} and {lengths[0]} numbers" if len(odd) else "an empty array"
            place = f"{where}, row {rows[row] + 1}"
            raise Refusal("arrays of one shape in every row", came, where=place, remedy="cut or pad them first")
        shape.append(int(lengths[0]) if len(lengths) else 1)
        column = column.explode()
    numbers = column.cast(pl.Float32, strict=False).to_numpy()  # what is missing inside of an array is NaN
    return numbers.reshape(count, *shape), whole
