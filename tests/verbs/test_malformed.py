"""Bad input ends in one line that says what was wanted, what came, where, and what to do: exit code 2, no traceback,
and nothing left behind. Odd input that means something is read for what it means."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest

import counterpoint
from counterpoint import cli
from counterpoint.data.lint import clean, lint
from counterpoint.data.roles import assign
from counterpoint.data.sources import read
from counterpoint.data.splits import split
from counterpoint.verbs import folder

PAIRS = [(f"q{i % 40} w{i}", f"d{i * 7 % 40} w{i}") for i in range(60)]
STAGE = re.compile(r"  [\w ]+ +\d+\.\d s")  # what a finished stage prints: "  reading and checking data   0.1 s"

Make = Callable[[Path, Path], None]  # of the folder that a command runs in, and the tiny model


def table(*more: object, header: str = "query,doc", rows: int = 60, texts: int = 2) -> str:
    """A csv of pairs with more columns: each is a function of the row's number, or the same cell in every row."""
    cells = [[*PAIRS[i][:texts], *(c(i) if callable(c) else c for c in more)] for i in range(rows)]
    return "\n".join([header, *(",".join(map(str, row)) for row in cells)]) + "\n"


def alone(*more: object, header: str = "text,label") -> str:
    """A csv of texts with more columns."""
    return table(*more, header=header, texts=1)


def lines(**fields: object) -> str:
    """Pairs as jsonl with more fields, or others."""
    return "".join(json.dumps({"query": q, "doc": d} | fields) + "\n" for q, d in PAIRS)


def parquet(rows: int = 60, **columns: pl.Expr) -> bytes:
    """Pairs as a parquet file with more columns, or others."""
    frame = pl.DataFrame(PAIRS[:rows], schema=["query", "doc"], orient="row")
    whole = io.BytesIO()
    frame.with_columns(**columns).write_parquet(whole)
    return whole.getvalue()


def model(without: tuple[str, ...] = (), **files: bytes) -> Make:
    """A copy of the tiny model as folder m, without some files and with others; `a__b` is the file a.b."""

    def make(here: Path, tiny: Path) -> None:
        shutil.copytree(tiny, here / "m", ignore=shutil.ignore_patterns(*without))
        for name, content in files.items():
            (here / "m" / name.replace("__", ".")).write_bytes(content)

    return make


def saved(array: np.ndarray) -> bytes:
    """An npy file."""
    whole = io.BytesIO()
    np.save(whole, array)
    return whole.getvalue()


def cut_weights(here: Path, tiny: Path) -> None:
    model(model__safetensors=(tiny / "model.safetensors").read_bytes()[:-1000])(here, tiny)


def without_numbers(here: Path, tiny: Path) -> None:
    from safetensors.torch import load_file, save_file

    model()(here, tiny)
    weights = load_file(tiny / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, here / "m" / "model.safetensors", metadata={"format": "pt"})


def run_folder(corpus: bytes | None = None) -> Make:
    """A finished run as folder r."""

    def make(here: Path, tiny: Path) -> None:
        (here / "r").mkdir()
        (here / "r" / "run.json").write_text("{}")
        shutil.copytree(tiny, here / "r" / "model")
        if corpus is not None:
            (here / "r" / "corpus.parquet").write_bytes(corpus)

    return make


def empty_folder(name: str) -> Make:
    return lambda here, _: (here / name).mkdir()


def plain_file(name: str, content: str = "x") -> Make:
    def make(here: Path, _: Path) -> None:
        (here / name).write_text(content)

    return make


def linked_to_itself(here: Path, _: Path) -> None:
    (here / "loop").symlink_to("loop")


def case(
    name: str,
    argv: str | list[str],
    *words: str,
    file: str = "data.csv",
    content: str | bytes | None = None,
    make: Make | None = None,
    shown: bool = False,
) -> object:
    """One row of the table.

    Args:
        name: of the case.
        argv: what is typed.
        words: that the line must hold.
        file: the data file; it is written where `content` is given or the command names it.
        content: of it; None: a good table.
        make: makes whatever else there is.
        shown: the refusal comes after the plan or the findings were printed.
    """
    typed = argv.split() if isinstance(argv, str) else argv
    there = {} if content is None and file not in typed else {file: table() if content is None else content}
    return pytest.param(typed, words, there, make, shown, id=name)


FILES = [
    case("missing file", "fit no.csv", "no.csv", "no such file", "typing mistake"),
    case("name that no file can have", ["fit", "query,doc " * 2000], "no such file"),
    case("folder", "fit d", "a folder", "(d)", ".jsonl", make=empty_folder("d")),
    case("Excel sheet", "fit a.xlsx", ".xlsx", "csv in UTF-8", file="a.xlsx"),
    case("no ending", "fit data", ".csv, .tsv", "(data)", file="data"),
    case("json", "fit a.json", "jq -c", file="a.json", content="[]"),
    case("arrays", "fit a.npz", "arrays", "a.npz", "no numpy file", file="a.npz", content=b"PK"),
    case("a text model for arrays", "fit a.npy --model m", "a model of arrays", "'m'", "mlp:depth=2",
         file="a.npy", content=saved(np.random.default_rng(0).normal(size=(60, 3))), make=model()),
    case("a prompt for arrays", ["fit", "a.npy", "--prompt", "anchor=q: "], "--prompt", "arrays",
         file="a.npy", content=saved(np.random.default_rng(0).normal(size=(60, 3)))),
    case("a corpus for arrays", "fit a.npy --corpus a.npy", "--corpus", "arrays",
         file="a.npy", content=saved(np.random.default_rng(0).normal(size=(60, 3)))),
    case("a size that no mlp has", "fit a.npy --model mlp:deep=2", "'deep'", "depth",
         file="a.npy", content=saved(np.random.default_rng(0).normal(size=(60, 3)))),
    case("SCARF for texts", "fit data.csv --recipe scarf", "arrays", "scarf", "--recipe auto"),
    case("images", "fit a.PNG", "images", "not work yet", "counterpoint kinds", file="a.PNG", content=b"\x89PNG"),
    case("empty file", "fit data.csv", "an empty file", "data.csv", content=""),
    case("mark and nothing else", "fit data.csv", "an empty file", content="\ufeff \n"),
    case("empty gzip", "fit a.csv.gz", "an empty file", file="a.csv.gz", content=gzip.compress(b"")),
    case("truncated gzip", "fit a.csv.gz", "a.csv.gz", "copy the file again",
         file="a.csv.gz", content=gzip.compress(table().encode())[:-20]),
    case("gzip that is text", "fit a.csv.gz", "Not a gzipped file", file="a.csv.gz", content=table()),
    case("text that is gzip", "fit data.csv", "got gzip", ".gz", content=gzip.compress(table().encode())),
    case("csv that is a zip", "fit data.csv", "zip", "Excel", content=b"PK\x03\x04\xff"),
    case("csv that is a web page", "fit data.csv", "a web page", "download",
         content="<!DOCTYPE html>\n<html>404</html>"),
    case("csv that is a pointer", "fit data.csv", "git lfs pull",
         content="version https://git-lfs.github.com/spec/v1\nsize 1\n"),
    case("parquet that is text", "fit a.parquet", "a.parquet", "cut short or is not parquet", file="a.parquet"),
    case("parquet that is a pointer", "fit a.parquet", "git lfs pull",
         file="a.parquet", content="version https://git-lfs.github.com"),
    case("truncated parquet", "fit a.parquet", "a.parquet", "cut short", file="a.parquet", content=parquet()[:-100]),
    case("empty parquet", "fit a.parquet", "a.parquet", "cut short", file="a.parquet", content=b""),
    case("damaged parquet", "fit a.parquet", "a.parquet",
         file="a.parquet", content=parquet()[:20] + b"\xff" * 60 + parquet()[80:]),
    case("not UTF-8", "fit data.csv", "byte 0xe9", "data.csv, line 62", "iconv",
         content=table().encode() + "café,x\n".encode("latin1")),
    case("UTF-16 with its mark", "fit data.csv", "UTF-16", "data.csv", "iconv -f utf-16",
         content=table().encode("utf-16")),
    case("UTF-16 without its mark", "fit data.csv", "zero bytes", "UTF-16", content=table().encode("utf-16-le")),
    case("UTF-16 jsonl", "fit a.jsonl", "UTF-16", "a.jsonl", file="a.jsonl", content=lines().encode("utf-16")),
    case("jsonl not UTF-8", "fit a.jsonl", "byte 0xe9", "a.jsonl, line 61",
         file="a.jsonl", content=lines().encode() + b'{"query": "\xe9"}'),
    case("parquet with a delimiter", ["fit", "a.parquet", "--delimiter", ";"], "--delimiter", ".parquet",
         file="a.parquet", content=parquet()),
]  # fmt: skip

TABLES = [
    case("header only", "fit data.csv", "a header and no row", "data.csv", content="query,doc\n"),
    case("semicolons", "fit data.csv", "a comma", "a semicolon", "'query;doc'", "--delimiter ';'",
         content="query;doc\na;b\n"),
    case("Excel's mark and semicolons", "fit data.csv", "--delimiter ';'", content="\ufeffquery;doc\r\na;b\r\n"),
    case("tabs in csv", "fit data.csv", "a tab", r"--delimiter '\t'", content="query\tdoc\na\tb\n"),
    case("commas in tsv", "fit a.tsv", "a comma", "--delimiter ','", file="a.tsv"),
    case("Excel's own line", "fit data.csv", "'sep=;'", "line 1", "delete that line", "--delimiter ';'",
         content="sep=;\na;b\n"),
    case("the wrong delimiter named", ["fit", "data.csv", "--delimiter", ";"], "a semicolon", "--delimiter ','"),
    case("a delimiter of two characters", ["fit", "data.csv", "--delimiter", "::"], "one character", "'::'"),
    case("a quote as the delimiter", ["fit", "data.csv", "--delimiter", '"'], "one character", "--delimiter"),
    case("a quote that is never closed", "fit data.csv", "never closed", "line 62",
         content=table() + '"q,d\n' + table()),
    case("text after a quote", "fit data.csv", "after a closing quote", "line 62", '""', content=table() + '"q" 2,d\n'),
    case("too many cells", "fit data.csv", "at most 2 cells", "got 3", "line 62", "in quotes",
         content=table() + "a,b,c\n"),
    case("a name twice", "fit data.csv", "'doc' twice", "data.csv, line 1",
         content=table("x", header='query,doc,"doc"')),
    case("names missing", "fit data.csv", "2 without one", "line 1", "delete the empty ones",
         content=table("", "", header="query,doc,,")),
    case("a very long header", "fit data.csv", "c0, c1", "(20000 in all)", "--anchor",
         content=",".join(f"c{i}" for i in range(20_000)) + "\n"),
    case("a very long name", "fit data.csv", "xxx...", "--anchor", content=table(header="x" * 100_000 + ",doc")),
    case("jsonl named csv", "fit data.csv", "--anchor", "data.csv", content=lines()),
    case("csv named jsonl", "fit a.jsonl", "a.jsonl, line 1", "Expecting value", file="a.jsonl"),
    case("a broken line", "fit a.jsonl", "a.jsonl, line 63", "column 11",
         file="a.jsonl", content=lines() + '\n\n{"query": \n' + lines()),
    case("a line that is a list", "fit a.jsonl", "one JSON object a line", "line 61",
         file="a.jsonl", content=lines() + '["a"]\n'),
    case("a line that is null", "fit a.jsonl", "got null", "line 61", file="a.jsonl", content=lines() + "null\n"),
    case("an array in one line", "fit a.jsonl", "line 1", "jq -c '.[]'",
         file="a.jsonl", content=json.dumps([{"query": "a"}] * 60)),
    case("an array in many lines", "fit a.jsonl", "line 1", "jq -c '.[]'",
         file="a.jsonl", content=json.dumps([{"query": "a"}], indent=1)),
    case("two objects in a line", "fit a.jsonl", "Extra data", "line 1",
         file="a.jsonl", content=lines().replace("\n", "", 1)),
    case("NaN in json", "fit a.jsonl", "NaN", "write null", "line 1", file="a.jsonl", content=lines(doc=float("nan"))),
]  # fmt: skip

ROLES = [
    case("missing column", "fit data.csv --anchor qurey", "--anchor", "'qurey'", "data.csv", "did you mean 'query'"),
    case("no column that can be told", "fit data.csv", "foo, bar", "data.csv", "--anchor COLUMN",
         content=table(header="foo,bar")),
    case("two columns for one role", "fit data.csv", "--anchor query or --anchor 'Source Text'",
         content=table("x", header="query,doc,Source Text")),
    case("one column for two roles", "fit data.csv --anchor query --positive query", "'query'",
         "--anchor and --positive", "data.csv"),
    case("the anchor ignored", "fit data.csv --ignore query", "columns doc", "--anchor COLUMN"),
    case("a column that is not there ignored", "fit data.csv --dry-run --ignore page", "'page'"),
    case("empty column", "fit data.csv", "'doc' (positive) is empty", "data.csv", "empty-column",
         content="query,doc\n" + "a,\n" * 60),
    case("column of spaces", "fit data.csv", "'doc' (positive) is empty", content="query,doc\n" + "a,   \n" * 60),
    case("only empty rows allowed", "fit data.csv --allow empty-column --allow too-few-rows", "none that can be used",
         "data.csv", content="query,doc\n" + "a,\n" * 60),
    case("one row", "fit data.csv", "data.csv", "too-few-rows", content="query,doc\na,b\n"),
    case("too few rows", "fit data.csv", "19 usable rows of 19", "data.csv", "too-few-rows", content=table(rows=19)),
    case("too few rows allowed", "fit data.csv --allow too-few-rows", "rows for train", "data.csv", "add data",
         content=table(rows=2)),
    case("a huge cell", "fit data.csv", "2,000,000 characters", "'doc' (rows 61)", "huge-text",
         content=table() + f"q,{'x' * 2_000_000}\n"),
    case("a huge cell in quotes", "fit data.csv", "never closed", "line 62",
         content=table() + f'"q,{"x" * 2_000_000}\n'),
    case("NaN label", "fit data.csv", "20 rows without a label", "rows 3, 6", "missing-label",
         content=alone(lambda i: ["a", "b", "NaN"][i % 3])),
    case("one class", "fit data.csv", "label 'a'", "data.csv", "one-class", content=alone("a")),
    case("one class with spaces", "fit data.csv", "label 'a'", "one-class",
         content=alone(lambda i: "a" + " " * (i % 3))),
    case("a class a row", "fit data.csv", "60 labels for 60 rows", "data.csv", "class-per-row",
         content=alone(lambda i: f"c{i}")),
    case("no class at all", "fit data.csv", "'label' (label) is empty", content=alone("")),
    case("NaN weight", "fit data.csv", "without a number in 'weight'", "rows 8", "missing-number",
         content=table(lambda i: "nan" if i == 7 else 1, header="query,doc,weight")),
    case("infinite weight", "fit data.csv", "'inf'", "column 'weight', row 8",
         content=table(lambda i: "inf" if i == 7 else 1, header="query,doc,weight")),
    case("negative weight", "fit data.csv", "weights that are 0 or less", "rows 8", "negative-weight",
         content=table(lambda i: -(i == 7) or 1, header="query,doc,weight")),
    case("weight of nothing", "fit data.csv", "weights that are 0 or less", "rows 8",
         content=table(lambda i: int(i != 7), header="query,doc,weight")),
    case("text for a number", "fit data.csv", "a number", "'many'", "column 'clicks', row 8",
         content=table(lambda i: "many" if i == 7 else 1, header="query,doc,clicks")),
    case("comma for a point", ["fit", "data.csv", "--delimiter", ";"], "'1,5'", "row 1",
         content="query;doc;score\n" + "a;b;1,5\n" * 60),
    case("one value", "fit data.csv", "all pairs have the value 1.0", "one-class",
         content=table(1, header="query,doc,score")),
    case("unknown split", "fit data.csv", "train, dev or test", "'holdout'", "column 'fold', row 8",
         content=table(lambda i: "holdout" if i == 7 else "train", header="query,doc,fold")),
    case("empty split", "fit data.csv", "an empty cell", "row 8",
         content=table(lambda i: "" if i == 7 else "train", header="query,doc,fold")),
    case("split without test", "fit data.csv", "train only", "column 'split'", "--ignore",
         content=table("train", header="query,doc,split")),
    case("leak", "fit data.csv", "rows of train stand in dev or test", "leak",
         content="query,doc,split\n" + "".join(f"q{i // 2},d{i // 2},{['train', 'test'][i % 2]}\n" for i in range(60))),
    case("one group", "fit data.csv", "rows for dev", "groups of 'group'", "--ignore group",
         content=table("g", header="query,doc,group")),
    case("empty time", "fit data.csv", "a time in every row", "column 'time', row 8",
         content=table(lambda i: "" if i == 7 else i, header="query,doc,time")),
    case("dates that do not sort", "fit data.csv", "'1.2.2026'", "2026-01-31", "column 'date', row 1",
         content=table(lambda i: f"{i % 28 + 1}.2.2026", header="query,doc,date")),
    case("one time", "fit data.csv", "rows for dev", "by 'time'", "--ignore time",
         content=table(5, header="query,doc,time")),
    case("three labels beside a pair", "fit data.csv", "3 labels", "column 'label'", "--match entailment",
         "--match 'no match'", "--ignore label",
         content=table(lambda i: ["entailment", "neutral", "no match"][i % 3], header="query,doc,label")),
    case("no such label", "fit data.csv --match entails", "'entails'", "column 'label'", "did you mean 'entailment'",
         content=table(lambda i: ["entailment", "neutral"][i % 2], header="query,doc,label")),
    case("no label that matches", "fit data.csv", "label '1'", "labels 0", "--ignore label",
         content=table(0, header="query,doc,label")),
    case("no label beside a pair", "fit data.csv", "an empty cell", "column 'label', row 3",
         content=table(lambda i: [1, 0, ""][i % 3], header="query,doc,label")),
    case("match without labels", "fit data.csv --match yes", "--match", "roles anchor, positive", "data.csv"),
    case("one positive", "fit data.csv", "all positives are the same", "data.csv", "no-negatives",
         content=alone("same", header="query,doc")),
    case("positives that are the anchors", "fit data.csv", "0 usable rows of 60", "data.csv",
         content="query,doc\n" + "".join(f"q{i},q{i}\n" for i in range(60))),
    case("one anchor", "fit data.csv", "rows for dev", "data.csv",
         content="query,doc\n" + "".join(f"q,d{i}\n" for i in range(60))),
    case("one group of texts", "fit data.csv", "rows for dev", "data.csv", "add data",
         content=alone(lambda i: f"same{i % 2}", header="query,doc")),
    case("texts too short to measure", "fit data.csv", "8 words or more", content=alone(header="text")),
    case("fields for a text", "fit a.jsonl", "fields", "column 'query'", "--ignore",
         file="a.jsonl", content=lines(query={"text": "a"})),
    case("a list for a text", "fit a.jsonl", "a list", "column 'query'", file="a.jsonl", content=lines(query=["a"])),
    case("lists of fields", "fit a.jsonl", "fields", "column 'doc'",
         file="a.jsonl", content=lines(doc=[{"text": "a"}])),
    case("lists of lists", "fit a.jsonl", "lists", "column 'doc'", file="a.jsonl", content=lines(doc=[["a"]])),
    case("a list for a label", "fit a.jsonl", "lists", "column 'label'", file="a.jsonl", content=lines(label=["a"])),
    case("a list for a weight", "fit a.jsonl", "a number a cell", "lists", file="a.jsonl", content=lines(weight=[1])),
    case("a list for a group", "fit a.jsonl", "lists", "column 'group'", file="a.jsonl", content=lines(group=[1])),
    case("a list for a split", "fit a.jsonl", "lists", "column 'split'",
         file="a.jsonl", content=lines(split=["train"])),
    case("fields for a time", "fit a.jsonl", "fields", "column 'time'", file="a.jsonl", content=lines(time={"day": 1})),
    case("bytes for a text", "fit a.parquet", "bytes", "column 'doc'",
         file="a.parquet", content=parquet(doc=pl.col("doc").cast(pl.Binary))),
    case("a date for a weight", "fit a.parquet", "a number a cell", "Date",
         file="a.parquet", content=parquet(weight=pl.lit("2026-01-31").str.to_date())),
    case("no texts but nulls", "fit a.parquet", "'doc' (positive) is empty",
         file="a.parquet", content=parquet(doc=pl.lit(None))),
    case("no rows in parquet", "fit a.parquet", "a.parquet", "no row",
         file="a.parquet", content=parquet(rows=0)),
]  # fmt: skip

OPTIONS = [
    case("unknown command", "fitt data.csv", "'fitt'", "fit"),
    case("unknown option", "fit data.csv --modle x", "--modle", "--model"),
    case("no data", "fit", "data"),
    case("unknown recipe", "fit data.csv --recipe simsce", "'simsce'", "--recipe", "did you mean 'simcse'"),
    case("a recipe that needs more", "fit data.csv --recipe supcon", "label", "data.csv", "--label COLUMN"),
    case("a file without a function", "fit data.csv --recipe mine.py", "mine.py:FUNCTION", make=plain_file("mine.py")),
    case("no file with a recipe", "fit data.csv --recipe mine.py:new", "no such file", "--recipe mine.py:new"),
    case("a file that Python cannot read", "fit data.csv --recipe mine.py:new", "SyntaxError", "line 2",
         make=plain_file("mine.py", "\ndef new(:\n")),
    case("a file that cannot import", "fit data.csv --recipe mine.py:new", "No module named 'nowhere'", "line 1",
         make=plain_file("mine.py", "import nowhere\n")),
    case("no such function", "fit data.csv --recipe mine.py:new", "'new'", "mine.py",
         make=plain_file("mine.py", "old = 1\n")),
    case("a recipe without arguments", "fit data.csv --recipe mine.py:new", "encoder, train",
         make=plain_file("mine.py", "def new(): ...\n")),
    case("an argument without a value", "fit data.csv --recipe mine.py:new", "'margin'", "--set margin=VALUE",
         make=plain_file("mine.py", "def new(encoder, train, *, margin: float): ...\n")),
    case("unknown argument", "fit data.csv --set temprature=0.1", "'temprature'", "did you mean 'temperature'"),
    case("a word for a number", "fit data.csv --set temperature=warm", "float", "'warm'", "--set temperature=warm"),
    case("a list for a number", "fit data.csv --set temperature=[1]", "float", "'[1]'"),
    case("no such choice", "fit data.csv --set directions=up", "both", "'up'", "--set directions=up"),
    case("a number for yes or no", "fit data.csv --recipe simcse --set head=3", "bool", "'3'", "--set head=3"),
    case("a very long value", ["fit", "data.csv", "--set", "temperature=" + "(" * 100_000], "float", "((...", "--set"),
    case("a temperature below 0", "fit data.csv --set temperature=-1", "above 0", "-1", "--set temperature=-1"),
    case("an infinite temperature", "fit data.csv --set temperature=1e999", "finite", "inf"),
    case("a temperature that fp32 cannot hold", "fit data.csv --set temperature=1e-320", "above 0"),
    case("no negatives", "fit data.csv --recipe pairs_with_negatives --set negatives=0", "negatives above 0",
         content=table("n", header="query,doc,negative")),
    case("nothing set", "fit data.csv --set temperature", "NAME=VALUE", "'temperature'", "--set"),
    case("negative rate", "fit data.csv --lr -1", "above 0", "-1.0", "--lr"),
    case("no rate", "fit data.csv --lr nan", "above 0", "nan", "--lr"),
    case("a rate far too high", "fit data.csv --lr 5", "at most 1", "5.0", "--lr", "5e-5"),
    case("a word for a rate", "fit data.csv --lr fast", "--lr", "number"),
    case("batch of one", "fit data.csv --batch 1", "at least 2", "--batch", "negatives"),
    case("no steps", "fit data.csv --steps 0", "above 0", "--steps"),
    case("negative minutes", "fit data.csv --minutes -1", "above 0", "--minutes"),
    case("negative seed", "fit data.csv --seed -1", "-1", "--seed"),
    case("unknown device", "fit data.csv --device gpu", "cpu", "'gpu'", "--device"),
    case("unknown precision", "fit data.csv --precision fp8", "bf16", "'fp8'", "--precision"),
    case("prompt for an unknown role", "fit data.csv --prompt query=x", "anchor or positive", "'query'"),
    case("prompt without a text", "fit data.csv --prompt anchor", "NAME=VALUE", "--prompt"),
    case("two tokens", "fit data.csv --length anchor=2", "at least 4 tokens", "--length anchor"),
    case("a word for tokens", "fit data.csv --length anchor=few", "whole number", "'few'", "--length anchor"),
    case("a digit that is no number", "fit data.csv --length anchor=²", "whole number"),
    case("unknown code", "fit data.csv --allow leek", "'leek'", "did you mean 'leak'"),
]  # fmt: skip

MODELS = [
    case("no weights", "fit data.csv --model m", "weights", "--model m", "download",
         make=model(("model.safetensors",))),
    case("no model in it", "fit data.csv --model m", "config.json", "--model m", make=empty_folder("m")),
    case("a file for a model", "fit data.csv --model data.csv", "a file", "--model data.csv"),
    case("no such folder", "fit data.csv --model ./m", "no such folder", "--model ./m"),
    case("no such name", "fit data.csv --model nobody/nothing", "'nobody/nothing'", "--model", "HF_HUB_OFFLINE"),
    case("a path of another system", ["fit", "data.csv", "--model", r"C:\models\m"], "no such folder", r"C:\models\m"),
    case("truncated weights", "fit data.csv --model m", "incomplete metadata", "--model m", make=cut_weights),
    case("empty weights", "fit data.csv --model m", "header", "--model m", make=model(model__safetensors=b"")),
    case("a broken config", "fit data.csv --model m", "config.json", make=model(config__json=b"{")),
    case("an unknown kind of model", "fit data.csv --model m", "nothing",
         make=model(config__json=b'{"model_type": "nothing"}')),
    case("a broken tokenizer", "fit data.csv --model m", "--model m", make=model(tokenizer__json=b"{")),
    case("no tokenizer", "fit data.csv --dry-run --model m", "tokenizer", "--model m",
         make=model(("tokenizer*",))),
    case("weights that are no numbers", "fit data.csv --dry-run --model m", "NaN",
         make=without_numbers),
]  # fmt: skip

CORPORA = [
    case("no corpus", "fit data.csv --corpus c.csv", "c.csv", "no such file"),
    case("a corpus without texts", "fit data.csv --corpus c.csv", "one text column", "columns a, b", "--corpus c.csv",
         make=plain_file("c.csv", "a,b\n1,2\n")),
    case("a damaged corpus", "fit data.csv --corpus c.parquet", "c.parquet", "cut short",
         make=plain_file("c.parquet", "PAR1")),
    case("an empty corpus", "fit data.csv --corpus c.csv", "an empty file", "c.csv", make=plain_file("c.csv", "")),
    case("a corpus beside labels", "fit data.csv --corpus c.csv", "--corpus", "label",
         content=alone(lambda i: "ab"[i % 2]), make=plain_file("c.csv", "text\na\n")),
    case("a corpus of blanks", "fit data.csv --dry-run --corpus c.csv", "c.csv",
         make=plain_file("c.csv", "text\n \n \n")),
]  # fmt: skip

PLACES = [
    case("a finished run", "fit data.csv --out r", "--out r", "never overwritten", make=run_folder()),
    case("a file for a run", "fit data.csv --out data.csv", "--out data.csv", "name another"),
    case("below a file", "fit data.csv --out data.csv/a/run", "the file", "data.csv", "--out data.csv/a/run"),
    case("runs is a file", "fit data.csv", "the file", "runs", "--out", make=plain_file("runs")),
    case("a link to itself", "fit data.csv --out loop", "--out loop", make=linked_to_itself),
    case("a name too long", ["fit", "data.csv", "--out", f"a/{'x' * 300}"], "name too long", "--out", shown=True),
    case("a mounted disk", "fit data.csv --out /proc/self/fd/../../../proc", "--out"),
    case("a place for no files", "fit data.csv --out /proc/counterpoint-run", "--out /proc/counterpoint-run",
         shown=True),
    case("a place for no folders", "fit data.csv --out /sys/a/b", "--out /sys/a/b", shown=True),
]  # fmt: skip

VERBS = [
    case("check of nothing", "check", "--explain", "counterpoint check DATA"),
    case("check of no file", "check no.csv", "no.csv", "no such file"),
    case("check of an unknown code", "check --explain leek", "did you mean 'leak'"),
    case("check of an empty column", "check data.csv", "'doc' (positive) is empty", "empty-column",
         content="query,doc\n" + "a,\n" * 60, shown=True),
    case("check of a broken line", "check a.jsonl", "a.jsonl, line 61", file="a.jsonl", content=lines() + "{\n"),
    case("check of fields for a time", "check a.jsonl", "column 'time'",
         file="a.jsonl", content=lines(time={"day": 1})),
    case("check of labels beside a pair", "check data.csv", "--match x",
         content=table(lambda i: "xy"[i % 2], header="query,doc,label")),
    case("search of nothing", "search r words", "'r'"),
    case("search of a file", "search r words", "a file", make=plain_file("r")),
    case("search of no run", "search r words", "config.json", make=empty_folder("r")),
    case("search without a corpus", "search r words", "a corpus", "(r)", make=run_folder()),
    case("search for nothing", ["search", "r", "  "], "an empty text", make=run_folder()),
    case("search for no result", "search r words -k 0", "at least 1", "-k", make=run_folder()),
    case("search of a damaged corpus", "search r words", "corpus.parquet",
         make=run_folder(b"PAR1")),
    case("search of another table", "search r words", "corpus.parquet",
         make=run_folder(parquet())),
]  # fmt: skip


def snapshot(place: Path) -> dict[str, bytes | str | None]:
    """Every file, link and folder below a folder."""
    return {
        str(p.relative_to(place)): str(p.readlink()) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in place.rglob("*")
    }


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs a command that must be refused and returns its one line.

    The function takes what is typed after "counterpoint", and `shown`: whether a plan or findings may stand above the
    line, where else only finished stages may.
    """

    def run(argv: list[str], *, shown: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["counterpoint", *argv])
        monkeypatch.setattr("counterpoint.interrupts.ended_by_signals", contextlib.nullcontext)  # no thread a case
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, printed = capsys.readouterr()
        assert ended.value.code == 2, printed
        assert "Traceback" not in printed
        *above, line = printed.splitlines()
        assert line.startswith("counterpoint: ")
        assert not any(other.startswith("counterpoint") for other in above)
        assert shown or [other for other in above if not STAGE.fullmatch(other)] == []
        assert out == ""
        assert re.match(r"counterpoint: wanted .+, got .+", line) or line.endswith("(counterpoint --help)")
        assert len(line) < 700, "a line that nobody reads"
        assert folder.unfinished == set()
        return line

    return run


@pytest.mark.parametrize(
    ("argv", "words", "files", "make", "shown"),
    [*FILES, *TABLES, *ROLES, *OPTIONS, *MODELS, *CORPORA, *PLACES, *VERBS],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str],
    words: tuple[str, ...],
    files: dict[str, str | bytes],
    make: Make | None,
    shown: bool,
    tiny: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if make is not None:
        make(tmp_path, tiny)
    if argv[0] == "fit" and "--model" not in argv:
        argv = [*argv, "--model", str(tiny)]
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    line = refused(argv, shown=shown)
    assert snapshot(tmp_path) == before
    assert [word for word in words if word not in line] == [], line


def test_the_real_command_says_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "counterpoint", "fit", "no.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    line = "counterpoint: wanted a data file, got no such file (no.csv): check the path for a typing mistake\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert snapshot(tmp_path) == {}


def fit_to(place: Path, tiny: Path, here: Path) -> list[str]:
    (here / "data.csv").write_text(table())
    return ["fit", str(here / "data.csv"), "--model", str(tiny), "--steps", "1", "--out", str(place)]


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of our own, which only an administrator may make."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a disk here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("disk", "out", "believed", "words"),
    [
        ("size=1m", "runs/a", None, ("MB of free disk, got 1 MB", "name another disk with --out")),
        ("size=150k", "runs/a", 10**12, ("room on the disk", "nothing was kept")),
        ("size=400k", "runs/a", 10**12, ("room on the disk", "nothing was kept")),
        ("ro", "runs/a", None, ("Read-only file system", "runs/a")),
        ("size=64m", ".", None, ("a mounted disk", "disk/run is one")),
    ],
    ids=["too small", "full while the model is written", "full while the report is", "read only", "a whole disk"],
    indirect=["disk"],
)
def test_a_disk_that_cannot_take_the_run_is_left_as_it_was(
    disk: Path,
    out: str,
    believed: int | None,
    words: tuple[str, ...],
    tiny: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if believed:  # what others write while we train
        plenty = shutil.disk_usage("/")._replace(free=believed)
        monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: plenty)
    line = refused(fit_to(disk / out, tiny, tmp_path), shown=True)
    assert [word for word in words if word not in line] == [], line
    assert snapshot(disk) == {}


@pytest.mark.parametrize("most", [20_000, 150_000])
def test_a_file_that_may_not_grow_leaves_nothing(most: int, tiny: Path, tmp_path: Path, refused: Refused) -> None:
    resource = pytest.importorskip("resource")
    argv = fit_to(tmp_path / "runs" / "a", tiny, tmp_path)
    before = snapshot(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        line = refused(argv, shown=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "room on the disk" in line
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may read and write everything")
@pytest.mark.parametrize(("locked", "word"), [("data.csv", "not readable"), ("closed", "Permission denied")])
def test_no_permission_is_one_line(locked: str, word: str, tiny: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "closed").mkdir()
    argv = fit_to(tmp_path / "closed" / "a", tiny, tmp_path)
    (tmp_path / locked).chmod(0)
    try:
        line = refused(argv, shown=True)
    finally:
        (tmp_path / locked).chmod(0o700)
    assert word in line
    assert not any((tmp_path / "closed").iterdir())


GOOD = {"query": [q for q, _ in PAIRS], "doc": [d for _, d in PAIRS]}
OBJECTS = [
    ("nothing", None, ("NoneType", "list of dicts")),
    ("a list of numbers", [1, 2], ("list that holds int",)),
    ("a list of pairs", PAIRS, ("list that holds tuple",)),
    ("an empty list", [], ("an empty list",)),
    ("an empty dict", {}, ("columns none", "--anchor")),
    ("columns of unequal length", {"query": ["a", "b"], "doc": ["c"]}, ("equal length", "'doc' (1)")),
    ("a text for a column", {"query": "abc", "doc": "def"}, ("a list of cells", "str", "'query'")),
    ("a number for a column", {"query": 1}, ("a list of cells", "int", "'query'")),
    ("a matrix for a column", {"query": np.zeros((60, 3))}, ("1 usable rows of 60",)),
    ("objects for texts", GOOD | {"query": [object()] * 60}, ("text", "Python objects", "'query'")),
    ("half a character", GOOD | {"query": ["q\ud83d"] * 60}, ("UTF-8", "half a character", r"\ud83d")),
    ("a text instead of a path", "query,doc\n" + "a,b\n" * 5000, ("no such file",)),
    ("a path with a zero byte", "a\0b.csv", ("no such file",)),
    (
        "several data sets",
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(GOOD)}),
        ("train", "data['train']"),
    ),
    ("a data set without rows", datasets.Dataset.from_dict(GOOD).select([]), ("no row",)),
    ("a frame with a name twice", pd.DataFrame([["a", "b"]] * 60, columns=["query", "query"]), ("'query' twice",)),
    ("one pandas column", pd.Series(["a"] * 60), ("Series",)),
    ("a lazy frame without its column", pl.LazyFrame(GOOD).select("page"), ("page",)),
    ("an array of three rows", np.zeros((3, 3)), ("too-few-rows", "usable rows of 3")),
    ("numbers alone", np.zeros(60), ("[rows, numbers]", "x[:, None]")),
    ("objects in an array", np.array([[{}]] * 60), ("real numbers", "objects", "'anchor'")),
]


@pytest.mark.parametrize(("data", "words"), [row[1:] for row in OBJECTS], ids=[row[0] for row in OBJECTS])
def test_bad_objects_are_refused_in_one_line(
    data: object, words: tuple[str, ...], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(counterpoint.Refusal) as refusal:
        counterpoint.fit(data, model=str(tiny), steps=1, quiet=True)
    line = str(refusal.value)
    assert "\n" not in line
    assert len(line) < 400
    assert [word for word in words if word not in line] == [], line
    assert snapshot(tmp_path) == {}


ROWS = [("a", "b"), ("c", "d")]
ODD = [
    ("Excel's mark and line ends", "a.csv", "\ufeffquery,doc\r\na,b\r\nc,d\r\n"),
    ("old Macintosh line ends", "a.csv", "query,doc\ra,b\rc,d\r"),
    ("mixed line ends", "a.csv", "query,doc\r\na,b\nc,d\r"),
    ("no line end at the end", "a.csv", "query,doc\na,b\nc,d"),
    ("quotes and spaces around names", "a.csv", '"query", doc \na,b\nc,d\n'),
    ("capital ending", "A.CSV", "query,doc\na,b\nc,d\n"),
    ("mark in jsonl", "a.jsonl", '\ufeff{"query": "a", "doc": "b"}\r\n\r\n{"query": "c", "doc": "d"}'),
    ("fields in another order", "a.jsonl", '{"query": "a", "doc": "b"}\n{"doc": "d", "query": "c"}\n'),
]


@pytest.mark.parametrize(("name", "content"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_odd_files_are_read_as_they_are_meant(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read(tmp_path / name).select("query", "doc").rows() == ROWS


@pytest.mark.parametrize(
    "cell",
    [
        '5" disk',
        'the "big" one',
        'ends in 5"',
        "'",
        "a, b",
        "a\nb",
        "😀 \u200b\u2028",
        "C:\\new\\table",
        "NA",
        "x" * 200_000,
    ],
)
def test_any_text_survives_a_csv(cell: str, tmp_path: Path) -> None:
    quoted = '"' + cell.replace('"', '""') + '"' if set(cell) & set(",\n") else cell
    (tmp_path / "a.csv").write_text(f"query,doc\n{quoted},b\nc,{quoted}\n", newline="")
    assert read(tmp_path / "a.csv").rows() == [(cell, "b"), ("c", cell)]


def test_a_leading_index_and_short_rows_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",query,doc\n0,a,b\n1,c\n")
    samples = assign(read(tmp_path / "a.csv"))
    assert samples.frame.select("anchor", "positive").rows() == [("a", ["b"]), ("c", [])]
    assert samples.unused == ("",)


def test_nulls_in_lists_are_left_out() -> None:
    frame = pl.DataFrame({"query": ["a", "b"], "doc": [["x", None, " "], None]})
    assert assign(frame).frame["positive"].to_list() == [["x", ""], []]
    text = pl.DataFrame({"query": ["a"], "doc": ['["x", null]']})
    assert assign(text).frame["positive"].to_list() == [["x"]]


@pytest.mark.parametrize("labels", [[0.0, 1.0], [False, True], [0, 1], ["0", "1 "]])
def test_labels_of_any_type_are_classes(labels: list) -> None:
    frame = pl.DataFrame({"text": [f"t{i}" for i in range(40)], "label": labels * 20})
    samples = assign(frame)
    assert samples.frame["label"].n_unique() == 2
    assert lint(samples) == ()


def test_numbers_for_times_sort_as_numbers() -> None:
    frame = pl.DataFrame(
        {
            "query": [f"q{i}" for i in range(100)],
            "doc": [f"d{i}" for i in range(100)],
            "time": [str(i) for i in range(100)],
        }
    )
    assert split(assign(frame)).part("test")["row"].to_list() == list(range(90, 100))


def test_a_half_character_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines().replace('"q5 ', '"q5\\ud83d '))
    assert [f.code for f in lint(assign(read(tmp_path / "a.jsonl")))] == ["damaged-text"]


def test_pairs_that_were_never_seen_are_left_out() -> None:
    samples = assign(pl.DataFrame(GOOD | {"clicks": [i % 3 for i in range(60)]}))
    assert clean(samples).frame["weight"].min() == 1
