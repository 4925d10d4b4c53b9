"""Contract tests for your own losses: what we ask of ours, you can ask of yours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from counterpoint.objectives.custom import Row, Tile, custom, sweeping

SIZES = (2, 5, 37)  # rows; none divides a tile
WIDTH = 6


def assert_tiled_equals(
    fn: Callable[[Tensor, Tensor], Tensor],
    tile: Tile,
    row: Row,
    *,
    seed: int = 0,
    relative: float = 1e-9,
    **settings: Any,
) -> None:
    """Prove that `objectives.custom(tile, row, ...)` is the loss `fn(za, zb)`, in value and in both gradients.

    Random rows of several sizes, in double precision, by tiles that do not divide them.

    Args:
        fn: the loss as a notebook has it; row i of one pairs with row i of the other. It scales rows itself if it wants to.
        tile, row: the two parts of `custom`.
        seed: of the rows.
        relative: what may differ, relative to the largest number of each tensor.
        settings: the other arguments of `custom`, such as `rows=` and `unit=`.

    Raises:
        AssertionError: saying what differs, for how many rows, and by how much.

    >>> log = torch.nn.functional.logsigmoid
    >>> assert_tiled_equals(
    ...     lambda za, zb: -log((za * zb).sum(1)).mean(),
    ...     tile=lambda s, p, a, c, k: {"good": -p.attract * log(s["s"])},
    ...     row=lambda r: r["good"],
    ...     rows={"good": "total"},
    ...     unit=False,
    ... )
    """
    objective = custom(tile, row, **settings)
    generator = torch.Generator().manual_seed(seed)
    for n in SIZES:
        za, zb = (torch.randn(n, WIDTH, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
        expected = fn(za, zb)
        with sweeping(memory=64 * WIDTH * n):
            found = objective(za, zb).loss
        _compare("the loss", found, expected, n, relative)
        pairs = [torch.autograd.grad(value, (za, zb), allow_unused=True) for value in (found, expected)]
        for name, ours, theirs in zip(("za", "zb"), *pairs, strict=True):
            zero = torch.zeros_like(za)
            _compare(
                f"the gradient of {name}",
                zero if ours is None else ours,
                zero if theirs is None else theirs,
                n,
                relative,
            )


def _compare(what: str, found: Tensor, expected: Tensor, n: int, relative: float) -> None:
    found, expected = found.detach(), expected.detach()
    difference = float((found - expected).abs().max())
    largest = max(float(expected.abs().max()), 1e-12)
    if not difference <= relative * largest:
        shown = f": wanted {float(expected):.9g}, got {float(found):.9g}" if expected.ndim == 0 else ""
        raise AssertionError(f"{what} of {n} rows differs by {difference / largest:.3g} relative{shown}")
