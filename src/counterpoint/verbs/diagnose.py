"""`diagnose`: what is wrong with an embedding space, how much it hurts, and what to type against it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from counterpoint.data.sources import short
from counterpoint.errors import Refusal, closest
from counterpoint.evaluation.diagnosis import FAULTS, Diagnosis
from counterpoint.evaluation.diagnosis import diagnose as look_for
from counterpoint.evaluation.faults import found_by, over_split, suspects, twins_of
from counterpoint.evaluation.geometry import shared_neighbours
from counterpoint.evaluation.space import Space, drawn
from counterpoint.verbs import table_file
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.diagnosis_report import Report, as_values, show
from counterpoint.verbs.mended import mend
from counterpoint.verbs.prepare import name_of
from counterpoint.verbs.prescriptions import Patient, commands
from counterpoint.verbs.recipes import choose
from counterpoint.verbs.settings import Run
from counterpoint.verbs.spaces import RAW, Material, material_of, space_of

READ = ("roles", "delimiter", "match", "allow", "prompts", "lengths", "precision", "device", "seed")
SHOWN = 3  # examples of a finding
OVERLAP = 2_000, 10  # items and neighbours that two models are compared on


def diagnose(
    model: str | Path,
    data: object,
    *,
    against: str | Path | None = None,
    temperature: float | None = None,
    fine: str | None = None,
    out: str | Path | None = None,
    mended: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Report:
    """Say what is wrong with a model's embeddings of data, and which method mends it.

    Looks for a narrow cone, collapsed dimensions, length bias, a gap between two sides, hubs, false negatives, a temperature
    too high or too low, collapsed sub-classes, copies over the split, and pairs that the model does not understand: each
    where the data allow it. What lies outside of what healthy models show is named, with the effect on the task of the data
    where that can be measured by mending the vectors.

    Args:
        model: whatever `--model` of `fit` takes; "raw" takes arrays as they are, such as embeddings of another program.
        data: whatever `evaluate` takes. Nothing is cleaned over the split, since copies are one of the things to find.
        against: another model, whose readings are shown beside.
        temperature: of the training that made the model; None takes that of the run.
        fine: a column of classes inside the labels.
        out: a .json file that does not exist yet for the findings; None writes nothing.
        mended: a .parquet, .jsonl or .csv file for the data without copies, with likely positives listed.
        quiet: print nothing.
        settings: fields of `Run` that say how data are read and texts encoded: roles, delimiter, match, allow, prompts,
            lengths, precision, device, seed (of what is drawn), trust_remote_code.

    Returns:
        Findings, what to type, and every reading.

    Raises:
        Refusal: for input that cannot be used; nothing is written then.

    >>> import numpy as np
    >>> cloud = np.random.default_rng(0).normal(size=(300, 16)) + 3
    >>> found = diagnose("raw", {"x": list(cloud)}, quiet=True)
    >>> found.diagnosis.findings[0].fault.code
    'cone'
    """
    unknown = next((name for name in settings if name not in (*READ, "trust_remote_code")), None)
    if unknown is not None:
        raise Refusal("a setting of diagnose", f"'{unknown}'", remedy=closest(unknown, READ))
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise Refusal("a temperature above 0", temperature, where="--temperature")
    if against is not None and str(against) == str(model):
        raise Refusal("another model", "the same", where=f"--against {against}")
    run, screen = Run(model=str(model), **settings), Screen(quiet=quiet)
    place = None if out is None else table_file.place_of(out, endings=(".json",))
    data_place = None if mended is None else table_file.place_of(mended, "--mended")
    with screen.stage("reading and checking data"):
        material = material_of(data, run, fine)
    if material.samples is not None:
        show_data(material.samples, screen)
        show_findings(tuple(f for f in material.findings if f.level == "refuse"), screen, run.allow)
    elif mended is not None:
        raise Refusal("a table for --mended", "a folder", where=name_of(data))
    space = space_of(str(model), material, run, screen, temperature=temperature)
    diagnosis = _looked_for(space, material, run, screen)
    other = overlap = None
    if against is not None:
        there = space_of(str(against), material, run, screen, temperature=None)
        other, overlap = _looked_for(there, material, run, screen), _in_common(space, there)
    changed = None if data_place is None else mend(material, diagnosis.seen)
    patient = _patient(str(model), data, material, run, mended=mended, fine=fine)
    codes = [found.fault.code for found in diagnosis.findings]
    report = Report(
        diagnosis,
        {code: commands(code, patient) for code in codes},
        {code: _examples(code, diagnosis, material) for code in codes},
        other,
        overlap,
        changed,
    )
    if data_place is not None and changed is not None:
        table_file.write(changed.frame, data_place, "--mended")
    if place is not None:
        table_file.write_json(as_values(report, str(model)), place)
    show(report, screen, str(model), None if against is None else str(against))
    return report


def _looked_for(space: Space, material: Material, run: Run, screen: Screen) -> Diagnosis:
    with screen.stage("looking for faults", total=len(FAULTS)) as tick:
        return look_for(space, seed=run.seed, unit=material.unit, tick=tick)


def _in_common(one: Space, other: Space) -> float:
    most, k = OVERLAP
    at = drawn(len(one.anchors), most, 0)
    return shared_neighbours(one.anchors.z[at], other.anchors.z[at], k)


def _patient(
    model: str, data: object, material: Material, run: Run, *, mended: str | Path | None, fine: str | None
) -> Patient:
    files = isinstance(data, str | Path)
    recipe = None
    if files and material.samples is not None:
        recipe = choose(material.samples, "auto")[0]
    name = (
        str(mended) if mended is not None else f"{Path(str(data)).stem}-mended.parquet" if files else "mended.parquet"
    )
    return Patient(model, str(data) if files else "DATA", run.roles, name, fine, recipe, model != RAW)


def _examples(code: str, diagnosis: Diagnosis, material: Material) -> list[str]:
    """A few lines that show a finding in the data."""
    show: Callable[[str], str] = lambda key: short(" ".join(material.items.show(key).split()))  # noqa: E731
    seen, anchors = diagnosis.seen, material.anchors.keys
    others = anchors if material.candidates is None else material.candidates.keys
    if code == "hubs":
        found = found_by(seen)
        best = torch.argsort(found, descending=True, stable=True)[:SHOWN].tolist()
        return [f"near {int(found[j]) / len(seen.at):.0%} of all anchors: {show(others[j])}" for j in best]
    if code == "duplicates":
        known, held = over_split(seen, most=len(seen.at))
        twin, place = twins_of(seen, held, known)
        at = torch.nonzero(twin)[:SHOWN, 0].tolist()
        return [f"held out: {show(anchors[int(held[i])])} | in train: {show(anchors[int(place[i])])}" for i in at]
    if code == "false-negatives":
        unlisted = suspects(seen) & ~seen.held[:, None]
        lines = []
        for i in torch.nonzero(unlisted.any(1))[:SHOWN, 0].tolist():
            j = int(seen.near.index[i, int(torch.nonzero(unlisted[i])[0, 0])])
            listed = f" | listed: {show(others[int(seen.positive[i])])}" if material.relation is not None else ""
            lines.append(f"{show(anchors[int(seen.at[i])])}{listed} | not listed: {show(others[j])}")
        return lines
    return []
