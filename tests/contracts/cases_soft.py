"""Rules of soft targets, filters, and distillation: rows get the facts that they read from their label and id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from counterpoint.objectives.distillation import distillation, ranked, scored
from counterpoint.objectives.sigmoid import siglip
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.filters import above_positive, own_positive, suspected, within, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.pairs.soft import alike, complemented, near, overlapping
from counterpoint.types import Embeddings, Outcome, Relation, same_sample
from tests.contracts.case import Case, Cases

T = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
SCALE = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
PAIRS = [(i, j) for i in range(12) for j in range(12) if (i * 5 + j * 3) % 4]
VALUES = [float((i * 7 + j * 5) % 6) for i, j in PAIRS]
GRADES = [float((i + j) % 3 > 0) for i, j in PAIRS]
SCORED = Relation.of([i for i, _ in PAIRS], [j for _, j in PAIRS], GRADES, value=VALUES)
ORDERED = Relation.of([i for i, _ in PAIRS], [j for _, j in PAIRS], value=VALUES)


def told(rows: Embeddings) -> Embeddings:
    """The rows with several labels, a number, a domain and a teacher's vector."""
    label, id = rows.facts["label"], rows.id % 7
    angle = (label * 1.3 + id * 0.4 + rows.view * 0.2).double()
    facts = {
        "labels": torch.stack([label % 2 == 0, label % 3 == 0, id % 2 == 0], 1).long(),
        "value": angle,
        "teacher": torch.stack([angle.cos(), angle.sin()], 1),
        "domain": label % 2,
    }
    return replace(rows, facts={**rows.facts, **facts})


def on(loss: Callable[..., Outcome], **settings: object) -> Callable[[Embeddings, Embeddings], Outcome]:
    """The loss of rows with these facts."""
    return lambda a, c: loss(told(a), told(c), **settings)


def guided(a: Embeddings, c: Embeddings) -> Outcome:
    """GISTEmbed: in-batch negatives that a guide has looked at."""
    a, c = told(a), told(c)
    return infonce(own_positive(a, c, rule=same_sample), c, rule=without(same_sample, above_positive(margin=0.1)))


def head(x: Tensor, y: Tensor) -> Tensor:
    """A head with a parameter."""
    return (SCALE.to(x) * (x - y).abs()).sum(1)


CASES: Cases = {
    "overlapping": Case(on(infonce, rule=overlapping())),
    "overlapping, jaccard by siglip": Case(on(siglip, rule=complemented(overlapping(measure="jaccard")))),
    "near": Case(on(infonce, rule=near(width=2.0), directions="both", temperature=T), (T,)),
    "alike": Case(on(infonce, rule=alike(least=0.2))),
    "suspected": Case(on(infonce, rule=without(labelled(), suspected(least=0.9)))),
    "above_positive": Case(guided),
    "within": Case(on(infonce, rule=within(same_sample), directions="both")),
    "within, labelled": Case(on(infonce, rule=within(labelled()))),
    "distillation": Case(on(distillation)),
    "distillation, both, only where right": Case(
        on(distillation, directions="both", right_only=True, temperature=T, teacher_temperature=0.5), (T,)
    ),
    "distillation, to the same rows everywhere": Case(on(distillation, rule=labelled()), replicated=True),
    "scored": Case(on(scored, rule=listed(SCORED, others=0), scale=SCALE), (SCALE,)),
    "scored, margins": Case(on(scored, rule=listed(SCORED), compare="margins", unit=True)),
    "scored, by a head": Case(on(scored, rule=listed(SCORED), score=head), (SCALE,)),
    "ranked": Case(on(ranked, rule=listed(ORDERED), temperature=T), (T,)),
    "ranked, no easy negatives": Case(on(ranked, rule=listed(ORDERED, others=0))),
    "ranked, to the same rows everywhere": Case(partial(ranked, rule=listed(ORDERED)), replicated=True),
}
