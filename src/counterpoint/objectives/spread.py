"""Spread: how near positives are, and how evenly rows fill the space. Measures, and terms beside another objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.reduce import log_total, total
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import (
    Output,
    Rule,
    Side,
    Tile,
    as_embeddings,
    custom,
    keep,
    squared,
    sweep,
    sweeping,
    times,
)  # fmt: skip
from counterpoint.objectives.softmax import WEIGHTS
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

# A distance of near rows is a small difference of large products: rounded to bfloat16 these would be off by up to
# 2^-7 |x| |y|, more than the distance itself. So sweeps of raw or nearest rows keep their precision in an autocast too.
EXACT: Final = "fp32"


def one_set(rows: Embeddings | Tensor) -> Embeddings:
    """A plain tensor as rows of different samples."""
    return rows if isinstance(rows, Embeddings) else Embeddings.of(rows)


def above_0(name: str, value: float) -> float:
    """The value, or why not."""
    if not value > 0:
        raise ValueError(f"wanted {name} above 0, got {value}")
    return float(value)


def _apart(alpha: float) -> Tile:
    """The distance of positives to the power alpha, from its square; equal rows get no gradient."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        apart = scores["s"]
        if alpha != 2:
            there = apart > 0
            apart = torch.where(there, torch.where(there, apart, 1.0).pow(alpha / 2), 0.0)
        return {"apart": times(pairs.attract, apart), "attract": pairs.attract}

    return tile


def mean_apart(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean of each anchor's pairs, weighted by how many there are: so the mean over anchors is one over pairs."""
    attract = swept["attract"]
    return swept["apart"] / torch.where(attract > 0, attract, torch.ones_like(attract)), attract


@paper(row=106)
def alignment(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    alpha: float = 2.0,
    unit: bool = True,
) -> Outcome:
    """How far apart positives are.

        loss = sum_ij w_ij |x_i - y_j|^alpha / sum_ij w_ij          for attract weights w_ij

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts whom; repel weights are not read.
        alpha: the power of the distance, above 0. Below 1 the gradient grows without bound as rows meet.
        unit: scale rows to length 1 first; False: distances of rows as they are.

    Returns:
        One term, "alignment", from 0 (positives are equal) to 2^alpha (opposite unit rows); 0 without a positive.

    Raises:
        ValueError: for plain tensors of different length, or an alpha that is not above 0.

    Differs:
        The authors' function takes rows that the caller has scaled, and one positive a row; the mean here is over
        pairs, so an anchor with two positives counts twice. Equal rows get no gradient, also where alpha is at most 1.

    Relations:
        alignment + weight * `uniformity` is the loss of the paper. For unit rows and alpha = 2 it is 2 - 2 mean cosine.

    References:
        Wang, Isola 2020, arXiv:2005.10242; github.com/SsnL/align_uniform.

    >>> alignment(torch.eye(2), -torch.eye(2)).loss.item()
    4.0
    """
    objective = custom(
        _apart(above_0("an alpha", alpha)),
        mean_apart,
        scores={"s": squared()},
        rows={"apart": "total", "attract": "total"},
        unit=unit,
        name="alignment",
    )
    with sweeping(precision=EXACT):
        return objective(anchors, candidates, rule=rule)


def _log_mean_potential(a: Embeddings, c: Embeddings, rule: Rule, t: float, *, unit: bool, own: bool) -> Tensor:
    """log( sum_ij r_ij exp(-t |x_i - y_j|^2) / sum_ij r_ij ); `own` adds 1 a row to both sums; 0 if nothing repels."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        return {"potential": (scores["s"] * -t, pairs.repel), "repel": pairs.repel}

    swept = sweep(
        tile,
        a,
        c,
        scores={"s": squared()},
        rule=rule,
        rows={"potential": "logsumexp", "repel": "total"},
        bounds={"potential": (-4 * t - WEIGHTS, WEIGHTS)} if unit else None,
        precision=None if unit else EXACT,
    )
    potential, repel = swept.rows["potential"], swept.rows["repel"]
    if own:
        potential, repel = torch.logaddexp(potential, torch.zeros_like(potential)), repel + 1
    pairs = total(repel)
    found = log_total(potential) - torch.where(pairs > 0, pairs, torch.ones_like(pairs)).log()
    return torch.where(pairs > 0, found, torch.zeros_like(found))


@paper(row=106)
def uniformity(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    t: float = 2.0,
    unit: bool = True,
) -> Outcome:
    """How unevenly rows fill the sphere: the logarithm of the mean Gaussian potential of pairs that repel.

        loss = log( sum_ij r_ij exp(-t |x_i - y_j|^2) / sum_ij r_ij )          for repel weights r_ij

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows, for the potential across two sets. None: the anchors themselves.
        rule: who repels whom; attract weights are not read. By default all pairs but those of equal id.
        t: the sharpness of the potential, above 0.
        unit: scale rows to length 1 first; False: distances of rows as they are.

    Returns:
        One term, "uniformity", from -4t to 0 for unit rows; 0 when all rows are equal or no pair repels. Lower is more
        even.

    Raises:
        ValueError: for plain tensors of different length, or a t that is not above 0.

    Differs:
        The authors' function takes rows that the caller has scaled, and all pairs of different rows. Here rows of equal
        id do not repel, since two views of a sample are never negatives of each other; where ids are distinct, the two
        are equal.

    Relations:
        `alignment` is its partner in the paper. `dispersive` is the same potential of raw rows, with each row's own
        potential of 1 in the mean. As t goes to 0, loss / t goes to minus the mean squared distance.

    References:
        Wang, Isola 2020, arXiv:2005.10242; github.com/SsnL/align_uniform.

    >>> round(uniformity(torch.eye(3)).loss.item(), 4)      # all distances are sqrt 2
    -4.0
    """
    if candidates is None:
        anchors = one_set(anchors)
    anchors, candidates = as_embeddings(anchors, candidates)
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    loss = _log_mean_potential(anchors, candidates, rule, above_0("a t", t), unit=unit, own=False)
    return Outcome.term("uniformity", loss)


@paper(row=77)
def dispersive(
    anchors: Embeddings | Float[Tensor, "n ..."],
    *,
    rule: Rule = same_sample,
    temperature: float = 0.5,
    cosine: bool = False,
) -> Outcome:
    """Pushes the inner activations of a batch apart, without positives: a term beside a loss of regression.

    For n rows of d numbers each (token sets are flattened) and repel weights r_ij, with each row's own potential of 1,

        loss = log( (n + sum_ij r_ij exp(-|x_i - x_j|^2 / (d t))) / (n + sum_ij r_ij) )

    Args:
        anchors: n rows, or a plain tensor [n, ...], as they are: no scaling to length 1.
        rule: who repels whom; attract weights are not read. By default all pairs but those of equal id. A row's own
            potential is added whatever the rule.
        temperature: t > 0, in squared distance a coordinate, or in cosine.
        cosine: take minus the cosine in place of |x_i - x_j|^2 / d.

    Returns:
        One term, "dispersive", in nats, from -log n (rows of different samples far apart) to 0 (all rows equal, or a
        single row). With the cosine 1 / t is added: all rows equal give 1 / t.

    Raises:
        ValueError: for a temperature that is not above 0.

    Differs:
        As in the authors' code, the squared distance is divided by the width, and the mean is over all n^2 pairs,
        oneself among them; the paper's formula has no width: a temperature of t / d gives it. 0.5 is the temperature of
        the authors' JAX experiments, 1 that of their PyTorch code. They take each device's rows alone. Rows of equal
        id do not repel; in the paper there are none.

    Relations:
        It is `uniformity` of raw rows with sharpness 1 / (d t), but for each row's own potential:
        exp(dispersive) = (1 + (n - 1) exp(uniformity)) / n for n different samples. The paper's variant with a hinge is
        `dispersive_hinge`; the one with the covariance is d times `decorrelation.covariance`.

    References:
        Wang, He 2025, arXiv:2506.09027; github.com/raywang4/DispLoss.

    >>> round(dispersive(torch.tensor([[0.0], [3.0]]), temperature=1.0).loss.item(), 4)      # log((1 + exp(-9)) / 2)
    -0.693
    """
    above_0("a temperature", temperature)
    anchors = one_set(anchors)
    anchors = replace(anchors, z=anchors.z.flatten(1))
    if cosine:  # of unit rows the squared distance is 2 less twice the cosine
        anchors, t, more = anchors.to_unit(), 1 / (2 * temperature), 1 / temperature
    else:
        t, more = 1 / (temperature * anchors.z.shape[1]), 0.0
    loss = _log_mean_potential(anchors, anchors, rule, t, unit=False, own=True) + more
    return Outcome.term("dispersive", loss)


@paper(row=77)
def dispersive_hinge(
    anchors: Embeddings | Float[Tensor, "n ..."], *, rule: Rule = same_sample, margin: float = 1.0
) -> Outcome:
    """Pushes the inner activations of a batch apart until they are a margin away from each other.

    For n rows of d numbers each (token sets are flattened) and repel weights r_ij, with each row's own distance of 0,

        loss = (n margin^2 + sum_ij r_ij max(0, margin - |x_i - x_j|^2 / d)^2) / (n + sum_ij r_ij)

    Args:
        anchors: n rows, or a plain tensor [n, ...], as they are: no scaling to length 1.
        rule: who repels whom; attract weights are not read.
        margin: above 0, in squared distance a coordinate; raw rows of variance v are 2 v apart.

    Returns:
        One term, "dispersive_hinge", from margin^2 / n (rows of different samples far apart) to margin^2 (all equal).

    Raises:
        ValueError: for a margin that is not above 0.

    Differs:
        The squared distance is divided by the width, as in `dispersive`; the paper's formula has no width. Rows of equal
        id do not repel. The paper names no margin.

    Relations:
        `dispersive` never stops pushing; this stops at the margin.

    References:
        Wang, He 2025, arXiv:2506.09027, table 1.

    >>> dispersive_hinge(torch.tensor([[0.0], [0.5]])).loss.item()      # (2 + 2 (1 - 1/4)^2) / 4
    0.78125
    """
    above_0("a margin", margin)
    anchors = one_set(anchors)
    anchors = replace(anchors, z=anchors.z.flatten(1))
    width = anchors.z.shape[1]

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        short = (margin - scores["s"] / width).clamp(min=0).square()
        return {"short": times(pairs.repel, short), "repel": pairs.repel}

    def row(found: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        weight = 1 + found["repel"]
        return (margin**2 + found["short"]) / weight, weight

    objective = custom(
        tile,
        row,
        scores={"s": squared()},
        rows={"short": "total", "repel": "total"},
        unit=False,
        name="dispersive_hinge",
    )
    with sweeping(precision=EXACT):
        return objective(anchors, anchors, rule=rule)


def _nearest(
    scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    """The cosine of each pair that repels."""
    return {"nearest": keep(scores["s"], pairs.repel > 0, FLOOR), "others": pairs.repel}


@paper(reference="Sablayrolles et al.: Spreading vectors for similarity search, arXiv:1806.03198, 2019")
def koleo(anchors: Embeddings | Float[Tensor, "n d"], *, rule: Rule = same_sample, eps: float = 1e-6) -> Outcome:
    """Pushes each row away from its nearest: an estimate of the differential entropy, with the sign turned.

        loss = - 1/n sum_i log min_j |x_i - x_j|          over j that repel i, for rows of length 1

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1 here.
        rule: who repels whom; weights above 0 are alike. By default all pairs but those of equal id.
        eps: squared distances below it count as eps and get no gradient, so that equal rows stay finite (1e-6: SSCD).

    Returns:
        One term, "koleo", in nats, from -log 2 (two opposite rows) to -log(eps) / 2 (all rows equal). Rows that nothing
        repels do not count; 0 without any other.

    Raises:
        ValueError: for an eps that is not above 0.

    Differs:
        The authors' code adds the constant -log n of the estimator, and its nearest is any other row; here, as in SSCD,
        rows of equal id are not looked at. DINOv2 adds 1e-8 to the distance where SSCD and this bound it below. Rows
        that are equally near share the gradient.

    Relations:
        SSCD adds it to `infonce` with weight 30, DINOv2 to its objective with weight 0.1. As t grows, `uniformity`
        looks at the nearest pair of all in the same way: -loss / t goes to its squared distance.

    References:
        Sablayrolles et al. 2019, arXiv:1806.03198; Pizzi et al. 2022, arXiv:2202.10261 (SSCD); Oquab et al. 2023,
        arXiv:2304.07193 (DINOv2).

    >>> round(koleo(torch.eye(3)).loss.item(), 4)      # -log sqrt 2
    -0.3466
    """
    above_0("an eps", eps)

    def row(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        some = swept["others"] > 0
        nearest = torch.where(some, swept["nearest"], torch.zeros_like(swept["nearest"]))
        return (2 - 2 * nearest).clamp(min=eps).log() / -2, some.to(nearest)

    objective = custom(_nearest, row, rows={"nearest": "maximum", "others": "count"}, name="koleo")
    anchors = one_set(anchors)
    with sweeping(precision=EXACT):
        return objective(anchors, anchors, rule=rule)
