"""What is true of an embedding space: one function a statistic, of rows and, where there are some, of labels.

`alignment` and `uniformity` are objectives as well (`objectives.spread`); `rankme`, `width`, `duplicates` and
`shared_neighbours` also serve health and model selection (`_ops.geometry`). All compare n rows with m rows by tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.layout import Rule
from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.sweep import sweep
from counterpoint._ops.tile import Output, Side
from counterpoint.types import Embeddings, Pairs, same_sample

Rows = Float[Tensor, "n d"]


def _unit(z: Rows) -> Rows:
    """Rows of length 1 up to rounding: statistics need no gradient, so nothing is added below the root."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)


def _unit_rows(e: Embeddings) -> Embeddings:
    return replace(e, z=_unit(e.z))


@torch.no_grad()
def mean_cosine(z: Rows) -> float:
    """The mean cosine of two different rows: how narrow a cone they lie in.

        ( |sum_i u_i|^2 - n ) / ( n (n - 1) ),    u_i = z_i / |z_i|

    Args:
        z: the rows; scaled to length 1 here.

    Returns:
        From -1 / (n - 1) to 1; about 0 for an even sphere, c^2 for a cone whose rows share a part c of their length. NaN
        for fewer than two rows.

    References:
        Ethayarajh 2019, arXiv:1909.00512, calls it anisotropy.

    >>> mean_cosine(torch.eye(3)), round(mean_cosine(torch.ones(3, 2)), 6)
    (0.0, 1.0)
    """
    n = len(z)
    if n < 2:
        return math.nan
    return (float(_unit(z).double().sum(0).square().sum()) - n) / (n * (n - 1))


@torch.no_grad()
def isotropy(z: Rows) -> float:
    """How equal the space looks from all directions.

        min_c Z(c) / max_c Z(c),    Z(c) = sum_i exp(c . z_i),    c over the eigenvectors of Z^T Z

    Args:
        z: the rows as they are; scale them first to compare models.

    Returns:
        From 0 to 1 (every direction holds as much).

    Differs:
        Each eigenvector is looked at from both ends, since its sign is arbitrary.

    References:
        Mu, Viswanath 2018, arXiv:1702.01417, section 2.2; after Arora et al. 2016.

    >>> round(isotropy(torch.cat([torch.eye(2), -torch.eye(2)])), 6)
    1.0
    """
    if not len(z):
        return math.nan
    z = z.double()
    _, axes = torch.linalg.eigh(z.T @ z)
    seen = torch.logsumexp(z @ torch.cat([axes, -axes], 1), 0)
    return float((seen.min() - seen.max()).exp())


@torch.no_grad()
def spectrum(z: Rows) -> Float[Tensor, " k"]:
    """The variances of unit rows along their principal axes, largest first: what collapse of dimensions shows in.

    Args:
        z: the rows; scaled to length 1, then centred.

    Returns:
        min(n, d) numbers of at least 0; their sum is 1 - |mean|^2.

    References:
        Jing, Vincent, LeCun, Tian 2022, arXiv:2110.09348, figure 2.

    >>> spectrum(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).round(decimals=6).tolist()
    [1.0, 0.0]
    """
    u = _unit(z)
    return torch.linalg.svdvals(u - u.mean(0)).square() / max(1, len(u))


@torch.no_grad()
def modality_gap(x: Rows, y: Float[Tensor, "m d"]) -> float:
    """How far the middles of two sets lie apart, such as those of images and of captions, or of queries and documents.

        | mean_i x_i / |x_i|  -  mean_j y_j / |y_j| |

    Args:
        x, y: the rows of the two sets.

    Returns:
        From 0 to 2; about sqrt(1/n + 1/m) for two even samples of one sphere.

    References:
        Liang, Zhang, Kwon, Yeung, Zou 2022, arXiv:2203.02053.

    >>> modality_gap(torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
    2.0
    """
    return float(torch.linalg.vector_norm(_unit(x).mean(0) - _unit(y).mean(0)))


@dataclass(frozen=True)
class Hubness:
    """How unevenly candidates are found.

    Args:
        skewness: of how often each is among the k nearest; 0 for a symmetric distribution, above 1 there are hubs.
        never: share of candidates that nobody finds.
        largest: share of anchors that find the most found candidate.
    """

    skewness: float
    never: float
    largest: float


@torch.no_grad()
def hubness(anchors: Embeddings, candidates: Embeddings, k: int = 10, *, rule: Rule = same_sample) -> Hubness:
    """Whether a few candidates are near everybody and many near nobody.

        N_k(j) = | { i : j among the k nearest of i } |,    skewness = mean (N_k - mean N_k)^3 / std(N_k)^3

    Args:
        anchors: n rows.
        candidates: m rows; may be the anchors.
        k: neighbours of each anchor.
        rule: who is not looked at: by default a row's own content.

    Returns:
        Its three numbers; NaN for no anchors. Even in a healthy space skewness grows with the dimension and with m.

    References:
        Radovanovic, Nanopoulos, Ivanovic 2010, JMLR 11.

    >>> e = Embeddings.of(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]]))
    >>> hubness(e, e, 1).largest
    0.6666666865348816
    """
    if not len(anchors):
        return Hubness(math.nan, math.nan, math.nan)
    index = neighbours(_unit_rows(anchors), _unit_rows(candidates), k, rule=rule).index
    found = torch.bincount(index[index >= 0], minlength=len(candidates)).double()
    apart = found - found.mean()
    spread = float(apart.square().mean()) ** 0.5
    skewness = float((apart**3).mean()) / spread**3 if spread else 0.0
    return Hubness(skewness, float((found == 0).float().mean()), float((found.max() / len(anchors)).float()))


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
    sums, counts, _ = _by_class(_unit(z).double(), labels)
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
    u = _unit(z).double()
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
        rows = Embeddings.of(_unit(z[at]), id=torch.arange(len(at)))
        nearest = neighbours(rows, rows, 1, rule=same_sample).index[:, 0]
        right += float((place[nearest] == place).sum())
        chance += float((counts * (counts - 1)).sum()) / (len(at) - 1)
    total = sum(float((coarse == one).sum()) for one in coarse.unique() if len(fine[coarse == one].unique()) > 1)
    return (right - chance) / (total - chance) if total > chance else math.nan


@torch.no_grad()
def dependence(z: Rows, values: Float[Tensor, " n"], k: int = 10) -> float:
    """How far near rows have like values, such as the length of a text or the frequency of its words.

    The rank correlation (Spearman's) of each row's value with the mean value of its k nearest other rows.

    Args:
        z: the rows; scaled to length 1 here.
        values: one a row.
        k: neighbours.

    Returns:
        From -1 to 1; near 0 where the space does not know the value. NaN where all values are equal.

    >>> line = torch.linspace(0, 1.5, 50)
    >>> dependence(torch.stack([line.cos(), line.sin()], 1), line, 2) > 0.99
    True
    """
    from scipy.stats import spearmanr

    if len(z) < 3 or bool((values == values[0]).all()):
        return math.nan
    rows = Embeddings.of(_unit(z), id=torch.arange(len(z)))
    index = neighbours(rows, rows, min(k, len(z) - 1), rule=same_sample).index
    return float(spearmanr(values.double().numpy(), values.double()[index].mean(1).numpy()).statistic)


@torch.no_grad()
def hardness(
    anchors: Embeddings,
    candidates: Embeddings,
    temperature: float,
    *,
    share: float = 0.01,
    rule: Rule = same_sample,
) -> float:
    """The part of the repelling gradient of a softmax loss that goes to the hardest negatives.

        mean_i  sum_{j in hardest} exp(s_ij / T) / sum_{j repelled} exp(s_ij / T)

    where the hardest are the ceil(share * m) candidates of largest cosine that repel anchor i.

    Args:
        anchors: n rows.
        candidates: m rows.
        temperature: T, above 0: that of the training method.
        share: how many count as hardest, in (0, 1].
        rule: who repels whom.

    Returns:
        From `share` (a hot temperature: all negatives weigh alike) to 1 (a cold one: only the hardest count).

    References:
        Wang, Liu 2021, arXiv:2012.09740, section 3.2.

    >>> e = Embeddings.of(torch.eye(4))
    >>> round(hardness(e, e, 1.0, share=0.25), 4)  # one of three equal negatives
    0.3333
    """
    if not temperature > 0 or not 0 < share <= 1:
        raise ValueError(f"wanted a temperature above 0 and a share in (0, 1], got {temperature} and {share}")
    a, c = _unit_rows(anchors), _unit_rows(candidates)
    best = neighbours(a, c, math.ceil(share * len(c)), rule=rule)
    hardest = torch.where(best.index >= 0, best.score / temperature, -torch.inf).logsumexp(1)
    swept = sweep(partial(_repelled, temperature), a, c, rule=rule, rows={"all": "logsumexp"})
    whole = swept.rows["all"]
    there = best.index[:, 0] >= 0
    return float((hardest - whole)[there].exp().mean()) if bool(there.any()) else math.nan


def _repelled(
    temperature: float,
    scores: Mapping[str, Tensor],
    pairs: Pairs,
    _a: Side,
    _c: Side,
    _params: Mapping[str, Tensor],
) -> Mapping[str, Output]:
    return {"all": (scores["s"] / temperature, pairs.repel)}
