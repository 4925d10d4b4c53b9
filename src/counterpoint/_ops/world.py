"""How many processes work together, and which of them this is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.distributed as dist

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def count() -> int:
    """How many processes work together; 1 without a process group, and inside `alone`.

    >>> count()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """Which of them this is, from 0.

    >>> rank()
    0
    """
    return dist.get_rank() if count() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """What runs inside belongs to this process and waits for no other.

    >>> with alone():
    ...     count()
    1
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
