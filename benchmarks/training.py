"""Training steps of all-MiniLM-L6-v2 beside sentence-transformers: plain, with gradient caching, and what health costs.

python benchmarks/training.py DATA.parquet --repeats 3 --json benchmarks/results/training.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before any import that looks at them; the workers inherit them. This file's process imports nothing heavy, because a
# child's peak of memory is never reported below its parent's.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1"
)

from code_search import commit, load_json
from training_table import table

SCHEMA = 1
BATCH, MICRO = 64, 64
WARM = 3  # steps before the clock starts
MEASURES = ("plain-bf16", "plain-fp32", "cached", "cached-large", "memory", "health-minilm", "health-mlp")
LARGE = ("cached-large",)  # minutes a step on two cores: only where they are named


@dataclass(frozen=True)
class Job:
    """What one process does.

    Args:
        kind: steps, parts, health or describe.
        data: the table.
        side: ours or peer.
        batch: pairs an update.
        micro: texts that the encoder sees at a time; None: all.
        steps: under the clock. warm: before it.
        precision: of the products.
        seed: of order and dropout.
        rounds: in one process, where several things take turns in it.
        model: minilm or mlp.
    """

    kind: str
    data: str = ""
    side: str = "ours"
    batch: int = BATCH
    micro: int | None = None
    steps: int = 1
    warm: int = WARM
    precision: str = "bf16"
    seed: int = 0
    rounds: int = 1
    model: str = "minilm"


def jobs_of(name: str, args: argparse.Namespace) -> list[Job]:
    """The jobs of one round of a measure, the sides taking turns."""
    common: dict[str, Any] = {"data": str(Path(args.data).resolve()), "seed": args.seed, "precision": args.precision}
    if name.startswith("plain-"):
        common |= {"precision": name.removeprefix("plain-"), "steps": args.steps}
        return [Job("steps", side=side, **common) for side in ("ours", "peer")]
    if name.startswith("cached"):
        large = name in LARGE
        common |= {"batch": args.large if large else args.batch, "micro": args.micro}
        steps = {"steps": 1 if large else 2, "warm": 0 if large else 1}
        return [Job("steps", side=side, **steps, **common) for side in ("ours", "peer")]
    if name == "memory":  # the same rows in one step, and in steps of their own
        big = Job("steps", batch=args.large, micro=args.micro, steps=1, warm=0, **common)
        return [big, Job("steps", batch=BATCH, steps=max(1, args.large // BATCH), warm=0, **common)]
    return []


def shared_of(name: str, args: argparse.Namespace) -> list[Job]:
    """The jobs in which several things take turns in one process, `--repeats` times."""
    common: dict[str, Any] = {"data": str(Path(args.data).resolve()), "seed": args.seed, "precision": args.precision}
    if name.startswith("cached"):
        batch = args.large if name in LARGE else args.batch
        return [Job("parts", batch=batch, micro=args.micro, rounds=args.repeats, **common)]
    if name == "health-minilm":
        return [Job("health", steps=args.steps, warm=1, rounds=args.repeats, **common)]
    if name == "health-mlp":
        steps = args.steps * 30
        return [Job("health", model="mlp", steps=steps, warm=WARM, rounds=args.repeats, **common)]
    return []


def in_process(job: Job) -> dict[str, Any]:
    """A job in a fresh process, which imports this checkout and inherits no setting of an allocator."""
    words = [job.kind, job.side, f"batch {job.batch}", *([f"micro {job.micro}"] if job.micro else []), job.precision]
    print("  ".join([*words, job.model]), file=sys.stderr, flush=True)
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith(("MALLOC_", "GLIBC_TUN"))}
    here = str(Path(__file__).parents[1] / "src")  # what is measured is the checkout whose commit is recorded
    clean["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [clean.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(asdict(job)))
        load, started = os.getloadavg()[0], time.monotonic()
        worker = [sys.executable, str(Path(__file__).with_name("training_measure.py")), str(path)]
        subprocess.run(worker, env=clean, stdout=sys.stderr, cwd=folder, check=True)
        answer = load_json(path.with_name("answer.json"))
    answer |= {"load_before": round(load, 2), "process_seconds": round(time.monotonic() - started, 1)}
    return {k: v for k, v in asdict(job).items() if k != "data"} | answer


def measured(names: Sequence[str], args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All jobs, the measures taking turns too, so that a slow hour of the machine meets all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name in names:
        found[name] += [in_process(job) for job in shared_of(name, args)]
    for repeat in range(args.repeats):
        for name in names:
            jobs = jobs_of(name, args)
            turned = jobs[repeat % max(1, len(jobs)) :] + jobs[: repeat % max(1, len(jobs))]
            found[name] += [in_process(job) | {"repeat": repeat} for job in turned]
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="parquet with the columns split, docstring, code")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, in which all take turns")
    parser.add_argument("--only", nargs="+", choices=MEASURES, metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--steps", type=int, default=12, help="steps under the clock at the plain batch")
    parser.add_argument("--batch", type=int, default=1024, help="pairs of a cached step")
    parser.add_argument("--large", type=int, default=4096, help="pairs of the large cached step, and that of memory")
    parser.add_argument("--micro", type=int, default=MICRO, help="texts at a time")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of all but the plain steps")
    parser.add_argument("--seed", type=int, default=0, help="of order and dropout")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result here; measures in it stay")
    args = parser.parse_args()
    if not Path(args.data).is_file():
        parser.error(f"no such file: {args.data}")
    if min(args.repeats, args.steps) < 1:
        parser.error("wanted at least 1 repeat and 1 step")
    return args


def main() -> None:
    """Measure, write the json, print the table."""
    args, started = arguments(), time.monotonic()
    names = args.only or [name for name in MEASURES if name not in LARGE]
    found = measured(names, args)
    about = {k: v for k, v in vars(args).items() if k not in ("data", "json", "only")}
    stamp = {"commit": commit(), "seconds": round(time.monotonic() - started, 1), "settings": about}
    before = load_json(args.json)["measures"] if args.json and args.json.exists() else {}
    whole = {
        "schema": SCHEMA,
        "benchmark": "training",
        "seed": args.seed,
        **in_process(Job("describe"))["about"],
        "measures": before | {name: {**stamp, "runs": runs} for name, runs in found.items()},
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    print(table(whole))


if __name__ == "__main__":
    main()
