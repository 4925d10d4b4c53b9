"""The real texts that claims about text methods are tried on; all of them are read from one folder."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

SENTENCES = re.compile(r"(?<=[.!?:])\s+|\s+[*-]\s+")
PIECE = (30, 320)  # letters of a piece of a long text


def table(data: Path, name: str) -> pl.DataFrame:
    """A file of the folder by its name without ending; tables of tabs are not quoted."""
    parquet = data / f"{name}.parquet"
    if parquet.exists():
        return pl.read_parquet(parquet)
    return pl.read_csv(data / f"{name}.tsv.gz", separator="\t", quote_char=None)


def sts(data: Path, part: str = "dev") -> pl.DataFrame:
    """STS Benchmark: sentence1, sentence2, score from 0 to 5."""
    return table(data, f"text_sts/stsb_{part}").select("sentence1", "sentence2", "score")


def pieces(text: str) -> list[str]:
    """A long text in pieces of whole sentences.

    >>> pieces("A first sentence that is long. And a second one. " * 6)[0].count("first")
    6
    """
    found: list[str] = []
    for sentence in SENTENCES.split(text):
        if found and len(found[-1]) + len(sentence) < PIECE[1]:
            found[-1] += " " + sentence
        else:
            found.append(sentence)
    return [piece[: 2 * PIECE[1]] for piece in found if len(piece) >= PIECE[0]]


def technical(data: Path) -> list[str]:
    """What the base is pre-trained on: pieces of Debian's descriptions, and docstrings of Python; no pair, no label."""
    debian = table(data, "debian_descriptions/packages_en")
    code = table(data, "code_search/py_docstring_code").filter(pl.col("split") == "train")
    texts = [*debian["short"], *(p for text in debian["long"] for p in pieces(text)), *code["docstring"]]
    return list(dict.fromkeys(texts))
