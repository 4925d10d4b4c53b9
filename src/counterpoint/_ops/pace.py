"""Processes that keep pace: each makes as many passes through the encoder as the one that has most to do.

Where the weights of a layer are divided over processes, every pass gathers them, so that all have to take part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from counterpoint._ops.processes import all_max

_keeping: ContextVar[bool] = ContextVar("keeping", default=False)


@contextmanager
def keeping_pace() -> Iterator[None]:
    """What runs inside makes as many passes on every process."""
    token = _keeping.set(True)
    try:
        yield
    finally:
        _keeping.reset(token)


def in_pace() -> bool:
    """Whether processes keep pace.

    >>> in_pace()
    False
    """
    return _keeping.get()


def passes(own: int) -> int:
    """How many passes to make: this process's own number, or the largest of all processes, and at least 1, to keep pace.

    A pass beyond the own number is made without rows, and gives none.

    Args:
        own: at least 0.

    >>> passes(0)
    0
    >>> with keeping_pace():
    ...     passes(0), passes(3)
    (1, 3)
    """
    return int(all_max(torch.tensor(max(1, own)))) if in_pace() else own
