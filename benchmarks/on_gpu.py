"""Contrastive losses on a GPU, forward and backward, beside dense PyTorch: time, memory, share of the product rate.

    python benchmarks/on_gpu.py --json benchmarks/results/cuda.json

The peer is the formula of open_clip's ClipLoss and of sentence-transformers' symmetric MultipleNegativesRankingLoss, which are
the same: normalise, one matrix of logits, two cross entropies. Methods take turns; medians of the rounds are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives.custom import sweeping
from counterpoint.objectives.softmax import infonce
from counterpoint.types import Embeddings

T = 0.05
Loss = Callable[[Tensor, Tensor], Tensor]


def dense(a: Tensor, c: Tensor) -> Tensor:
    """Both directions by one matrix of logits."""
    logits = normalize(a, dim=1) @ normalize(c, dim=1).T / T
    target = torch.arange(len(a), device=a.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def ours(a: Tensor, c: Tensor) -> Tensor:
    """The same by tiles."""
    return infonce(Embeddings.of(a), Embeddings.of(c, view=1), temperature=T, directions="both").loss


def run(loss: Loss, a: Tensor, c: Tensor, precision: str) -> tuple[float, float, float]:
    """Loss, seconds and peak bytes beside inputs and gradients, of one forward and backward pass."""
    a.grad = c.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        value = loss(a, c)
    value.backward()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return float(value.detach()), seconds, torch.cuda.max_memory_allocated() - before


def rate(rows: int, width: int, dtype: torch.dtype) -> float:
    """Operations a second of a plain product of the scores' shape."""
    x, y = (torch.randn(rows, width, device="cuda", dtype=dtype) for _ in range(2))
    found = []
    for _ in range(6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(4):
            x @ y.T
        torch.cuda.synchronize()
        found.append(4 * 2 * rows * rows * width / (time.perf_counter() - started))
    return statistics.median(found)


def compared(rows: int, width: int, precision: str, repeats: int) -> dict[str, Any]:
    """One size: both methods in turn, or what stopped one."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    a = torch.randn(rows, width, generator=generator, device="cuda").requires_grad_()
    c = (a.detach() + 3**0.5 * torch.randn(rows, width, generator=generator, device="cuda")).requires_grad_()
    found: dict[str, Any] = {}
    runs: dict[str, list[tuple[float, float, float]]] = {}
    for number in range(repeats + 1):
        for name, loss in (("ours", ours), ("dense", dense)):
            if f"{name} failed" in found:
                continue
            try:
                with sweeping(precision=precision):  # type: ignore[arg-type]
                    once = run(loss, a, c, precision)
            except torch.OutOfMemoryError:
                found[f"{name} failed"] = "out of memory"
                torch.cuda.empty_cache()
                continue
            if number:  # the first one warms up
                runs.setdefault(name, []).append(once)
    for name, values in runs.items():
        losses, seconds, memory = (statistics.median(v) for v in zip(*values, strict=True))
        found[name] = {"loss": losses, "seconds": seconds, "bytes": memory}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    product = rate(min(rows, 16384), width, dtype)
    operations = 8 * rows * rows * width  # scores, their making again, and two products of the gradient
    return {
        "rows": rows, "width": width, "precision": precision, **found, "product per second": product,
        "share": operations / found["ours"]["seconds"] / product if "ours" in found else None,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 16384, 32768, 65536, 131072])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("wanted a GPU that PyTorch sees, found none")
    results = []
    for precision in ("bf16", "fp32"):
        for rows in given.rows:
            results.append(compared(rows, given.width, precision, given.repeats))
            print(json.dumps(results[-1]), flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "schema": 1, "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown", "repeats": given.repeats, "results": results,
    }  # fmt: skip
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
