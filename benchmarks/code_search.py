"""Code search beside sentence-transformers: one base model, the same rows, batch, schedule and evaluator."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before any import that looks at them; the workers inherit them. This file's first process imports nothing heavy,
# because a child's peak of memory is never reported below its parent's.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1"
)

from clock import timed_trainer
from table import METRICS, NAMES, table

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from sentence_transformers import SentenceTransformerTrainingArguments

    from counterpoint.evaluation.tasks import Measured, Retrieval

SCHEMA = 1
INTERVAL_SEED = 0  # of the resamples
DEV = 300  # rows that our side measures before its first and after its last step
LENGTHS = {"anchor": 48, "positive": 96}
TEMPERATURE = 0.05
WARMUP = 0.1
ENDLESS = 10**6  # steps of a run that the clock ends
VERSIONS = ("counterpoint", "torch", "transformers", "sentence-transformers", "accelerate", "datasets", "numpy")


@dataclass(frozen=True)
class Job:
    """One worker's task: side is ours, steps, time or evaluate; folder is new and takes all that it writes."""

    side: str
    data: str
    folder: str
    steps: int
    batch: int
    lr: float
    test: int
    precision: str
    seed: int
    seconds: float | None = None
    models: Mapping[str, Sequence[str]] | None = None


def read(job: Job) -> dict[str, pl.DataFrame]:
    """All train rows, and the fixed samples of dev and test."""
    import polars as pl

    from counterpoint.data.identity import content_ids

    frame = pl.read_parquet(job.data)
    parts = {name: frame.filter(pl.col("split") == name) for name in ("train", "dev", "test")}
    for name, rows in (("dev", DEV), ("test", job.test)):
        drawn = content_ids(parts[name]["code"]).argsort()[:rows]  # by hash: the same for every seed and version
        parts[name] = parts[name][drawn.numpy()]
    return parts


def load_json(path: Path) -> dict[str, Any]:
    """One json object."""
    return json.loads(path.read_text(encoding="utf-8"))


def train_ours(job: Job) -> dict[str, Any]:
    """Train with `counterpoint.fit` and read what the run says of itself."""
    import polars as pl

    import counterpoint
    from counterpoint.training.loop import Schedule

    parts, folder = read(job), Path(job.folder)
    corpus = folder / "corpus.parquet"
    parts["test"].select("code").write_parquet(corpus)
    trained = counterpoint.fit(
        pl.concat(parts.values()),
        quiet=True,
        recipe="pairs",
        out=str(folder / "run"),
        roles={"anchor": "docstring", "positive": "code", "group": "package", "split": "split"},
        settings={"temperature": TEMPERATURE, "directions": "both"},
        lengths=LENGTHS,
        corpus=str(corpus),
        steps=job.steps,
        batch=job.batch,
        lr=job.lr,
        seed=job.seed,
        precision=job.precision,
        device="cpu",
        evaluations=1,
    )
    assert trained is not None
    run, metrics, cost = (load_json(trained.path / f"{name}.json") for name in ("run", "metrics", "cost"))
    defaults = Schedule(steps=1, lr=job.lr)
    return {
        "model": str(trained.path / "model"),
        "rows": run["split"]["sizes"]["train"],
        "steps": metrics["steps"],
        "seconds": metrics["steps"] / cost["steps_per_second"],
        "kept_step": metrics["best_step"],
        "mean_loss": sum(metrics["loss"]) / len(metrics["loss"]),
        "reported": {name: metrics["after"][name]["value"] for name in METRICS},
        "defaults": f"AdamW, weight decay {defaults.weight_decay} on matrices, gradient clipped at {defaults.clip}",
    }


def train_peer(job: Job) -> dict[str, Any]:
    """Train with sentence-transformers' own trainer, for a number of steps or for a time."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from counterpoint.encoders.text import find, quiet_libraries

    quiet_libraries()
    torch.manual_seed(job.seed)
    train, folder, args = read(job)["train"], Path(job.folder), peer_arguments(job)
    model = SentenceTransformer(str(find("all-MiniLM-L6-v2")), device="cpu")
    loss = MultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    collator = SentenceTransformerDataCollator(
        preprocess_fn=model.preprocess,
        router_mapping={"anchor": "query", "positive": "document"},
        max_length={"query": LENGTHS["anchor"], "document": LENGTHS["positive"]},
    )
    rows = Dataset.from_dict({"anchor": train["docstring"].to_list(), "positive": train["code"].to_list()})
    trainer, clock = timed_trainer(
        job.seconds, WARMUP, model=model, args=args, train_dataset=rows, loss=loss, data_collator=collator
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
        model.encode(train["code"].head(job.batch).to_list())  # our side has measured its model when its clock starts
    outcome = trainer.train()
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return {
        "model": str(folder / "model"),
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "seconds": clock.seconds,
        "kept_step": trainer.state.global_step,
        "mean_loss": outcome.training_loss,
        "defaults": f"{plain(args.optim)}, weight decay {args.weight_decay}, gradient clipped at {args.max_grad_norm}, "
        f"batch sampler {plain(args.batch_sampler)}",
    }


def plain(choice: Any) -> str:
    """The word that a member of one of their enums stands for."""
    return str(getattr(choice, "value", choice))


def peer_arguments(job: Job) -> SentenceTransformerTrainingArguments:
    """Their arguments: what both sides share is set, all else that changes the training is their default."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    return SentenceTransformerTrainingArguments(
        output_dir=str(Path(job.folder) / "trainer"),
        max_steps=ENDLESS if job.seconds else job.steps,
        per_device_train_batch_size=job.batch,
        learning_rate=job.lr,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        bf16=job.precision == "bf16",
        use_cpu=True,
        seed=job.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def evaluate(job: Job) -> dict[str, Any]:
    """Every model on the same questions with the same code, and the paired differences ours - theirs."""
    from counterpoint.training.machine import describe

    test = read(job)["test"]
    task = questions(test)
    measured = {name: measure(task, paths, job.precision) for name, paths in (job.models or {}).items()}
    queries = task.unit, test["docstring"].to_numpy()  # what is resampled: packages, then single queries
    first = next(iter(measured.values()))
    return {
        "queries": len(task.queries),
        "candidates": first[0].candidates,
        "packages": len(set(task.unit.tolist())),
        "metrics": {name: summary([values_of(m) for m in found], queries) for name, found in measured.items()},
        "difference": {
            name: summary(differences(measured["ours"], measured[name]), queries)
            for name in ("steps", "time")
            if name in measured and "ours" in measured
        },
        "machine": describe(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
    }


def questions(test: pl.DataFrame) -> Retrieval:
    """Each docstring has to find its code among all codes of the sample."""
    from counterpoint.evaluation.tasks import Retrieval

    codes = test["code"].to_list()
    return Retrieval(test["docstring"].to_list(), [[i] for i in range(len(codes))], codes, test["package"].to_numpy())


def measure(task: Retrieval, paths: Sequence[str], precision: str) -> list[Measured]:
    """The answers of each model, in the lengths and precision of the training."""
    from counterpoint.encoders.text import embed, load

    encoders = (load(path, lengths=LENGTHS) for path in paths)
    return [task.measure(partial(embed, encoder, precision=precision)) for encoder in encoders]


def values_of(measured: Measured) -> dict[str, np.ndarray]:
    """The metrics that are compared, query by query."""
    return {name: measured.values[name] for name in METRICS}


def differences(ours: Sequence[Measured], theirs: Sequence[Measured]) -> list[dict[str, np.ndarray]]:
    """Ours - theirs, query by query, for each repeat."""
    return [{name: a.values[name] - b.values[name] for name in METRICS} for a, b in zip(ours, theirs, strict=True)]


def summary(repeats: Sequence[Mapping[str, np.ndarray]], units: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Each metric, averaged over repeats, with its interval over packages and over queries."""
    import numpy as np

    from counterpoint.evaluation.intervals import of_mean

    packages, queries = units
    found: dict[str, Any] = {}
    for name in METRICS:
        values = np.mean([repeat[name] for repeat in repeats], axis=0)
        over = of_mean(values, queries, seed=INTERVAL_SEED)
        each = [round(float(repeat[name].mean()), 6) for repeat in repeats]
        found[name] = of_mean(values, packages, seed=INTERVAL_SEED).as_dict()
        found[name] |= {"over_queries": [round(over.low, 6), round(over.high, 6)], "repeats": each}
    return found


def work(path: Path) -> None:
    """Do the job that a file holds, and leave the answer beside it."""
    job = Job(**load_json(path))
    answer = evaluate(job) if job.side == "evaluate" else (train_ours if job.side == "ours" else train_peer)(job)
    from counterpoint.training.machine import peak_memory

    answer["peak_memory_bytes"] = peak_memory()
    path.with_name("answer.json").write_text(json.dumps(answer))


def in_process(job: Job) -> dict[str, Any]:
    """A job in a fresh process of its own."""
    print(f"{NAMES.get(job.side, 'evaluating')}, seed {job.seed}", file=sys.stderr, flush=True)
    folder = Path(job.folder)
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    load, started = os.getloadavg()[0], time.monotonic()
    subprocess.run([sys.executable, __file__, "--worker", str(folder / "job.json")], stdout=sys.stderr, check=True)
    answer = load_json(folder / "answer.json")
    answer |= {"load_before": round(load, 2), "process_seconds": round(time.monotonic() - started, 2)}
    if job.side == "evaluate":
        return answer
    speed = answer["steps"] / answer["seconds"]
    answer |= {"side": job.side, "seed": job.seed, "seconds": round(answer["seconds"], 2)}
    return answer | {"steps_per_second": round(speed, 4), "pairs_per_second": round(speed * job.batch, 2)}


def sides(args: argparse.Namespace) -> list[str]:
    """What one repeat runs; a time to equal has to be known before."""
    peer = {"steps": ["steps"], "time": ["time"], "both": ["steps", "time"]}[args.equal]
    return (["ours"] if args.only != "peer" else []) + (peer if args.only != "ours" else [])


def run_all(args: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """All trainings, the sides taking turns so that a slow hour of the machine meets all of them."""
    common = {k: getattr(args, k) for k in ("data", "steps", "batch", "lr", "test", "precision")}
    for repeat in range(args.repeats):
        ours = None
        for side in sides(args):
            job = Job(side, folder=str(scratch / f"{side}-{repeat}"), seed=args.seed + repeat, **common)
            answer = in_process(replace(job, seconds=ours) if side == "time" else job)
            ours = answer["seconds"] if side == "ours" else ours
            yield answer


def result(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything that was found, ready for json."""
    runs = list(run_all(args, scratch))
    common = {k: getattr(args, k) for k in ("data", "steps", "batch", "lr", "test", "precision", "seed")}
    models = {"before": ["all-MiniLM-L6-v2"]} | {s: [r["model"] for r in runs if r["side"] == s] for s in sides(args)}
    found = in_process(Job("evaluate", folder=str(scratch / "evaluate"), models=models, **common))
    settings = {k: v for k, v in common.items() if k not in ("data", "seed")}
    return {
        "schema": SCHEMA,
        "benchmark": "code_search",
        "seed": args.seed,
        "repeats": args.repeats,
        "commit": commit(),
        "settings": settings | {"lengths": LENGTHS, "temperature": TEMPERATURE, "warmup": WARMUP, "dev": DEV},
        "runs": [{k: v for k, v in run.items() if k != "model"} for run in runs],
        **{k: found[k] for k in ("queries", "candidates", "packages", "metrics", "difference", "machine", "versions")},
    }


def commit() -> str:
    """The commit of this checkout, or "unknown"."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="parquet with the columns split, package, docstring, code")
    parser.add_argument("--steps", type=int, default=60, help="updates")
    parser.add_argument("--batch", type=int, default=96, help="pairs an update")
    parser.add_argument("--lr", type=float, default=8e-5, help="peak learning rate")
    parser.add_argument("--test", type=int, default=1000, help="test pairs")
    parser.add_argument("--seed", type=int, default=0, help="of order and dropout; repeats count up from it")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of both sides")
    parser.add_argument("--equal", choices=("steps", "time", "both"), default="steps", help="what both sides get")
    parser.add_argument("--only", choices=("ours", "peer"), help="one side alone")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side, taking turns")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result here")
    args = parser.parse_args()
    if not Path(args.data).is_file():
        parser.error(f"no such file: {args.data}")
    if args.only == "peer" and args.equal != "steps":
        parser.error("--equal time needs the time that our side took; leave out --only peer")
    return args


def main() -> None:
    """Train both sides, evaluate them alike, print the table."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="code-search-") as scratch:
        found = result(args, Path(scratch))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(table(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]))
    else:
        main()
