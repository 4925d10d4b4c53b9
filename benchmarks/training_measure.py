"""One worker of benchmarks/training.py: steps of one side, parts of a cached step, or steps with and without health."""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from code_search import LENGTHS, TEMPERATURE, VERSIONS
from loss_measure import peak, resident, settle
from torch import nn
from training_ours import LR, MODEL, Tokens, in_order, ours, table_of
from training_parts import health, parts

from counterpoint.encoders.text import autocast, find, quiet_libraries
from counterpoint.training.feed import plain
from counterpoint.training.health import Health
from counterpoint.training.loop import Schedule, train
from counterpoint.training.machine import describe as machine
from counterpoint.training.processes import Split
from training import Job

# ---- steps


def steps_ours(job: Job) -> dict[str, Any]:
    """Our loop, with health as it always is."""
    method, rows, encoder = ours(job)
    tokens, times, losses = Tokens(encoder.model), [], []

    def note(_step: int, numbers: Mapping[str, float]) -> None:
        times.append(time.perf_counter())
        losses.append(numbers["loss"])

    whole = job.steps + job.warm
    schedule = Schedule(steps=whole, lr=LR)
    feed = plain(rows.take, in_order(len(rows), job.batch))
    before, slack, started = baseline()
    train(
        method,
        feed,
        schedule,
        split=Split(job.batch, 1, job.micro),
        seed=job.seed,
        autocast=autocast("cpu", job.precision),
        health=Health(method),
        note=note,
    )
    passes = 2 if job.micro else 1  # caching reads each text twice
    kind = f"AdamW, fused, weight decay {schedule.weight_decay} on matrices, gradient clipped at {schedule.clip}"
    return (
        outcome(job, [started, *times], sum(losses) / len(losses), tokens, passes)
        | memory(before, slack)
        | {"optimizer": kind}
    )


def steps_peer(job: Job) -> dict[str, Any]:
    """Their trainer on the same batches."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer import losses as known
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from transformers import TrainerCallback

    quiet_libraries()
    torch.manual_seed(job.seed)
    model = SentenceTransformer(str(find(MODEL)), device="cpu")
    tokens, times = Tokens(model), []
    both: Any = {
        "scale": 1 / TEMPERATURE,
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
    }
    if job.micro:
        loss: nn.Module = known.CachedMultipleNegativesRankingLoss(model, mini_batch_size=job.micro, **both)
    else:
        loss = known.MultipleNegativesRankingLoss(model, **both)
    collator = SentenceTransformerDataCollator(
        preprocess_fn=model.preprocess,
        router_mapping={"anchor": "query", "positive": "document"},
        max_length={"query": LENGTHS["anchor"], "document": LENGTHS["positive"]},
    )
    frame = table_of(job, job.batch * (job.steps + job.warm))
    args = peer_arguments(job)

    class Watch(TrainerCallback):
        """Notes when each step ends; what their model card reads before the first one is not counted."""

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            """Before the first batch."""
            tokens.real = tokens.padded = 0
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """After each update."""
            times.append(time.perf_counter())

    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(frame.to_dict(as_series=False)),
        loss=loss,
        data_collator=collator,
        callbacks=[Watch()],
    )
    before, slack, _ = baseline()
    trained = trainer.train()
    passes = 2 if job.micro else 1
    optimizer = f"{getattr(args.optim, 'value', args.optim)}, weight decay {args.weight_decay}"
    optimizer += f", gradient clipped at {args.max_grad_norm}"
    return outcome(job, times, trained.training_loss, tokens, passes) | memory(before, slack) | {"optimizer": optimizer}


def peer_arguments(job: Job) -> Any:
    """What both sides share is set, all else is their default."""
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    def as_they_stand(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
        return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)

    return SentenceTransformerTrainingArguments(
        output_dir="trainer",
        max_steps=job.steps + job.warm,
        per_device_train_batch_size=job.batch,
        batch_sampler=as_they_stand,
        learning_rate=LR,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=Schedule(1, LR).weight_decay,
        max_grad_norm=Schedule(1, LR).clip,
        bf16=job.precision == "bf16",
        use_cpu=True,
        seed=job.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def baseline() -> tuple[int, int, float]:
    """Bytes that are held, what an earlier peak may hide, and the time."""
    settle()
    held = resident()
    return held, peak() - held, time.perf_counter()


def memory(before: int, slack: int) -> dict[str, Any]:
    """The peak above the baseline, and of the process."""
    return {"extra_bytes": peak() - before, "slack_bytes": slack, "peak_bytes": peak(), "baseline_bytes": before}


def outcome(job: Job, times: list[float], mean_loss: float, tokens: Tokens, passes: int) -> dict[str, Any]:
    """Seconds of each step after the warm ones, and what was read in all steps."""
    each = [b - a for a, b in itertools.pairwise(times)]
    return {
        "seconds": each[job.warm :],
        "warm_seconds": each[: job.warm],
        "samples_per_second": job.batch * job.steps / sum(each[job.warm :]),
        "tokens": tokens.real // passes,
        "padded_tokens": tokens.padded // passes,
        "mean_loss": mean_loss,
    }


# ---- the process


def describe(_job: Job) -> dict[str, Any]:
    """Where this ran."""
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}
    shown = {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if k in os.environ}
    own = machine() | {"vectors": torch.backends.cpu.get_cpu_capability()}
    constants = {"model": MODEL, "lr": LR, "lengths": LENGTHS, "temperature": TEMPERATURE}
    return {"about": {"machine": own, "versions": versions, "environment": shown, "constants": constants}}


KINDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "steps": lambda job: steps_ours(job) if job.side == "ours" else steps_peer(job),
    "parts": parts,
    "health": health,
    "describe": describe,
}


def main() -> None:
    """Do the job that a file holds, and leave the answer beside it."""
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text()))
    path.with_name("answer.json").write_text(json.dumps(KINDS[job.kind](job)))


if __name__ == "__main__":
    main()
