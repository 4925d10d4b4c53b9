"""Search across languages from translations alone: a model that only knew English learns to read German.

python examples/translations.py sentences.tsv        (columns split, en, de)
"""

from __future__ import annotations

import sys

import polars as pl

import counterpoint


def main(path: str) -> None:
    """Train on translated sentences; ask in English for German ones."""
    rows = pl.read_csv(path, separator="\t", quote_char=None)
    train = rows.filter(pl.col("split") == "train").select(anchor="en", positive="de")
    run = counterpoint.fit(train, minutes=2)
    assert run is not None
    model = counterpoint.load(run.path)
    for query in ("A man plays the guitar.", "Two dogs run on the beach."):
        print(f"\n{query}")
        for hit in model.search(query, k=3):
            print(f"  {hit.score:.2f}  {hit.text}")


if __name__ == "__main__":
    main(sys.argv[1])
