"""`embed` from end to end: a vector for each row, each text once, whole or not at all, and on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import counterpoint
from counterpoint.cli import app
from counterpoint.encoders import text as encoder
from counterpoint.verbs import embed as verb

SETTINGS: dict[str, Any] = {"precision": "fp32", "quiet": True}
TEXTS = [f"q{i % 5} w{i % 3}" + " w1" * (i % 2) for i in range(60)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "texts.csv"
    rows = {"id": [f"n{i}" for i in range(60)], "page": TEXTS, "doc": [f"d{i}" for i in range(60)], "label": ["x"] * 60}
    pl.DataFrame(rows).write_csv(place)
    return place


def vectors(path: Path) -> np.ndarray:
    return pl.read_parquet(path)["vector"].to_numpy()


def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the model reads from now on."""
    whole, read = encoder.TextEncoder.forward, []

    def forward(self: Any, texts: Any, role: str = "anchor") -> Any:
        read.extend(texts)
        return whole(self, texts, role)

    monkeypatch.setattr(encoder.TextEncoder, "forward", forward)
    return read


def test_each_row_has_its_vector_and_each_text_is_read_once(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "ROWS", 16)
    read = seen(monkeypatch)
    found = counterpoint.embed(tiny, data, tmp_path / "v.parquet", roles={"anchor": "page"}, **SETTINGS)
    different = len(set(TEXTS))
    assert different < 60
    assert (found.rows, found.items, found.width, found.empty, found.resumed) == (60, different, 32, 0, 0)
    assert sorted(read) == sorted([*set(TEXTS), TEXTS[0]])  # one more to see what the model gives
    table = pl.read_parquet(tmp_path / "v.parquet")
    assert table.columns == ["row", "id", "label", "text", "vector"]
    assert table["row"].to_list() == list(range(1, 61))
    assert table["id"].to_list() == [f"n{i}" for i in range(60)]
    assert table["text"].to_list() == TEXTS
    assert table.schema["vector"] == pl.Array(pl.Float32, 32)
    assert np.abs(vectors(tmp_path / "v.parquet") - counterpoint.load(tiny).encode(TEXTS)).max() < 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts.csv", "v.parquet"]


def test_the_positive_has_its_column_and_its_prompt(tiny: Path, tmp_path: Path) -> None:
    rows = [{"query": "q1", "doc": ["d1 w1", "d2"]}, {"query": "q2", "doc": ["", "d3"]}]
    more = {"role": "positive", "prompts": {"positive": "w5 "}, **SETTINGS}
    found = counterpoint.embed(tiny, rows, tmp_path / "v.parquet", **more)
    table = pl.read_parquet(tmp_path / "v.parquet")
    assert (table["row"].to_list(), table["text"].to_list(), found.empty) == ([1, 1, 2], ["d1 w1", "d2", "d3"], 1)
    expected = counterpoint.load(tiny).encode(["w5 d1 w1", "w5 d2", "w5 d3"])
    assert np.abs(vectors(tmp_path / "v.parquet") - expected).max() < 1e-5
    counterpoint.embed(tiny, [{"text": "d2"}], tmp_path / "one.parquet", **more)
    assert np.abs(vectors(tmp_path / "one.parquet") - expected[1]).max() < 1e-5


def test_small_numbers_keep_the_cosines(tiny: Path, tmp_path: Path) -> None:
    rows = [{"text": t} for t in TEXTS]
    exact = counterpoint.load(tiny).encode(TEXTS)
    for dtype, kind, off in (("float16", np.float16, 1e-3), ("int8", np.int8, 1e-2)):
        counterpoint.embed(tiny, rows, tmp_path / f"{dtype}.parquet", dtype=dtype, **SETTINGS)
        z = vectors(tmp_path / f"{dtype}.parquet")
        assert z.dtype == kind
        z = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
        assert np.abs(z @ z.T - exact @ exact.T).max() < off
    counterpoint.embed(tiny, rows, tmp_path / "binary.parquet", dtype="binary", **SETTINGS)
    assert (np.unpackbits(vectors(tmp_path / "binary.parquet"), axis=1) == (exact > 0)).mean() > 0.999


def test_arrays_are_embedded_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    counterpoint.embed("raw", tmp_path / "x.npz", tmp_path / "v.parquet", quiet=True)
    table = pl.read_parquet(tmp_path / "v.parquet")
    assert table.columns == ["row", "label", "vector"]
    assert np.allclose(table["vector"].to_numpy(), x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("change", [None, "data", "prompt", "dtype"])
def test_killed_it_goes_on_with_what_is_there_unless_something_changed(
    change: str | None, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def dies(keys: list[str], dtype: str) -> Any:
        if len(list(tmp_path.glob(".v.parquet.unfinished/part-*"))) == 2:
            raise Died
        return packed(keys, dtype)

    packed, rows = verb.packed, [{"text": t} for t in TEXTS]
    monkeypatch.setattr(verb, "ROWS", 16)
    with monkeypatch.context() as patch:
        patch.setattr(verb, "packed", dies)
        with pytest.raises(Died):
            counterpoint.embed(tiny, rows, tmp_path / "v.parquet", **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == [".v.parquet.unfinished"]
    more: dict[str, Any] = {"prompt": {"prompts": {"anchor": "w5 "}}, "dtype": {"dtype": "int8"}}.get(change or "", {})
    if change == "data":
        rows[-1] = {"text": "w99"}
    found = counterpoint.embed(tiny, rows, tmp_path / "v.parquet", **more, **SETTINGS)
    assert found.resumed == (0 if change else 32)
    counterpoint.embed(tiny, rows, tmp_path / "whole.parquet", **more, **SETTINGS)
    one, other = (pl.read_parquet(tmp_path / name) for name in ("v.parquet", "whole.parquet"))
    assert one.drop("vector").equals(other.drop("vector"))
    assert np.allclose(one["vector"].to_numpy(), other["vector"].to_numpy(), atol=1e-6)
    assert not (tmp_path / ".v.parquet.unfinished").exists()


def test_what_cannot_be_done_is_one_line(tiny: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "there.parquet").write_text("")
    bad: list[tuple[tuple[Any, Any], dict[str, Any], str]] = [
        ((data, "there.parquet"), {}, "does not exist yet"),
        ((data, "v.csv"), {}, "ends in .parquet"),
        ((data, "v.parquet"), {"role": "negative"}, "anchor or positive"),
        ((data, "v.parquet"), {"dtype": "int4"}, "--dtype"),
        ((data, "v.parquet"), {"lr": 1}, "a setting of embed"),
        ((data, "v.parquet"), {"roles": {"anchor": "pgae"}}, "did you mean 'page'"),
        (([{"text": " "}], "v.parquet"), {}, "at least one text"),
        ((tmp_path / "nothing.csv", "v.parquet"), {}, "no such file"),
    ]
    for (given, out), more, words in bad:
        with pytest.raises(counterpoint.Refusal, match=words):
            counterpoint.embed(tiny, given, tmp_path / out, quiet=True, **more)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts.csv", "there.parquet"]


def test_the_command_writes_the_same(tiny: Path, data: Path, tmp_path: Path) -> None:
    words = ["embed", str(tiny), str(data), str(tmp_path / "v.parquet"), "--anchor", "page", "--precision", "fp32"]
    done = CliRunner().invoke(app, [*words, "--prompt", "anchor=w5 "])
    assert done.exit_code == 0, done.output
    expected = counterpoint.load(tiny).encode([f"w5 {t}" for t in TEXTS])
    assert np.abs(vectors(tmp_path / "v.parquet") - expected).max() < 1e-5
    again = CliRunner().invoke(app, words)
    assert getattr(again.exception, "exit_code", None) == 2
