"""Things that take turns in one process: a cached step and what it is made of, steps with and without health."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from training_ours import LR, Tokens, in_order, ours

from counterpoint._ops.lean import clear_gradients, lean
from counterpoint._ops.unit import to_unit
from counterpoint.data.batches import Rows
from counterpoint.encoders.text import autocast
from counterpoint.objectives.softmax import infonce
from counterpoint.training.cached import pieces
from counterpoint.training.feed import Feed, plain
from counterpoint.training.health import Health
from counterpoint.training.loop import Schedule, optimizer_for, train
from counterpoint.training.method import Contrast, Method, step
from counterpoint.training.processes import Split
from counterpoint.types import Batch, Embeddings, same_sample
from training import Job

MLP_WIDTHS = (64, 512, 512, 128)
WANTED, TRIED = 0.010, 20  # seconds of a step of the MLP, and steps by which a batch is tried
ENDLESS = 10**6  # steps of the schedule that none of the runs here ends


# ---- parts of a cached step


def parts(job: Job) -> dict[str, Any]:
    """A cached step, and what it is made of, in turn: a step of the same pieces without caching, and their forward pass.

    The plain step gives each piece a gradient that was made before, and pays for no loss: the strictest sum to be
    compared with.
    """
    assert job.micro is not None
    method, rows, encoder = ours(job)
    batch, generator = rows.take(np.arange(job.batch)), torch.Generator().manual_seed(job.seed)
    tokens, cast = Tokens(encoder.model), autocast("cpu", job.precision)
    schedule = Schedule(ENDLESS, LR)
    optimizer = optimizer_for(method, schedule)
    gradient = torch.randn(job.micro, encoder.width, generator=generator) / job.batch
    views = method.views(batch, generator)

    def cached() -> None:
        step(method, [batch], optimizer, generator=generator, autocast=cast, clip=schedule.clip, micro=job.micro)

    def forward() -> None:
        for piece in pieces(views, job.micro or 1):
            with torch.no_grad(), cast, lean():
                method.encode(method.modules, piece)

    def uncached() -> None:
        clear_gradients(method.modules.parameters())
        for piece in pieces(views, job.micro or 1):
            with cast, lean():
                sets = method.encode(method.modules, piece)
            for rows_of_one in sets.values():
                rows_of_one.z.backward(gradient[: len(rows_of_one)])
        nn.utils.clip_grad_norm_(method.modules.parameters(), schedule.clip)
        optimizer.step()

    runs: dict[str, Callable[[], None]] = {"cached": cached, "plain": uncached, "forward": forward}
    read: dict[str, tuple[int, int]] = {}
    small = Job(**{**vars(job), "batch": min(job.batch, 4 * job.micro)})
    warm_up(method, rows, small, optimizer, generator)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(job.rounds):
        for name in names[turn % 3 :] + names[: turn % 3]:
            tokens.real = tokens.padded = 0
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
            read[name] = tokens.real, tokens.padded
    return {
        "parts": seconds,
        "ratios": [c / (p + f) for c, p, f in zip(*(seconds[name] for name in runs), strict=True)],
        "tokens_read": read,
    }


def warm_up(method: Method, rows: Rows, job: Job, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    """A smaller cached step: libraries load, the optimizer's moments are made."""
    some = rows.take(np.arange(job.batch))
    cast = autocast("cpu", job.precision)
    step(method, [some], optimizer, generator=generator, autocast=cast, clip=1.0, micro=job.micro)


# ---- health


def mlp() -> Method:
    """Noisy views of numbers through an MLP: a step so short that whatever is added to it is seen."""
    torch.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(MLP_WIDTHS) for part in (nn.Linear(a, b), nn.ReLU())]

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        noise = [0.1 * torch.randn(batch["x"].shape, generator=generator) for _ in range(2)]
        return {
            n: {"x": batch["x"] + e, "id": batch["id"], "view": v}
            for v, (n, e) in enumerate(zip("ab", noise, strict=True))
        }

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {
            n: Embeddings.of(to_unit(modules["encoder"](b["x"])), id=b["id"], view=b["view"]) for n, b in views.items()
        }

    objective = Contrast(("a",), ("b",), same_sample, infonce)
    return Method(
        nn.ModuleDict({"encoder": nn.Sequential(*layers[:-1])}), views, encode, objective, lambda m: m["encoder"]
    )


def endless_noise(batch: int, seed: int) -> Feed:
    """Batches of normal numbers."""
    x = torch.randn(8 * batch, MLP_WIDTHS[0], generator=torch.Generator().manual_seed(seed))

    def take(at: np.ndarray) -> Batch:
        rows = torch.from_numpy(at)
        return {"x": x[rows], "id": rows, "row": rows}

    return plain(take, in_order(len(x), batch))


def health(job: Job) -> dict[str, Any]:
    """Blocks of steps of the loop with and without health, in turn; one health, and one model, lasts over all blocks."""
    if job.model == "mlp":
        method, batch = mlp(), 32

        def trial(batch: int) -> float:
            feed = endless_noise(batch, job.seed)
            return block(method, feed, job, batch=batch, steps=TRIED, watch=None) / TRIED

        while trial(batch) < WANTED and batch < 2**14:
            batch *= 2
        feed = endless_noise(batch, job.seed)
    else:
        method, rows, _ = ours(job)
        batch, feed = job.batch, plain(rows.take, in_order(len(rows), job.batch))
    watch = Health(method)
    block(method, feed, job, batch=batch, steps=job.steps, watch=watch)
    watch.allowance.spent = watch.allowance.total = 0.0  # the first reading loads libraries
    found: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(job.rounds):
        for name in ("with", "without") if turn % 2 else ("without", "with"):
            own = watch if name == "with" else None
            found[name].append(block(method, feed, job, batch=batch, steps=job.steps, watch=own))
    return {
        "batch": batch,
        "blocks": found,
        "step_seconds": sorted(found["without"])[len(found["without"]) // 2] / job.steps,
        "shares": [a / b - 1 for a, b in zip(found["with"], found["without"], strict=True)],
        "taken": watch.taken(),
        "readings": len(watch.history["step"]),
        "allowed": watch.share,
    }


def block(method: Method, feed: Feed, job: Job, *, batch: int, steps: int, watch: Health | None) -> float:
    """Seconds of some steps of the loop after warm ones, whose optimizer is new."""
    times: list[float] = []
    train(
        method,
        feed,
        Schedule(steps + job.warm, LR),
        split=Split(batch, 1),
        seed=job.seed,
        autocast=autocast("cpu", job.precision if job.model == "minilm" else "fp32"),
        health=watch,
        note=lambda _step, _numbers: times.append(time.perf_counter()),
    )
    return times[-1] - times[job.warm - 1]
