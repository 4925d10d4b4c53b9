"""Unsupervised sentence methods on a base that has seen no pair: do they lift mean pooling, and is their published order found?

The base is the one of proofs/base.py; it only ever guessed words. All methods train on the same unlabelled sentences, with
the same batch, rate and steps, from five seeds that decide rows, dropout and new weights; STS-B dev measures them (Spearman).
What was published is the average over seven STS sets with BERT-base, as each paper says. A method that needs more than
sentences (documents in order) is left out.

    make proof NAME=unsupervised DATA=path/to/data                  (after make proof NAME=base DATA=path/to/data)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from base import HOME
from scipy.stats import kendalltau
from texts import sts, table

from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_ids
from counterpoint.data.orders import shuffled
from counterpoint.encoders.text import autocast, embed, load, quiet_libraries
from counterpoint.evaluation.intervals import of_difference
from counterpoint.evaluation.tasks import Similarity
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.machine import describe
from counterpoint.training.processes import Split
from counterpoint.verbs.recipes import arguments_of, function_of

# Method -> row of the bibliography, its published average over STS12-16, STS-B and SICK-R with BERT-base, unsupervised.
PUBLISHED: dict[str, tuple[int, float | None]] = {
    "simcse": (80, 76.25),
    "esimcse": (280, 78.27),
    "consert": (164, 72.74),
    "mirror_bert": (273, 75.4),
    "diffcse": (100, 78.49),
    "dclr": (102, 77.22),
    "whitenedcse": (28, 78.78),
    "micse": (103, 78.13),
    "promcse": (119, 78.49),
    "clusterns": (146, None),
    "debcse": (30, None),
    "unsee": (157, None),
    "clear": (82, None),
}
RATES = {"promcse": 30.0}  # times the common rate: only prefixes train, in the paper at a thousand times SimCSE's
SENTENCES, BATCH, STEPS, RATE, DROPOUT = 20_000, 64, 300, 3e-4, 0.1


def sentences(data: Path) -> list[str]:
    """Sentences of several kinds without any label: captions, premises, forums and news; none that is asked about."""
    snli = table(data, "text_pairs/snli_dev_test")
    photos = table(data, "text_pairs/multi30k_5captions_en")
    train = sts(data, "train")
    found = [
        *train["sentence1"],
        *train["sentence2"],
        *snli["premise"],
        *snli["hypothesis"],
        *photos["c1"],
        *photos["c2"],
    ]
    asked = {text for part in ("dev",) for side in ("sentence1", "sentence2") for text in sts(data, part)[side]}
    distinct = pl.Series([t for t in dict.fromkeys(found) if t and t not in asked])
    return distinct[content_ids(distinct).argsort()[:SENTENCES].numpy()].to_list()


def spearman(encoder: Any, frame: pl.DataFrame) -> float:
    """The rank correlation of cosines with what people said."""
    left, right, value = (frame[c] for c in ("sentence1", "sentence2", "score"))
    task = Similarity(left.to_list(), right.to_list(), value.to_numpy(), np.arange(len(frame)))
    from scipy.stats import spearmanr

    cosines, given = task.measure(partial(embed, encoder)).values["spearman"].T
    return float(spearmanr(cosines, given).statistic)


def once(data: Path, base: Path, recipe: str, seed: int, *, rate: float, steps: int, part: str) -> dict[str, Any]:
    """One run of one method; the base alone for the recipe ""."""
    torch.set_num_threads(1)
    quiet_libraries()
    started = time.process_time()
    encoder = load(base)
    if recipe:
        encoder.set_dropout(DROPOUT)
        rows = Rows.of(pl.DataFrame({"anchor": sentences(data)}))
        function = function_of(recipe)
        torch.manual_seed(seed)
        method = function(encoder, rows, **arguments_of(function, {}))
        feed = plain(rows.take, shuffled(len(rows), batch=BATCH, seed=seed))
        schedule = Schedule(steps=steps, lr=rate * RATES.get(recipe, 1.0), evaluations=1)
        train(method, feed, schedule, split=Split(BATCH, 1), seed=seed, autocast=autocast("cpu", "bf16"))
        encoder = method.model(method.modules)  # type: ignore[assignment]
    found = {"recipe": recipe, "seed": seed, "spearman": round(spearman(encoder, sts(data, part)), 5)}
    return found | {"processor_seconds": round(time.process_time() - started, 1)}


def compared(runs: list[dict[str, Any]], names: list[str], mean_pooling: float) -> list[dict[str, Any]]:
    """Each method beside SimCSE, paired over seeds."""
    by = {name: np.array([r["spearman"] for r in runs if r["recipe"] == name]) for name in names}
    results = []
    for name in names:
        difference = (
            of_difference(by[name] - by["simcse"], np.arange(len(by[name]))).as_dict() if name != "simcse" else None
        )
        results.append({
            "method": name, "of": PUBLISHED[name][0], "published": PUBLISHED[name][1], "seeds": by[name].tolist(),
            "spearman": round(float(by[name].mean()), 4), "over mean pooling": round(float(by[name].mean()) - mean_pooling, 4),
            "less simcse": difference,
        })  # fmt: skip
    return sorted(results, key=lambda r: -r["spearman"])


def main() -> None:
    """All methods and seeds, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=HOME)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument(
        "--part", choices=("dev", "train"), default="dev", help="what measures: train to choose the rate"
    )
    parser.add_argument("--only", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    given = parser.parse_args()
    if not (given.base / "modules.json").exists():
        raise SystemExit(f"wanted a base in {given.base}, found none: make proof NAME=base DATA=path/to/data makes it")
    one = partial(once, given.data, given.base, rate=given.rate, steps=given.steps, part=given.part)
    jobs = [("", 0), *((name, seed) for seed in range(given.seeds) for name in given.only)]
    runs, started = [], time.monotonic()
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=8) as pool:
        waiting = [pool.apply_async(one, job) for job in jobs]
        for number, found in enumerate(waiting, start=1):
            runs.append(found.get())
            print(f"[{number}/{len(jobs)}] {runs[-1]}", file=sys.stderr, flush=True)
    mean_pooling = runs[0]["spearman"]
    results = compared(runs, given.only, mean_pooling) if given.seeds > 1 else []
    known = [r for r in results if r["published"] is not None]
    tau = kendalltau([r["spearman"] for r in known], [r["published"] for r in known]) if len(known) > 2 else None
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "schema": 1, "what": "unsupervised sentence methods on a base without contrast; STS-B (Spearman), paired over seeds",
        "part": given.part, "seeds": given.seeds, "steps": given.steps, "batch": BATCH, "lr": given.rate, "dropout": DROPOUT,
        "sentences": SENTENCES, "commit": commit.stdout.strip() or "unknown", "machine": describe(), "mean pooling": mean_pooling,
        "order": None if tau is None else {"kendall": round(float(tau.statistic), 3), "p": round(float(tau.pvalue), 3)},
        "minutes": round((time.monotonic() - started) / 60, 1), "methods": results,
    }  # fmt: skip
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
