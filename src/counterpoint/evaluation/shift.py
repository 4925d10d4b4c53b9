"""What becomes of fixed cut-offs when a model is replaced: scores of another model mean something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Shift:
    """One cut-off of the model you had, and its counterpart.

    Args:
        threshold: pairs that scored at least this were accepted.
        moved: accept from here on with the new model: as many pairs that do not belong together pass.
        false_positives: share of those that pass, by the old threshold and model.
        kept: share of them that would pass with the new model and the old threshold.
        recall_before: share of pairs that belong together and passed. recall_after: that pass now, at `moved`.
    """

    threshold: float
    moved: float
    false_positives: float
    kept: float
    recall_before: float
    recall_after: float


def score_shift(
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Shift]:
    """For each old threshold the new one of equal false-positive rate.

        moved = the middle of a_k and a_(k+1),    k = | { j : b_j >= threshold } |

    where b are the old scores of pairs that do not belong together, and a their new scores, largest first. For k = 0 it
    lies just above a_1, and for all of them it is a_n; where a_k = a_(k+1), just above both, so that no more than k pass.

    Args:
        before: scores of the pairs that belong together, and of the same or as many pairs that do not, by the model you
            had; such as cosines.
        after: of the same pairs by the new one.
        thresholds: of the model you had.

    Returns:
        One line a threshold. Where no pair that does not belong together passed, `moved` is only as good as the number
        of pairs that were looked at.

    Raises:
        ValueError: other numbers of pairs before and after, no pairs, or scores that are not finite.

    >>> old = np.array([0.9, 0.8]), np.array([0.7, 0.4, 0.3, 0.1])
    >>> new = np.array([0.6, 0.5]), np.array([0.3, 0.2, 0.1, 0.0])
    >>> found = score_shift(old, new, [0.5])[0]
    >>> found.moved, found.false_positives, found.kept, found.recall_after
    (0.25, 0.25, 0.0, 1.0)
    """
    for name, old, new in zip(("positive", "negative"), before, after, strict=True):
        if len(old) != len(new) or not len(old):
            raise ValueError(f"wanted as many {name} scores before and after, got {len(old)} and {len(new)}")
        if not (np.isfinite(old).all() and np.isfinite(new).all()):
            raise ValueError(f"wanted finite {name} scores")
    negative = np.sort(np.asarray(after[1], dtype=np.float64))[::-1]
    return [_moved(float(t), before, after, negative) for t in thresholds]


def _moved(
    threshold: float,
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    negative: np.ndarray,
) -> Shift:
    passed = int((before[1] >= threshold).sum())
    if passed == len(negative):
        moved = float(negative[-1])
    elif passed and negative[passed - 1] > negative[passed]:
        moved = float(negative[passed - 1] + negative[passed]) / 2
    else:
        moved = float(np.nextafter(negative[passed], np.inf))
    return Shift(
        threshold,
        moved,
        passed / len(negative),
        float((after[1] >= threshold).mean()),
        float((before[0] >= threshold).mean()),
        float((after[0] >= moved).mean()),
    )
