"""What is true of an embedding space beside labels: how classes lie in it, and which factors can be read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint.evaluation.geometry import Rows, unit_rows
from counterpoint.types import Embeddings, same_sample

PENALTY = (
    0.01  # inverse weight of the probe's penalty on standardised rows, which have as many unit variances as dimensions
)


@torch.no_grad()
def tolerance(z: Rows, labels: Int[Tensor, " n"]) -> float:
    """The mean cosine of two different rows of one class.

    Args:
        z: the rows; scaled to length 1 here.
        labels: their classes.

    Returns:
        From -1 to 1; large where a model tolerates that samples of a class differ. NaN where no class has two rows.

    Differs:
        The source also averages over pairs of a row with itself, which adds 1 for each row.

    References:
        Wang, Liu 2021, arXiv:2012.09740, section 4.2.

    >>> tolerance(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    1.0
    """
    sums, counts, _ = _by_class(unit_rows(z).double(), labels)
    pairs = float((counts * (counts - 1)).sum())
    return (float(sums.square().sum()) - len(z)) / pairs if pairs else math.nan


def _by_class(
    z: Rows, labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"], Int[Tensor, " n"]]:
    """Sums and sizes of classes, and the place of each row's class."""
    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    return z.new_zeros(len(counts), z.shape[1]).index_add_(0, place, z), counts.to(z.dtype), place


@torch.no_grad()
def compactness(z: Rows, labels: Int[Tensor, " n"]) -> float:
    """The share of the variance of unit rows that lies within classes.

        sum_i |u_i - mean of its class|^2 / sum_i |u_i - mean of all|^2

    Args:
        z: the rows; scaled to length 1 here.
        labels: their classes.

    Returns:
        From 0 (each class is one point) to 1 (classes have one middle). NaN where all rows are equal.

    Relations:
        1 minus it is eta squared of an analysis of variance; small values are what Papyan, Han, Donoho 2020,
        arXiv:2008.08186, call neural collapse (NC1).

    >>> compactness(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
    0.0
    """
    u = unit_rows(z).double()
    sums, counts, place = _by_class(u, labels)
    within = (u - (sums / counts[:, None])[place]).square().sum()
    whole = (u - u.mean(0)).square().sum()
    return float(within / whole) if float(whole) > 0 else math.nan


@torch.no_grad()
def subclass_separation(z: Rows, coarse: Int[Tensor, " n"], fine: Int[Tensor, " n"]) -> float:
    """Whether classes inside the classes that were trained on are still apart.

        ( right - chance ) / ( n - chance )
        right  = sum_i [ the nearest other row of i's coarse class is of its fine class ]
        chance = sum_i (rows of i's fine class - 1) / (rows of its coarse class - 1)

    over the n rows of coarse classes that have two fine ones or more.

    Args:
        z: the rows; scaled to length 1 here.
        coarse: the classes of training.
        fine: classes inside them.

    Returns:
        From about 0 (the nearest of a coarse class says nothing of the fine one: sub-classes have collapsed) to 1: the
        share of right neighbours beyond that of a random other row of the coarse class. NaN where no coarse class has two
        fine ones.

    Relations:
        What supervised contrastive learning loses, after Chen et al. 2022, arXiv:2204.07596 (class collapse).

    >>> z = torch.eye(4)[[0, 0, 1, 1]]
    >>> subclass_separation(z, torch.zeros(4, dtype=torch.int64), torch.tensor([7, 7, 8, 8]))
    1.0
    """
    right = chance = 0.0
    for one in coarse.unique():
        at = torch.nonzero(coarse == one)[:, 0]
        _, place, counts = fine[at].unique(return_inverse=True, return_counts=True)
        if len(counts) < 2:
            continue
        rows = Embeddings.of(unit_rows(z[at]), id=torch.arange(len(at)))
        nearest = neighbours(rows, rows, 1, rule=same_sample).index[:, 0]
        right += float((place[nearest] == place).sum())
        chance += float((counts * (counts - 1)).sum()) / (len(at) - 1)
    total = sum(float((coarse == one).sum()) for one in coarse.unique() if len(fine[coarse == one].unique()) > 1)
    return (right - chance) / (total - chance) if total > chance else math.nan


@torch.no_grad()
def readable(z: Rows, labels: Int[Tensor, " n"], *, folds: int = 5, seed: int = 0) -> float:
    """How well a factor of the items can be read from their embeddings by a linear probe, from chance to perfect.

        ( right - chance ) / ( 1 - chance )

    where right is the accuracy of a logistic regression on rows that it was not fitted on, and chance the share of the
    largest class.

    Args:
        z: the rows; scaled to length 1, then standardised, so that a factor in directions of little variance counts too.
        labels: one a row, such as a topic, a language, a source.
        folds: parts of the rows, each asked once; classes with fewer rows are left out.
        seed: deals the rows out.

    Returns:
        Up to 1; about 0 where the embeddings say nothing of the factor. NaN for fewer than two classes.

    References:
        Alain, Bengio 2016, arXiv:1610.01644 (linear probes).

    >>> label = torch.arange(40) % 2
    >>> readable(torch.eye(2)[label], label)
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    kept = counts[place] >= folds
    x, y = unit_rows(z)[kept].numpy(), place[kept].numpy()
    if len(np.unique(y)) < 2:
        return math.nan
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000, C=PENALTY))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    right = float(np.mean(cross_val_score(probe, x, y, cv=parts)))
    chance = float(np.bincount(y).max()) / len(y)
    return (right - chance) / (1 - chance)


@dataclass(frozen=True)
class Suppression:
    """Which factor of the items a model hides.

    Args:
        factors: name -> how readable it is, by `readable`.
        before: the same by the reference; empty without one.
        suppressed: the factor that lost most against the reference, or, without one, that is least readable.
        loss: by how much: reference less model, or the most readable factor less this one.
    """

    factors: Mapping[str, float]
    before: Mapping[str, float]
    suppressed: str
    loss: float


def suppression(
    z: Rows,
    factors: Mapping[str, Int[Tensor, " n"]],
    *,
    reference: Float[Tensor, "m e"] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Suppression:
    """Feature suppression: whether what is easy to tell items apart by has pushed something else out of the embeddings.

    Contrastive losses are content with any feature that separates the rows of a batch; a few bits of an easy one (a source,
    a colour, a length) can keep others from being learned. Each factor is read by a linear probe, from the model and from
    a reference: the model before training, or one trained otherwise.

    Args:
        z: the items by the model.
        factors: two or more: name -> class of each item.
        reference: the same items, row by row, by another model; its width may differ.
        folds, seed: of `readable`.

    Returns:
        How readable each factor is, and which one is suppressed.

    Raises:
        ValueError: for fewer than two factors, or a reference of other length.

    Differs:
        The authors plant factors of known bits in the data and compare models trained on each; here factors are labels
        that the data have, so a factor may be hard to read for other reasons. That is what the reference is for.

    References:
        Chen, Luo, Li 2021, arXiv:2011.02803, section 5.

    >>> source, topic = torch.arange(80) % 2, torch.arange(80) // 2 % 2
    >>> before = torch.cat([torch.eye(2)[source], torch.eye(2)[topic]], 1)
    >>> found = suppression(torch.eye(2)[source], {"source": source, "topic": topic}, reference=before)
    >>> found.suppressed, found.loss > 0.9
    ('topic', True)
    """
    if len(factors) < 2:
        raise ValueError(f"wanted two factors or more, got {len(factors)}")
    if reference is not None and len(reference) != len(z):
        raise ValueError(f"wanted as many rows of the reference, got {len(z)} and {len(reference)}")
    now = {name: readable(z, labels, folds=folds, seed=seed) for name, labels in factors.items()}
    before: dict[str, float] = {}
    if reference is not None:
        before = {name: readable(reference, labels, folds=folds, seed=seed) for name, labels in factors.items()}
    best = max(now.values())
    lost = {name: before.get(name, best) - value for name, value in now.items()}
    worst = max(lost, key=lambda name: lost[name])
    return Suppression(now, before, worst, lost[worst])
