"""Search trained with mined hard negatives: what a model already finds near a query without belonging to it.

python examples/hard_negatives.py packages.parquet        (columns short, long: a package's title and description)
"""

from __future__ import annotations

import sys

import polars as pl

import counterpoint


def main(path: str) -> None:
    """The same minutes without and with mined negatives, asked the same questions."""
    pairs = pl.read_parquet(path).select(query="short", doc="long", group="source")
    pairs = pairs.unique("doc", maintain_order=True).sample(8_000, seed=0)
    mined = counterpoint.mine("all-MiniLM-L6-v2", pairs, relative_margin=0.95, skip=1)
    print(f"{mined.report['kept']:,} negatives mined")
    found = {}
    for name, data in (("in-batch negatives", pairs), ("mined negatives", mined.frame)):
        run = counterpoint.fit(data, minutes=1, lengths={"anchor": 24, "positive": 96}, quiet=True)
        assert run is not None
        found[name] = run.metrics
        print(f"{name:<20}{run.metrics['sentence']}")
    better = max(found, key=lambda name: found[name]["after"]["mrr@10"]["value"])
    print(f"higher MRR@10 after equal minutes: {better}")


if __name__ == "__main__":
    main(sys.argv[1])
