"""Training methods that break a model, each by one thing that is wrong: `--recipe proofs/breaking.py:NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.recipes.text import pairs
from counterpoint.training.method import Method, replace
from counterpoint.types import Embeddings, Outcome


def without_negatives(encoder: Any, train: Any) -> Method:
    """Positives attract, nothing repels: all items end in one place."""
    return replace(pairs(encoder, train), objective=lambda a, c, *, rule: alignment(a, c, rule=rule))


def _bent(away: Callable[[Embeddings], Tensor], weight: float) -> Callable[..., Outcome]:
    """In-batch negatives, and a term that is wrong."""

    def loss(a: Embeddings, c: Embeddings, *, rule: Any) -> Outcome:
        found = infonce(a, c, rule=rule, temperature=0.05)
        terms = found.terms | {"wrong": (away(a) + away(c)) / 2}
        return found._replace(terms=terms, weights=found.weights | {"wrong": weight})

    return loss


def _unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=1)


def through_a_neck(encoder: Any, train: Any, *, directions: int = 6) -> Method:
    """What lies outside of a few directions is trained away, as by a head that is far too narrow."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(encoder.width, directions, generator=generator)).Q

    def outside(e: Embeddings) -> Tensor:
        z = _unit(e.z)
        return (z - z @ plane @ plane.T).square().sum() / len(z)

    return replace(pairs(encoder, train), objective=_bent(outside, 20.0))


def sides_apart(encoder: Any, train: Any) -> Method:
    """Queries are trained to one pole and documents to the other, beside in-batch negatives."""
    method = pairs(encoder, train)
    pole = _unit(torch.randn(1, encoder.width, generator=torch.Generator().manual_seed(0)))
    plain = _bent(lambda _e: torch.zeros(()), 0.0)

    def loss(a: Embeddings, c: Embeddings, *, rule: Any) -> Outcome:
        found = plain(a, c, rule=rule)
        one, other = (_unit(e.z) @ pole[0] for e in (a, c))
        wrong = ((one - 0.7).square().sum() + (other + 0.7).square().sum()) / (len(a) + len(c))
        return found._replace(terms=found.terms | {"wrong": wrong}, weights=found.weights | {"wrong": 20.0})

    return replace(method, objective=loss)


def of_shuffled(encoder: Any, train: Any) -> Method:
    """Each anchor beside the positive of the row before it: what is learned is what pairs have not in common."""

    def loss(a: Embeddings, c: Embeddings, *, rule: Any) -> Outcome:
        del rule
        return infonce(a.z, c.z.roll(1, 0), temperature=0.05)

    return replace(pairs(encoder, train), objective=loss)
