"""How short may a vector be? Prefixes after matryoshka training, and sparse codes of the same bytes, on STS-B dev.

all-MiniLM-L6-v2 is trained on captions of the same photo, once by `matryoshka`, once by `csr` (the model frozen, a head beside
it). A prefix of w numbers in half precision takes 2 w bytes; a code of k numbers with their places 4 k. Spearman on STS-B dev.

    make proof NAME=widths DATA=path/to/data
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import captions
from scipy.stats import spearmanr
from texts import sts
from torch import Tensor

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.sparse import embed_sparse
from counterpoint.encoders.text import autocast, embed, load, quiet_libraries
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.machine import describe
from counterpoint.training.processes import Split
from counterpoint.verbs.recipes import arguments_of, function_of

WIDTHS = (384, 192, 128, 64, 32, 16)
KEPT = (32, 16, 8)  # numbers of a sparse code: the bytes of prefixes of 64, 32 and 16
BATCH, ROWS = 64, 8_000
SETTINGS: dict[str, dict[str, Any]] = {
    "matryoshka": {"steps": 80, "lr": 2e-5, "with": {"widths": WIDTHS}},
    "csr": {"steps": 150, "lr": 1e-3, "with": {}},
}


def spearman(left: Tensor, right: Tensor, value: np.ndarray) -> float:
    """The rank correlation of cosines with what people said."""
    cosines = torch.nn.functional.cosine_similarity(left, right).numpy()
    return round(float(spearmanr(cosines, value).statistic), 5)


def once(data: Path, recipe: str, seed: int) -> dict[str, Any]:
    """One seed of one method, read at every width; the model as it is for the recipe ""."""
    torch.set_num_threads(1)
    quiet_libraries()
    encoder, asked = load("all-MiniLM-L6-v2"), sts(data)
    sides, value = [asked[side].to_list() for side in ("sentence1", "sentence2")], asked["score"].to_numpy()
    if recipe:
        rows = Rows.of(captions(data, "dev", 0).train.select("anchor", "positive").sample(ROWS, seed=seed))
        function, setting = function_of(recipe), SETTINGS[recipe]
        torch.manual_seed(seed)
        method = function(encoder, rows, **arguments_of(function, setting["with"]))
        feed = plain(rows.take, shuffled(len(rows), batch=BATCH, seed=seed))
        schedule = Schedule(steps=setting["steps"], lr=setting["lr"], evaluations=1)
        train(method, feed, schedule, split=Split(BATCH, 1), seed=seed, autocast=autocast("cpu", "bf16"))
    if recipe == "csr":
        codes = {k: [embed_sparse(encoder, texts, k=k).to_dense() for texts in sides] for k in KEPT}
        return {"recipe": recipe, "seed": seed, "at": {k: spearman(*both, value) for k, both in codes.items()}}
    whole = [embed(encoder, texts) for texts in sides]
    return {
        "recipe": recipe,
        "seed": seed,
        "at": {w: spearman(whole[0][:, :w], whole[1][:, :w], value) for w in WIDTHS},
    }


def main() -> None:
    """All seeds, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    jobs = [("", 0), *((recipe, seed) for seed in range(given.seeds) for recipe in SETTINGS)]
    runs = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for found in pool.imap(partial(_star, given.data), jobs, chunksize=1):
            runs.append(found)
            print(found, file=sys.stderr, flush=True)
    before = runs[0]["at"]
    means = {
        recipe: {at: round(float(np.mean([r["at"][at] for r in runs if r["recipe"] == recipe])), 4) for at in ats}
        for recipe, ats in (("matryoshka", WIDTHS), ("csr", KEPT))
    }
    shares = [r["at"][64] / r["at"][384] for r in runs if r["recipe"] == "matryoshka"]
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "schema": 1, "what": "STS-B dev (Spearman) by stored width: prefixes after matryoshka training, sparse codes beside them",
        "seeds": given.seeds, "commit": commit.stdout.strip() or "unknown", "machine": describe(), "settings": SETTINGS,
        "before": before, "means": means, "64 of 384 keep": [round(share, 4) for share in shares],
        "64 of 384 kept before": round(before[64] / before[384], 4), "runs": runs[1:],
    }  # fmt: skip
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _star(data: Path, job: tuple[str, int]) -> dict[str, Any]:
    return once(data, *job)


if __name__ == "__main__":
    main()
