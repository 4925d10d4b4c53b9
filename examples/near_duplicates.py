"""Near-duplicates: texts that say the same in other words, found without a label, and how often that is right.

python examples/near_duplicates.py packages.parquet        (columns package, source, long)
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

import counterpoint

LIKE = 0.95  # cosine


def main(path: str) -> None:
    """Descriptions nearer than 0.95; two of one source package are duplicates by construction."""
    rows = pl.read_parquet(path).unique("long", maintain_order=True).sample(6_000, seed=0)
    vectors = counterpoint.load("all-MiniLM-L6-v2").encode(rows["long"].to_list())
    near = np.argwhere(np.triu(vectors @ vectors.T, k=1) >= LIKE)
    source, package = rows["source"].to_numpy(), rows["package"].to_list()
    same = source[near[:, 0]] == source[near[:, 1]]
    print(
        f"{len(near):,} pairs of {len(rows):,} descriptions are nearer than {LIKE}; {same.mean():.0%} are of one source package"
    )
    print("some of the others:")
    for i, j in near[~same][:5]:
        print(f"  {package[i]}  {package[j]}  {float(vectors[i] @ vectors[j]):.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
