"""Decorrelation: coordinates that vary, and that do not say the same thing twice. No pair of rows repels."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.join import matches
from counterpoint._ops.layout import special
from counterpoint._ops.processes import everywhere, summed, to_rows
from counterpoint._ops.reduce import Moments, moments
from counterpoint.objectives.custom import Rule, as_embeddings
from counterpoint.objectives.spread import alignment
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, PairRule, same_sample

BLOCK = 1024  # anchors whose pairs are asked for at once where a rule lists none
BARLOW = "Zbontar et al.: Barlow Twins, arXiv:2103.03230, 2021"
VICREG = "Bardes, Ponce, LeCun: VICReg, arXiv:2105.04906, 2022"


class Cross(NamedTuple):
    """The mean product of paired rows, [d d], and how many pairs there are."""

    matrix: Tensor
    pairs: Tensor


def widened(rows: Embeddings | Tensor) -> Embeddings:
    """Rows of at least fp32, a plain tensor as rows of different samples.

    >>> widened(torch.eye(2).half()).z.dtype
    torch.float32
    """
    rows = rows if isinstance(rows, Embeddings) else Embeddings.of(rows)
    return replace(rows, z=rows.z.to(torch.promote_types(rows.z.dtype, torch.float32)))


def standardised(rows: Embeddings, *, eps: float = 1e-5, correction: int = 0) -> Embeddings:
    """The rows with mean 0 and variance 1 in every coordinate, over the rows of all processes.

    Args:
        rows: n rows.
        eps: added to the variance, so that a constant coordinate becomes 0.
        correction: what is taken off n where the variance is divided by it.

    >>> standardised(Embeddings.of(torch.tensor([[1.0], [3.0]])), eps=0.0).z.tolist()
    [[-1.0], [1.0]]
    """
    found = moments(rows.z, diagonal=True)
    freed = found.rows / (found.rows - correction).clamp(min=1)
    centre, scale = to_rows(torch.stack([found.mean, (found.covariance * freed + eps).rsqrt()]))
    return replace(rows, z=(rows.z - centre) * scale)


def attracting(anchors: Embeddings, candidates: Embeddings, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs that attract: row, column and weight of each.

    >>> rows = Embeddings.of(torch.eye(2))
    >>> [x.tolist() for x in attracting(rows, Embeddings.of(torch.eye(2), view=1), same_sample)]
    [[0, 1], [0, 1], [1.0, 1.0]]
    """
    elsewhere = special(rule)
    if elsewhere is not None and elsewhere[0] == 0 and hasattr(rule, "edges"):
        edges = cast(PairRule, rule).edges(anchors, candidates)
        return edges.row, edges.col, edges.attract
    found = []
    for start in range(0, max(len(anchors), 1), BLOCK):
        weight = rule(anchors.rows(slice(start, start + BLOCK)), candidates).attract
        row, col = (weight != 0).nonzero(as_tuple=True)
        found.append((row + start, col, weight[row, col]))
    row, col, weight = (torch.cat(column) for column in zip(*found, strict=True))
    return row, col, weight


def cross(anchors: Embeddings, candidates: Embeddings, rule: Rule) -> Cross:
    """sum_ij w_ij x_i y_j^T / sum_ij w_ij over the pairs of all processes that attract; zeros where there are none.

    >>> cross(Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1), same_sample).matrix.tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    candidates = candidates if anchors.placement == "replicated" else everywhere(candidates)
    row, col, weight = attracting(anchors, candidates, rule)
    weight = weight.to(candidates.z)
    paired = anchors.z.new_zeros(len(anchors), candidates.z.shape[1])
    paired = paired.index_add(0, row, weight[:, None] * candidates.z[col])
    above, pairs = summed(anchors.z.T @ paired), summed(weight.sum())
    return Cross(above / torch.where(pairs > 0, pairs, torch.ones_like(pairs)), pairs)


def _off_diagonal(squares: Tensor) -> Tensor:
    """The sum of a square matrix without its diagonal."""
    return squares.sum() - squares.diagonal().sum()


def _redundancy(found: Cross, off_diagonal: float) -> Tensor:
    """How far a correlation is from the identity; 0 where there is no pair."""
    matrix = found.matrix
    loss = (1 - matrix.diagonal()).square().sum() + off_diagonal * _off_diagonal(matrix.square())
    return torch.where(found.pairs > 0, loss, torch.zeros_like(loss))


@paper(reference=BARLOW)
def barlow_twins(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    off_diagonal: float = 0.0051,
    eps: float = 1e-5,
    correction: int = 0,
) -> Outcome:
    """Each coordinate agrees over the two rows of a pair, and different coordinates are uncorrelated.

    With x, y the rows of each set, standardised over the set, and attract weights w_ij,

        C = sum_ij w_ij x_i y_j^T / sum_ij w_ij,          loss = sum_a (1 - C_aa)^2 + weight sum_{a != b} C_ab^2

    Args:
        anchors: n rows, or a plain [n, d] tensor, as they are: no scaling to length 1.
        candidates: m rows of as many coordinates; with plain tensors row i pairs with row i, explicitly. None: the
            anchors themselves, whose views are then standardised together.
        rule: who pairs with whom; repel weights are not read.
        off_diagonal: weight of the second sum, at least 0.
        eps: added to the variance of a coordinate.
        correction: what is taken off the number of rows in the variance; 1 keeps C_aa below 1.

    Returns:
        One term, "barlow_twins", at least 0; 0 where each coordinate agrees and repeats no other, and without a pair.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The paper has one pair a row and no eps; 1e-5 is that of the batch norm in the authors' code, which has the
        statistics of each device alone, where these are over all rows.

    Relations:
        `vicreg` decorrelates each set by itself. `infonce` of columns in place of rows has the same purpose.

    References:
        Zbontar et al. 2021, arXiv:2103.03230, equations 1 and 2; github.com/facebookresearch/barlowtwins.

    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(barlow_twins(x, x.flip(1), eps=0.0).loss.item(), 4)      # C = [[0, 1], [1, 0]]
    2.0102
    """
    a, c = (widened(rows) for rows in as_embeddings(anchors, candidates))
    same = c is a or candidates is None
    a = standardised(a, eps=eps, correction=correction)
    c = a if same else standardised(c, eps=eps, correction=correction)
    return Outcome.term("barlow_twins", _redundancy(cross(a, c, rule), off_diagonal))


def of_ids(rows: Embeddings, id: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the rows of each id, [k, d], and whether there is one, [k].

    >>> of_ids(Embeddings.of(torch.eye(2), id=torch.tensor([4, 4])), torch.tensor([4, 5]))[0].tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    row, col = matches(id, rows.id)
    many = torch.zeros(len(id), dtype=rows.z.dtype, device=id.device).index_add(0, row, torch.ones_like(rows.z[col, 0]))
    total = rows.z.new_zeros(len(id), rows.z.shape[1]).index_add(0, row, rows.z[col])
    return total / many.clamp(min=1)[:, None], many > 0


@paper(row=218)
def mixed_barlow_twins(
    anchors: Embeddings,
    candidates: Embeddings,
    mixed: Embeddings,
    *,
    rule: Rule = same_sample,
    off_diagonal: float = 0.0051,
    scale: float = 5.0,
    eps: float = 1e-5,
    correction: int = 0,
) -> Outcome:
    """Barlow Twins, and mixtures of inputs whose correlation with clean rows is the same mixture of the clean ones.

    For the standardised rows x, y of two views and m of mixtures, of which the k-th has the share a_k of sample p_k's
    first view and the rest, of sample q_k's second,

        r_k = m_k - a_k x_p - (1 - a_k) y_q,          mixed = |mean_k r_k x_p^T|^2 + |mean_k r_k y_p^T|^2
        loss = barlow_twins + scale off_diagonal mixed

    Args:
        anchors: n rows of the first view.
        candidates: m rows of the second.
        mixed: rows of mixtures, with the facts "sources", [k, 2], the ids of their two samples, and "shares", [k, 2], what
            each has of either; `pairs.synthetic.of_sources` makes them.
        rule: who pairs with whom in Barlow Twins.
        off_diagonal: weight of Barlow Twins' second sum, at least 0.
        scale: weight of the new term beside that, at least 0.
        eps: added to the variance of a coordinate.
        correction: what is taken off the number of rows in the variance; the authors' code has 1.

    Returns:
        Two terms, "barlow_twins" and "mixed", each at least 0. Mixtures whose samples are not all there do not count.

    Raises:
        KeyError: for mixtures without one of the facts.

    Differs:
        The paper draws one share a batch; here each mixture has its own. Several rows of one id are taken as their mean.

    Relations:
        With scale = 0 `barlow_twins`. A linear encoder that is not standardised has mixed = 0.

    References:
        Bandara et al. 2023, arXiv:2312.02151; github.com/wgcban/mix-bt, main.py.

    >>> x = Embeddings.of(torch.randn(8, 3))
    >>> facts = {"sources": torch.stack([x.id, x.id.flip(0)], 1), "shares": torch.tensor([[1.0, 0.0]]).expand(8, 2)}
    >>> m = Embeddings.of(x.z, id=-1 - x.id, facts=facts)
    >>> mixed_barlow_twins(x, Embeddings.of(torch.randn(8, 3), view=1), m).terms["mixed"].item() < 1e-10
    True
    """
    missing = [name for name in ("sources", "shares") if name not in mixed.facts]
    if missing:
        raise KeyError(f"wanted mixtures with the facts sources and shares, they lack: {', '.join(missing)}")
    a, c, m = (standardised(widened(rows), eps=eps, correction=correction) for rows in (anchors, candidates, mixed))
    redundancy = _redundancy(cross(a, c, rule), off_diagonal)
    a, c = everywhere(a), everywhere(c)
    first, second = m.facts["sources"].T.contiguous()
    (x, there), (y, also), (other, too) = of_ids(a, first), of_ids(c, first), of_ids(c, second)
    share, rest = m.facts["shares"].to(m.z).T[:, :, None]
    counts = (there & also & too).to(m.z)[:, None]
    left = counts * (m.z - share * x - rest * other)
    below = summed(counts.sum()).clamp(min=1)
    error = (summed(left.T @ x) / below).square().sum() + (summed(left.T @ y) / below).square().sum()
    weights = {"barlow_twins": 1.0, "mixed": scale * off_diagonal}
    return Outcome({"barlow_twins": redundancy, "mixed": error}, weights, {})


def _unbiased(found: Moments) -> Tensor:
    """The covariance divided by n - 1."""
    return found.covariance * (found.rows / (found.rows - 1).clamp(min=1))


def _flat(variances: Tensor, target: float, eps: float) -> Tensor:
    """How far deviations fall below a target, averaged over coordinates."""
    return (target - (variances + eps).sqrt()).clamp(min=0).sum() / len(variances)


def variance(anchors: Embeddings | Float[Tensor, "n d"], *, target: float = 1.0, eps: float = 1e-4) -> Outcome:
    """Keeps every coordinate from shrinking to a constant: a hinge on its deviation over all rows.

        loss = 1/d sum_a max(0, target - sqrt(Var_a + eps))          Var divided by n - 1

    Args:
        anchors: n rows, or a plain [n, d] tensor, as they are.
        target: the deviation from which on nothing is paid, above 0.
        eps: added to the variance; bounds the gradient of a constant coordinate.

    Returns:
        One term, "variance", from 0 to the target.

    Relations:
        One of the three terms of `vicreg`.

    References:
        Bardes et al. 2022, arXiv:2105.04906, equation 1.

    >>> round(variance(torch.tensor([[1.0, 2.0], [1.0, 4.0]]), eps=0.0).loss.item(), 4)
    0.5
    """
    found = _unbiased(moments(widened(anchors).z, diagonal=True))
    return Outcome.term("variance", _flat(found, target, eps))


def covariance(anchors: Embeddings | Float[Tensor, "n d"]) -> Outcome:
    """Keeps coordinates from saying the same thing: the squared covariances of different ones.

        loss = 1/d sum_{a != b} Cov_ab^2          Cov over all rows, divided by n - 1

    Args:
        anchors: n rows, or a plain [n, d] tensor, as they are.

    Returns:
        One term, "covariance", at least 0.

    Relations:
        One of the three terms of `vicreg`, and times d the covariance variant of `dispersive`.

    References:
        Bardes et al. 2022, arXiv:2105.04906, equation 3; Wang, He 2025, arXiv:2506.09027, table 1.

    >>> covariance(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])).loss.item()      # Cov = 2 everywhere
    4.0
    """
    found = _unbiased(moments(widened(anchors).z))
    return Outcome.term("covariance", _off_diagonal(found.square()) / len(found))


@paper(reference=VICREG)
def vicreg(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
    eps: float = 1e-4,
) -> Outcome:
    """Pairs agree, every coordinate varies, and no two coordinates vary together: VICReg.

        invariance = sum_ij w_ij |x_i - y_j|^2 / (d sum_ij w_ij),          for attract weights w_ij
        variance, covariance = the sums of `variance` and of `covariance` of the two sets

    Args:
        anchors: n rows, or a plain [n, d] tensor, as they are: no scaling to length 1.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who pairs with whom; repel weights are not read.
        weights: of invariance, variance and covariance, at least 0.
        eps: added to the variance of a coordinate.

    Returns:
        Three terms, "invariance", "variance" and "covariance", each at least 0.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The authors' code takes the mean of the two variances where the paper's formula and this take their sum, so its
        25 is 12.5 here. Statistics are over the rows of all processes; eps is that of the code.

    Relations:
        `alignment` of raw rows beside `variance` and `covariance` of each set. `barlow_twins` standardises in place of
        the variance term, and decorrelates across the two sets.

    References:
        Bardes et al. 2022, arXiv:2105.04906, equations 1 to 6; github.com/facebookresearch/vicreg, main_vicreg.py.

    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> vicreg(x, x.clone()).loss.item()      # equal, of deviation above 1, uncorrelated
    0.0
    """
    a, c = (widened(rows) for rows in as_embeddings(anchors, candidates))
    apart = alignment(a, c, rule=rule, unit=False).loss / a.z.shape[1]
    found = [_unbiased(moments(rows.z)) for rows in (a, c)]
    terms = {
        "invariance": apart,
        "variance": torch.stack([_flat(cov.diagonal(), 1.0, eps) for cov in found]).sum(),
        "covariance": torch.stack([_off_diagonal(cov.square()) / len(cov) for cov in found]).sum(),
    }
    return Outcome(terms, dict(zip(terms, weights, strict=True)), {})
