"""Files of numpy: npz, several arrays by name, and npy, one array of anchors. Nothing in them is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl

from counterpoint.errors import Refusal

REAL = "biuf"  # numpy's kinds of numbers that an encoder reads
WORDS = "US"  # of text, for labels and groups
TIMES = "mM"


def read_numpy(path: Path) -> pl.DataFrame:
    """The arrays of an npz file as columns, or that of an npy file as the column "anchor"; the first axis is the rows.

    Raises:
        Refusal: a damaged file, objects, arrays without rows or of different lengths.
    """
    if not path.stat().st_size:
        raise Refusal("arrays", "an empty file", where=str(path))
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            arrays = {"anchor": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            remedy = "objects are pickled code and are not loaded; save arrays of numbers: array.astype('float32')"
            raise Refusal("arrays of numbers", "objects, or no numpy file", where=str(path), remedy=remedy) from error
        remedy = "it was cut short, or numpy did not write it"
        raise Refusal(f"a whole {path.suffix} file", error, where=str(path), remedy=remedy) from error
    return as_frame(arrays, str(path))


def as_frame(arrays: dict[str, np.ndarray], where: str) -> pl.DataFrame:
    """Named arrays of equal first axis as columns.

    >>> as_frame({"x": np.zeros((2, 3)), "y": np.array([0, 1])}, "data").schema["x"].shape
    (3,)

    Raises:
        Refusal: as `read_numpy`.
    """
    if not arrays:
        raise Refusal("arrays", "none", where=where)
    for name, array in arrays.items():
        _refuse_odd(array, name, where)
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        came = ", ".join(f"{n} rows of '{name}'" for name, n in sizes.items())
        raise Refusal("arrays with as many rows each", came, where=where)
    if not any(array.ndim > 1 or array.dtype.kind in WORDS for array in arrays.values()):
        remedy = "if each number is a sample, give it an axis: x[:, None]"
        raise Refusal("arrays of shape [rows, numbers]", "one number a row", where=where, remedy=remedy)
    return pl.DataFrame({name: _series(name, array) for name, array in arrays.items()})


def _refuse_odd(array: np.ndarray, name: str, where: str) -> None:
    where = f"{where}, array '{name}'"
    if array.dtype.kind not in REAL + WORDS + TIMES:
        kinds = {"O": "objects", "c": "complex numbers", "V": "fields or bytes"}
        raise Refusal("an array of real numbers", kinds.get(array.dtype.kind, str(array.dtype)), where=where)
    if array.ndim == 0:
        remedy = "leave it out of the file, or give it one value a row"
        raise Refusal("an array with a row for each sample", "a single value (0-d)", where=where, remedy=remedy)
    if not array.size:
        raise Refusal("at least one row and one number a row", f"the shape {array.shape}", where=where)
    if array.ndim > 1 and array.dtype.kind not in REAL:
        raise Refusal("one text or time a row, or numbers", f"the shape {array.shape}", where=where)


def _series(name: str, array: np.ndarray) -> pl.Series:
    if array.dtype.kind in "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)  # types that polars does not have
    return pl.Series(name, np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
