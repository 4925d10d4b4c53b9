"""From data and a model to the space that a diagnosis reads: distinct items, what is known of them, their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from counterpoint.data.arrays import Arrays
from counterpoint.data.identity import content_ids
from counterpoint.data.items import TEXTS, Items
from counterpoint.data.judged import is_judged, read_judged
from counterpoint.data.lint import Finding, accept, clean
from counterpoint.data.roles import Samples
from counterpoint.data.sources import read
from counterpoint.data.splits import connected_groups
from counterpoint.data.words import frequency
from counterpoint.encoders import mlp
from counterpoint.encoders.text import embed
from counterpoint.encoders.text import load as load_text
from counterpoint.errors import Refusal, closest
from counterpoint.evaluation.space import Space, Variants, drawn
from counterpoint.training.machine import pick_device, pick_precision
from counterpoint.types import Embeddings, Relation
from counterpoint.verbs.console import Screen
from counterpoint.verbs.folder import read_json
from counterpoint.verbs.prepare import inspect, name_of
from counterpoint.verbs.settings import Run
from counterpoint.views.variants import CHANGES, contrast_set

EDITED, FORMS = 2_000, 150  # anchors that are tried for a contrast set, and those that are used
LONG = 100  # words from which one change is lost in the text
RAW = "raw"  # in place of a model: the arrays of the data are the embeddings


@dataclass(frozen=True)
class Side:
    """Distinct items of one side: their keys, and what is known of each."""

    keys: Sequence[str]
    facts: Mapping[str, Tensor]

    def embedded(self, vectors: Tensor, ids: Sequence[int]) -> Embeddings:
        """The items with their vectors."""
        return Embeddings.of(vectors, id=torch.tensor(ids), facts=self.facts)


@dataclass(frozen=True)
class Material:
    """What data hold for a diagnosis, whatever the model.

    Args:
        anchors: distinct items; one that is in train and held out counts twice.
        candidates: distinct positives; None where the data are one set.
        relation: which belong together.
        unit: for each anchor, which ones are not independent.
        items: what keys stand for.
        samples: the rows that all this comes from; None of a folder with judgements.
        findings: what lint says of them.
    """

    anchors: Side
    candidates: Side | None
    relation: Relation | None
    unit: np.ndarray
    items: Items
    samples: Samples | None
    findings: tuple[Finding, ...] = ()


def material_of(data: object, run: Run, fine: str | None) -> Material:
    """Read data for a diagnosis. What stands in train and in test stays: that is one of the things to find.

    Args:
        data: whatever `evaluate` takes.
        run: how data are read.
        fine: a column of classes inside the labels.

    Raises:
        Refusal: for data that cannot be read, or a column that is not there.
    """
    if is_judged(data):
        if run.roles or fine:
            raise Refusal("a table for roles and --fine", "a folder", where=str(data))
        return _judged(str(data))
    samples, findings = inspect(data, run)
    accept(findings, (*run.allow, "leak", "too-few-rows"), source=samples.source)
    samples = samples.with_frame(_cleaned(samples))
    if len(samples) < 2:
        raise Refusal("at least two rows", len(samples), where=samples.source)
    if fine is not None:
        samples = samples.with_frame(samples.frame.with_columns(_fine(data, run, fine, samples)))
    return _of_samples(samples, findings)


def _cleaned(samples: Samples) -> pl.DataFrame:
    """Each split cleaned by itself, so that rows of one may stand in another."""
    if not samples.has("split"):
        return clean(samples).frame
    parts = samples.frame.partition_by("split", maintain_order=True)
    return pl.concat([clean(samples.with_frame(part)).frame for part in parts]).sort("row")


def _fine(data: object, run: Run, fine: str, samples: Samples) -> pl.Series:
    if not samples.has("label") or samples.has("positive"):
        raise Refusal("items with a label for --fine", f"roles {', '.join(samples.columns)}", where=samples.source)
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | Path) for item in data):
        raise Refusal("one file for --fine", f"{len(data)} files")
    frame = read(data, delimiter=run.delimiter)
    if fine not in frame.columns:
        remedy = closest(fine, frame.columns)
        raise Refusal("a column for --fine", f"'{fine}'", where=name_of(data), remedy=remedy)
    return frame[fine].cast(pl.String).fill_null("")[samples.frame["row"]].alias("fine")


def _of_samples(samples: Samples, findings: tuple[Finding, ...]) -> Material:
    frame = samples.frame
    unit = frame["group"].fill_null("") if samples.has("group") else connected_groups(frame)
    held = frame["split"] != "train" if samples.has("split") else pl.repeat(value=False, n=len(frame), eager=True)
    frame = frame.with_columns(held=held, unit=pl.Series(unit).rank("dense").cast(pl.Int64))
    paired = samples.has("positive")
    if paired and samples.has("value"):  # a value says how far pairs belong together: both sides are one set
        positives = frame.select(pl.col("positive").alias("anchor"), "held", "unit").explode("anchor")
        frame, paired = pl.concat([frame.select("anchor", "held", "unit"), positives]), False
    one = frame.unique(["anchor", "held"], keep="first", maintain_order=True)
    known = {"held": one["held"].cast(pl.Int64)} if samples.has("split") else {}
    if samples.has("label") and not samples.has("positive"):
        known |= {n: one[n].rank("dense").cast(pl.Int64) for n in ("label", "fine") if n in one.columns}
    items = samples.items
    facts = {name: torch.from_numpy(column.to_numpy().copy()) for name, column in known.items()}
    found, relation = one["anchor"].to_list(), None
    if not paired:
        (anchors,), candidates = _sides(items, (found, facts)), None
    else:
        flat = frame.select("anchor", "positive").explode("positive").unique(maintain_order=True)
        documents = flat["positive"].unique(maintain_order=True).to_list()
        anchors, candidates = _sides(items, (found, facts), (documents, {}))
        relation = Relation.of(items.ids(flat["anchor"]), items.ids(flat["positive"]))
    return Material(anchors, candidates, relation, one["unit"].to_numpy(), items, samples, findings)


def _sides(items: Items, *sides: tuple[Sequence[str], Mapping[str, Tensor]]) -> list[Side]:
    """Keys and facts of both sides; of texts their length and how common their words are as well."""
    if items.kind != "text":
        return [Side(keys, facts) for keys, facts in sides]
    common = frequency(*(keys for keys, _ in sides))
    made = []
    for (keys, facts), found in zip(sides, common, strict=True):
        words = {"length": torch.tensor([float(len(k.split())) for k in keys]), "frequency": torch.tensor(found)}
        made.append(Side(keys, {**facts, **words}))
    return made


def _judged(folder: str) -> Material:
    found = read_judged(folder)
    ids, places = content_ids(found.queries), content_ids(found.documents)
    row = torch.tensor([i for i, known in enumerate(found.positives) for _ in known])
    col = torch.tensor([c for known in found.positives for c in known])
    relation = Relation.of(ids[row], places[col])
    anchors, candidates = _sides(TEXTS, (found.queries, {}), (found.documents, {}))
    return Material(anchors, candidates, relation, np.arange(len(found.queries)), TEXTS, None)


def space_of(model: str, material: Material, run: Run, screen: Screen, *, temperature: float | None) -> Space:
    """Embed the items of both sides.

    Args:
        model: whatever `--model` of `fit` takes; "raw": the arrays themselves.
        material: the items.
        run: prompts, lengths, precision, device.
        screen: shows the bar.
        temperature: None takes that of the run.

    Raises:
        Refusal: a model of another kind of data.
    """
    sides = [side for side in (material.anchors, material.candidates) if side is not None]
    forms = _variants(material, run.seed) if model != RAW else {}
    made = [texts for _, *both in forms.values() for texts in both]
    lists = [(side.keys, role) for side, role in zip(sides, ("anchor", "positive"), strict=False)]
    lists += [(texts, "anchor") for texts in made]
    vectors = _embedded(model, lists, material.items, run, screen)
    sets = [s.embedded(z, material.items.ids(s.keys)) for s, z in zip(sides, vectors, strict=False)]
    rest = iter(vectors[len(sides) :])
    read_temperature, batch = _training_of(model)
    return Space.of(
        *sets,
        relation=material.relation,
        temperature=read_temperature if temperature is None else temperature,
        batch=batch or Run.batch,
        variants={name: Variants(vectors[0][at], next(rest), next(rest)) for name, (at, _, _) in forms.items()},
    )


def _variants(material: Material, seed: int) -> dict[str, tuple[list[int], list[str], list[str]]]:
    """Some anchors' places, the same with a typo, and with each change of meaning that `views.variants` can make."""
    if material.items.kind != "text":
        return {}
    keys = material.anchors.keys
    some = [i for i in drawn(len(keys), EDITED, seed).tolist() if keys[i].count(" ") < LONG]
    found = {}
    for name, change in CHANGES.items():
        generator = torch.Generator().manual_seed(seed)
        at, typos, changed = contrast_set([keys[i] for i in some], change, generator=generator)
        if at:
            found[name] = [some[i] for i in at[:FORMS]], typos[:FORMS], changed[:FORMS]
    return found


def folder_for(name: str, items: Items) -> Path:
    """The folder of a model that reads these items; of a name on the hub, and of "raw", only a name.

    Raises:
        Refusal: a model of another kind of data.
    """
    folder = Path(name).expanduser()
    inner = folder / "model" if (folder / "run.json").exists() else folder
    reads = "arrays" if name == RAW or mlp.is_saved(inner) else "text"
    if reads != items.kind:
        remedy = "'raw' takes the arrays as they are" if items.kind == "arrays" else None
        raise Refusal(f"a model of {items.kind}", f"one of {reads}: '{name}'", where="MODEL", remedy=remedy)
    return inner


def _embedded(
    model: str, lists: Sequence[tuple[Sequence[str], str]], items: Items, run: Run, screen: Screen
) -> list[Tensor]:
    """Vectors of lists of items, each in its role."""
    inner = folder_for(model, items)
    if model == RAW:
        return [items.take(some).flatten(1) for some, _ in lists]
    device = pick_device(run.device)
    with screen.stage(f"loading {model}"):
        if isinstance(items, Arrays):
            encoder: nn.Module = _of_shape(mlp.load(inner, device=device), items)
        else:
            code = run.trust_remote_code
            encoder = load_text(model, prompts=run.prompts, lengths=run.lengths, device=device, trust_remote_code=code)
    precision = pick_precision(run.precision, device)
    with screen.stage("embedding", total=sum(len(some) for some, _ in lists)) as tick:
        return [embed(encoder, items.take(some), role, precision=precision, tick=tick) for some, role in lists]


def _of_shape(encoder: mlp.MLP, items: Arrays) -> mlp.MLP:
    if tuple(encoder.shape) != tuple(items.shape):
        raise Refusal(f"arrays of shape {tuple(encoder.shape)}", f"the shape {tuple(items.shape)}", where="MODEL")
    return encoder


def _training_of(model: str) -> tuple[float | None, int | None]:
    """Temperature and batch of the run that made a model; None of what is not known."""
    path = Path(model).expanduser() / "run.json"
    if not path.exists():
        return None, None
    record = read_json(path)
    temperature = (record.get("arguments") or {}).get("temperature")
    batch = record.get("batch")
    return (
        float(temperature) if isinstance(temperature, int | float) and temperature > 0 else None,
        batch if isinstance(batch, int) and batch > 1 else None,
    )
