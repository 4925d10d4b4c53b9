"""`stages`: runs one after another, each from the model of the one before; finished ones are not run again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from counterpoint.errors import Refusal, closest
from counterpoint.verbs import folder
from counterpoint.verbs.console import Screen
from counterpoint.verbs.prepare import files_of, name_of
from counterpoint.verbs.recipes import CROSS
from counterpoint.verbs.settings import Run

SCHEMA = 1
RECORD = "stages.json"
OWN = ("data", "name")  # of a stage, beside the settings of its run


@dataclass(frozen=True)
class Stage:
    """One stage: what it trains on and how, where it is written, and whether its model is that of the stage before."""

    data: Any
    run: Run
    place: Path
    chained: bool


@dataclass(frozen=True)
class Stages:
    """Finished stages: their folders, what each says of itself, and the last one against the first model of all.

    Args:
        paths: run folders, in order.
        metrics: of each run.
        whole: the last stage against the model before the first, on the test of the last; None where they cannot be compared.
    """

    paths: tuple[Path, ...]
    metrics: tuple[dict[str, Any], ...]
    whole: dict[str, Any] | None

    @property
    def verdict(self) -> str:
        """That of all stages together; where they cannot be compared, of the last one."""
        return (self.whole or self.metrics[-1])["verdict"]


def read_plan(path: str | Path) -> list[dict[str, Any]]:
    """The stages of a json file; files that they name are looked for beside it.

    Raises:
        Refusal: no such file, or no list of objects in it.
    """
    place = Path(path)
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        came = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise Refusal("a json file with a list of stages", came, where=str(path)) from error
    if not isinstance(known, list) or not all(isinstance(entry, dict) for entry in known):
        remedy = '[{"data": "clicks.csv", "steps": 100}, ...]'
        came = "a list of other things" if isinstance(known, list) else type(known).__name__
        raise Refusal("a list of objects, one a stage", came, where=str(path), remedy=remedy)
    return [_beside(entry, place.parent) for entry in known]


def _beside(entry: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The entry with its files as seen from here: data and corpus always, a model or a recipe where there is such a file."""
    found = dict(entry)
    data = found.get("data")
    if isinstance(data, str):
        found["data"] = base / data
    elif isinstance(data, list) and data and all(isinstance(item, str) for item in data):
        found["data"] = [base / item for item in data]
    if isinstance(found.get("corpus"), str):
        found["corpus"] = str(base / found["corpus"])
    if isinstance(found.get("model"), str) and (base / found["model"]).is_dir():
        found["model"] = str(base / found["model"])
    recipe = found.get("recipe")
    if isinstance(recipe, str) and ".py:" in recipe and (base / recipe.rpartition(":")[0]).is_file():
        found["recipe"] = str(base / recipe)
    return found


def stages_of(plan: Sequence[Mapping[str, Any]], out: str | Path) -> list[Stage]:
    """The stages of a plan, checked as far as it goes without reading data.

    Raises:
        Refusal: naming the stage and what is wrong with it.
    """
    if not plan:
        raise Refusal("at least one stage", "none")
    known = [*OWN, *(field.name for field in fields(Run) if field.name != "out")]
    parent = Path(out).resolve()
    found: list[Stage] = []
    for number, entry in enumerate(plan, start=1):
        where = f"stage {number}"
        unknown = next((name for name in entry if name not in known), None)
        if unknown is not None:
            remedy = "stages are written below --out" if unknown == "out" else closest(unknown, known)
            raise Refusal("a setting of a stage", f"'{unknown}'", where=where, remedy=remedy)
        if "data" not in entry:
            raise Refusal("data for every stage", "none", where=where)
        missing = next((path for path in _files(entry["data"]) if not path.is_file()), None)
        if missing is not None:
            raise Refusal("a data file", f"no file '{missing}'", where=where)
        settings = {name: value for name, value in entry.items() if name not in OWN}
        settings["allow"] = tuple(settings.get("allow", ()))
        before = found[-1] if found else None
        chained = before is not None and settings.get("model") is None
        try:
            run = Run(**({**settings, "model": str(before.place)} if before and chained else settings))
        except Refusal as refusal:
            raise _of_stage(refusal, number) from refusal
        if before and chained and before.run.recipe in CROSS and run.recipe not in CROSS:
            remedy = 'name another "model" for it'
            raise Refusal("a model that embeds", f"the cross-encoder of stage {number - 1}", where=where, remedy=remedy)
        place = parent / f"{number}-{_name_of(entry, run)}"
        found.append(Stage(entry["data"], replace(run, out=str(place)), place, chained))
    return found


def _files(data: object) -> list[Path]:
    return [Path(data)] if isinstance(data, str | Path) else files_of(data) or []


def _name_of(entry: Mapping[str, Any], run: Run) -> str:
    """The name of a stage: its own, else that of its data and recipe."""
    if "name" in entry:
        name = str(entry["name"])
    else:
        recipe = "" if run.recipe == "auto" else Path(run.recipe.rpartition(":")[2]).name
        name = f"{name_of(entry['data']).split('.', maxsplit=1)[0]}-{recipe}"
    return folder.slug(name) or "stage"


def _of_stage(refusal: Refusal, number: int) -> Refusal:
    where = refusal.parts[2]
    if where and where.startswith(f"stage {number}"):
        return refusal
    return refusal.at(f"stage {number}")


def stages(out: str | Path, plan: Sequence[Mapping[str, Any]], *, quiet: bool = False) -> Stages:
    """Train in stages: each begins with the model of the one before, or with a "model" of its own.

    Each stage is an ordinary run in out/1-<name>, out/2-<name>... Called again, finished stages are skipped and an unfinished
    one goes on from its checkpoint; a change in what is there already is refused.

    Args:
        out: a folder for all of them.
        plan: for each stage its data and settings of `counterpoint.verbs.settings.Run`, as a mapping; "name" is free.
        quiet: print nothing.

    Raises:
        Refusal: a plan that cannot be carried out to its end; nothing is trained then.
    """
    from counterpoint.training.machine import pick_device
    from counterpoint.training.processes import first, first_decides, same, start

    found = stages_of(plan, out)
    start(pick_device(found[0].run.device))  # from here on processes know of each other
    done = int(same(first_decides(lambda: _checked(found))))
    screen = Screen(quiet=quiet or not first())
    for number, stage in enumerate(found, start=1):
        screen.say(
            f"stage {number} of {len(found)}: {stage.place.name}{', finished' if number <= done else ''}", "bold"
        )
        if number > done:
            _train(stage, number, screen, quiet=quiet)
            same(True)  # its folder is there for all
    metrics = tuple(folder.read_json(stage.place / "metrics.json") for stage in found)
    result = Stages(tuple(stage.place for stage in found), metrics, _whole(found, fresh=done < len(found)))
    if first():
        names = [stage.place.name for stage in found]
        folder.write_json(Path(out) / RECORD, {"schema": SCHEMA, "stages": names, "whole": result.whole})
        show(result, screen)
    return result


def _train(stage: Stage, number: int, screen: Screen, *, quiet: bool) -> None:
    """One stage, as `fit` does it."""
    from counterpoint.training.loop import Stopped
    from counterpoint.verbs.fit import fit

    settings = {field.name: getattr(stage.run, field.name) for field in fields(Run)}
    try:
        fit(stage.data, quiet=quiet, **settings)
    except Stopped:
        screen.say("counterpoint: the other stages follow when 'counterpoint stages' is called again")
        raise
    except Refusal as refusal:
        raise _of_stage(refusal, number) from refusal


def _checked(found: Sequence[Stage]) -> int:
    """How many stages are finished; every file is read, every recipe found, before anything trains.

    Raises:
        Refusal: what `fit` would refuse later, or a finished stage that was another one.
    """
    done = 0
    for number, stage in enumerate(found, start=1):
        try:
            _refuse_another(stage, number)
            now = _begins_with(stage)
            if (stage.place / "run.json").exists():
                if done < number - 1:
                    remedy = f"remove {stage.place}, which began with another model"
                    raise Refusal(f"stage {done + 1} before it", "none", where=f"--out {stage.place}", remedy=remedy)
                refuse_changes(stage.place, now, chained=stage.chained)
                done = number
            else:
                folder.refuse_existing(stage.place)
        except Refusal as refusal:
            raise _of_stage(refusal, number) from refusal
    return done


def _refuse_another(stage: Stage, number: int) -> None:
    """A stage of the same number under another name."""
    there = (path.name.removesuffix(folder.ENDING) for path in stage.place.parent.glob(f"{number}-*") if path.is_dir())
    other = next((name for name in there if name != stage.place.name), None)
    if other is not None:
        remedy = "name another --out, or remove it"
        raise Refusal(f"the stage '{stage.place.name}'", f"'{other}'", where=str(stage.place.parent), remedy=remedy)


def _begins_with(stage: Stage) -> dict[str, Any]:
    """Read and check the data of a stage, its recipe and its arguments; what its run begins with, as it will note it."""
    from counterpoint.data.batches import Rows
    from counterpoint.verbs.prepare import prepare
    from counterpoint.verbs.recipes import arguments_of, choose, function_of
    from counterpoint.verbs.stage import begun_of, mark_of
    from counterpoint.verbs.tasks import corpus_texts, tasks

    run = stage.run
    prepared = prepare(stage.data, run)
    name, choice = choose(prepared.samples, run.recipe, mined=run.mine_every is not None)
    arguments_of(function_of(name), run.settings)
    if name not in CROSS:
        tasks(prepared, choice, corpus_texts(run.corpus, run.delimiter) if run.corpus else None, seed=run.asked_by)
    begun = begun_of(stage.data, run.for_kind(prepared.samples.items.kind))
    return {**begun, "rows": mark_of(Rows.of(prepared.split.part("train"), prepared.samples.items))}


def refuse_changes(place: Path, now: dict[str, Any], *, chained: bool = False, what: str = "stage") -> None:
    """A finished run that began with something else.

    Args:
        place: its folder.
        now: what it would begin with.
        chained: its model is another run, which may have been moved with it.
        what: the run is of.

    Raises:
        Refusal: naming what is not as it was.
    """
    known = folder.read_json(place / "run.json").get("begun")
    remedy = f"name another --out, or remove the folder of this {what}{' and of those after it' * (what == 'stage')}"
    if known is None:
        raise Refusal(
            "a run that says what it began with", "one of an earlier version", where=str(place), remedy=remedy
        )
    before, after = ({"data": begun["data"], **begun["settings"]} for begun in (known, now))
    if chained:  # the folder of all stages may have been moved
        before, after = ({**settings, "model": Path(str(settings["model"])).name} for settings in (before, after))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            wanted = f"the {name} that the finished {what} began with: {before.get(name)}"
            raise Refusal(wanted, after.get(name), where=str(place), remedy=remedy)
    if known["rows"] != now["rows"]:
        wanted = f"the training rows that the finished {what} began with"
        raise Refusal(wanted, "others: the data were changed", where=str(place), remedy=remedy)


def _whole(found: Sequence[Stage], *, fresh: bool) -> dict[str, Any] | None:
    """The last model against the one before the first stage, on the test of the last stage.

    None for one stage, whose own verdict says it, and where one embeds and the other scores pairs.
    """
    from counterpoint.evaluation.verdict import judge
    from counterpoint.verbs.cross import CrossJob
    from counterpoint.verbs.job import Job

    first, last = found[0], found[-1]
    record = first.place.parent / RECORD
    if not fresh and record.exists():
        known = folder.read_json(record)
        if known.get("stages") == [stage.place.name for stage in found]:
            return known["whole"]
    cross = last.run.recipe in CROSS
    if len(found) == 1 or (cross != (first.run.recipe in CROSS)):
        return None
    began = folder.read_json(last.place / "run.json")
    asked = replace(
        last.run, precision=began["precision"], lora=None, freeze=None, out=str(last.place.parent / ".compared")
    )
    answers = []
    for model in (folder.read_json(first.place / "run.json")["model"], str(last.place)):
        job = (CrossJob if cross else Job)(last.data, replace(asked, model=model), Screen(quiet=True))
        answers.append(job.before())
    return judge(
        *answers,
        metric=job.task.metric if cross else job.choice.metric,
        unit=job.prepared.split.unit,
        seed=asked.asked_by,
    )


def show(result: Stages, screen: Screen) -> None:
    """One table: what each stage changed, and all of them together."""
    table = Table("stage", "metric", "before", "after", "verdict", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows = [(path.name, metrics) for path, metrics in zip(result.paths, result.metrics, strict=True)]
    if result.whole:
        rows.append(("all stages", result.whole))
    for name, metrics in rows:
        metric = metrics["metric"]
        numbers = (f"{metrics[when][metric]['value']:.3f}" for when in ("before", "after"))
        table.add_row(name.replace("[", r"\["), metric, *numbers, metrics["verdict"])
    screen.say()
    screen.console.print(table)
    if result.whole:
        screen.say(f"from the first model to the last: {result.whole['sentence']}")
