"""One worker of benchmarks/loss.py: memory of a method, time of several, in a process that does nothing else."""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from loss import WIDE, Job
from loss_peers import CLASSES, METHODS, SPREAD, Rows, Step, T
from torch import Tensor

from counterpoint._ops.products import Precision, product
from counterpoint.types import Embeddings

VERSIONS = ("counterpoint", "torch", "sentence-transformers", "pytorch-metric-learning", "faiss-cpu", "numpy")
SMALL = 64  # rows of the run before a measurement of memory: libraries load, threads start
SHORT = 2.0  # seconds below which a first call is repeated before it is believed
SQUARE = 1024  # rows of the smaller product whose rate is measured
BURST = 0.1  # seconds that one measurement takes, about, if a single run does not take longer
NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "could not create a",
    "could not execute a",
)
TIE = 1e-6  # scores closer than this are one place


# ---- memory


def resident() -> int:
    """Bytes that this process holds now."""
    return psutil.Process().memory_info().rss


def peak() -> int:
    """The most bytes that it has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def settle() -> None:
    """Give freed memory back to the system and, where that can be done (Linux), begin a new peak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def allow(limit: int) -> None:
    """Let allocations beyond the limit fail, beside what is held now (Linux; elsewhere nothing limits them)."""
    held = Path("/proc/self/statm")
    if limit and held.exists():
        most = int(held.read_text().split()[5]) * resource.getpagesize() + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def memory(job: Job) -> dict[str, Any]:
    """What one method takes beside its inputs and their gradients."""
    method = METHODS[job.methods[0]]
    method.run(method.make(Rows.of(min(SMALL, job.rows), job.width, job.seed)), job.precision)
    step = method.make(Rows.of(job.rows, job.width, job.seed))
    settle()
    before, slack = resident(), peak() - resident()
    allow(job.limit)
    try:
        loss = method.run(step, job.precision)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            return {"fits": False, "why": str(error)[:200]}
        raise
    return {"fits": True, "extra_bytes": peak() - before, "slack_bytes": slack, "loss": loss}


def large(job: Job) -> dict[str, Any]:
    """Peak of a big batch, everything counted that came after the imports: inputs, gradients, the loss."""
    method = METHODS[job.methods[0]]
    method.run(method.make(Rows.of(SMALL, job.width, job.seed)), job.precision)
    settle()
    imported = resident()
    step = method.make(Rows.of(job.rows, job.width, job.seed, buffers=False))
    inputs, started = resident() - imported, time.perf_counter()
    loss = method.run(step, job.precision)
    seconds = time.perf_counter() - started
    return {
        "imported_bytes": imported,
        "inputs_bytes": inputs,
        "peak_bytes": peak() - imported,
        "seconds": seconds,
        "loss": loss,
    }


# ---- time


def seconds_of(run: Callable[[], Any], times: int = 1) -> float:
    """A call under a clock; of several, their mean."""
    started = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - started) / times


def bursts(seconds: float) -> int:
    """How often something is run under one clock, so that short ones are measured as well as long ones."""
    return max(1, round(BURST / seconds))


Product = Callable[[], Tensor]


def products(rows: int, width: int, precision: Precision) -> list[dict[str, Any]]:
    """Products of the section's precision, in two shapes: as torch takes them, by oneDNN, and those of our scores."""
    found: list[dict[str, Any]] = []
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    for n in sorted({SQUARE, min(rows, WIDE)}):
        x, y = (torch.randn(n, width, generator=torch.Generator().manual_seed(k)).to(dtype) for k in (0, 1))
        kinds: dict[str, Product] = {"torch": lambda x=x, y=y: x @ y.T}
        x32, y32 = x.float(), y.float()  # what a sweep is given
        kinds["sweep"] = lambda x=x32, y=y32: product(x, y.T, precision)
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            kinds["onednn"] = lambda x=x, y=y: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
        for kind, run in kinds.items():
            run()
            shape, times = [n, width, n], bursts(seconds_of(run))
            found.append({"kind": kind, "shape": shape, "run": run, "times": times, "per_second": []})
    return found


def rate(entry: dict[str, Any]) -> None:
    """One more measurement of a product."""
    entry["per_second"].append(2 * math.prod(entry["shape"]) / seconds_of(entry["run"], entry["times"]))


def gradients(rows: Rows) -> Tensor:
    """Both gradients as one vector."""
    assert rows.a.grad is not None
    assert rows.c.grad is not None
    return torch.cat([rows.a.grad.flatten(), rows.c.grad.flatten()])


def clear(rows: Rows) -> None:
    """Gradients back to zero, in their place."""
    for z in (rows.a, rows.c):
        assert z.grad is not None
        z.grad.zero_()


def warm(job: Job, rows: Rows, steps: dict[str, Step]) -> dict[str, dict[str, Any]]:
    """The first runs of each, how often it runs under one clock, its gradient beside the first method's in fp32."""
    exact: Tensor | None = None
    if job.alike:
        METHODS[job.methods[0]].run(steps[job.methods[0]], "fp32")
        exact = gradients(rows)
    found: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        clear(rows)
        started = time.perf_counter()
        loss = METHODS[name].run(step, job.precision)
        took = time.perf_counter() - started
        found[name] = {"loss": loss, "seconds": []}
        if exact is not None:
            found[name]["gradient_differs"] = float((gradients(rows) - exact).norm() / exact.norm())
        if took < SHORT:  # the very first call also loads what is loaded late
            took = seconds_of(partial(METHODS[name].run, step, job.precision))
        found[name]["times"] = bursts(took)
    return found


def clocked(job: Job) -> dict[str, Any]:
    """All methods of a section in turn, each round beginning with another, and the product rates in every round."""
    rows = Rows.of(job.rows, job.width, job.seed)
    steps = {name: METHODS[name].make(rows) for name in job.methods}
    found = warm(job, rows, steps)
    kernels = products(job.rows, job.width, job.precision)
    names, started = list(steps), time.monotonic()
    for turn in range(job.repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            clear(rows)
            method, step, got = METHODS[name], steps[name], found[name]
            run = partial(method.run, step, job.precision)
            got["seconds"].append(seconds_of(run, got["times"]))
        for entry in kernels:
            rate(entry)
        left = (time.monotonic() - started) / (turn + 1) * (job.repeats - turn - 1)
        print(f"    round {turn + 1} of {job.repeats}, {left:.0f} s left here", file=sys.stderr, flush=True)
    return {"methods": found, "rates": [{k: e[k] for k in ("kind", "shape", "per_second")} for e in kernels]}


# ---- neighbours


def neighbours(job: Job) -> dict[str, Any]:
    """Top ten beside faiss, flat inner product: the same unit rows, the same threads, its index made beforehand."""
    from counterpoint._ops.neighbours import neighbours as nearest

    g = torch.Generator().manual_seed(job.seed)
    q, c = (
        torch.nn.functional.normalize(torch.randn(n, job.width, generator=g), dim=-1) for n in (job.rows, job.corpus)
    )
    k = min(10, job.corpus)
    ours = Embeddings.of(q), Embeddings.of(c, id=torch.arange(len(c)) + len(q))  # no equal ids: nothing is left out
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: nearest(*ours, k).index}
    try:
        import faiss
    except ImportError:
        note = "faiss-cpu is not installed"
    else:
        note = ""
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(job.width)
        index.add(c.numpy())
        runs["faiss"] = lambda: torch.from_numpy(index.search(q.numpy(), k)[1])
    ids, seconds = {name: run() for name, run in runs.items()}, {name: [] for name in runs}
    for _ in range(job.repeats):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    answer = {"k": k, "seconds": seconds, "note": note}
    return answer | (agreement(q, c, ids["ours"], ids["faiss"]) if "faiss" in ids else {})


def agreement(q: Tensor, c: Tensor, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """How many places hold the same id, and whether the others are ties."""
    row, place = torch.nonzero(ours != theirs, as_tuple=True)
    one, two = ((q[row].double() * c[ids[row, place]].double()).sum(-1) for ids in (ours, theirs))
    apart = (one - two).abs()
    return {
        "equal_share": 1 - len(row) / ours.numel(),
        "differing": len(row),
        "ties": int((apart <= TIE).sum()),
        "largest_gap": float(apart.max()) if len(row) else 0.0,
    }


# ---- the process


def rounding(width: int = 384) -> dict[str, float]:
    """Largest errors of 1024 x 1024 products of normal numbers: whether scores at bf16 are rounded on this machine."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(SQUARE, width, generator=g) for _ in range(2))
    exact = x.double() @ y.double().T
    half = x.bfloat16(), y.bfloat16()
    found = {
        "fp32": product(x, y.T, "fp32"),
        "bf16": product(x, y.T, "bf16"),
        "inputs_rounded": half[0].float() @ half[1].float().T,
        "result_rounded_too": half[0] @ half[1].T,
    }
    return {name: float((value - exact).abs().max()) for name, value in found.items()}


def describe(_job: Job) -> dict[str, Any]:
    """Where this ran."""
    from counterpoint.training.machine import describe as machine

    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "machine": {**machine(), "vectors": torch.backends.cpu.get_cpu_capability()},
        "versions": versions,
        "threads": torch.get_num_threads(),
        "score_errors": rounding(),
        "environment": {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if k in os.environ},
        "constants": {"temperature": T, "classes": CLASSES, "spread": SPREAD},
    }


KINDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "describe": describe,
    "memory": memory,
    "time": clocked,
    "large": large,
    "neighbours": neighbours,
}


def main() -> None:
    """Do the job that a file holds, and leave the answer, or what went wrong, beside it."""
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text()))
    try:
        answer = KINDS[job.kind](job)
    except Exception as error:  # a peer may fail in its own ways; the run goes on without it
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    path.with_name("answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
