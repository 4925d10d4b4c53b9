"""A way of calling a part, for the contracts that all parts keep: see `test_parts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from counterpoint.types import Embeddings, Outcome


@dataclass(frozen=True)
class Case:
    """A part as a loss of two sets, whose rows have the fact `label` and whatever the loss itself makes of them.

    Args:
        loss: (anchors, candidates) -> outcome; in fp64 and in fp32.
        learnable: tensors of the loss that require grad, in fp64.
        sweeps: whether it compares all with all, so that it owes linear memory and equal tiles.
        replicated: whether candidates are the same rows on every process, as prototypes and queues are.
    """

    loss: Callable[[Embeddings, Embeddings], Outcome]
    learnable: tuple[Tensor, ...] = ()
    sweeps: bool = True
    replicated: bool = False


Cases = dict[str, Case]  # "name of the function" or "name of the function, with what" -> how it is called
