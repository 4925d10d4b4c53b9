"""Can a step be chosen without labels? RankMe and agreement of neighbours beside kNN accuracy, over many checkpoints.

Small SimCLR-like runs on handwritten digits (scikit-learn's, 1,797 images of 8 x 8): an MLP, two noisy views, InfoNCE.
Rates, temperatures, noise and batches are drawn, so that good, slow and broken runs are among them. At several steps of
each run the label-free scores are taken on training rows, and the accuracy of a 5-nearest-neighbour vote on rows that
were held out. Reported: Spearman's correlation over the checkpoints of a run and over the last checkpoints of all runs,
each with an interval from resampled runs, and the accuracy of the step that each score would keep.

    python proofs/selection.py --out evidence/selection.json
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from counterpoint._ops.geometry import shared_neighbours
from counterpoint._ops.unit import to_unit
from counterpoint.data.orders import endless, shuffled
from counterpoint.encoders.text import autocast
from counterpoint.objectives.softmax import infonce
from counterpoint.training.loop import Schedule, optimizer_for
from counterpoint.training.machine import describe
from counterpoint.training.method import Contrast, Method, step
from counterpoint.training.selection import label_free, two_views
from counterpoint.types import Batch, Embeddings, same_sample

STEPS = (0, 5, 10, 20, 40, 80, 160, 320)
PROBED = 512
SCORES = ("rankme", "neighbours", "successive", "step")
RESAMPLES = 2000


def method_of(width: int, noise: float, temperature: float) -> Method:
    """An MLP under two noisy views of each row."""
    sizes = (64, 128, 128, 128)  # deep enough that untrained it loses much of what raw pixels know
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    encoder = nn.Sequential(*layers, nn.Linear(sizes[-1], width))

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        def one(view: int) -> Batch:
            drawn = torch.randn(batch["x"].shape, generator=generator)
            return {"x": batch["x"] + noise * drawn, "id": batch["id"], "view": view}

        return {"first": one(0), "second": one(1)}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {
            name: Embeddings.of(modules["encoder"](b["x"]), id=b["id"], view=int(b["view"]))
            for name, b in views.items()
        }

    objective = Contrast(("first",), ("second",), same_sample, partial(infonce, temperature=temperature))
    return Method(nn.ModuleDict({"encoder": encoder}), views, encode, objective, lambda m: m["encoder"])


def accuracy(method: Method, data: Sequence[torch.Tensor]) -> float:
    """Of the five nearest training rows, on rows that were held out."""
    x, y, held, answers = data
    with torch.no_grad():
        known, asked = (to_unit(method.modules["encoder"](rows)).numpy() for rows in (x, held))
    return float(KNeighborsClassifier(5).fit(known, y.numpy()).score(asked, answers.numpy()))


def run(seed: int, data: Sequence[torch.Tensor]) -> dict[str, object]:
    """One run with settings that the seed draws; every score at every checkpoint."""
    draw, x = np.random.default_rng(seed), data[0]
    lr, temperature = float(10 ** draw.uniform(-4, -0.5)), float(10 ** draw.uniform(-2, 0))
    noise, batch = float(draw.uniform(0.05, 1.0)), int(draw.choice([16, 64, 256]))
    torch.manual_seed(seed)
    method = method_of(16, noise, temperature)
    fp32, generator = autocast("cpu", "fp32"), torch.Generator().manual_seed(seed)
    probe = {"x": x[:PROBED], "id": torch.arange(PROBED), "row": torch.arange(PROBED)}
    scores: dict[str, Callable[[], float]] = {
        s: label_free(s, method, probe, seed=0, autocast=fp32)  # type: ignore[arg-type]
        for s in ("rankme", "neighbours")
    }
    optimizer = optimizer_for(method, Schedule(steps=STEPS[-1], lr=lr))
    found: dict[str, list[float]] = {name: [] for name in (*SCORES, "accuracy")}
    before = None
    stream = endless(shuffled(len(x), batch=batch, seed=seed))
    for number in range(STEPS[-1] + 1):
        if number:
            at = torch.from_numpy(next(stream))
            step(method, [{"x": x[at], "id": at}], optimizer, generator=generator, autocast=fp32, clip=1.0)
        if number in STEPS:
            now = two_views(method, probe, seed=0, autocast=fp32)[0]
            found["successive"].append(math.nan if before is None else shared_neighbours(before, now, 10))
            found["step"].append(float(number))
            found["accuracy"].append(accuracy(method, data))
            for name, score in scores.items():
                found[name].append(score())
            before = now
    return {"seed": seed, "lr": lr, "temperature": temperature, "noise": noise, "batch": batch, **found}


def resampled(values: Callable[[np.ndarray], float], count: int, seed: int) -> dict[str, float]:
    """A number of all runs, and where 95 % of the resamples of runs put it."""
    draw = np.random.default_rng(seed)
    drawn = [values(draw.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {k: round(float(v), 3) for k, v in {"value": values(np.arange(count)), "low": low, "high": high}.items()}


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's, over places where both are known; NaN where one of them does not vary."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len({a for a, _ in known}) < 2 or len({b for _, b in known}) < 2:
        return math.nan
    return float(spearmanr(*zip(*known, strict=True)).statistic)


def kept(row: dict, name: str) -> float:
    """The accuracy of the step that a score would keep, with that of the start among them."""
    values = [-math.inf if math.isnan(v) else v for v in row[name]]
    return row["accuracy"][int(np.argmax(values))]


def summary(rows: Sequence[dict], seed: int) -> dict[str, dict[str, object]]:
    """For each score: correlation within runs, across runs, and accuracy lost against the best step."""
    out: dict[str, dict[str, object]] = {}
    for name in SCORES:
        inside = np.array([correlation(r[name], r["accuracy"]) for r in rows])
        ends = np.array([[r[name][-1], r["accuracy"][-1]] for r in rows])
        lost = np.array([max(r["accuracy"]) - kept(r, name) for r in rows])
        out[name] = {"within a run": resampled(lambda at, v=inside: float(np.nanmean(v[at])), len(rows), seed)}
        if name != "step":
            out[name]["across runs"] = resampled(lambda at, e=ends: correlation(*e[at].T), len(rows), seed)
        out[name]["accuracy lost"] = resampled(lambda at, v=lost: float(v[at].mean()), len(rows), seed)
    return out


def commit() -> str:
    """The commit of this checkout, or unknown."""
    done = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.process_time()
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(given.seed).permutation(len(x))
    x, y = torch.tensor(x[order] / 16 - 0.5, dtype=torch.float32), torch.tensor(y[order])
    data = (x[:1200], y[:1200], x[1200:], y[1200:])
    rows = [run(given.seed * 1000 + i, data) for i in range(given.runs)]
    best, end, start = (np.array([f(r["accuracy"]) for r in rows]) for f in (max, lambda a: a[-1], lambda a: a[0]))
    result = {
        "schema": 1,
        "what": "label-free model selection: Spearman with 5-NN accuracy on held-out digits",
        "seed": given.seed,
        "runs": given.runs,
        "steps": STEPS,
        "commit": commit(),
        "machine": describe(),
        "processor_seconds": round(time.process_time() - started, 1),
        "accuracy": {k: round(float(v.mean()), 4) for k, v in {"start": start, "end": end, "best step": best}.items()},
        "scores": summary(rows, given.seed),
        "checkpoints": [
            {k: [None if math.isnan(x) else round(x, 4) for x in v] if isinstance(v, list) else v for k, v in r.items()}
            for r in rows
        ],
    }
    print(json.dumps({k: v for k, v in result.items() if k != "checkpoints"}, indent=1))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
