"""What this machine can do: device, precision that pays, memory that a batch takes."""

from __future__ import annotations

import contextlib
import platform
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from counterpoint.encoders.layers import alive
from counterpoint.errors import Refusal

PAYS = 1.2  # bf16 products have to be this much faster than fp32 before their rounding is worth it
PER_TOKEN = (
    75  # bytes that a token leaves for the backward pass in each layer, for each unit of width: measured on a BERT
)
PER_WEIGHT = 4 * 5  # fp32: weight, gradient, two moments of Adam, and the best weights so far
PER_FROZEN = 4 * 2  # fp32: weight, and its copy in the best weights
PROCESS = 700 * 2**20  # the interpreter with torch and transformers loaded


def pick_device(wanted: str) -> str:
    """The device to use: what was asked for, else cuda, else mps, else cpu.

    Raises:
        Refusal: a device that this machine does not have.
    """
    have = ["cpu"]
    have += ["mps"] if torch.backends.mps.is_available() else []
    have += ["cuda"] if torch.cuda.is_available() else []
    if wanted == "auto":
        return have[-1]
    if wanted.split(":", maxsplit=1)[0] not in have:
        raise Refusal("a device of this machine: " + ", ".join(have), f"'{wanted}'", where="--device")
    return wanted


def pick_precision(wanted: str, device: str) -> str:
    """bf16 where it was asked for, or where a product of this machine's is measured to gain from it."""
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device != "cpu":
        return "fp32"
    return "bf16" if _product_seconds(torch.float32) > PAYS * _product_seconds(torch.bfloat16) else "fp32"


def _product_seconds(dtype: torch.dtype, repeats: int = 7) -> float:
    a, b = torch.ones(1024, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        _ = a @ b
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[repeats // 2]


def memory_bytes(encoder: nn.Module, tokens: int) -> int:
    """About how much memory a training step takes; layers below the first that trains leave nothing for the backward pass.

    Args:
        encoder: the model.
        tokens: of the whole batch, padding included; rows, where the model says itself what a row takes.
    """
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in encoder.parameters()) - trained
    if (own := getattr(encoder, "bytes_per_row", None)) is not None:
        return PROCESS + PER_WEIGHT * (trained + frozen) + tokens * own
    configs: list[Any] = [getattr(module, "config", None) for module in encoder.modules()]
    config = next((c for c in configs if hasattr(c, "num_hidden_layers")), None)
    layers, width = 1, 1024
    if config is not None:
        layers, width = config.num_hidden_layers, config.hidden_size
    kept = int(alive(encoder) * layers * tokens * width * PER_TOKEN)
    return PROCESS + PER_WEIGHT * trained + PER_FROZEN * frozen + kept


def memory_free(device: str) -> int:
    """Bytes that may still be taken on the device, under the limit of a container where there is one."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free + psutil.Process().memory_info().rss


def peak_memory() -> int:
    """The most memory that this process has held so far, or since `forget_peak` where the system can, in bytes."""
    import resource

    status = Path("/proc/self/status")
    held = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")] if status.exists() else []
    if held:
        return int(held[0].split()[1]) * 1024

    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def forget_peak() -> None:
    """Begin anew with `peak_memory`; only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def describe() -> dict[str, object]:
    """The machine, for the record."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    return {
        "processor": name,
        "cores": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
