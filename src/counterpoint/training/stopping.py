"""When a run is over before its time: dev has not improved for a while."""

from __future__ import annotations

from collections.abc import Sequence


def stalled(dev: Sequence[tuple[int, float]], patience: int | None) -> bool:
    """Whether the last `patience` measurements have all failed to beat the best one before them.

    Args:
        dev: (step, score) in order, the start included; higher is better; a score that is no number beats nothing.
        patience: measurements, at least 1; None: never.

    References:
        Prechelt: Early Stopping, but when?, 1998; the same rule as "patience" in other trainers.

    >>> [stalled([(0, 0.5), (10, 0.7), (20, 0.7), (30, 0.6)], patience) for patience in (2, 3, None)]
    [True, False, False]
    """
    if patience is None:
        return False
    best, at = float("-inf"), -1
    for place, (_, score) in enumerate(dev):
        if score > best:
            best, at = score, place
    return len(dev) - 1 - max(at, 0) >= patience
