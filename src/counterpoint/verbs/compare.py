"""`compare`: training methods against each other on the same data, budget, seeds and tuning."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from counterpoint.data.batches import Rows
from counterpoint.errors import Refusal
from counterpoint.evaluation.comparison_report import Comparison, render_comparison, sentence_of, verdict_of
from counterpoint.training.machine import describe, pick_device, pick_precision
from counterpoint.verbs import folder
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.comparison import protocol as rules
from counterpoint.verbs.comparison import runs, tables
from counterpoint.verbs.comparison.entries import Entry, entries_of, label_of, settings_of
from counterpoint.verbs.comparison.protocol import Protocol, over_of
from counterpoint.verbs.comparison.results import Results, gather
from counterpoint.verbs.console import Screen
from counterpoint.verbs.cross import DEV, TEST, task_of
from counterpoint.verbs.prepare import Prepared, files_of, name_of, prepare
from counterpoint.verbs.recipes import CROSS, arguments_of, choose, function_of
from counterpoint.verbs.record import VERSIONS
from counterpoint.verbs.settings import Run
from counterpoint.verbs.stage import mark_of
from counterpoint.verbs.tasks import corpus_texts, tasks

RECORD = "compare.json"


@dataclass(frozen=True)
class Compared:
    """A finished comparison: its folder, and what compare.json says."""

    path: Path
    record: Mapping[str, Any]

    @property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """System -> the first and last rank that it may have; the best first."""
        return {name: tuple(self.record["systems"][name]["ranks"]) for name in self.record["order"]}

    @property
    def sentence(self) -> str:
        """The result in words."""
        return str(self.record["sentence"])


def compare(
    data: object,
    recipes: Sequence[str],
    *,
    out: str | Path | None = None,
    seeds: int = 5,
    over: str | None = None,
    tune: Mapping[str, Sequence[Any]] | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Compared | None:
    """Train each method several times on the same data with the same budget, and rank them with ties.

    Called again with the same arguments, it goes on where it was stopped; with more seeds or more methods it adds those.

    Args:
        data: whatever `fit` takes.
        recipes: training methods, by name or path/to/file.py:function.
        out: a folder for all runs and what comes of them; None: runs/<data>-compare-<n>.
        seeds: how often each method is trained; the first seed is `seed`. The split is the same for all (`split_seed`).
        over: what intervals are taken over, "seeds" or "items"; None: seeds where there are three or more.
        tune: name of a setting or argument -> values to try for all, or "recipe:name" -> values for one. Every method gets
            the same number of trials, on a seed of their own; dev chooses and the test is not asked. None: defaults.
        dry_run: print the protocol and stop; returns None.
        quiet: print nothing.
        settings: the fields of `Run` that all share, such as steps, minutes, epochs, batch, lr, model. In `settings`,
            arguments of recipes: "temperature" for all, "simcse:temperature" for one.

    Raises:
        Refusal: for what cannot be used or compared; nothing is trained then.
    """
    base, given = settings_of(settings, seeds)
    entries = entries_of(list(recipes), tune=tune or {}, given=given, base=base)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        remedy = "runs follow one another; give each method to 'fit' under a launcher instead"
        raise Refusal("one process", processes, where="WORLD_SIZE", remedy=remedy)
    overs, screen = over_of(over, seeds), Screen(quiet=quiet)
    with screen.stage("reading and checking data"):
        prepared = prepare(data, base)
    base = base.for_kind(prepared.samples.items.kind)
    entries, task = _resolved(prepared, entries, base)
    rows = mark_of(Rows.of(prepared.split.part("train"), prepared.samples.items))
    paths = [Path(data)] if isinstance(data, str | Path) else files_of(data)
    sources = [str(path.resolve()) for path in paths] if paths else None
    begun = rules.begun_with(sources, rows, entries, base=base, seeds=seeds)
    place = Path(out) if out is not None else _free(name_of(data), begun)
    known = rules.known_at(place)
    rules.refuse_changes(known, begun, place)
    kept = folder.read_json(place / rules.FILE)["precision"] if known else None
    base = replace(base, precision=kept or pick_precision(base.precision, pick_device(base.device)))
    protocol = Protocol(tuple(entries), base, tuple(range(base.seed, base.seed + seeds)), overs, place, begun)
    checked = runs.check(data, protocol)
    lines = _lines(protocol, prepared, checked, task)
    show_data(prepared.samples, screen)
    show_findings(prepared.findings, screen, base.allow)
    rules.show(lines, screen)
    for line in [*checked.warnings, *_cautions(protocol)]:
        screen.say(f" warning  {line}", style="yellow")
    if dry_run:
        return None
    place.mkdir(parents=True, exist_ok=True)
    note = {"schema": rules.SCHEMA, "begun": begun, "precision": base.precision}
    folder.write_json(place / rules.FILE, note)
    runs.carry_out_all(data, protocol, checked, screen, quiet=quiet)
    return _finish(protocol, gather(protocol), lines, screen)


def _resolved(prepared: Prepared, entries: Sequence[Entry], base: Run) -> tuple[list[Entry], tuple[int, int]]:
    """The methods with "auto" decided and all arguments checked, and how much the test asks among how many.

    Raises:
        Refusal: a method that the data do not allow, or methods that would not be asked the same.
    """
    found = []
    for entry in entries:
        try:
            name, choice = choose(prepared.samples, entry.recipe, mined=base.mine_every is not None)
            for trial in entry.trials:
                run = replace(entry, recipe=name).run(base, trial, seed=base.seed, place=Path("x"))
                arguments_of(function_of(name), run.settings)
        except Refusal as refusal:
            raise refusal.at(entry.label) from refusal
        found.append(entry if name == entry.recipe else replace(entry, recipe=name, label=label_of(name)))
    labels = [entry.label for entry in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise Refusal("recipes of different names", f"'{twice}' twice", where="--recipes", remedy="auto is one of them")
    cross = [entry.label for entry in found if entry.recipe in CROSS]
    if cross and len(cross) < len(found):
        remedy = "compare cross-encoders with each other"
        came = f"{cross[0]}, which reranks few candidates"
        raise Refusal("methods that are asked the same", came, where="--recipes", remedy=remedy)
    if len(found[0].trials) > 1 and base.select != "dev":
        raise Refusal("--select dev for --tune", f"'{base.select}'", where="--select", remedy="dev chooses the trial")
    if cross:
        task_of(prepared, "dev", size=DEV, seed=base.asked_by)
        return found, task_of(prepared, "test", size=TEST, seed=base.asked_by).sizes()
    corpus = corpus_texts(base.corpus, base.delimiter) if base.corpus else None
    return found, tasks(prepared, choice, corpus, seed=base.asked_by)[0].sizes()


def _free(data: str, begun: Mapping[str, Any]) -> Path:
    """runs/<data>-compare-<n>: the first that is free, or an unfinished comparison that began with just this."""
    number = 1
    while True:
        place = Path("runs") / f"{folder.slug(data.split('.', maxsplit=1)[0])}-compare-{number}"
        if not place.exists():
            return place
        there = place / rules.FILE
        if there.is_file() and not (place / RECORD).exists() and folder.read_json(there)["begun"] == begun:
            return place
        number += 1


def _lines(protocol: Protocol, prepared: Prepared, checked: runs.Checked, task: tuple[int, int]) -> dict[str, str]:
    """The protocol in words."""
    _, choice = choose(prepared.samples, "auto")
    facts = {
        "rows": len(prepared.samples),
        "source": prepared.samples.source,
        "sizes": prepared.split.sizes,
        "how": prepared.split.how,
        "asked": task,
        "metric": choice.metric,
        "precision": protocol.base.precision,
        "minutes": checked.minutes,
        "left": f"{checked.left} run{'s' * (checked.left != 1)}",
    }
    return rules.words_of(protocol, facts)


def _cautions(protocol: Protocol) -> list[str]:
    """What a person should know who reads the result."""
    count, said = len(protocol.seeds), []
    if protocol.over == "seeds" and count < rules.FEW:
        said.append("2 seeds give very wide intervals: with --seeds 5 a difference is more likely to be shown")
    if protocol.over == "items" and count < rules.FEW:
        once = "one seed" if count == 1 else f"{count} seeds"
        said.append(f"{once}: intervals say what other questions would give, not what training again would")
    if protocol.base.minutes is not None:
        said.append("a budget in minutes: whatever else this machine does changes what is compared")
    return said


def _finish(protocol: Protocol, results: Results, lines: Mapping[str, str], screen: Screen) -> Compared:
    """Everything that comes of the runs, written and shown."""
    shown = Comparison(
        ranking=results.ranking,
        metric=results.metric,
        trained=tuple(results.runs),
        lines=lines,
        values={system: results.values(system, results.metric).tolist() for system in results.ranking.order},
        others={m: {s: float(results.values(s, m).mean()) for s in results.ranking.order} for m in results.metrics[1:]},
        curves={label: [one.metrics["dev"] for one in several] for label, several in results.runs.items()},
        seconds={label: results.training_seconds(label).tolist() for label in results.runs},
        seeds=protocol.seeds,
        notes=_notes(results),
        elsewhere=results.elsewhere(),
    )
    typed = shlex.join(["counterpoint", *sys.argv[1:]]) if Path(sys.argv[0]).name == "counterpoint" else None
    about = {
        "verdict": verdict_of(shown),
        "sentence": sentence_of(shown),
        "command": typed or "counterpoint.compare(...)",
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
        "machine": describe(),
    }
    record = tables.record_of(protocol, results, lines, about)
    folder.write_json(protocol.out / RECORD, record)
    written = {"results.csv": tables.csv_of(protocol, results), "table.tex": tables.tex_of(protocol, results)}
    written["report.html"] = render_comparison(replace(shown, about=about, chosen=results.chosen))
    for name, text in written.items():
        (protocol.out / name).write_text(text, encoding="utf-8")
    tables.show(protocol, results, str(about["sentence"]), screen)
    screen.say(f"report  {protocol.out / 'report.html'}")
    screen.say(f"tables  {protocol.out / 'results.csv'}, {protocol.out / 'table.tex'}, {protocol.out / RECORD}")
    return Compared(protocol.out, record)


def _notes(results: Results) -> list[str]:
    """What went wrong in the runs, or makes them less alike than they look."""
    said = []
    for label, several in results.runs.items():
        sick = sum(one.sick > 0 for one in several)
        still = sum(one.run["best_step"] == 0 for one in several)
        if sick:
            said.append(f"{label}: {sick} of {len(several)} runs have findings about their health; see their reports.")
        if still:
            said.append(
                f"{label}: in {still} of {len(several)} runs no step beat the start on dev, so the model is as before."
            )
    return said
