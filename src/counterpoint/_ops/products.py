"""Matrix products of tiles, at the precision that was asked for, by the fastest kernel that torch carries for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["fp32", "bf16"]


@contextmanager
def _bf16_products() -> Iterator[None]:
    """CPU products of fp32 matrices may round their inputs to bf16; they accumulate and return fp32."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@cache
def _prefers_onednn() -> bool:
    """Whether fp32 products are better taken from oneDNN than from where torch sends them.

    torch sends them to MKL, which runs on AMD processors at less than half the rate of the oneDNN kernels in the same
    torch (Zen 5, two cores, 1024 x 384 x 1024: 195 and 450 GFLOP/s, same rounding errors).
    """
    about = Path("/proc/cpuinfo")
    amd = about.exists() and "AuthenticAMD" in about.read_text()
    return amd and torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _by_onednn(x: Tensor, y: Tensor) -> Tensor:
    """x y in strict fp32; a transposed x is slow on the left and goes to the right."""
    linear = torch.ops.mkldnn._linear_pointwise
    if x.stride(0) == 1 and x.stride(1) > 1:
        return linear(y.T.contiguous(), x, None, "none", [], "").T
    return linear(x, y.T, None, "none", [], "")


def product(x: Float[Tensor, "n k"], y: Float[Tensor, "k m"], precision: Precision) -> Float[Tensor, "n m"]:
    """The matrix product, its result as wide as its inputs; "bf16" lets fp32 inputs be rounded, and accumulates in fp32."""
    kind, graph = x.device.type, torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    if x.dtype != torch.float32 or graph or not x.numel() or not y.numel():
        return x @ y
    if precision == "fp32":
        return _by_onednn(x, y) if kind == "cpu" and _prefers_onednn() else x @ y
    if kind == "cpu":
        with _bf16_products():
            return x @ y
    if kind == "cuda":
        return torch.mm(x.bfloat16(), y.bfloat16(), out_dtype=torch.float32)
    return (x.bfloat16() @ y.bfloat16()).float()


def add_product(to: Tensor | None, x: Float[Tensor, "n k"], y: Float[Tensor, "k m"], precision: Precision) -> None:
    """to += x y in place, if wanted. On CPUs "bf16" rounds each tile's share too, which doubles the rate of the product."""
    if to is None:
        return
    if x.dtype == torch.float32 and x.device.type == "cpu" and precision == "bf16":
        to.add_(x.bfloat16() @ y.bfloat16())
    elif x.dtype == torch.float32 and (precision == "bf16" or x.device.type == "cpu"):
        to.add_(product(x, y, precision))
    else:
        to.addmm_(x, y)
