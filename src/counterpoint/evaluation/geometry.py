"""What is true of an embedding space: one function a statistic. Those that ask for labels are in `geometry_labels`.

`alignment` and `uniformity` are the objectives of `objectives.spread` (their `.loss` is the statistic); `rankme`, `width`,
`duplicates` and `shared_neighbours`, the neighbour overlap of two models, also serve health and model selection
(`_ops.geometry`). All compare n rows with m rows by tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.geometry import duplicates, rankme, shared_neighbours, width
from counterpoint._ops.layout import Rule
from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.sweep import sweep
from counterpoint._ops.tile import Output, Side
from counterpoint.objectives.spread import alignment, uniformity
from counterpoint.types import Embeddings, Pairs, same_sample

__all__ = [
    "Hubness",
    "alignment",
    "dependence",
    "duplicates",
    "effective_rank",
    "explained",
    "groups_of",
    "hardness",
    "hubness",
    "isotropy",
    "mean_cosine",
    "modality_gap",
    "rankme",
    "shared_neighbours",
    "spectrum",
    "unevenness",
    "uniformity",
    "unit_rows",
    "width",
]

Rows = Float[Tensor, "n d"]
GROUPS = 10  # of equal size, for `explained`


def unit_rows(z: Rows) -> Rows:
    """Rows of length 1 up to rounding: statistics need no gradient, so nothing is added below the root."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)


def _scaled(e: Embeddings) -> Embeddings:
    return replace(e, z=unit_rows(e.z))


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
    return (float(unit_rows(z).double().sum(0).square().sum()) - n) / (n * (n - 1))


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
    u = unit_rows(z)
    return torch.linalg.svdvals(u - u.mean(0)).square() / max(1, len(u))


@torch.no_grad()
def effective_rank(z: Rows, *, power: float = 1.0) -> float:
    """How many directions unit rows spread in around their middle, counted softly.

        exp( - sum_k p_k log p_k ),    p_k = sigma_k^power / sum_j sigma_j^power

    over the singular values sigma of the centred rows: the square roots of n times `spectrum`.

    Args:
        z: the rows; scaled to length 1, then centred.
        power: 1 takes singular values, as the source does; 2 variances, so that many directions that hold little count
            for less. That is what `diagnose` reads.

    Returns:
        From 1 (rows on one line) to min(n - 1, d) (as much in every direction). NaN where all rows are equal.

    Differs:
        From the source in scaling and centring; `rankme` is the same of the rows as they are.

    References:
        Roy, Vetterli 2007, The effective rank: a measure of effective dimensionality, EUSIPCO.

    >>> round(effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])), 4)
    4.0
    """
    share = spectrum(z).double() ** (power / 2)
    if not len(share) or not float(share.sum()) > 0:
        return math.nan
    share = share / share.sum()
    return float(torch.special.entr(share).sum().exp())


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
    return float(torch.linalg.vector_norm(unit_rows(x).mean(0) - unit_rows(y).mean(0)))


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
    index = neighbours(_scaled(anchors), _scaled(candidates), k, rule=rule).index
    return unevenness(torch.bincount(index[index >= 0], minlength=len(candidates)), len(anchors))


@torch.no_grad()
def unevenness(found: Int[Tensor, " m"], asked: int) -> Hubness:
    """`hubness` of counts that are known: how often each candidate is among the k nearest.

    Args:
        found: N_k(j) of each candidate.
        asked: how many anchors there were.

    >>> unevenness(torch.tensor([3, 1, 0, 0]), 4).never
    0.5
    """
    counts = found.double()
    apart = counts - counts.mean()
    spread = float(apart.square().mean()) ** 0.5
    skewness = float((apart**3).mean()) / spread**3 if spread else 0.0
    return Hubness(skewness, float((found == 0).float().mean()), float((counts.max() / asked).float()))


@torch.no_grad()
def explained(z: Rows, values: Float[Tensor, " n"]) -> float:
    """The share of the variance of unit rows that a number explains, such as the length of a text.

        1 - within / whole - (groups - 1) / (n - 1)

    where within and whole are the sums of squares around the middles of ten groups of about equal size, by value, and
    around that of all: eta squared less its mean where the number plays no part.

    Args:
        z: the rows; scaled to length 1 here.
        values: one a row.

    Returns:
        From about 0 to about 1; NaN where all values are equal, or all rows.

    Relations:
        1 - `geometry_labels.compactness` of the groups, less chance. `dependence` asks the same of neighbours.

    References:
        Fisher 1925, Statistical Methods for Research Workers (the correlation ratio); the correction as in Kelley 1935,
        to first order.

    >>> explained(torch.eye(4)[[0, 1, 2, 3] * 25], torch.tensor([1.0, 2.0, 3.0, 4.0] * 25)) > 0.96
    True
    """
    u = unit_rows(z).double()
    _, place = groups_of(values).unique(return_inverse=True)
    size = torch.bincount(place).double()
    whole = float((u - u.mean(0)).square().sum())
    if len(size) < 2 or not whole > 0:
        return math.nan
    middle = u.new_zeros(len(size), u.shape[1]).index_add_(0, place, u) / size[:, None]
    within = float((u - middle[place]).square().sum())
    return 1 - within / whole - (len(size) - 1) / (len(u) - 1)


def groups_of(values: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Ten groups of about equal size by value; equal values share one.

    >>> groups_of(torch.tensor([1.0, 9.0, 1.0, 5.0])).tolist()
    [0, 7, 0, 5]
    """
    return torch.searchsorted(values.sort().values, values) * GROUPS // max(1, len(values))


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
    rows = Embeddings.of(unit_rows(z), id=torch.arange(len(z)))
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
    a, c = _scaled(anchors), _scaled(candidates)
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
