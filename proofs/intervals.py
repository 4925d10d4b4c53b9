"""Do the 95 % intervals hold what they say? The share of 2,000 simulated data sets whose interval holds the truth.

Simulated are the kinds of numbers that intervals are taken of: reciprocal ranks and their paired differences, shares of right
answers and their differences, clusters of unequal size, correlations of cosines with graded values, and AUROC. Sizes go from 5
units to 300. Where the truth has no closed form it is that of four million rows.

    python proofs/intervals.py --out evidence/intervals.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from counterpoint.evaluation.intervals import Interval, of_difference, of_mean, of_statistic
from counterpoint.training.machine import describe

SIMULATIONS = 2_000
ROWS = 4_000_000  # that a truth is read from
SIZES = (5, 10, 20, 49, 50, 100, 300)
SMALL = (10, 20, 50, 100)
Draw = Callable[[np.random.Generator, int], tuple[Interval, float]]


def reciprocal(rank: np.ndarray) -> np.ndarray:
    """1 / rank, 0 below rank 10."""
    rank = np.maximum(1, np.floor(rank))
    return np.where(rank <= 10, 1 / rank, 0.0)


def ranks(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal ranks of n queries before and after a change that helps a little."""
    base = np.exp(rng.exponential(1.3, n))
    return reciprocal(base), reciprocal(base * np.exp(rng.normal(-0.15, 0.6, n)))


def scores(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two models' scores of n pairs and the grade from 0 to 5 in halves that people gave them: [n, 3]."""
    truth = rng.normal(size=n)
    grade = np.clip(np.round(2 * 1.6 * (truth + 1.5)) / 2, 0, 5)
    return np.stack([truth + rng.normal(0, 0.7, n), truth + rng.normal(0, 0.5, n), grade], 1)


def detected(rng: np.random.Generator, n: int) -> np.ndarray:
    """Scores of n items and whether each is one of the 40 % that are looked for: [n, 2]."""
    there = (rng.random(n) < 0.4).astype(float)
    return np.stack([rng.normal(0, 1, n) + 1.5 * there, there], 1)


def middles(column: np.ndarray) -> tuple[np.ndarray, int]:
    """The place of each number among the distinct ones, from which ranks of any resample are counted."""
    distinct, place = np.unique(column, return_inverse=True)
    return place, len(distinct)


def ranked(place: np.ndarray, size: int) -> np.ndarray:
    """Mean ranks, from 1."""
    count = np.bincount(place, minlength=size)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def spearman(columns: np.ndarray, first: int = 0) -> Callable[[np.ndarray], float]:
    """Row numbers -> rank correlation of one column with the last, 0 where one is constant."""
    (x, nx), (y, ny) = middles(columns[:, first]), middles(columns[:, -1])

    def of(at: np.ndarray) -> float:
        a, b = ranked(x[at], nx), ranked(y[at], ny)
        a, b = a - a.mean(), b - b.mean()
        whole = float((a @ a) * (b @ b))
        return float(a @ b) / whole**0.5 if whole > 0 else 0.0

    return of


def auroc(columns: np.ndarray) -> Callable[[np.ndarray], float]:
    """Row numbers -> area under the ROC curve, 0.5 where one class is missing."""
    (x, nx), there = middles(columns[:, 0]), columns[:, 1] > 0

    def of(at: np.ndarray) -> float:
        yes = there[at]
        p = int(yes.sum())
        if p in (0, len(at)):
            return 0.5
        return float((ranked(x[at], nx)[yes].sum() - p * (p + 1) / 2) / (p * (len(at) - p)))

    return of


def cases() -> dict[str, tuple[tuple[int, ...], Draw]]:
    """name -> sizes, and a function that draws one data set and gives its interval and the truth."""
    big = np.random.default_rng(12345)
    old, new = ranks(big, ROWS)
    level, change = float(old.mean()), float((new - old).mean())
    some, found = scores(big, ROWS), detected(big, ROWS)
    everything = np.arange(ROWS)
    first, second = spearman(some, 0)(everything), spearman(some, 1)(everything)
    area = auroc(found)(everything)

    def mean_rank(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        return of_mean(ranks(rng, n)[0], np.arange(n), seed=int(rng.integers(2**31))), level

    def rank_change(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        a, b = ranks(rng, n)
        return of_difference(b - a, np.arange(n)), change

    def share(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        p = rng.uniform(0.05, 0.98)
        return of_mean((rng.random(n) < p).astype(float), np.arange(n)), p

    def share_change(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        gained, lost = rng.uniform(0.05, 0.25, 2)
        values = rng.choice([1.0, -1.0, 0.0], p=[gained, lost, 1 - gained - lost], size=n)
        return of_difference(values, np.arange(n)), gained - lost

    def clusters(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        sizes = rng.integers(1, 40, n)
        rows = np.repeat(rng.normal(0.1, 0.2, n), sizes) + rng.normal(0, 0.5, sizes.sum())
        return of_difference(rows, np.repeat(np.arange(n), sizes)), 0.1

    def correlation(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        return of_statistic(spearman(scores(rng, n)), np.arange(n), seed=int(rng.integers(2**31))), first

    def correlation_change(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        data = scores(rng, n)
        one, two = spearman(data, 0), spearman(data, 1)
        seed = int(rng.integers(2**31))
        return of_statistic(lambda at: two(at) - one(at), np.arange(n), seed=seed, difference=True), second - first

    def area_under(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        return of_statistic(auroc(detected(rng, n)), np.arange(n), seed=int(rng.integers(2**31))), area

    return {
        "mean reciprocal rank": (SIZES, mean_rank),
        "difference of reciprocal ranks": (SIZES, rank_change),
        "share of right answers": (SIZES, share),
        "difference of shares": (SIZES, share_change),
        "difference over clusters": (SIZES, clusters),
        "Spearman correlation": (SMALL, correlation),
        "difference of Spearman correlations": (SMALL, correlation_change),
        "AUROC": ((20, 50, 100), area_under),
    }


def covered(draw: Draw, n: int, *, simulations: int, seed: int) -> dict[str, float]:
    """How often the interval held the truth, how often it lay wholly above and below, and its mean width."""
    rng = np.random.default_rng([seed, n])
    held = above = 0
    widths = []
    for _ in range(simulations):
        interval, truth = draw(rng, n)
        held += interval.low <= truth <= interval.high
        above += interval.low > truth
        widths.append(interval.high - interval.low)
    return {
        "covered": held / simulations,
        "above": above / simulations,
        "below": (simulations - held - above) / simulations,
        "width": round(float(np.mean(widths)), 5),
    }


def main() -> None:
    """Every case at every size, printed as it goes and written at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun, found = time.time(), {}
    for name, (sizes, draw) in cases().items():
        found[name] = {str(n): covered(draw, n, simulations=given.simulations, seed=given.seed) for n in sizes}
        shown = "  ".join(f"{n}: {one['covered']:.3f}" for n, one in found[name].items())
        print(f"{name:<36} {shown}", flush=True)
    near = [0.93 <= one["covered"] <= 0.97 for case in found.values() for one in case.values()]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    written = {
        "schema": 1,
        "seed": given.seed,
        "simulations": given.simulations,
        "stated": 0.95,
        "cases": found,
        "within 2 points": f"{sum(near)} of {len(near)}",
        "seconds": round(time.time() - begun, 1),
        "machine": describe(),
        "commit": commit,
    }
    given.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
