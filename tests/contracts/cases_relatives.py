"""Softmax relatives, transport of token sets, products of several kinds, losses of several terms."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from counterpoint.objectives.doubly import cacr
from counterpoint.objectives.joint import alignment_uniformity, cuaxu, sscd
from counterpoint.objectives.multilinear import symile
from counterpoint.objectives.polyview import poly_view
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.transport import rcmd, transport
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.contracts.case import Case, Cases

T = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
HERE = "here"


def three(a: Embeddings, c: Embeddings) -> Outcome:
    """The rows of a, of c, and of c in another order of coordinates, as three kinds."""
    turned = replace(c, z=c.z.flip(1), view=c.view + 1)
    return symile([a, c, turned], temperature=0.3, generator=torch.Generator().manual_seed(0))


def as_tokens(rows: Embeddings) -> Embeddings:
    """Each row as three tokens, the row, its coordinates turned round, and its negative; some tokens are absent."""
    z = torch.stack([rows.z, rows.z.flip(1), -rows.z], 1)
    here = torch.stack([torch.ones_like(rows.id), rows.facts["label"] % 2, rows.facts["label"] % 3], 1) > 0
    return replace(rows, z=z, facts={**rows.facts, HERE: here})


def of_tokens(loss: Any) -> Any:
    """The loss of token sets as one of rows."""
    return lambda a, c: loss(as_tokens(a), as_tokens(c))


CASES: Cases = {
    "cacr": Case(partial(cacr, rule=labelled())),
    "cacr, sharp": Case(partial(cacr, rule=labelled(), t_positive=2.0, t_negative=3.0, alpha=0.5, beta=2.0)),
    "poly_view": Case(partial(poly_view, rule=labelled(), temperature=0.3)),
    "poly_view, arithmetic": Case(partial(poly_view, rule=labelled(), temperature=0.3, mean="arithmetic")),
    "poly_view, arithmetic and learnable": Case(
        partial(poly_view, rule=labelled(), temperature=T, mean="arithmetic"), (T,)
    ),
    "symile": Case(three),
    "symile, learnable": Case(lambda a, c: symile([a, c], temperature=T, negatives="all"), (T,)),
    # each pair of 16,384 sets takes 9 products of tokens here: tests/objectives/test_transport.py has its tiles
    "rcmd": Case(of_tokens(partial(infonce, rule=labelled(), temperature=0.3, score=rcmd(mask=HERE))), sweeps=False),
    "transport": Case(of_tokens(partial(transport, rule=labelled(), mask=HERE, iterations=10))),
    "alignment_uniformity": Case(partial(alignment_uniformity, rule=labelled())),
    "cuaxu": Case(partial(cuaxu, rule=labelled(), temperature=0.3)),
    "cuaxu, learnable": Case(partial(cuaxu, rule=labelled(), temperature=T), (T,)),
    "sscd": Case(lambda a, _c: sscd(a, rule=labelled(), entropy=1.0)),
}
