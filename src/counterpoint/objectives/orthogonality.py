"""Orthogonality: codes that share no direction, and unrelated rows at right angles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.processes import to_rows
from counterpoint._ops.reduce import moments, total
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, sweep, times
from counterpoint.objectives.decorrelation import cross, widened
from counterpoint.objectives.spread import one_set
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample


@paper(reference="Bousmalis et al.: Domain Separation Networks, arXiv:1608.06019, 2016 (difference loss)")
def orthogonality(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m k"],
    *,
    rule: Rule = same_sample,
) -> Outcome:
    """Two codes of the same samples share no direction: nothing of one can be read off the other by a linear map.

    With x, y the rows of each code, centred over their set and scaled to length 1, and attract weights w_ij,

        loss = | sum_ij w_ij x_i y_j^T / sum_ij w_ij |^2          (squared Frobenius norm)

    Args:
        anchors: n rows of one code, such as what domains share.
        candidates: m rows of the other, such as what is a domain's own; the widths may differ.
        rule: which rows are of one sample. Plain tensors pair row by row.

    Returns:
        One term, "orthogonality", from 0 (uncorrelated) to 1; 0 without a pair.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The paper sums over rows and its code averages over the d k products: theirs is n^2 / (d k) times this.

    Relations:
        `barlow_twins` asks the same of different coordinates alone, of rows that are not scaled.

    References:
        Bousmalis et al. 2016, arXiv:1608.06019, equation 5.

    >>> x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    >>> orthogonality(x, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])).loss.item(), orthogonality(x, x.clone()).loss.item()
    (0.0, 1.0)
    """
    sides = [widened(side) for side in as_embeddings(anchors, candidates)]
    a, c = (replace(rows, z=rows.z - to_rows(moments(rows.z, diagonal=True).mean)).to_unit() for rows in sides)
    return Outcome.term("orthogonality", cross(a, c, rule).matrix.square().sum())


@paper(reference="Zhang, Yu, Kumar, Chang: Learning Spread-out Local Feature Descriptors, arXiv:1708.06320, 2017")
def global_orthogonality(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
) -> Outcome:
    """Unrelated rows are as nearly orthogonal as random directions are: mean cosine 0, mean square at most 1/d.

        mean = (sum_ij r_ij s_ij / sum_ij r_ij)^2,          square = max(0, sum_ij r_ij s_ij^2 / sum_ij r_ij - 1/d)

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1 here.
        candidates: m rows. None: the anchors themselves.
        rule: who repels whom; attract weights are not read. By default all pairs but those of equal id.

    Returns:
        Two terms, "mean" and "square", each from 0 to 1; 0 where no pair repels.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The paper has one pair of different samples a row, drawn at random; this has all of them.

    Relations:
        `uniformity` asks for more: the whole distribution. The paper adds it to a triplet loss.

    References:
        Zhang et al. 2017, arXiv:1708.06320, equations 5 to 7.

    >>> global_orthogonality(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).loss.item()      # 1 + (1 - 1/2)
    1.5
    """
    if candidates is None:
        anchors = one_set(anchors)
    a, c = (rows.to_unit() for rows in as_embeddings(anchors, candidates))

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        s = scores["s"]
        return {"first": times(pairs.repel, s), "second": times(pairs.repel, s.square()), "repel": pairs.repel}

    found = sweep(tile, a, c, rule=rule, rows={"first": "total", "second": "total", "repel": "total"}).rows
    first, second, pairs = (total(found[name]) for name in ("first", "second", "repel"))
    below = torch.where(pairs > 0, pairs, torch.ones_like(pairs))
    terms = {"mean": (first / below).square(), "square": (second / below - 1 / a.z.shape[1]).clamp(min=0)}
    return Outcome(terms, {"mean": 1.0, "square": 1.0}, {})
