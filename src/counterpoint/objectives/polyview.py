"""More than two views of a sample: how an anchor's other views share one loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from counterpoint._ops.layout import special
from counterpoint._ops.processes import everywhere
from counterpoint._ops.scores import FLOOR
from counterpoint._ops.sweep import Swept
from counterpoint.objectives.custom import Output, Rule, Side, keep, per_row, sweep
from counterpoint.objectives.positives import LEVEL
from counterpoint.objectives.softmax import (
    LOGITS,
    Temperature,
    between,
    compare,
    competing,
    cooled,
    gaps,
    infonce,
    logits,
)
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, Outcome, PairRule, Pairs, densify, same_sample

OTHERS = "_others"  # the fact that says how much of a mean's row is other rows


def _likelihoods(first: Swept, anchors: Embeddings, candidates: Embeddings, rule: Rule, *, inside: bool) -> Swept:
    """The first sweep with "likely" beside it: of each anchor's positives, sum w log P, or log sum w P.

    P of an anchor and a view of its own is that view's pick of the anchor, over anchors that repel it: the view's level.
    """

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        there = pairs.attract > 0
        log = keep(-softplus(c[LEVEL] - scores["s"]), there)
        return {"likely": (keep(log, there, FLOOR), pairs.attract) if inside else pairs.attract * log}

    told = replace(candidates, facts={**candidates.facts, LEVEL: first.columns["denominator"]})
    how: Mapping[str, Literal["logsumexp", "total"]] = {"likely": "logsumexp" if inside else "total"}
    found = sweep(tile, anchors, told, scores=LOGITS, rule=rule, rows=how)
    return replace(first, rows={**first.rows, "likely": found.rows["likely"]})


def _row(found: Mapping[str, Tensor], *, inside: bool) -> tuple[Tensor, Tensor]:
    """The loss of each anchor and whether it counts."""
    counts, attract = competing(found, compete=False), found["attract"]
    amount = torch.where(attract > 0, attract, torch.ones_like(attract))
    loss = amount.log() - found["likely"] if inside else -found["likely"] / amount
    return torch.where(counts, loss, torch.zeros_like(loss)), counts.to(loss)


@paper(row=137)
def poly_view(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.1,
    mean: Literal["geometric", "arithmetic"] = "geometric",
) -> Outcome:
    """Each view of a sample has to be picked by its other views, out of all views of other samples (poly-view, PVC).

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1) and repel weights r_kj,

        P_ij   = exp(s_ij / t) / (exp(s_ij / t) + sum_k r_kj exp(s_kj / t))
        loss_i = - sum_j w_ij log P_ij          (geometric)
        loss_i = - log sum_j w_ij P_ij          (arithmetic: one view that picks the anchor is enough)

    and the result is the mean over anchors that have a positive and a negative. The denominator is that of the other view
    j, over the anchors k.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1. All views of all samples as one set is the paper's
            batch: rows of equal id and unequal view.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts and who repels whom; weights may be fractions.
        temperature: t > 0; a number, one for each anchor (it divides the anchor's own similarities, also where they are a
            negative of j), or the name of the anchors' fact that holds them.
        mean: how an anchor's likelihoods are averaged.

    Returns:
        One term, "poly_view", in nats, at least 0; arithmetic is never above geometric (the logarithm is concave). Notes
        as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, or another mean.

    Differs:
        An anchor without a positive or a negative does not count; in the paper there is none.

    Relations:
        With two views of each sample both means are the SimCLR loss, `infonce` of all views as one set. Geometric over all
        views of a batch is `infonce_separate`: the sum over ordered pairs of views is the same from both sides. The
        authors' third form is `poly_view_rest`.

    References:
        Shidani et al. 2024, arXiv:2403.05490, theorem 2.2.

    >>> views = Embeddings.cat([Embeddings.of(torch.eye(2), view=v) for v in range(3)])
    >>> round(poly_view(views, temperature=1.0).loss.item(), 4)      # log(1 + 3 exp(-1))
    0.7437
    """
    if mean not in ("geometric", "arithmetic"):
        raise ValueError(f"wanted a 'geometric' or an 'arithmetic' mean, got '{mean}'")
    inside = mean == "arithmetic"
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    first = compare(logits(False), anchors, candidates, rule=rule, directions="both", bounds=between(bound))
    swept = _likelihoods(first, anchors, candidates, rule, inside=inside)
    loss = per_row(partial(_row, inside=inside), swept, "forward")
    return Outcome({"poly_view": loss}, {"poly_view": 1.0}, gaps(t, swept.rows))


@dataclass(frozen=True)
class _Oneself:
    """A rule with its positives taken out and oneself put in: the view that a mean of the others has to pick.

    Rows whose fact `OTHERS` is 0 have no others, and so nothing to pick.
    """

    rule: Rule

    @property
    def elsewhere(self) -> tuple[float, float]:
        """As of the rule."""
        elsewhere = special(self.rule)
        assert elsewhere is not None
        return elsewhere

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """The rule's edges, of which those to oneself alone attract."""
        found = cast(PairRule, self.rule).edges(a, c)
        row, col = found.row, found.col
        own = (a.id[row] == c.id[col]) & (a.view[row] == c.view[col])
        own &= (a.part[row] == c.part[col]) & (a.age[row] == c.age[col]) & (a.facts[OTHERS][row] > 0)
        return found._replace(attract=own.to(found.attract))


def rest_of_views(rows: Embeddings, *, rule: Rule = same_sample) -> tuple[Embeddings, Tensor]:
    """The mean of each row's positives, as a row of the same sample and view; and how many there are, by weight.

    The rows of all processes are seen. A row without a positive has a mean of 0.

    >>> e = Embeddings.of(torch.eye(3), id=torch.tensor([5, 5, 5]))
    >>> e = replace(e, view=torch.arange(3))
    >>> rest_of_views(e)[0].z[0].tolist()
    [0.0, 0.5, 0.5]
    """
    whole = everywhere(rows)
    row, col, attract, *_ = cast(PairRule, rule).edges(rows, whole)
    there = attract > 0
    row, col, attract = row[there], col[there], attract[there]
    amount = torch.zeros(len(rows)).to(rows.z).index_add(0, row, attract)
    added = torch.zeros_like(rows.z).index_add(0, row, attract[:, None] * whole.z[col])
    return replace(rows, z=added / torch.where(amount > 0, amount, torch.ones_like(amount))[:, None]), amount


@paper(row=137)
def poly_view_rest(
    anchors: Embeddings | Float[Tensor, "n d"],
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.1,
) -> Outcome:
    """The mean of a sample's other views has to pick the view that was left out (poly-view with sufficient statistics).

    For the mean m_i = sum_j w_ij z_j of row i's positives (weights normalised: sum_j w_ij = 1), scaled to length 1,

        loss_i = - log( exp(m_i . z_i / t) / (exp(m_i . z_i / t) + sum_k r_ik exp(m_i . z_k / t)) )

    for repel weights r_ik, and the result is the mean over rows that have a positive and a negative.

    Args:
        anchors: n rows, or a plain [n, d] tensor, scaled to length 1: all views of all samples as one set.
        rule: who is averaged and who repels whom; a rule that lists its pairs. By default the other views of a sample.
        temperature: t > 0; a number, one for each row, or the name of the fact that holds them.

    Returns:
        One term, "poly_view_rest", in nats, at least 0. Notes as of `infonce`, of the means.

    Raises:
        TypeError: for a rule without a sparse form.
        ValueError: for a temperature that is not above 0.

    Differs:
        A row without a positive or a negative does not count; in the paper there is none.

    Relations:
        With two views of each sample this is the SimCLR loss, as is `poly_view`.

    References:
        Shidani et al. 2024, arXiv:2403.05490, theorem 2.3 and the mean as the statistic of von Mises-Fisher views.

    >>> views = Embeddings.cat([Embeddings.of(torch.eye(2), view=v) for v in range(3)])
    >>> round(poly_view_rest(views, temperature=1.0).loss.item(), 4)      # log(1 + 3 exp(-1))
    0.7437
    """
    if special(rule) is None or not hasattr(rule, "edges"):
        raise TypeError("wanted a rule that lists its pairs by `edges`, got one without a sparse form")
    rows = anchors if isinstance(anchors, Embeddings) else Embeddings.of(anchors)
    rows = replace(rows, z=rows.z.to(torch.promote_types(rows.z.dtype, torch.float32))).to_unit()
    means, amount = rest_of_views(rows, rule=rule)
    means = replace(means, facts={**means.facts, OTHERS: amount})
    found = infonce(means, rows, rule=_Oneself(rule), temperature=temperature)
    return Outcome({"poly_view_rest": found.loss}, {"poly_view_rest": 1.0}, found.notes)
