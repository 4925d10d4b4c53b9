"""Health: is the run learning, and if not, why. Always on, at a price that it keeps itself.

Numbers come from the notes of the outcome, which cover all rows, and from at most a few hundred rows where embeddings
are needed. Nothing here draws a random number, touches a weight or talks to another process: of many processes the first
one reads its own rows, and what the outcome holds of all of them. So weights are the same with and without it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from counterpoint.training.method import Method
from counterpoint.training.readings import COLUMNS, read
from counterpoint.training.symptoms import SYMPTOMS, Finding, Limits, OnSick, Seen, examine, finding
from counterpoint.types import Embeddings, Outcome

RECENT = 50  # norms of the gradient whose median is the usual one
STREAKS = ("bad", "dead", "high", "chance", "collapsed", "narrow")  # the last two are seen by readings alone


@dataclass
class Allowance:
    """Decides when a reading may be afforded: a bucket that fills with a share of the time and pays for readings.

    Args:
        share: of the time, between 0 and 1.
        expected: seconds that the next reading will take; 0.02 until one was taken, since the first also loads libraries.
    """

    share: float
    expected: float = 0.02
    credit: float = 0.0
    spent: float = 0.0
    total: float = 0.0

    def earn(self, seconds: float) -> bool:
        """A step took so long; True if a reading may be taken. Credit beyond that for two is lost: no bursts."""
        self.total += seconds
        self.credit = min(self.credit + self.share * seconds, 2 * self.expected)
        return self.credit >= self.expected

    def pay(self, seconds: float, *, reading: bool) -> None:
        """So long it took. A dearer reading is believed at once, a cheaper one by and by."""
        self.total += seconds
        self.spent += seconds
        self.credit -= seconds
        if reading:
            self.expected = max(seconds, (self.expected + seconds) / 2)


@dataclass
class Health:
    """Watches a run: readings at an interval that keeps to a share of the time, and findings.

    Args:
        method: what is trained; its modules are read, never changed.
        share: of the time that it may take. 0.01 leaves room under the 2 % that it promises.
        rows: anchors at most that a reading looks at; the singular values of 256 rows of width 384 take about 5 ms, and
            RankMe can tell ranks up to that number.
        records: readings kept; when there are twice as many every other one is dropped.
        limits: from where on a reading is a symptom.
        on_sick: "warn", or "stop" to end the run at a finding from which it will hardly recover.
        clock: seconds, rising; by default those that this thread computes, so that a busy machine is not blamed on it.

    >>> from counterpoint.training.method import Contrast
    >>> from counterpoint.objectives.softmax import infonce
    >>> from counterpoint.types import same_sample
    >>> contrast = Contrast(("x",), ("y",), same_sample, infonce)
    >>> method = Method(torch.nn.ModuleDict(), dict, dict, contrast, dict)
    >>> sets = {name: Embeddings.of(torch.eye(4), view=v) for v, name in enumerate("xy")}
    >>> health, outcome = Health(method), contrast(method.modules, sets)
    >>> health.observe(step=1, sets=sets, outcome=outcome, norm=1.0, seconds=9.0)
    []
    >>> health.note()
    'gap 1.00, rank 4.0 of 4'
    """

    method: Method
    share: float = 0.01
    rows: int = 256
    records: int = 1000
    limits: Limits = field(default_factory=Limits)
    on_sick: OnSick = "warn"
    clock: Callable[[], float] = time.thread_time

    def __post_init__(self) -> None:
        self.history: dict[str, list[float]] = {name: [] for name in ("step", *COLUMNS)}
        self.findings: list[Finding] = []
        self.allowance = Allowance(self.share)
        self._first: dict[str, float] = {}
        self._streaks = dict.fromkeys(STREAKS, 0)
        self._norms: deque[float] = deque(maxlen=RECENT)
        self._stride, self._negatives, self._read_at = 1, math.nan, 0

    def observe(
        self,
        *,
        step: int,
        sets: Mapping[str, Embeddings],
        outcome: Outcome,
        norm: float,
        seconds: float,
        last: bool = False,
    ) -> list[Finding]:
        """Look at a step that is done; most times only at its loss and gradient.

        Args:
            step: its number.
            sets: its embeddings.
            outcome: of the objective.
            norm: of the gradient, before clipping.
            seconds: that the step took, without this.
            last: the run ends here: a run that was too short for a reading gets this one.

        Returns:
            What was found for the first time; a finding of level "stop" should end the run.
        """
        started = self.clock()
        due = self.allowance.earn(seconds) or (last and not self.history["step"])
        loss = sum(outcome.weights[name] * float(term.detach()) for name, term in outcome.terms.items())
        now = read(self.method, sets, outcome, norm=norm, rows=self.rows) if due else {}
        if now:
            self._negatives = now["negatives"]
            self._first = self._first or now
            self._record(step, now)
            self._count_readings(step, now)
        self._count(loss, norm)
        found: list[Finding] = []
        if now or any(self._streaks.values()):  # most steps have nothing to judge
            known = {f.code: f for f in self.findings}
            seen = Seen(step, now, self._first, self._streaks)
            found = examine(seen, self.limits, known=known, on_sick=self.on_sick)
        self.findings += found
        self.allowance.pay(self.clock() - started, reading=bool(now))
        return found

    def _count(self, loss: float, norm: float) -> None:
        """Streaks of steps; a gradient that is far too large does not become the usual one."""
        limits, guess = self.limits, math.log1p(self._negatives) if self._negatives > 0 else math.nan
        finite = math.isfinite(loss) and math.isfinite(norm)
        usual = math.inf
        if len(self._norms) == RECENT and norm > limits.exploding[0] * min(self._norms):  # else no median is that low
            usual = statistics.median(self._norms)
        ill = {
            "bad": not finite,
            "dead": norm < limits.dead[0],
            "high": norm > limits.exploding[0] * usual,
            "chance": abs(loss - guess) < limits.chance[0] * guess,
        }
        self._streaks |= {name: self._streaks[name] + 1 if is_so else 0 for name, is_so in ill.items()}
        if finite and not ill["high"]:
            self._norms.append(norm)

    def _count_readings(self, step: int, now: Mapping[str, float]) -> None:
        """For how many steps readings have been low; a single one counts as one step."""
        least = {"collapsed": now["width"] < self.limits.width[0]}
        least["narrow"] = now["rank"] < self.limits.rank[0] * now["rank_most"]
        for name, low in least.items():
            since = step - self._read_at if self._streaks[name] else 1
            self._streaks[name] = self._streaks[name] + since if low else 0
        self._read_at = step

    def _record(self, step: int, now: Mapping[str, float]) -> None:
        steps = self.history["step"]
        if steps and step - steps[-1] < self._stride:
            return
        for name, column in self.history.items():
            column.append(float(step) if name == "step" else now[name])
        if len(steps) >= 2 * self.records:
            self.history = {name: column[::2] for name, column in self.history.items()}
            self._stride *= 2

    def note(self) -> str:
        """A few words for the progress bar, from the last reading; empty before the first."""
        if not self.history["step"]:
            return ""
        now = {name: column[-1] for name, column in self.history.items()}
        parts = [f"gap {now['gap']:.2f}"] if math.isfinite(now["gap"]) else []
        if math.isfinite(now["rank"]):
            parts.append(f"rank {now['rank']:.1f} of {now['rank_most']:.0f}")
        return ", ".join(parts)

    def taken(self) -> float:
        """The share of the time that it took so far."""
        return self.allowance.spent / self.allowance.total if self.allowance.total else 0.0

    def record(self) -> dict[str, Any]:
        """All of it as plain data for a json file: columns (None where a number is not known), findings, share.

        Which steps have a reading depends on the clock; what a reading says does not.
        """
        columns = {
            name: [x if math.isfinite(x) else None for x in column]
            for name, column in self.history.items()
            if name == "step" or any(math.isfinite(x) for x in column)
        }
        return {"columns": columns, "findings": [asdict(f) for f in self.findings], "share": self.taken()}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run goes on with, as tensors."""
        codes = [s.code for s in SYMPTOMS]
        known = [[codes.index(f.code), f.step, f.value, float(f.level == "stop")] for f in self.findings]
        a = self.allowance
        numbers = {f"history.{name}": column for name, column in self.history.items()}
        numbers |= {"first": [self._first[name] for name in COLUMNS] if self._first else [], "norms": [*self._norms]}
        numbers |= {"streaks": [float(self._streaks[name]) for name in STREAKS]}
        numbers |= {"other": [self._stride, self._read_at, self._negatives, a.expected, a.credit, a.spent, a.total]}
        state = {name: torch.tensor(column, dtype=torch.float64) for name, column in numbers.items()}
        return state | {"findings": torch.tensor(known, dtype=torch.float64).reshape(-1, 4)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            KeyError: for a state that lacks something.
        """
        self.history = {name: state[f"history.{name}"].tolist() for name in self.history}
        self._first = dict(zip(COLUMNS, state["first"].tolist(), strict=False)) if len(state["first"]) else {}
        self._norms = deque(state["norms"].tolist(), maxlen=RECENT)
        self._streaks = {name: int(n) for name, n in zip(STREAKS, state["streaks"].tolist(), strict=True)}
        stride, read_at, self._negatives, expected, credit, spent, total = state["other"].tolist()
        self._stride, self._read_at = int(stride), int(read_at)
        self.allowance = Allowance(self.share, expected, credit, spent, total)
        self.findings = [
            finding(SYMPTOMS[int(code)].code, int(step), value, stops=bool(stops))
            for code, step, value, stops in state["findings"].tolist()
        ]
