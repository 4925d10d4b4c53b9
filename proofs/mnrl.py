"""Is the method that `--recipe auto` picks worth it? Beside MultipleNegativesRankingLoss of sentence-transformers on four jobs.

Both start from all-MiniLM-L6-v2 and get the same rows, batch, learning rate, precision, warm-up and seconds on one core each,
at the same time. Their side gets all pairs of the rows, shuffled, without duplicates in a batch, as its documentation advises;
its loss has its defaults. Ours is `counterpoint.fit` with its defaults. Seeds are paired; the interval is Student's t.

    make proof NAME=mnrl DATA=path/to/data
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import numpy as np
import polars as pl
import torch
from jobs import JOBS, Work

import counterpoint
from counterpoint.encoders.text import embed, find, load, quiet_libraries
from counterpoint.evaluation.intervals import of_difference
from counterpoint.training.machine import describe

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from clock import timed_trainer

BATCH, LR, WARMUP, LENGTH = 64, 5e-5, 0.1, 96
ENDLESS = 10**6
HELD = 40
ARMS = ("ours", "theirs")
ALLOWED = ("leak", "shared-across-splits", "duplicate-rows", "positive-is-anchor", "class-per-row")  # see `ours`


def ours(work: Work, seconds: float, seed: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """What a user gets who says nothing: `fit` with --recipe auto."""
    frame = work.train.with_columns(split=pl.lit("train"))
    held = frame.head(HELD).with_columns(split=pl.lit("test"))  # `fit` needs questions; these are not reported
    corpus = folder / "corpus.csv"
    if "positive" in held.columns:
        held.select(text=pl.col("positive").list.first()).write_csv(corpus)
    trained = counterpoint.fit(
        pl.concat([frame, held]), quiet=True, out=str(folder / "run"), seed=seed, minutes=seconds / 60, batch=BATCH, lr=LR,
        lengths={"anchor": LENGTH, "positive": LENGTH}, precision="bf16", evaluations=1, select="last", allow=ALLOWED,
        corpus=str(corpus) if corpus.exists() else None,
    )  # fmt: skip
    assert trained is not None
    run = json.loads((trained.path / "run.json").read_text(encoding="utf-8"))
    return str(trained.path / "model"), {"steps": trained.metrics["steps"], "recipe": run["recipe"]}


def theirs(work: Work, seconds: float, seed: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """Their trainer and their loss, for the same seconds."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    torch.manual_seed(seed)
    model = SentenceTransformer(str(find("all-MiniLM-L6-v2")), device="cpu")
    model.max_seq_length = LENGTH
    order = np.random.default_rng(seed).permutation(len(work.pairs))
    rows = Dataset.from_dict({k: [work.pairs[i][side] for i in order] for side, k in enumerate(("anchor", "positive"))})
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=ENDLESS, per_device_train_batch_size=BATCH, learning_rate=LR, bf16=True,
        use_cpu=True, seed=seed, save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
        batch_sampler=BatchSamplers.NO_DUPLICATES,
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(model)
    trainer, _ = timed_trainer(seconds, WARMUP, model=model, args=args, train_dataset=rows, loss=loss)
    trainer.train()
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return str(folder / "model"), {"steps": trainer.state.global_step}


def worker(given: argparse.Namespace) -> None:
    """One arm of one job and seed, in a process of its own."""
    torch.set_num_threads(1)
    quiet_libraries()
    work = JOBS[given.job](given.data, given.part, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        arm = {"ours": ours, "theirs": theirs}.get(given.arm)
        path, facts = arm(work, given.seconds, given.seed, Path(folder)) if arm else ("all-MiniLM-L6-v2", {})
        encoder = load(path, lengths={"anchor": LENGTH, "positive": LENGTH})
        values = work.asked(partial(embed, encoder, precision="bf16"))
    given.out.write_text(json.dumps({"value": float(np.mean(values)), "measure": work.measure, **facts}))


def paired(given: argparse.Namespace, job: str, seed: int, scratch: Path) -> dict[str, dict[str, Any]]:
    """Both arms of a job at the same time, one core each."""
    running = {}
    for arm in ARMS if seed >= 0 else ("before",):
        out = scratch / f"{arm}.json"
        command = [
            sys.executable,
            __file__,
            "--data",
            str(given.data),
            "--part",
            given.part,
            "--seconds",
            str(given.seconds),
        ]
        command += ["--job", job, "--seed", str(max(seed, 0)), "--arm", arm, "--out", str(out)]
        running[arm] = (
            out,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}),
        )
    for arm, (_, process) in running.items():
        if process.wait():
            raise SystemExit(f"{job}, {arm}, seed {seed}: exit code {process.returncode}")
    return {arm: json.loads(out.read_text()) for arm, (out, _) in running.items()}


def main() -> None:
    """All jobs and seeds, printed as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        worker(given)
        return
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    results, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        for job in given.jobs:
            before = paired(given, job, -1, Path(scratch))["before"]
            runs = [paired(given, job, seed, Path(scratch)) for seed in range(given.seeds)]
            values = np.array([[run[arm]["value"] for arm in ARMS] for run in runs])
            difference = of_difference(values[:, 0] - values[:, 1], np.arange(len(values)))
            low, high = difference.low, difference.high
            results.append({
                "job": job, "measure": before["measure"], "before": before["value"], "runs": runs,
                **{arm: round(float(values[:, at].mean()), 5) for at, arm in enumerate(ARMS)},
                "difference": difference.as_dict(),
                "found": "better" if low > 0 else "worse" if high < 0 else "no difference shown",
            })  # fmt: skip
            print(json.dumps({k: v for k, v in results[-1].items() if k != "runs"}), runs, file=sys.stderr, flush=True)
    report = {
        "schema": 1, "what": "--recipe auto beside MultipleNegativesRankingLoss: equal seconds on a core each, paired over seeds",
        "part": given.part, "seconds": given.seconds, "seeds": given.seeds, "batch": BATCH, "lr": LR, "length": LENGTH,
        "commit": commit.stdout.strip() or "unknown", "machine": describe(), "results": results,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }  # fmt: skip
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
