"""Does tuning pay with eight or sixteen examples a class? Banking77: `fit` beside the frozen model, both read by one regression.

Five draws of 8 and of 16 examples of each of 77 intents; the test is all of Banking77's. Both vectors are read by the same
logistic regression. SetFit's number was measured elsewhere on this data (8 a class, 150 steps of 32) and stands as it is.

    make proof NAME=few_shot DATA=path/to/data
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jobs import intents

import counterpoint
from counterpoint.encoders.text import embed, load
from counterpoint.evaluation.intervals import of_difference
from counterpoint.training.machine import describe

ELSEWHERE = {8: {"frozen": 0.839, "setfit": 0.796}, 16: {"frozen": 0.880}}


def one(data: Path, part: str, shots: int, draw: int) -> dict[str, Any]:
    """One draw: accuracy of the frozen model and of the tuned one, and what `fit` said itself."""
    work = intents(data, part, draw, shots=shots)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        trained = counterpoint.fit(work.train, seed=draw, out=f"{scratch}/run", quiet=True)
        seconds = time.monotonic() - started
        assert trained is not None
        models = {"frozen": "all-MiniLM-L6-v2", "tuned": str(trained.path)}
        values = {name: float(np.mean(work.asked(partial(embed, load(path))))) for name, path in models.items()}
    facts = {"seconds": round(seconds, 1), "steps": trained.metrics["steps"], "kept": trained.metrics["best_step"]}
    return {"draw": draw, **values, **facts, "said": trained.metrics["sentence"]}


def main() -> None:
    """All draws, printed as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 16])
    given = parser.parse_args()
    results = []
    for shots in given.shots:
        runs = []
        for draw in range(given.draws):
            runs.append(one(given.data, given.part, shots, draw))
            print(shots, runs[-1], file=sys.stderr, flush=True)
        tuned, frozen = (np.array([run[arm] for run in runs]) for arm in ("tuned", "frozen"))
        unit = np.arange(len(runs))
        others = ELSEWHERE[shots].items() if len(runs) > 1 else ()
        results.append({
            "shots": shots, "tuned": round(float(tuned.mean()), 4), "frozen": round(float(frozen.mean()), 4), "runs": runs,
            "difference": of_difference(tuned - frozen, unit).as_dict() if len(runs) > 1 else None,
            "less measured elsewhere": {name: of_difference(tuned - value, unit).as_dict() for name, value in others},
        })  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "schema": 1, "what": "Banking77, few labels: accuracy of a logistic regression on tuned and frozen vectors, paired",
        "part": given.part, "commit": commit.stdout.strip() or "unknown", "machine": describe(), "elsewhere": ELSEWHERE,
        "results": results,
    }  # fmt: skip
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
