"""What is wrong with an embedding space, in plain words: which statistics lie outside of what healthy models show.

The limits lie between what was measured on healthy models and on the same broken on purpose; `make proof NAME=diagnosis`
measures both anew, and evidence/diagnosis.json holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from counterpoint.evaluation import faults, mends
from counterpoint.evaluation.intervals import Interval, of_difference, of_mean
from counterpoint.evaluation.space import ASKED, Look, Space, look, served
from counterpoint.evaluation.traits import contrast, statistics

Level = Literal["severe", "mild", "none"]
PAIRED = 2_000  # anchors that effects are measured on, before and after a mend


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    Args:
        code: its name in records.
        name: what the field calls it.
        statistic: what it is seen by; NaN where the data do not allow it.
        mild, severe: from where on it is one; severe below mild where small numbers are bad.
        says: what is wrong, in a sentence with a place for the number.
        needs: what the data must have for it to be looked for, in words.
        mend: gives the same space without the fault.
        leave_out: gives the near candidates that would not be there without the fault.
        outcome: it is what others lead to: named after them, and nothing follows from it.
    """

    code: str
    name: str
    statistic: Callable[[Look], float]
    mild: float
    severe: float
    says: str
    needs: str
    mend: Callable[[Space], Space] | None = None
    leave_out: Callable[[Look], Bool[Tensor, "k near"]] | None = None
    outcome: bool = False

    def level(self, value: float) -> Level:
        """How bad a number is; NaN is not bad."""
        sign = 1 if self.severe > self.mild else -1
        if sign * value >= sign * self.severe:
            return "severe"
        return "mild" if sign * value >= sign * self.mild else "none"

    def beyond(self, value: float) -> float:
        """How far a number is past the mild limit; 1 at the severe one."""
        return (value - self.mild) / (self.severe - self.mild)


FAULTS = (
    Fault(
        "cone", "anisotropy: the embeddings lie in a narrow cone", faults.cone, 0.4, 0.6,
        "two unrelated items have a mean cosine of {:.2f}, so that little of the scale is left to tell items apart",
        "two items",
        mend=mends.without_cone,
    ),
    Fault(
        "collapse", "dimensional collapse", faults.dimensions, 0.15, 0.08,
        "the variance takes up {:.0%} of the dimensions that it could, so that different things share directions",
        "50 items",
        mend=mends.with_even_dimensions,
    ),
    Fault(
        "length", "length bias", faults.length, 0.08, 0.15,
        "the number of words alone explains {:.0%} of the variance: texts are near because they are equally long",
        "50 texts of different length",
        mend=mends.without_length,
    ),
    Fault(
        "gap", "modality gap: the two sides lie apart as a whole", faults.gap, 0.25, 0.5,
        "{:.0%} of the distance of paired items is one offset that all pairs share",
        "50 pairs",
        mend=mends.without_gap,
    ),
    Fault(
        "hubs", "hubness", faults.hubs, 0.08, 0.15,
        "one candidate is among the 10 nearest of {:.0%} of all anchors",
        "500 candidates",
        mend=mends.without_hubs, outcome=True,
    ),
    Fault(
        "false-negatives", "false negatives in the data", faults.false_negatives, 0.15, 0.3,
        "{:.0%} of the anchors have near candidates that nobody listed and that look like positives; training "
        "pushes them away",
        "50 pairs or labelled items",
        leave_out=faults.suspects,
    ),
    Fault(
        "hot", "temperature too high", faults.hot, 2.5, 1.75,
        "the hardest negative of a batch gets {:.1f} times an even share of the gradient: hard and easy ones count alike",
        "a run of ours, or --temperature",
    ),
    Fault(
        "cold", "temperature too low", faults.cold, 0.92, 0.975,
        "the hardest negative of a batch gets {:.0%} of the gradient: the others teach nothing, and it is the one most "
        "likely to be a false negative",
        "a run of ours, or --temperature",
    ),
    Fault(
        "subclass-collapse", "sub-class collapse", faults.subclasses, 0.4, 0.1,
        "inside the labels, finer classes are told apart only {:.0%} of the way from chance to perfect",
        "labels and --fine COLUMN",
    ),
    Fault(
        "duplicates", "train/test duplicates", faults.twins, 0.05, 0.1,
        "training holds a copy of {:.0%} of the held-out items, so that the score measures memory",
        "a split column with 50 rows of train and of test",
        leave_out=mends.with_copies_left_out,
    ),
    Fault(
        "unrelated", "the model does not see what pairs have in common", faults.lost, 0.05, 0.2,
        "an unrelated candidate lies nearer than the positive with a chance of {:.0%} for a median anchor: the task is "
        "new to the model, or columns are not what they seem",
        "50 pairs",
        outcome=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A fault that was found.

    Args:
        fault: which.
        level: "severe" or "mild".
        value: its statistic.
        effect: what the task would gain without it, as `space.served` measures it; None where that is not known.
        follows: codes of faults without which it would not be there.
    """

    fault: Fault
    level: Level
    value: float
    effect: Interval | None
    follows: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.fault.says.format(self.value)


@dataclass(frozen=True)
class Diagnosis:
    """What was found, the worst cause first.

    Args:
        findings: faults beyond their limits: severe before mild, causes before what follows from them, then by effect.
        readings: code -> statistic of every fault that could be looked for.
        statistics: what else is told of the space; see `evaluation.traits`.
        contrast: what was changed in a text -> the share of texts that lie nearer to themselves with a typo.
        served: how well the model serves the task as it is; None without pairs and labels.
        seen: what all this was read from.
    """

    findings: tuple[Finding, ...]
    readings: dict[str, float]
    statistics: dict[str, float]
    contrast: dict[str, Interval]
    served: Interval | None
    seen: Look


def diagnose(
    space: Space,
    *,
    seed: int = 0,
    unit: np.ndarray | None = None,
    tick: Callable[..., None] = lambda *_a, **_k: None,
) -> Diagnosis:
    """Name what is wrong with a space.

    Every statistic that the data allow is taken; those beyond their limit become findings. For each that can be mended
    in the vectors, the task is measured with and without, on the same 2,000 anchors, and the other findings are looked at
    anew: one that is gone with the mend of another, but not the other way round, follows from it.

    Args:
        space: the embeddings and what is known of them.
        seed: draws anchors where there are many, and the resamples of intervals.
        unit: for each anchor, which ones are not independent; None: all are.
        tick: told of every statistic and mend that is done.

    Returns:
        What was found; nothing severe in a healthy space.

    >>> import torch
    >>> from counterpoint.types import Embeddings
    >>> z = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    >>> diagnose(Space.of(Embeddings.of(z))).findings
    ()
    >>> [found.fault.code for found in diagnose(Space.of(Embeddings.of(z + 3))).findings]
    ['cone', 'hubs']
    """
    seen = look(space, most=ASKED, seed=seed)
    values = {}
    for fault in FAULTS:
        values[fault.code] = fault.statistic(seen)
        tick(1)
    found = [fault for fault in FAULTS if fault.level(values[fault.code]) != "none"]
    few = look(space, most=PAIRED, seed=seed)
    base = served(few).numpy().astype(float)
    known = not np.isnan(base).any() and len(base) > 1
    units = np.arange(len(base)) if unit is None else unit[few.at.numpy()]
    units = units if len(np.unique(units)) > 1 else np.arange(len(base))
    effects, after = {}, {}
    for fault in found:
        changed, after[fault.code] = _without(fault, few, found, seed)
        if known and changed is not None:
            effects[fault.code] = of_difference(changed - base, units)
        tick(1)
    findings = [
        Finding(f, f.level(values[f.code]), values[f.code], effects.get(f.code), _follows(f, found, after))
        for f in found
    ]
    measured = of_mean(base, units, seed=seed) if known else None
    readings = {code: value for code, value in values.items() if not math.isnan(value)}
    further, sets = statistics(seen), contrast(space.variants, seed=seed)
    return Diagnosis(tuple(sorted(findings, key=_rank)), readings, further, sets, measured, seen)


def _without(fault: Fault, seen: Look, found: Sequence[Fault], seed: int) -> tuple[np.ndarray | None, dict[str, Level]]:
    """How each asked anchor is served without a fault, and how bad the others then are."""
    if fault.leave_out is not None:
        return served(seen, hidden=fault.leave_out(seen)).numpy().astype(float), {}
    if fault.mend is None:
        return None, {}
    mended = look(fault.mend(seen.space), most=PAIRED, seed=seed)
    return served(mended).numpy().astype(float), {f.code: f.level(f.statistic(mended)) for f in found if f is not fault}


def _follows(fault: Fault, found: Sequence[Fault], after: dict[str, dict[str, Level]]) -> tuple[str, ...]:
    """Faults with whose mend this one is gone, while its own mend does not rid us of them."""
    return tuple(
        other.code
        for other in found
        if not other.outcome
        and after[other.code].get(fault.code) == "none"
        and (fault.outcome or after[fault.code].get(other.code) != "none")
    )


def _rank(finding: Finding) -> tuple[bool, bool, bool, float, float]:
    effect = finding.effect
    gain = effect.value if effect is not None and effect.low > 0 else 0.0
    beyond = finding.fault.beyond(finding.value)
    return finding.level != "severe", bool(finding.follows), finding.fault.outcome, -gain, -beyond
