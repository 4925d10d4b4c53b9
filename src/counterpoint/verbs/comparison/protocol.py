"""The protocol of a comparison: what is the same for all, decided and said before anything trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from counterpoint.errors import Refusal
from counterpoint.evaluation.figures import duration, metric_name
from counterpoint.verbs import folder
from counterpoint.verbs.comparison.entries import OWN, Entry, Trial
from counterpoint.verbs.console import Screen
from counterpoint.verbs.settings import Run

SCHEMA = 1
FILE = "protocol.json"
TRIALS = 1_000_000  # what is added to the first seed for trials: no run of the comparison has that seed
FEW = 3  # seeds below which intervals are not taken over them unless that is asked for

Over = Literal["seeds", "items"]


@dataclass(frozen=True)
class Protocol:
    """What is the same for all runs.

    Args:
        entries: the methods.
        base: settings that all share, the split's seed among them.
        seeds: of the runs.
        over: what intervals are taken over.
        out: the folder.
        begun: data, settings and methods in plain values: what a comparison in that folder has to have begun with.
    """

    entries: tuple[Entry, ...]
    base: Run
    seeds: tuple[int, ...]
    over: Over
    out: Path
    begun: Mapping[str, Any]

    @property
    def trials(self) -> int:
        """Of each method."""
        return len(self.entries[0].trials)

    @property
    def trial_seed(self) -> int:
        """The seed of all trials, which is that of no run."""
        return self.seeds[0] + TRIALS

    @property
    def name(self) -> str:
        """The protocol in a few words."""
        run = self.base
        budget = "time" if run.minutes is not None else "steps" if run.steps is not None else "epochs"
        tuned = f"{self.trials} trials each" if self.trials > 1 else "untuned"
        return f"fixed-{budget}, {tuned}, {_plural(len(self.seeds), 'seed')}, one split, intervals over {self.over}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def over_of(asked: str | None, seeds: int) -> Over:
    """What intervals are taken over: as asked, else seeds where there are three or more, else items.

    Raises:
        Refusal: another word, or seeds where there is one.
    """
    if asked not in (None, "seeds", "items"):
        raise Refusal("seeds or items", f"'{asked}'", where="--over")
    if asked == "seeds" and seeds < 2:
        remedy = "--seeds 5, or --over items, which asks whether other questions would end alike"
        raise Refusal("at least 2 seeds for --over seeds", seeds, where="--seeds", remedy=remedy)
    return "seeds" if asked == "seeds" or (asked is None and seeds >= FEW) else "items"


def begun_with(data: Sequence[str] | None, rows: str, entries: Sequence[Entry], *, base: Run, seeds: int) -> dict:
    """What a comparison begins with, in plain values.

    Args:
        data: its files; None: in memory.
        rows: a mark of the training rows.
        entries: the methods.
        base: settings that all share.
        seeds: how many.
    """
    methods = {
        entry.label: {
            "recipe": entry.recipe,
            "code": _mark_of_code(entry.recipe),
            "arguments": dict(entry.given),
            "trials": [str(trial) for trial in entry.trials],
        }
        for entry in entries
    }
    settings = {name: value for name, value in asdict(base).items() if name not in OWN or name == "split_seed"}
    settings |= {"first_seed": base.seed, "arguments": dict(base.settings)}
    begun = {"data": data, "rows": rows, "settings": settings, "methods": methods, "seeds": seeds}
    return json.loads(json.dumps(begun, default=str))


def _mark_of_code(recipe: str) -> str | None:
    """A mark of the file of a recipe of one's own."""
    path = Path(recipe.rpartition(":")[0])
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.is_file() else None


def known_at(out: Path) -> dict[str, Any] | None:
    """What a comparison in a folder began with; None where there is none.

    Raises:
        Refusal: the folder holds something else.
    """
    if (out / FILE).is_file():
        return folder.read_json(out / FILE)["begun"]
    if out.is_dir() and any(out.iterdir()):
        remedy = "name another folder with --out"
        raise Refusal("a new folder, or one of this comparison", "other files", where=f"--out {out}", remedy=remedy)
    folder.refuse_existing(out)
    return None


def refuse_changes(known: Mapping[str, Any] | None, now: Mapping[str, Any], out: Path) -> None:
    """A comparison may get more seeds and more methods later, and nothing else.

    Raises:
        Refusal: naming what is not as it was.
    """
    if known is None:
        return
    where, remedy = f"--out {out}", "name another folder with --out"
    flat = [{"data": b["data"], **b["settings"]} for b in (known, now)]
    for name in sorted({*flat[0], *flat[1]}):
        before, after = (one.get(name) for one in flat)
        if before != after:
            raise Refusal(f"the {name} that this comparison began with: {before}", after, where=where, remedy=remedy)
    if known["rows"] != now["rows"]:
        wanted = "the training rows that this comparison began with"
        raise Refusal(wanted, "others: the data were changed", where=where, remedy=remedy)
    if now["seeds"] < known["seeds"]:
        raise Refusal(f"at least the {known['seeds']} seeds it has", now["seeds"], where=where, remedy=remedy)
    for label, method in known["methods"].items():
        other = now["methods"].get(label)
        if other is None:
            came = ", ".join(now["methods"])
            raise Refusal(f"the recipe '{label}' that this comparison has", came, where=where, remedy=remedy)
        for name, before in method.items():
            if before != other[name]:
                wanted = f"the {name} of {label} that this comparison began with"
                raise Refusal(wanted, "another", where=where, remedy=remedy)


def words_of(protocol: Protocol, facts: Mapping[str, Any]) -> dict[str, str]:
    """The protocol, line by line.

    Args:
        protocol: what is the same for all.
        facts: of the data and the machine: source, rows, sizes, how, asked, metric, precision, minutes.
    """
    run, seeds, sizes = protocol.base, protocol.seeds, facts["sizes"]
    share = f"{_plural(len(seeds), 'seed')}, {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"one seed, {seeds[0]}"
    over = {
        "seeds": f"seeds: Student's t of the {len(seeds)} paired differences; would training again end alike?",
        "items": "items: questions are resampled, answers averaged over seeds; would other questions end alike?",
    }[protocol.over]
    methods = ", ".join(entry.label for entry in protocol.entries)
    kept = "the best on dev" if run.select == "dev" else f"chosen by {run.select}"
    lines = {
        "protocol": protocol.name,
        "data": f"{facts['rows']:,} rows of {facts['source']}",
        "split": f"train {sizes['train']:,}, dev {sizes['dev']:,}, test {sizes['test']:,} rows by {facts['how']}, "
        f"one split for all (seed {run.asked_by})",
        "asked": f"{facts['asked'][0]:,} held-out questions, {facts['asked'][1]:,} candidates, the same for all",
        "training methods": methods,
        "model": f"{run.model}, {facts['precision']} products",
        "budget of a run": f"{budget_of(run)}; batches of {run.batch}, learning rate {run.lr:g} unless tuned",
        "tuning": tuning_of(protocol),
        "step that is kept": f"{kept}, measured {run.evaluations} times",
        "seeds": f"{share}: of order, dropout and new weights; the same for every method",
        "decided by": f"{metric_name(facts['metric'])} on the test",
        "intervals": f"over {over}",
        "correction": "Holm's for all pairs of methods and of what you had: a tie is what it cannot tell apart at 5 %",
    }
    if facts.get("minutes"):
        lines["expected"] = f"{duration(60 * facts['minutes'])} for {facts['left']} to train"
    return lines | {"folder": str(protocol.out)}


def budget_of(run: Run) -> str:
    """What a run may take, in words.

    >>> budget_of(Run(steps=20)), budget_of(Run())
    ('20 steps', '1 pass over the training rows')
    """
    parts = [f"{run.steps} steps"] if run.steps is not None else []
    parts += [f"{run.epochs:g} pass{'es' * (run.epochs != 1)} over the training rows"] if run.epochs is not None else []
    parts += [f"{run.minutes:g} minutes of training"] if run.minutes is not None else []
    return ", at most ".join(parts) or "1 pass over the training rows"


def tuning_of(protocol: Protocol) -> str:
    """How much each method is tuned, and by what."""
    if protocol.trials == 1:
        set_ = [f"{e.label}: {Trial({}, e.given)}" for e in protocol.entries if e.given]
        said = "; ".join(set_) + "; else " * bool(set_) + "the defaults of each method"
        return f"none: 1 trial each, with {said}"
    grids = {e.label: " | ".join(map(str, e.trials)) for e in protocol.entries}
    alike = len({*grids.values()}) == 1
    said = next(iter(grids.values())) if alike else "; ".join(f"{label}: {grid}" for label, grid in grids.items())
    return (
        f"{protocol.trials} trials each, of the same budget, on seed {protocol.trial_seed}; the best on dev is taken, "
        f"the test is not asked: {said}"
    )


def show(lines: Mapping[str, str], screen: Screen) -> None:
    """The protocol as a table."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
    for name, value in lines.items():
        table.add_row(name, value.replace("[", r"\["))
    screen.console.print(table)
