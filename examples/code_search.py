"""Code search: a model that finds the function for a sentence, trained on (docstring, function) pairs.

python examples/code_search.py pairs.parquet        (columns docstring, code, package; a split by packages)
"""

from __future__ import annotations

import sys

import polars as pl

import counterpoint


def main(path: str) -> None:
    """Train for two minutes, then search the test's functions."""
    pairs = pl.read_parquet(path).select("docstring", "code", "package").sample(12_000, seed=0)
    run = counterpoint.fit(pairs, minutes=2, lengths={"anchor": 48, "positive": 96})
    assert run is not None
    for query in ("walk a folder and all below it", "the shortest path between two nodes"):
        print(f"\n{query}")
        for hit in counterpoint.search(run.path, query, k=3):
            print(f"  {hit.score:.2f}  {hit.text.splitlines()[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
