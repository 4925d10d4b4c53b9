"""Contract tests for your own losses and methods: what we ask of ours, you can ask of yours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from counterpoint._ops.launch import in_processes
from counterpoint.objectives.custom import Row, Tile, custom, sweeping
from counterpoint.training.contracts import (
    assert_method_caches,
    assert_method_encodes_rows,
    assert_method_goes_on,
    assert_method_is_finite,
    assert_method_over_processes,
)
from counterpoint.types import Embeddings, Outcome

__all__ = [
    "assert_method_caches",
    "assert_method_encodes_rows",
    "assert_method_goes_on",
    "assert_method_is_finite",
    "assert_method_over_processes",
    "assert_processes_agree",
    "assert_tiled_equals",
]

SIZES = (2, 5, 37)  # rows; none divides a tile
WIDTH = 6
LABELS, IDS = 4, 11  # few enough that rows share a label, and an id, across processes


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


def assert_processes_agree(
    objective: Callable[[Embeddings, Embeddings], Outcome],
    *,
    processes: Sequence[int] = (2, 4),
    learnable: Sequence[Tensor] = (),
    rows: tuple[int, int] = (13, 17),
    replicated: bool = False,
    seed: int = 0,
    relative: float = 1e-6,
) -> None:
    """Prove that an objective over several processes is the objective over one, in value and in every gradient.

    Random rows in double precision with ids and a fact "label", some shared across processes, are dealt out in uneven
    shares. The value has to be the same on all processes, the gradient of each row that of one process, and the
    gradients of learnable tensors have to add up to it.

    Args:
        objective: (anchors, candidates) -> outcome.
        processes: how many to try.
        learnable: tensors of the objective that require grad, such as a temperature.
        rows: of anchors and candidates, over all processes.
        replicated: every process holds all candidates, as with prototypes or a queue.
        seed: of the rows.
        relative: what may differ, relative to the largest number of each tensor.

    Raises:
        AssertionError: saying what differs, over how many processes, and by how much.

    >>> from counterpoint.objectives.softmax import infonce
    >>> assert_processes_agree(infonce, processes=(2,))
    """
    whole = _two_sets(rows, seed, replicated)
    wanted = _found(objective, whole, learnable)
    names = ["the loss", "the gradient of anchors", "the gradient of candidates"]
    names += [f"the gradient of learnable tensor {k}" for k in range(len(learnable))]
    for count in processes:
        parts = in_processes(count, lambda rank, count: _found(objective, _dealt(whole, rank, count), learnable))
        for rank, part in enumerate(parts):
            _compare(f"the loss on process {rank}", part[0], wanted[0], count, relative, unit="processes")
        found = [parts[0][0], *(torch.cat([part[k] for part in parts]) for k in (1, 2))]
        found += [torch.stack([part[k] for part in parts]).sum(0) for k in range(3, len(names))]
        if replicated:
            found[2] = torch.stack([part[2] for part in parts]).sum(0)
        for name, ours, theirs in zip(names, found, wanted, strict=True):
            _compare(name, ours, theirs, count, relative, unit="processes")


def _two_sets(rows: tuple[int, int], seed: int, replicated: bool) -> tuple[Embeddings, Embeddings]:
    generator = torch.Generator().manual_seed(seed)
    a, c = (
        Embeddings.of(
            torch.randn(size, WIDTH, generator=generator, dtype=torch.float64),
            id=torch.randint(IDS, (size,), generator=generator),
            view=view,
            facts={"label": torch.randint(LABELS, (size,), generator=generator)},
        )
        for view, size in enumerate(rows)
    )
    return a, replace(c, placement="replicated") if replicated else c


def _dealt(whole: tuple[Embeddings, Embeddings], rank: int, count: int) -> tuple[Embeddings, Embeddings]:
    """The rows of one process: half of what is left for the first, and so on; replicated rows for all."""
    shares = []
    for rows in whole:
        cuts = [len(rows) - len(rows) // 2**k for k in range(count)] + [len(rows)]
        shares.append(rows if rows.placement == "replicated" else rows.rows(slice(cuts[rank], cuts[rank + 1])))
    return shares[0], shares[1]


def _found(
    objective: Callable[[Embeddings, Embeddings], Outcome],
    sets: tuple[Embeddings, Embeddings],
    learnable: Sequence[Tensor],
) -> list[Tensor]:
    """The loss and its gradients."""
    z = [rows.z.clone().requires_grad_() for rows in sets]
    a, c = (replace(rows, z=leaf) for rows, leaf in zip(sets, z, strict=True))
    loss = objective(a, c).loss
    inputs = [*z, *learnable]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [loss, *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True))]


def _compare(what: str, found: Tensor, expected: Tensor, n: int, relative: float, *, unit: str = "rows") -> None:
    found, expected = found.detach(), expected.detach()
    difference = float((found - expected).abs().max())
    largest = max(float(expected.abs().max()), 1e-12)
    if not difference <= relative * largest:
        shown = f": wanted {float(expected):.9g}, got {float(found):.9g}" if expected.ndim == 0 else ""
        raise AssertionError(f"{what} of {n} {unit} differs by {difference / largest:.3g} relative{shown}")
