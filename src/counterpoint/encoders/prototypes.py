"""Learned prototypes: unit rows that stand for clusters or classes, the same on all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint._ops.unit import to_unit
from counterpoint.types import Embeddings


class Prototypes(nn.Module):
    """Learned rows of length 1, which no gradient reaches in the first steps.

    Read by `rows` before a step, scaled to length 1 again by `settle` after it. All processes hold all of them, so their
    gradient is the sum over processes, as of any other parameter.

    Args:
        count: how many, at least 1.
        width: d.
        frozen: steps in which they stand still; the paper's 313 are about one pass through its data.
        generator: draws their first places; None: torch's own.

    References:
        Caron et al. 2020, arXiv:2006.09882, whose code scales before each step; frozen prototypes: its appendix.

    >>> prototypes = Prototypes(3, 2, frozen=1)
    >>> rows = prototypes.rows()
    >>> rows.id.tolist(), rows.facts["cluster"].tolist(), rows.z.requires_grad
    ([-1, -2, -3], [0, 1, 2], False)
    >>> prototypes.settle(); prototypes.rows().z.requires_grad
    True
    """

    steps: Tensor

    def __init__(self, count: int, width: int, *, frozen: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if count < 1 or frozen < 0:
            raise ValueError(f"wanted at least 1 prototype and 0 frozen steps, got {count} and {frozen}")
        self.frozen = frozen
        self.weight = nn.Parameter(to_unit(torch.randn(count, width, generator=generator)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def rows(self, fact: str = "cluster") -> Embeddings:
        """All prototypes, with ids below 0 and their number as the fact that a rule reads."""
        number = torch.arange(len(self.weight), device=self.weight.device)
        zeros = torch.zeros_like(number)
        z = self.weight if self.steps >= self.frozen else self.weight.detach()
        return Embeddings(z, -1 - number, zeros, zeros, zeros, {fact: number}, placement="replicated")

    @torch.no_grad()
    def settle(self) -> None:
        """Scale all to length 1, after a step."""
        self.weight.copy_(to_unit(self.weight))
        self.steps += 1
