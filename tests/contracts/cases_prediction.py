"""Prediction, decorrelation, whitening, information, sparse codes, captioning and the wrappers, where they need more."""

from __future__ import annotations

from dataclasses import replace

import torch

from counterpoint.objectives.decorrelation import mixed_barlow_twins
from counterpoint.objectives.information import joint_entropy, sepclr
from counterpoint.objectives.orthogonality import orthogonality
from counterpoint.objectives.prediction import slap
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import dispersive
from counterpoint.objectives.whitening import whiten
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.contracts.case import Case, Cases


def with_teacher(rows: Embeddings) -> Embeddings:
    return replace(rows, facts={**rows.facts, "teacher": rows.z.flip(1) + rows.z.square()})


def mixed(a: Embeddings, c: Embeddings) -> Outcome:
    """Each anchor is mixed with a sample of another id, some of which are not there."""
    facts = {"first": a.id, "second": (a.id + 1) % 7, "share": torch.sigmoid(a.id.to(a.z))}
    return mixed_barlow_twins(a, c, replace(a, z=a.z.sin() + a.z.square(), id=-1 - a.id, facts=facts), rule=labelled())


def with_codes(rows: Embeddings) -> Embeddings:
    return replace(rows, facts={**rows.facts, "salient": rows.z.sin(), "target": rows.facts["label"] > 0})


def whitened(a: Embeddings, c: Embeddings) -> Outcome:
    """Two groups of shuffled coordinates, the last one left out where the width is odd."""
    sides = []
    for rows in (a, c):
        d = rows.z.shape[1] // 2 * 2
        sides.append(whiten(replace(rows, z=rows.z[:, :d]), groups=2, order=torch.arange(d).flip(0), eps=0.1))
    return infonce(*sides, rule=labelled(), temperature=1.0)


CASES: Cases = {
    "slap": Case(lambda a, c: slap(with_teacher(a), with_teacher(c), rule=labelled())),
    "mixed_barlow_twins": Case(mixed),
    "orthogonality": Case(lambda a, c: orthogonality(a, c, rule=labelled())),
    "joint_entropy": Case(lambda a, _c: joint_entropy(with_codes(a), rule=labelled())),
    "sepclr": Case(lambda a, c: sepclr(with_codes(a), with_codes(c))),
    "whiten": Case(whitened),
    "dispersive": Case(lambda a, _c: dispersive(a, rule=labelled())),
    "dispersive, cosine": Case(lambda a, _c: dispersive(a, rule=labelled(), distance="cosine")),
}
