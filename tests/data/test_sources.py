"""The same rows, whatever they come in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest

from counterpoint.data.sources import read

ROWS = [{"query": 'a "quoted", text', "doc": "eine Zeile"}, {"query": "ü", "doc": "007"}]


def written(folder: Path) -> dict[str, Path]:
    """One file of each kind with the rows of `ROWS`."""
    frame = pl.DataFrame(ROWS)
    paths = {suffix: folder / f"x.{suffix}" for suffix in ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")}
    frame.write_csv(paths["csv"])
    paths["tsv"].write_text("query\tdoc\n" + "\n".join(f"{r['query']}\t{r['doc']}" for r in ROWS) + "\n")
    paths["jsonl"].write_text("\n".join(json.dumps(r) for r in ROWS))
    frame.write_parquet(paths["parquet"])
    for kind in ("csv", "jsonl"):
        paths[f"{kind}.gz"].write_bytes(gzip.compress(paths[kind].read_bytes()))
    return paths


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_every_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    assert read(written(tmp_path)[kind]).to_dicts() == ROWS


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        pl.DataFrame(ROWS),
        pl.LazyFrame(ROWS),
        pd.DataFrame(ROWS),
        datasets.Dataset.from_list(ROWS),
        {"query": [r["query"] for r in ROWS], "doc": np.array([r["doc"] for r in ROWS])},
    ],
    ids=["dicts", "polars", "lazy", "pandas", "datasets", "columns"],
)
def test_every_object_gives_the_same_rows(data: object) -> None:
    assert read(data).to_dicts() == ROWS


def test_another_delimiter_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("query;doc\na;b\n")
    assert read(path, delimiter=";").to_dicts() == [{"query": "a", "doc": "b"}]


def test_lists_survive_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"query": "a", "neg": ["b", "c"]}\n')
    assert read(path).to_dicts() == [{"query": "a", "neg": ["b", "c"]}]
