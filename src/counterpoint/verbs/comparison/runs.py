"""The runs of a comparison: all checked before anything trains, then trials, then each method with each seed."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint.errors import Refusal
from counterpoint.evaluation.figures import duration
from counterpoint.training.loop import Stopped
from counterpoint.training.machine import forget_peak
from counterpoint.verbs import folder
from counterpoint.verbs.comparison.entries import Entry, Trial, place_of, place_of_trial
from counterpoint.verbs.comparison.protocol import SCHEMA, Protocol
from counterpoint.verbs.console import Screen
from counterpoint.verbs.cross import CrossJob
from counterpoint.verbs.fit import carry_out, finishing
from counterpoint.verbs.job import Job
from counterpoint.verbs.recipes import CROSS
from counterpoint.verbs.settings import Run
from counterpoint.verbs.stage import begun_of, mark_of
from counterpoint.verbs.stages import refuse_changes

TRIAL = "trial.json"


def job_of(data: object, run: Run, *, quiet: bool) -> Job | CrossJob:
    """A job that shows nothing but its bars."""
    return (CrossJob if run.recipe in CROSS else Job)(data, run, Screen(quiet=quiet, lines=False))


@dataclass
class Checked:
    """What the checks found: minutes and number of all runs that are left, and warnings of their plans."""

    minutes: float = 0.0
    left: int = 0
    warnings: list[str] = field(default_factory=list)


def check(data: object, protocol: Protocol) -> Checked:
    """Make a job of every method that has something left to do: its recipe is called, its memory looked at, its plan made.

    Raises:
        Refusal: what `fit` would refuse later, or a folder in the way.
    """
    found = Checked()
    for entry in protocol.entries:
        runs = [place_of(protocol.out, entry, seed=seed) for seed in protocol.seeds]
        left = [place for place in runs if not (place / "run.json").exists()]
        trials = _trials_left(protocol, entry)
        if not left and not trials:
            continue
        try:
            for place in [*left, *(place_of_trial(protocol.out, entry, number) for number in trials)]:
                folder.refuse_existing(place)
            place = left[0] if left else place_of_trial(protocol.out, entry, trials[0])
            job = job_of(
                data, entry.run(protocol.base, entry.trials[0], seed=protocol.seeds[0], place=place), quiet=True
            )
        except Refusal as refusal:
            raise refusal.at(entry.label) from refusal
        if protocol.trials > 1 and getattr(job, "dev", None) is None:
            raise Refusal("a dev split for --tune", "too few rows for one", where=job.prepared.samples.source)
        found.left += len(left) + len(trials)
        found.minutes += job.plan.expected_minutes * (len(left) + len(trials))
        found.warnings += [line for line in job.plan.warnings if line not in found.warnings]
    return found


def _trials_left(protocol: Protocol, entry: Entry) -> list[int]:
    """Numbers of the trials that are not finished; none where nothing is tuned."""
    if protocol.trials == 1:
        return []
    numbers = range(1, protocol.trials + 1)
    return [n for n in numbers if not (place_of_trial(protocol.out, entry, n) / TRIAL).exists()]


@dataclass
class Pace:
    """How many runs there are, and how long those took that were made now."""

    total: int
    number: int = 0
    seconds: list[float] = field(default_factory=list)
    left: int = 0

    def said(self, what: str) -> str:
        """Which run this is, and when the last one will end."""
        known = sum(self.seconds) / len(self.seconds) * self.left if self.seconds else None
        return f"run {self.number} of {self.total}: {what}" + (f" (about {duration(known)} left)" if known else "")


def carry_out_all(data: object, protocol: Protocol, checked: Checked, screen: Screen, *, quiet: bool) -> None:
    """Trials first, then seed by seed each method, so that all methods share the machine's good and bad hours.

    Raises:
        Refusal: a run that fails, or a finished one that began with something else.
        Stopped: a signal asked for the end; the run that was under way is saved.
    """
    trials = len(protocol.entries) * protocol.trials if protocol.trials > 1 else 0
    pace = Pace(trials + len(protocol.entries) * len(protocol.seeds), left=checked.left)
    try:
        for entry in protocol.entries:
            for number, trial in enumerate(entry.trials, start=1):
                if trials:
                    _one(data, protocol, (entry, trial, number, None), (pace, screen), quiet=quiet)
        for seed in protocol.seeds:
            for entry in protocol.entries:
                _one(data, protocol, (entry, chosen_of(protocol, entry), 0, seed), (pace, screen), quiet=quiet)
    except Stopped:
        screen.say("counterpoint: stopped; the same command again goes on from there")
        raise


def _one(
    data: object,
    protocol: Protocol,
    what: tuple[Entry, Trial, int, int | None],
    where: tuple[Pace, Screen],
    *,
    quiet: bool,
) -> None:
    """One trial or one run, unless it is there already."""
    (entry, trial, number, seed), (pace, screen) = what, where
    pace.number += 1
    is_trial = seed is None
    place = place_of_trial(protocol.out, entry, number) if is_trial else place_of(protocol.out, entry, seed=seed or 0)
    run = entry.run(protocol.base, trial, seed=protocol.trial_seed if seed is None else seed, place=place)
    name = f"{entry.label}, trial {number} ({trial})" if is_trial else f"{entry.label}, seed {seed}"
    if (place / (TRIAL if is_trial else "run.json")).exists():
        begun = {**begun_of(data, run), "rows": protocol.begun["rows"]}
        if not is_trial:
            refuse_changes(place, begun, what="run")
        elif folder.read_json(place / TRIAL)["begun"] != begun:
            raise Refusal("the trial that this comparison began with", "another", where=str(place))
        screen.say(f"{pace.said(name)}, finished", "dim")
        return
    screen.say(pace.said(name), "bold")
    started = time.monotonic()
    forget_peak()
    try:
        job = job_of(data, run, quiet=quiet)
        said = _try(job) if is_trial else _of_metrics(carry_out(job).metrics)
    except Refusal as refusal:
        raise refusal.at(name) from refusal
    del job
    gc.collect()
    pace.seconds.append(time.monotonic() - started)
    pace.left -= 1
    screen.say(f"  {said}, {duration(pace.seconds[-1])}", "dim")


def _of_metrics(metrics: Mapping[str, Any]) -> str:
    before, after = (metrics[when][metrics["metric"]]["value"] for when in ("before", "after"))
    return f"{metrics['metric']} {before:.3f} before, {after:.3f} after"


def _try(job: Job | CrossJob) -> str:
    """Train and note the best score on dev; the test is not asked, and no model is kept."""
    with finishing(job) as scratch:
        mark = mark_of(job.rows)
        folder.begin(scratch, job.begun, mark)
        record: dict[str, Any] = {"schema": SCHEMA, "begun": {**job.begun, "rows": mark}}
        try:
            history = job.train(scratch)
        except Refusal as refusal:  # such as a rate at which the loss is not finite: this trial has lost
            record |= {"failed": str(refusal), "dev": None}
        else:
            scores = [score for _, score in history.dev if math.isfinite(score)]
            record |= {"dev": max(scores, default=None), "best_step": history.best_step, "curve": history.dev}
            record["training_seconds"] = round(history.seconds, 2)
        folder.write_json(scratch / TRIAL, record)
    return f"failed: {record['failed']}" if "failed" in record else f"dev {record['dev']:.3f}"


def trials_of(protocol: Protocol, entry: Entry) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """The finished trials of a method, with what each noted."""
    if protocol.trials > 1:
        for number, trial in enumerate(entry.trials, start=1):
            yield trial, folder.read_json(place_of_trial(protocol.out, entry, number) / TRIAL)


def chosen_of(protocol: Protocol, entry: Entry) -> Trial:
    """The trial with the best score on dev; of equal ones the first.

    Raises:
        Refusal: all of them failed.
    """
    scored = [(noted["dev"], trial) for trial, noted in trials_of(protocol, entry)]
    if not scored:
        return entry.trials[0]
    known = [(score, -i) for i, (score, _) in enumerate(scored) if score is not None]
    if not known:
        where = str(place_of_trial(Path(protocol.out), entry, 1).parent)
        raise Refusal(f"a trial of {entry.label} that ends well", "none", where=where, remedy="tune other values")
    return scored[-max(known)[1]][1]
