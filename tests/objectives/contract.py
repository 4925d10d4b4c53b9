"""What every objective owes: tiles equal the dense reference in value and gradient, and no gradient is ever NaN; and how a
loss is compared with somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from counterpoint._ops.sweep import sweeping
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation, same_sample

RELATION = Relation.of([1, 1, 2, 4, 4, 5, 7], [5, 6, 6, 1, 4, 2, 9], [1.0, 2.0, 1.0, 0.0, 1.0, 3.0, 1.0])


def graded(a: Embeddings, c: Embeddings) -> Pairs:
    """A rule by matrix: weights between 0 and 1, some pairs ignored, some rows without a positive or a negative."""
    near = 1 / (1 + (a.facts["label"][:, None] - c.facts["label"][None, :]).abs()).to(a.z)
    attract = torch.where(near > 0.4, near, torch.zeros_like(near))
    return Pairs(attract, torch.where(near < 0.4, 1 - near, torch.zeros_like(near)))


RULES = {
    "same sample": same_sample,
    "listed": listed(RELATION, negative_weight=2.0),
    "labelled": labelled(),
    "graded": graded,
}


def two_sets(
    n: int, m: int, seed: int, dtype: torch.dtype, inputs: list[Tensor] | None = None
) -> tuple[Embeddings, Embeddings, list[Tensor]]:
    """Two sets of few ids and labels, so that rows without a positive, without a negative and ignored pairs all occur."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(k, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for k in (n, m)]
    z = inputs or drawn
    sides = [
        Embeddings.of(
            x,
            id=torch.randint(1, 8, (len(x),), generator=generator),
            view=view,
            facts={"label": torch.randint(-1, 4, (len(x),), generator=generator)},
        )
        for view, x in enumerate(z)
    ]
    return sides[0], sides[1], z


def assert_same(
    found: Tensor, expected: Tensor, inputs: Sequence[Tensor], scale: float = 1.0, *, relative: float = 1e-9
) -> None:
    """Two losses agree in value and in the gradient of each input, none of which is 0; `scale` is what ours lacks."""
    assert found.item() * scale == pytest.approx(expected.item(), rel=relative, abs=1e-12)
    ours, theirs = (torch.autograd.grad(loss, list(inputs), retain_graph=True) for loss in (found, expected))
    for g, h in zip(ours, theirs, strict=True):
        assert torch.allclose(g * scale, h, rtol=10 * relative, atol=max(relative / 100, 1e-12))
        assert h.abs().max() > 0


def assert_moving_changes_nothing(
    loss: Callable[[Embeddings, Embeddings], Outcome], a: Embeddings, c: Embeddings
) -> None:
    """The order of anchors, their length, and a rotation of both sides make no difference."""
    base, width = loss(a, c).loss.item(), a.z.shape[1]
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(3))
    drawn = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rotation = torch.linalg.qr(drawn)[0]
    assert loss(a.rows(order), c).loss.item() == pytest.approx(base, rel=1e-12)
    assert loss(replace(a, z=3 * a.z), c).loss.item() == pytest.approx(base, rel=1e-12)
    moved = replace(a, z=a.z @ rotation), replace(c, z=c.z @ rotation)
    assert loss(*moved).loss.item() == pytest.approx(base, rel=1e-9)


def assert_tiles_equal_dense(
    objective: Callable[[Embeddings, Embeddings], Outcome],
    *,
    n: int,
    m: int,
    seed: int,
    learnable: tuple[Tensor, ...] = (),
    memory: int = 3000,
) -> None:
    """The loss and its gradients by both backends: 1e-9 relative in fp64, 1e-5 in fp32.

    Args:
        objective: (anchors, candidates) -> outcome. It is called in fp64 and in fp32.
        n, m: rows of each side.
        seed: of the drawn rows.
        learnable: tensors of the objective that require grad, such as a temperature.
        memory: so little that there are several tiles.
    """
    for dtype, relative in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        found = []
        for backend in ("dense", "tiled"):
            a, c, z = two_sets(n, m, seed, dtype)
            with sweeping(backend=backend, memory=memory):  # type: ignore[arg-type]
                loss = objective(a, c).loss
                inputs = [*z, *learnable]
                gradients = (
                    torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
                )
            found.append(
                [loss, *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True))]
            )
        for k, (dense, tiled) in enumerate(zip(*found, strict=True)):
            assert torch.isfinite(dense).all(), f"{dtype} dense {k} is not finite"
            assert torch.isfinite(tiled).all(), f"{dtype} tiled {k} is not finite"
            largest = max(1.0, float(dense.detach().abs().max())) if dense.numel() else 1.0
            difference = float((dense - tiled).detach().abs().max()) if dense.numel() else 0.0
            assert difference <= relative * largest, (
                f"{dtype} {'loss' if k == 0 else f'gradient {k - 1}'}: {difference}"
            )
