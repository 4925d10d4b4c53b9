"""Prediction, decorrelation, whitening, information, sparse codes, captioning and the wrappers, where they need more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from counterpoint.encoders.sparse import SparseCode
from counterpoint.objectives.captioning import coca
from counterpoint.objectives.decorrelation import mixed_barlow_twins
from counterpoint.objectives.information import joint_entropy, sepclr
from counterpoint.objectives.orthogonality import orthogonality
from counterpoint.objectives.prediction import slap
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.sparse import csr
from counterpoint.objectives.spread import dispersive
from counterpoint.objectives.whitening import whiten
from counterpoint.objectives.wrappers import matryoshka, matryoshka_layers, over_views
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.contracts.case import Case, Cases


def with_teacher(rows: Embeddings) -> Embeddings:
    return replace(rows, facts={**rows.facts, "teacher": rows.z.flip(1) + rows.z.square()})


def mixed(a: Embeddings, c: Embeddings) -> Outcome:
    """Each anchor is mixed with a sample of another id, some of which are not there."""
    share = torch.sigmoid(a.id.to(a.z))
    facts = {"sources": torch.stack([a.id, (a.id + 1) % 7], 1), "shares": torch.stack([share, 1 - share], 1)}
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


def with_costs(rows: Embeddings) -> Embeddings:
    tokens = (rows.id % 3).to(rows.z)  # some texts have none
    return replace(rows, facts={**rows.facts, "cost": rows.z.square().sum(1) * (tokens > 0), "tokens": tokens})


def with_layer(rows: Embeddings) -> Embeddings:
    return replace(rows, facts={**rows.facts, "early": rows.z.sin() + rows.z.flip(1)})


def decoded(rows: Embeddings) -> Embeddings:
    z = rows.z
    facts = {"input": z.cos(), "decoded": z.sin(), "wide": z.square(), "dead": z.flip(1)}
    return replace(rows, z=z.relu() + 0.1, facts={**rows.facts, **facts})


def coded(rows: Embeddings) -> Embeddings:
    """Codes of the first four coordinates by one head, which learns."""
    x = rows.z[:, :4].to(HEAD.weight.device)
    facts = {name: fact.to(rows.z.device) for name, fact in HEAD.facts(x).items()}
    return replace(rows, z=HEAD(x).to(rows.z.device) + 0.1, facts={**rows.facts, **facts})


def views_apart(a: Embeddings, c: Embeddings) -> Outcome:
    """Rows of even and of odd label as two views."""
    sides = [replace(rows, view=2 * k + rows.facts["label"] % 2) for k, rows in enumerate((a, c))]
    return over_views(partial(SOFT, directions="both"), [0, 1], [2, 3])(*sides)


torch.manual_seed(0)
HEAD = SparseCode(4, 8, k=2, dead_k=2).double()
HEAD.idle[::2] = 99
SOFT = partial(infonce, rule=labelled(), temperature=0.5)
CASES: Cases = {
    "slap": Case(lambda a, c: slap(with_teacher(a), with_teacher(c), rule=labelled())),
    "mixed_barlow_twins": Case(mixed),
    "orthogonality": Case(lambda a, c: orthogonality(a, c, rule=labelled())),
    "joint_entropy": Case(lambda a, _c: joint_entropy(with_codes(a), rule=labelled())),
    "sepclr": Case(lambda a, c: sepclr(with_codes(a), with_codes(c))),
    "whiten": Case(whitened),
    "dispersive": Case(lambda a, _c: dispersive(a, rule=labelled())),
    "dispersive, cosine": Case(lambda a, _c: dispersive(a, rule=labelled(), cosine=True)),
    "coca": Case(lambda a, c: coca(a, with_costs(c), rule=labelled())),
    "csr": Case(lambda a, c: csr(decoded(a), decoded(c), rule=labelled())),
    "SparseCode": Case(
        lambda a, c: csr(coded(a), coded(c), rule=labelled()), (HEAD.weight, HEAD.bias, HEAD.centre), sweeps=False
    ),
    "matryoshka": Case(matryoshka(SOFT, [1, 3, 4])),
    "matryoshka_layers": Case(
        lambda a, c: matryoshka_layers(matryoshka(SOFT, [2, 4]), {"early": 0.5})(with_layer(a), with_layer(c))
    ),
    "over_views": Case(views_apart),
}
