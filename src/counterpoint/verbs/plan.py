"""The plan: everything that a run will do, decided and shown before it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table

from counterpoint._ops.world import alone, count
from counterpoint.data.batches import Rows
from counterpoint.data.orders import Used
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import TextEncoder, embed, missing_prompts
from counterpoint.errors import Refusal
from counterpoint.training.machine import memory_bytes, memory_free, pick_precision
from counterpoint.training.method import Method
from counterpoint.training.processes import Split, first_decides, same
from counterpoint.training.rates import groups, passes
from counterpoint.types import items_of
from counterpoint.verbs.console import Screen
from counterpoint.verbs.orders import order_line
from counterpoint.verbs.prepare import Prepared
from counterpoint.verbs.settings import Run

SAMPLE = 1_000  # texts whose tokens are counted
COVERED = 0.95  # share of texts that the automatic length does not cut
LOADED = 256  # training rows whose texts are counted to say what a row costs
PADDING = 1.15  # tokens that pass the encoder for each one of a text, when texts of like length share a pass
TRIAL = 16  # texts that are timed
LORA_LR = 2e-4  # the least in the scripts of LoRA's authors (GPT-2; 5e-4 on RoBERTa)


@dataclass(frozen=True)
class Plan:
    """What will happen, in numbers; `warnings` are lines to read first."""

    recipe: str
    why: str
    arguments: dict[str, Any]
    metric: str
    model: str
    device: str
    precision: str
    steps: int
    minutes: float | None
    epochs: float
    batch: int
    micro: int | None
    split: str
    negatives: int
    lr: float
    lengths: dict[str, dict[str, float]]
    token_counts: dict[str, list[int]]
    expected_minutes: float
    expected_memory: int
    warnings: tuple[str, ...]
    accumulate: int
    schedule: str
    trained: str
    order: str


def measure_lengths(
    encoder: Encoder, prepared: Prepared, run: Run
) -> tuple[dict[str, dict[str, float]], dict[str, list[int]]]:
    """For each role how many tokens its texts keep and what share of them is cut; nothing for what has no tokens."""
    if not isinstance(encoder, TextEncoder):
        return {}, {}
    frame = prepared.split.part("train")
    generator = np.random.default_rng(run.asked_by)
    lengths: dict[str, dict[str, float]] = {}
    counts: dict[str, list[int]] = {}
    for role in ("anchor", "positive"):
        if role not in frame.columns:
            continue
        texts = frame[role].explode().drop_nulls() if role != "anchor" else frame[role]
        picked = np.sort(generator.choice(len(texts), min(SAMPLE, len(texts)), replace=False))
        counts[role] = encoder.count_tokens([texts[int(i)] for i in picked], role)
        fits = 16 * math.ceil(float(np.quantile(counts[role], COVERED)) / 16)
        tokens = min(run.lengths.get(role, fits), encoder.longest)
        lengths[role] = {"tokens": tokens, "cut": round(float(np.mean(np.array(counts[role]) > tokens)), 4)}
    return lengths, counts


@dataclass(frozen=True)
class Load:
    """What one training row sends through the encoder: texts, tokens, and candidates it brings."""

    texts: float
    tokens: float
    candidates: float


def measure_load(encoder: Encoder, method: Method, rows: Rows) -> Load:
    """The load of a row, from the method's own views of a few rows."""
    count = min(LOADED, len(rows))
    views = method.views(rows.take(np.arange(count)), torch.Generator().manual_seed(0))
    lengths = []
    for view in views.values():
        limit = encoder.lengths.get(view["role"], encoder.longest)
        lengths.append([min(n, limit) for n in encoder.count_tokens(items_of(view), view["role"])])
    texts = sum(len(view) for view in lengths)
    tokens = sum(sum(view) for view in lengths)
    others = texts - len(lengths[0]) if len(lengths) > 1 else texts
    return Load(texts / count, PADDING * tokens / count, others / count)


def seconds_per_token(encoder: Encoder, items: Any, role: str, precision: str) -> float:
    """Forward time a token, measured on a few items after a first pass that does not count."""
    embed(encoder, items, role, precision=precision)
    started = time.perf_counter()
    embed(encoder, items, role, precision=precision)
    limit = encoder.lengths.get(role, encoder.longest)
    counted = sum(min(c, limit) for c in encoder.count_tokens(items, role))
    return (time.perf_counter() - started) / max(counted, 1)


def make_plan(
    run: Run,
    prepared: Prepared,
    encoder: Encoder,
    method: Method,
    rows: Rows,
    *,
    recipe: str,
    why: str,
    metric: str,
    arguments: dict,
    evaluated: int,
    epoch: Used,
) -> Plan:
    """Decide everything that was left open.

    Args:
        run: the settings.
        prepared: the data.
        encoder: the loaded model; its lengths are set here.
        method: what will be trained; its views say what a row costs.
        rows: to train on.
        recipe: its name.
        why: why this one.
        metric: the one that decides.
        arguments: of the recipe.
        evaluated: how many texts are encoded for all evaluations together.
        epoch: what an epoch of the run's order uses of the rows.

    Raises:
        Refusal: a batch that does not fit the memory, with the one that would.
    """
    batch, warnings, lr = min(run.batch, len(rows)), [], run.lr
    assert lr is not None  # see Run.for_kind
    if batch < run.batch:
        warnings.append(f"batch {run.batch} is more than the {len(rows)} training rows; {batch} is used")
    device = str(encoder.device)
    precision = same(pick_precision(run.precision, device))
    split = Split(batch, count(), run.micro).check()
    lengths, counts = measure_lengths(encoder, prepared, run)
    encoder.lengths = {role: int(entry["tokens"]) for role, entry in lengths.items()}
    steps, epochs = _steps(run, epoch.batches)
    head = run.head_lr / lr if run.head_lr else None
    groups(dict(method.modules.items()), weight_decay=0.0, layer_decay=run.layer_decay, head=head)  # refuses in time
    load = measure_load(encoder, method, rows)

    def takes(size: int) -> int:
        own = size / split.processes * load.texts  # texts of this process
        share = min(own, run.micro or math.inf) / load.texts  # rows whose graph is alive at once
        kept = int(3 * 4 * encoder.width * size * load.texts) if run.micro else 0  # vectors, unit vectors, gradients
        return kept + memory_bytes(encoder, int(share * load.tokens))

    first_decides(lambda: _refuse_too_large(takes, batch, memory_free(device), run.micro))
    with alone():
        some = rows.items.take(rows.anchors[:TRIAL])
        pace = seconds_per_token(encoder, some, "anchor", precision) / split.processes
    costs = passes(encoder) + (1 if run.micro else 0)  # caching encodes once more
    rows_seen = batch * run.accumulate * steps
    training = costs * pace * load.tokens * rows_seen if run.minutes is None else 60 * run.minutes
    total = training + pace * evaluated * load.tokens / load.texts
    typed = missing_prompts(encoder, str(run.model)) if isinstance(encoder, TextEncoder) else None
    if typed is not None:
        warnings.append(f"models of this family lose quality without prompts: add {typed}")
    if run.lora is not None and lr < LORA_LR:
        warnings.append(f"adapters learn little at a rate of {lr:g}; LoRA's authors take 5e-4 on RoBERTa: --lr 5e-4")
    for name, entry in lengths.items():
        if entry["cut"] > 1 - COVERED:
            warnings.append(f"{entry['cut']:.0%} of the {name} texts are cut at {entry['tokens']} tokens")
    return Plan(
        recipe, why, arguments, metric, str(run.model), device, precision, steps, run.minutes, epochs, batch, run.micro,
        str(split), int(load.candidates * batch) - 1, lr, lengths, counts, total / 60, takes(batch), tuple(warnings),
        run.accumulate, run.schedule, what_trains(encoder, run), order_line(run, epoch),
    )  # fmt: skip


def what_trains(encoder: Encoder, run: Run) -> str:
    """Which weights of the encoder train, in words; empty where all do."""
    sizes = [(p.numel(), p.requires_grad) for p in encoder.parameters()]
    trained, total = sum(n for n, yes in sizes if yes), sum(n for n, _ in sizes)
    if trained == total:
        return ""
    how = [f"adapters of rank {run.lora}, merged at the end"] if run.lora is not None else []
    if run.freeze is not None:
        how.append("embeddings frozen" if run.freeze == "embeddings" else f"embeddings and {run.freeze} layers frozen")
    return f"{trained:,} of {total:,} weights: {'; '.join(how)}"


def _steps(run: Run, batches: int) -> tuple[int, float]:
    """Updates and passes over the data; with only a time budget the steps have no bound of their own."""
    if not batches:
        came, remedy = "none in an epoch", "a smaller --batch, or --order shuffled"
        raise Refusal(f"rows that fill a batch of {run.batch}", came, where=f"--order {run.order}", remedy=remedy)
    a_pass = batches / run.accumulate
    if run.steps is None and run.epochs is None:
        steps = max(1, int(a_pass)) if run.minutes is None else 10**9
    else:
        steps = run.steps if run.steps is not None else max(1, round(run.epochs * a_pass))  # type: ignore[operator]
    return steps, steps / a_pass


def _refuse_too_large(takes: Callable[[int], int], batch: int, free: int, micro: int | None) -> None:
    """Refuse a batch that does not fit, and name the one that would, or the micro-batch."""
    if takes(batch) <= free:
        return
    fits = int((free - takes(0)) // max(1, takes(1) - takes(0)))
    raise Refusal(
        f"memory for a batch of {batch}: about {takes(batch) / 1e9:.1f} GB",
        f"{free / 1e9:.1f} GB free",
        where="--batch",
        remedy=_what_fits(fits, micro),
    )


def _what_fits(batch: int, micro: int | None) -> str:
    """What to type where a batch is too large."""
    if batch < 2:
        return "a smaller model or shorter --length is needed" if micro is None else "a smaller --micro is needed"
    if micro is None:
        return f"--batch {batch} would fit, or --micro {min(64, batch)} with this batch"
    return f"--batch {batch} would fit"


def _accumulation(plan: Plan) -> str:
    """What accumulation does, and what it does not."""
    larger, micro = plan.batch * plan.accumulate, plan.micro or plan.batch
    return (
        f"mean gradient of {plan.accumulate} batches; negatives come from one batch only "
        f"(--batch {larger} --micro {micro} takes them from all {larger} rows)"
    )


def show_plan(plan: Plan, prepared: Prepared, asked: tuple[int, int], out: str, screen: Screen) -> None:
    """The plan as a table; warnings after it."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
    sizes = prepared.split.sizes
    lengths = "; ".join(f"{r} {e['tokens']} tokens ({e['cut']:.0%} of texts cut)" for r, e in plan.lengths.items())
    steps = f"{plan.steps} steps, {plan.epochs:.2g} passes over the data" if plan.steps < 10**9 else ""
    budget = f"{plan.minutes:g} minutes" if plan.minutes else ""
    noun = "texts" if plan.lengths else "rows"
    through = f" ({plan.micro} {noun} at a time through the encoder)" if plan.micro else ""
    rows = {
        "training method": f"{plan.recipe} ({plan.why})",
        "its arguments": ", ".join(f"{k}={v}" for k, v in plan.arguments.items()) or "none",
        "measured by": f"{plan.metric} on {asked[0]:,} held-out queries, {asked[1]:,} candidates",
        "split": f"train {sizes['train']:,}, dev {sizes['dev']:,}, test {sizes['test']:,} rows by {prepared.split.how}",
        "model": plan.model,
        "device": f"{plan.device}, {plan.precision} products",
        "training": ", ".join(x for x in (steps, budget) if x) + f"; learning rate {plan.lr:g}, {plan.schedule}",
        **({"weights that train": plan.trained} if plan.trained else {}),
        "batch": f"{plan.split} rows{through}; negatives per anchor up to {plan.negatives}",
        **({"an update": _accumulation(plan)} if plan.accumulate > 1 else {}),
        "order": plan.order,
        **({"lengths": lengths} if lengths else {}),
        "expected": f"{plan.expected_minutes:.1f} minutes, {plan.expected_memory / 1e9:.1f} GB of memory",
        "run folder": out,
    }
    for name, value in rows.items():
        table.add_row(name, value.replace("[", r"\["))
    screen.console.print(table)
    for line in plan.warnings:
        screen.say(f" warning  {line}", style="yellow")
