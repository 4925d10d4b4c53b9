"""What can go wrong in training, how it is seen, what it means and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

OnSick = Literal["warn", "stop"]


@dataclass(frozen=True)
class Limits:
    """From where on a reading is a symptom.

    Where no origin is named, the number lies between what was measured on runs that learn (all-MiniLM-L6-v2 on code
    search, a backbone of two layers from scratch, an MLP on digits) and on the same runs broken on purpose: attraction
    alone, a learning rate of 0.1, a temperature of 1e-4, one text in all rows (`tests/training/test_health.py`).

    Args:
        width: of the rows, at which they count as collapsed, and for how many steps: deep networks begin near it. At 0.1
            the mean cosine of two rows is 0.99. Measured in runs that learn: 0.11 to 0.27 untrained, 0.87 and more trained;
            collapsed: 0.05 to 0.08, since dropout keeps rows apart.
        rank: RankMe as a share of the largest possible, and for how many steps. Measured in runs that learn: 0.16 and more;
            collapsed, or an MLP at a learning rate of 0.1 that forgets what pixels know: 0.06 to 0.13. A few classes need
            no more than as many directions.
        dead: norm of the gradient that counts as none, and for how many steps in a row. 1e-7 is the rounding of fp32.
        exploding: how many times the median of the last 50 norms, and for how many steps in a row.
        chance: how near the loss is to log(1 + negatives), as a share of it, and for how many steps in a row. A run that
            begins untrained leaves this plateau within its first steps.
        coldest: temperature; CLIP holds its own at 0.01 or above (Radford et al. 2021, arXiv:2103.00020, section 2.5).
        duplicates: share of rows of a batch whose content is there twice.
        no_positive: share of anchors without a positive.
        beaten: share of anchors whose nearest negative is nearer than their positive, after how many steps; a symptom
            where the gap has not grown since the first reading.
        bad: losses or gradients in a row that are not finite before nothing can be saved.
    """

    width: tuple[float, int] = (0.1, 20)
    rank: tuple[float, int] = (0.1, 20)
    dead: tuple[float, int] = (1e-7, 20)
    exploding: tuple[float, int] = (10.0, 5)
    chance: tuple[float, int] = (0.02, 100)
    coldest: float = 0.01
    duplicates: float = 0.5
    no_positive: float = 0.5
    beaten: tuple[float, int] = (0.5, 200)
    bad: int = 5


@dataclass(frozen=True)
class Finding:
    """Something wrong with a run, said once, at the first step that shows it.

    Args:
        code: its name in records.
        level: "stop" ends the run, "warn" does not.
        step: at which it was first seen.
        value: what was measured.
        says: what is wrong, in a sentence.
        remedy: what to do about it.

    >>> print(Finding("dead", "warn", 7, 0.0, "the gradient is 0", "thaw a layer"))
    step 7: the gradient is 0; thaw a layer
    """

    code: str
    level: Literal["warn", "stop"]
    step: int
    value: float
    says: str
    remedy: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.says}; {self.remedy}"


@dataclass(frozen=True)
class Seen:
    """What a symptom is judged by: the reading of a step (empty where none was taken), the first, and streaks of steps."""

    step: int
    now: Mapping[str, float]
    first: Mapping[str, float]
    streaks: Mapping[str, int]

    def __getitem__(self, name: str) -> float:
        """A number of the reading; NaN, of which no comparison holds, where it is not known."""
        return self.now.get(name, math.nan)


@dataclass(frozen=True)
class Symptom:
    """One thing that can go wrong.

    Args:
        code: its name in records.
        weight: "slight" only warns; "serious" stops where the user asked for that; "final" always stops.
        value: what was seen -> the number to show where it is wrong, None where it is not.
        says: what is wrong, with a place for the number.
        remedy: what to do about it.
    """

    code: str
    weight: Literal["slight", "serious", "final"]
    value: Callable[[Seen, Limits], float | None]
    says: str
    remedy: str


def _collapsed(seen: Seen, limits: Limits) -> float | None:
    """Equal rows of equal texts are no collapse."""
    low = seen.streaks["collapsed"] >= limits.width[1] and not _twice(seen, limits)
    return seen["width"] if low and seen["width"] < limits.width[0] else None


def _narrow(seen: Seen, limits: Limits) -> float | None:
    """Few directions where rows still differ; a collapse has its own name."""
    low = seen.streaks["narrow"] >= limits.rank[1] and not _twice(seen, limits) and seen["width"] >= limits.width[0]
    return seen["rank"] if low and seen["rank"] < limits.rank[0] * seen["rank_most"] else None


def _twice(seen: Seen, limits: Limits) -> float | None:
    return seen["duplicates"] if seen["duplicates"] > limits.duplicates else None


def _still(seen: Seen, limits: Limits) -> float | None:
    share, steps = limits.beaten
    stuck = seen.step >= steps and seen["beaten"] > share and seen["gap"] <= seen.first.get("gap", math.nan)
    return seen["beaten"] if stuck else None


def _streak(name: str, seen: Seen, steps: int) -> float | None:
    return float(seen.streaks[name]) if seen.streaks[name] >= steps else None


SYMPTOMS = (
    Symptom(
        "broken", "final", lambda s, m: _streak("bad", s, m.bad),
        "loss or gradient was not finite {0:.0f} steps in a row", "lower --lr, or use --precision fp32",
    ),
    Symptom(
        "not-finite", "slight", lambda s, _m: _streak("bad", s, 1),
        "loss or gradient is not a finite number", "if it comes back, lower --lr or use --precision fp32",
    ),
    Symptom(
        "no-negatives", "serious", lambda s, _m: 0.0 if s["negatives"] == 0 else None,
        "no pair of a batch is a negative, so there is nothing to tell apart",
        "shuffle the data, use a larger --batch, or see whether all rows hold the same text (counterpoint check DATA)",
    ),
    Symptom(
        "duplicates", "slight", _twice,
        "{0:.0%} of the rows of a batch hold content that is there twice, which leaves fewer negatives than the batch says",
        "drop repeated rows (counterpoint check DATA shows them)",
    ),
    Symptom(
        "no-positives", "slight", lambda s, m: s["no_positive"] if s["no_positive"] > m.no_positive else None,
        "{0:.0%} of the anchors have no positive in their batch and teach nothing",
        "use a larger --batch or batches that keep pairs together",
    ),
    Symptom(
        "collapse", "serious", _collapsed,
        "embeddings have collapsed: all rows point nearly the same way (width {0:.3f}, 1 is an even spread)",
        "lower --lr; where only positives pull, add negatives or a term that spreads rows",
    ),
    Symptom(
        "narrow", "slight", _narrow,
        "embeddings use few directions (RankMe {0:.1f})",
        "lower --lr, use a larger --batch, or add a term that spreads rows; a few classes alone may need no more",
    ),
    Symptom(
        "dead", "serious", lambda s, m: _streak("dead", s, m.dead[1]),
        "no gradient reached the weights in {0:.0f} steps, so nothing changes",
        "see that something is trainable; raise the temperature if it is very low; a run that is done may end here",
    ),
    Symptom(
        "exploding", "slight", lambda s, m: _streak("high", s, m.exploding[1]),
        "the gradient is many times larger than before, {0:.0f} steps in a row", "lower --lr, or lengthen the warm-up",
    ),
    Symptom(
        "chance", "serious", lambda s, m: _streak("chance", s, m.chance[1]),
        "the loss has been that of guessing, log(1 + negatives), for {0:.0f} steps: nothing is learned",
        "try another --lr (a collapse wants a lower one), and see whether the pairs belong together (counterpoint check DATA)",
    ),
    Symptom(
        "temperature", "slight", lambda s, m: s["temperature"] if s["temperature"] <= m.coldest * 0.999 else None,
        "the temperature is {0:.2g}: only the nearest negative of each anchor counts, and noise with it",
        "set it higher (0.05 is common), or hold a learnable one at 0.01 or above, as CLIP does",
    ),
    Symptom(
        "stuck", "slight", _still,
        "positives are not pulled away from negatives: for {0:.0%} of the anchors a negative is nearer than the positive",
        "look for negatives that are right answers (same topic, near copies), for wrong pairs, or try another --lr",
    ),
)  # fmt: skip


def examine(seen: Seen, limits: Limits, *, known: Mapping[str, object], on_sick: OnSick) -> list[Finding]:
    """The symptoms that are seen for the first time.

    Args:
        seen: what there is to judge by.
        limits: from where on a reading is a symptom.
        known: codes that were found before.
        on_sick: "stop" lets serious findings end the run; final ones always do.
    """
    found = []
    for symptom in SYMPTOMS:
        value = None if symptom.code in known else symptom.value(seen, limits)
        if value is not None:
            stops = symptom.weight == "final" or (symptom.weight == "serious" and on_sick == "stop")
            found.append(finding(symptom.code, seen.step, value, stops=stops))
    return found


def finding(code: str, step: int, value: float, *, stops: bool = False) -> Finding:
    """The finding of a code, in words.

    Raises:
        ValueError: for a code that no symptom has.
    """
    symptom = next((s for s in SYMPTOMS if s.code == code), None)
    if symptom is None:
        raise ValueError(f"wanted a symptom: {', '.join(s.code for s in SYMPTOMS)}; got '{code}'")
    return Finding(code, "stop" if stops else "warn", step, value, symptom.says.format(value), symptom.remedy)
