"""Prediction, decorrelation, whitening, information, sparse codes, captioning and the wrappers, where they need more."""

from __future__ import annotations

from dataclasses import replace

import torch

from counterpoint.objectives.decorrelation import mixed_barlow_twins, orthogonality
from counterpoint.objectives.prediction import slap
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.contracts.case import Case, Cases


def with_teacher(rows: Embeddings) -> Embeddings:
    return replace(rows, facts={**rows.facts, "teacher": rows.z.flip(1) + rows.z.square()})


def mixed(a: Embeddings, c: Embeddings) -> Outcome:
    """Each anchor is mixed with a sample of another id, some of which are not there."""
    facts = {"first": a.id, "second": (a.id + 1) % 7, "share": torch.sigmoid(a.id.to(a.z))}
    return mixed_barlow_twins(a, c, replace(a, z=a.z.sin() + a.z.square(), id=-1 - a.id, facts=facts), rule=labelled())


CASES: Cases = {
    "slap": Case(lambda a, c: slap(with_teacher(a), with_teacher(c), rule=labelled())),
    "mixed_barlow_twins": Case(mixed),
    "orthogonality": Case(lambda a, c: orthogonality(a, c, rule=labelled())),
}
