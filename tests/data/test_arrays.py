"""Arrays from files and frames into keys and a store; identity; every way that they can be wrong."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from counterpoint.data.arrays import MISSING, Arrays
from counterpoint.data.batches import Rows
from counterpoint.data.identity import array_ids, content_id, ids_of
from counterpoint.data.lint import clean, lint
from counterpoint.data.roles import assign
from counterpoint.data.sources import read
from counterpoint.errors import Refusal

X = np.random.default_rng(0).normal(size=(30, 2, 3)).astype(np.float32)


def store_of(samples: object) -> Arrays:
    assert isinstance(samples.items, Arrays)
    return samples.items


def test_ids_never_change() -> None:
    row = np.array([[1.0, -2.5, 0.0]])
    assert array_ids(row) == [5923288117443086850]
    start = hashlib.blake2b(b"(3,)", digest_size=8, person=b"array")
    start.update(np.array([1, -2.5, 0], "<f4").tobytes())
    assert array_ids(row) == [int(start.hexdigest(), 16) // 2]


@pytest.mark.parametrize("kind", ["<f8", ">f4", "f2", "i8", "u1", "bool"])
def test_equal_numbers_have_one_id_whatever_their_type(kind: str) -> None:
    ones = np.array([[1, 0, 1], [0, 0, 1]])
    assert array_ids(ones.astype(kind)) == array_ids(ones.astype(np.float32))
    assert array_ids(np.asfortranarray(ones)) == array_ids(ones)
    assert array_ids(-0.0 * ones) == array_ids(0.0 * ones)


def test_shape_and_numbers_make_the_id() -> None:
    ids = array_ids(np.random.default_rng(0).normal(size=(50_000, 3)))
    assert len(set(ids)) == 50_000
    assert min(ids) >= 0
    flat = np.arange(6.0).reshape(1, 6)
    assert len({*array_ids(flat), *array_ids(flat.reshape(1, 2, 3)), *array_ids(flat[:, ::-1])}) == 3
    text = np.frombuffer(b"(3,)abcdabcdabcd"[4:], "<f4").reshape(1, 3)
    assert array_ids(text) != [content_id("(3,)abcdabcdabcd")], "texts and arrays are told apart"
    assert ids_of(torch.from_numpy(X)).tolist() == array_ids(X)
    assert ids_of(["a"]).tolist() == [content_id("a")]


def test_equal_rows_have_one_key_in_any_role(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", anchor=X, positive=X[::-1].astype(np.float64), negative=np.stack([X, X + 1], 1))
    samples = assign(read(tmp_path / "a.npz"))
    frame, store = samples.frame, store_of(samples)
    assert [cell[0] for cell in frame["positive"]] == frame["anchor"].to_list()[::-1]
    assert [cell[0] for cell in frame["negative"]] == frame["anchor"].to_list()
    assert store.values.shape == (60, 2, 3)
    assert torch.equal(store.take(frame["anchor"].to_list()), torch.from_numpy(X))
    assert store.ids(frame["anchor"]) == array_ids(X)
    assert store.show(frame["anchor"][4]).startswith("row 5: ")
    assert "row 5 (negative)" in store.show(frame["negative"][4][1])
    rows = Rows.of(frame, store)
    batch = rows.take(np.array([3, 1]))
    assert torch.equal(batch["anchor"], torch.from_numpy(X[[3, 1]]))
    assert torch.equal(batch["negative"][0], torch.from_numpy(np.stack([X[3], X[3] + 1])))
    positives = rows.relation.positives(array_ids(X)[3])
    assert positives == {array_ids(X)[26]: 1.0}


def parquet(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_parquet(path)
    return path


def ways(tmp_path: Path) -> list[object]:
    """The same 30 arrays with labels in every form that is read."""
    flat, y = X.reshape(30, 6), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x=flat, y=y)
    np.savez_compressed(tmp_path / "b.npz", features=flat.astype(">f4"), target=y)
    lists = {"x": flat.astype(float).tolist(), "y": y.tolist()}
    nested = pl.DataFrame({"x": pl.Series(flat), "y": y})
    jsonl = tmp_path / "a.jsonl"
    pl.DataFrame(lists).write_ndjson(jsonl)
    return [
        tmp_path / "a.npz", tmp_path / "b.npz", lists, nested, parquet(nested, tmp_path / "a.parquet"), jsonl,
        parquet(pl.DataFrame(lists), tmp_path / "b.parquet"), {"x": flat, "y": y}, {"x": torch.from_numpy(flat), "y": y},
        pd.DataFrame({"x": list(flat), "y": y}), [{"x": row, "y": str(k)} for row, k in zip(flat.tolist(), y, strict=True)],
    ]  # fmt: skip


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    expected = [f"{i:016x}" for i in array_ids(X.reshape(30, 6))]
    for data in ways(tmp_path):
        samples = assign(read(data))
        assert samples.frame["anchor"].to_list() == expected
        assert samples.frame["label"].to_list() == [str(i % 3) for i in range(30)]


def test_an_npy_file_and_a_bare_array_are_anchors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for data in (tmp_path / "x.npy", X):
        samples = assign(read(data))
        assert samples.columns == {"anchor": "anchor"}
        assert store_of(samples).shape == (2, 3)


def test_a_table_of_texts_keeps_its_roles_beside_a_column_of_vectors() -> None:
    frame = pl.DataFrame({"text": ["a", "b"], "features": [[1.0], [2.0]], "y": [1, 2], "target": ["t", "u"]})
    samples = assign(frame)
    assert samples.columns == {"anchor": "text"}
    assert samples.items.kind == "text"


def test_names_of_arrays_give_roles_as_columns_do() -> None:
    frame = read({"query": X, "doc": X + 1, "y": np.arange(30), "split": np.array(["train", "test"] * 15)})
    samples = assign(frame.drop("y"))
    assert dict(samples.columns) == {"anchor": "query", "positive": "doc", "split": "split"}
    assert dict(assign(frame.drop("doc")).columns) == {"anchor": "query", "label": "y", "split": "split"}
    with pytest.raises(Refusal, match="--anchor x or --anchor features"):
        assign(read({"x": X, "features": X}))


def npz(**arrays: object) -> bytes:
    whole = io.BytesIO()
    np.savez(whole, **arrays)
    return whole.getvalue()


def npy(array: object) -> bytes:
    whole = io.BytesIO()
    np.save(whole, np.asarray(array))
    return whole.getvalue()


WRONG = [
    ("empty file", "a.npz", b"", "an empty file"),
    ("not numpy", "a.npz", b"PK\x03\x04 and then nothing", "a whole .npz file"),
    ("cut short", "a.npz", npz(x=X)[:-40], "a whole .npz file"),
    ("cut short", "a.npy", npy(X)[:-40], "a whole .npy file"),
    ("objects", "a.npy", npy(np.array([[1, "a"], [{}, 2]], dtype=object)), "objects"),
    ("objects", "a.npz", npz(x=np.array([[1, None]], dtype=object)), "objects"),
    ("no array", "a.npz", npz(), "arrays, got none"),
    ("0-d", "a.npz", npz(x=X, y=np.array(3)), r"single value \(0-d\).*array 'y'"),
    ("no row", "a.npz", npz(x=X[:0]), r"at least one row.*\(0, 2, 3\)"),
    ("no number", "a.npy", npy(X[:, :, :0]), "at least one row and one number"),
    ("lengths", "a.npz", npz(x=X, y=np.zeros(29)), "30 rows of 'x', 29 rows of 'y'"),
    ("complex", "a.npy", npy(X + 1j), "complex"),
    ("fields", "a.npy", npy(np.zeros(3, dtype=[("a", "f4")])), "fields"),
    ("one number a row", "a.npy", npy(np.zeros(30)), r"x\[:, None\]"),
    ("texts of two axes", "a.npz", npz(x=np.array([["a", "b"]])), "one text or time a row"),
    ("positive of another shape", "a.npz", npz(x=X, positive=X[:, :, :2]), "2 x 3, got 2 x 2.*positive"),
    ("texts beside arrays", "a.npz", npz(x=X, positive=np.array(["a"] * 30)), "arrays, as the anchor is.*'positive'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "content", "words"), WRONG, ids=[f"{w[0]} {w[1]}" for w in WRONG])
def test_wrong_files_are_one_line(name: str, file: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(Refusal, match=words) as refusal:
        assign(read(tmp_path / file))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([[1.0, 2.0], [1.0]], "one shape.*1 and 2 numbers.*row 2"),
        ([[[1.0, 2.0], [1.0, 2.0]], [[1.0], [2.0]]], "1 and 2 numbers.*row 2"),
        ([[], [1.0]], "1 and 0 numbers"),
        ([[1.0], []], "0 and 1 numbers"),
    ],
)
def test_ragged_cells_are_refused(cells: list, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        assign(pl.DataFrame({"x": cells}))


def test_rows_that_are_not_finite_have_no_key_and_are_left_out() -> None:
    x = X.reshape(30, 6).astype(float)
    x[3, 1], x[5, 2], x[7, 0] = np.nan, np.inf, 1e39
    cells: list = x.tolist()
    cells[9], cells[11][4] = None, None
    samples = assign(pl.DataFrame({"x": cells}))
    bad = [3, 5, 7, 9, 11]
    assert [i for i, key in enumerate(samples.frame["anchor"]) if key == MISSING] == bad
    (finding,) = lint(samples)
    assert (finding.code, finding.level, finding.rows) == ("not-finite", "refuse", tuple(i + 1 for i in bad))
    assert clean(samples).frame["row"].to_list() == [i for i in range(30) if i not in bad]


def test_negatives_that_are_not_finite_are_found_too() -> None:
    negatives = [[[1.0, 2.0], [float("nan"), 1.0]], *([[]] * 29)]
    samples = assign(pl.DataFrame({"x": X[:, 0, :2].tolist(), "positive": X[:, 1, :2].tolist(), "negative": negatives}))
    assert [(f.code, f.rows) for f in lint(samples)] == [("not-finite", (1,))]
    assert [len(cell) for cell in clean(samples).frame["negative"]] == [1] + [0] * 29


def test_what_is_found_in_texts_is_found_in_arrays() -> None:
    flat = X.reshape(30, 6)
    one = assign(read({"x": flat, "y": np.zeros(30)}))
    assert [f.code for f in lint(one)] == ["one-class"]
    twice = assign(read({"x": flat[[*range(29), 0]], "y": np.arange(30) % 2}))
    assert [f.code for f in lint(twice)] == []  # one array with two labels is no repetition
    twice = assign(read({"x": flat[[*range(29), 0]], "y": np.arange(30) % 29 % 2}))
    assert [(f.code, f.rows) for f in lint(twice)] == [("duplicate-rows", (30,))]
    leak = assign(read({"x": flat[[*range(29), 0]], "split": np.array(["train"] * 20 + ["test"] * 10)}))
    assert [(f.code, f.rows) for f in lint(leak)] == [("leak", (1,))]
    same = assign(read({"x": flat, "positive": np.ones((30, 6))}))
    assert [f.code for f in lint(same)] == ["no-negatives"]
    assert "same array" in str(lint(same)[0])
    itself = assign(read({"x": flat, "positive": np.concatenate([flat[:1], flat[1:] + 1])}))
    assert [(f.code, f.rows) for f in lint(itself)] == [("positive-is-anchor", (1,))]


def test_constant_numbers_are_named() -> None:
    flat = X.reshape(30, 6).copy()
    flat[:, [1, 4]] = 3
    (finding,) = lint(assign(read({"x": flat})))
    assert (finding.code, finding.level) == ("constant-numbers", "warn")
    assert "2 of 6 numbers of an array never change (numbers 2, 5)" in str(finding)


class Trap:
    """What runs when it is unpickled makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["a.npy", "a.npz"])
def test_nothing_in_a_file_is_ever_run(file: str, tmp_path: Path) -> None:
    objects = np.array([[Trap(tmp_path / "trap")]], dtype=object)
    (tmp_path / file).write_bytes(npy(objects) if file == "a.npy" else npz(x=objects))
    with pytest.raises(Refusal, match="objects"):
        read(tmp_path / file)
    assert not (tmp_path / "trap").exists()
