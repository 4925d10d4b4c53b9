"""Do parts do what their papers claim? One experiment a claim, on small real data: five seeds, with and without the part.

Both arms of a seed share data, initial weights and batches. An effect is shown if the 95 % interval of the paired difference
(Student's t over seeds) lies on the claimed side of 0; otherwise it is not shown, and that is published too. The claims and what
was measured stand beside the numbers.

    make proof NAME=parts                python proofs/parts.py --only "NAME" --seeds 2        (a quick look)
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from claim import Claim

from counterpoint.evaluation.intervals import of_difference
from counterpoint.training.machine import describe

FAMILIES = ("claims_softmax", "claims_soft", "claims_state", "claims_made", "claims_prediction")


def claims() -> list[Claim]:
    """All of them, family by family."""
    return [claim for family in FAMILIES for claim in importlib.import_module(family).CLAIMS]


def tried(claim: Claim, seeds: range) -> dict[str, object]:
    """Both arms of every seed, and what that says."""
    started = time.process_time()
    found = []
    for seed in seeds:
        arms = []
        for arm in (claim.with_it, claim.without):
            torch.manual_seed(seed)
            arms.append(arm(seed))
        found.append(arms)
    values = np.array(found)
    sign = 1 if claim.higher else -1
    difference = of_difference(values[:, 0] - values[:, 1], np.arange(len(values)))
    low = difference.low if claim.higher else -difference.high
    key = {"row": claim.row} if claim.row is not None else {"reference": claim.reference}
    return {
        **key,
        "name": claim.name,
        "claim": claim.says,
        "measure": claim.measure,
        "better": "higher" if sign > 0 else "lower",
        "with": [round(float(v), 5) for v in values[:, 0]],
        "without": [round(float(v), 5) for v in values[:, 1]],
        "difference": difference.as_dict(),
        "effect": "shown" if low > 0 else "not shown",
        "processor_seconds": round(time.process_time() - started, 1),
    }


def line(result: dict) -> str:
    """One result for people."""
    d, ends = result["difference"], [float(np.mean(result[arm])) for arm in ("without", "with")]
    return (
        f"{result['effect']:9} {result['name']:28} {result['measure']}: {ends[0]:.3f} -> {ends[1]:.3f}, "
        f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] ({result['processor_seconds']} s)"
    )


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", help="names of claims, or parts of them")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 101), metavar="N", help="at least 2")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the nets are tiny, and sums add up alike on every machine
    wanted = [c for c in claims() if not given.only or any(word.lower() in c.name.lower() for word in given.only)]
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    results = []
    for number, claim in enumerate(wanted, start=1):
        results.append(tried(claim, range(given.seeds)))
        print(f"[{number}/{len(wanted)}] {line(results[-1])}", file=sys.stderr, flush=True)
    report = {
        "schema": 1,
        "what": "effects of parts on small real data: paired over seeds, Student's t",
        "seeds": given.seeds,
        "commit": commit.stdout.strip() or "unknown",
        "machine": describe(),
        "shown": sum(r["effect"] == "shown" for r in results),
        "results": results,
    }
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['shown']} of {len(results)} effects shown")


if __name__ == "__main__":
    main()
