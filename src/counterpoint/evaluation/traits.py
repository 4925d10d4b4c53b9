"""What is told of an embedding space beside its faults: numbers with no limit between healthy and broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch

from counterpoint.evaluation.faults import explained_by, found_by
from counterpoint.evaluation.geometry import (
    alignment,
    effective_rank,
    isotropy,
    modality_gap,
    rankme,
    unevenness,
    uniformity,
)
from counterpoint.evaluation.geometry_labels import compactness, tolerance
from counterpoint.evaluation.intervals import Interval, of_mean
from counterpoint.evaluation.space import Look, Variants, drawn
from counterpoint.types import Embeddings

ROWS = 5_000  # that a statistic is taken over; more would change the third digit
FEW = 50  # texts below which a share says nothing


def _some(e: Embeddings) -> Embeddings:
    return e.rows(drawn(len(e), ROWS, 0))


def _aligned(seen: Look) -> float:
    there = seen.positive >= 0
    if not bool(there.any()):
        return math.nan
    return alignment(seen.asked.z[there], seen.space.others.z[seen.positive[there]]).loss.item()


def _gap(seen: Look) -> float:
    candidates = seen.space.candidates
    return math.nan if candidates is None else modality_gap(seen.space.anchors.z, candidates.z)


def _labelled(statistic: Callable[..., float]) -> Callable[[Look], float]:
    def of(seen: Look) -> float:
        some = _some(seen.space.anchors)
        return statistic(some.z, some.facts["label"]) if "label" in some.facts else math.nan

    return of


TRAITS: Mapping[str, tuple[str, Callable[[Look], float]]] = MappingProxyType(
    {
        "alignment": ("mean squared distance of a positive pair, 0 to 4", _aligned),
        "uniformity": (
            "log of the mean of exp(-2 squared distance) of two items; 0: all in one place, below: spread",
            lambda seen: uniformity(_some(seen.space.anchors).z).loss.item(),
        ),
        "isotropy": (
            "how equal the space looks from all directions, 0 to 1",
            lambda seen: isotropy(_some(seen.space.anchors).z),
        ),
        "effective-rank": (
            "directions that are taken up around the middle",
            lambda seen: effective_rank(_some(seen.space.others).z),
        ),
        "rankme": ("directions that are taken up, middle included", lambda seen: rankme(_some(seen.space.others).z)),
        "modality-gap": ("distance of the middles of both sides, 0 to 2", _gap),
        "hub-skewness": (
            "of how often a candidate is found; above 1 there are hubs",
            lambda seen: unevenness(found_by(seen), len(seen.at)).skewness,
        ),
        "never-found": (
            "share of candidates that are among nobody's 10 nearest",
            lambda seen: unevenness(found_by(seen), len(seen.at)).never,
        ),
        "tolerance": ("mean cosine of two items of one label", _labelled(tolerance)),
        "compactness": ("share of the variance within labels", _labelled(compactness)),
        "frequency": (
            "share of the variance that the mean log frequency of a text's words explains",
            lambda seen: explained_by(seen, "frequency"),
        ),
    }
)


def statistics(seen: Look) -> dict[str, float]:
    """Every number that the data allow.

    Args:
        seen: the space and its neighbours.

    Returns:
        Name -> number, in the order of `TRAITS`, which says what each is.

    >>> from counterpoint.evaluation.space import Space, look
    >>> found = statistics(look(Space.of(Embeddings.of(torch.cat([torch.eye(3), -torch.eye(3)])))))
    >>> round(found["isotropy"], 3), round(found["effective-rank"], 3)
    (1.0, 3.0)
    """
    values = {name: take(seen) for name, (_, take) in TRAITS.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def contrast(variants: Mapping[str, Variants], *, seed: int = 0) -> dict[str, Interval]:
    """Whether a text lies nearer to itself with a typo than to itself with another meaning.

        1/n sum_i [ cos(text_i, typo_i) > cos(text_i, changed_i) ] + 1/2 [ equal ]

    Args:
        variants: what was changed -> the texts in three forms.
        seed: of the resamples.

    Returns:
        What was changed -> the share of texts that are right, with its interval; those with fewer than 50 texts are left out.

    References:
        Gardner et al. 2020, arXiv:2004.02709 (contrast sets).

    >>> eye = torch.eye(2).repeat(25, 1)
    >>> found = contrast({"order": Variants(eye, eye + 0.1, eye.flip(1))})["order"]
    >>> found.value, round(found.low, 3)
    (1.0, 0.929)
    """
    shares = {}
    for name, v in variants.items():
        if len(v.text) >= FEW:
            same, other = (torch.cosine_similarity(v.text, z).double() for z in (v.typo, v.changed))
            right = ((same > other).double() + (same == other).double() / 2).numpy()
            shares[name] = of_mean(right, np.arange(len(right)), seed=seed)
    return shares
