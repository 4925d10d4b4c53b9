"""The margin family: positives have to be nearer than negatives, by distances or by weighted similarities of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from counterpoint._ops.reduce import mean
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import Rule, as_embeddings, custom, keep, squared, sweep, times
from counterpoint.objectives.softmax import WEIGHTS, infonce
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, same_sample

FARTHEST, REPELLED = "distance to its farthest positive", "logsumexp of its negatives"  # facts between two sweeps


def distance(squares: Tensor) -> Tensor:
    """The root of squared distances, with gradient 0 where the distance is 0.

    >>> distance(torch.tensor([0.0, 4.0])).tolist()
    [0.0, 2.0]
    """
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


def _sides(
    anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None, unit: bool
) -> tuple[Embeddings, Embeddings]:
    """Both sides as embeddings, of length 1 where that is wanted."""
    a, c = as_embeddings(anchors, candidates)
    return (a.to_unit(), c.to_unit()) if unit else (a, c)


def _average(total: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The mean over the pairs of all rows: sum_i total_i / sum_i weight_i."""
    weight = weight.detach()
    return mean(total / torch.where(weight > 0, weight, 1.0), weight)


def _sum_of_both(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The logsumexps of positives and of negatives added up, and whether a row has both."""
    has = (swept["attract"] > FLOOR / 2) & (swept["repel"] > FLOOR / 2)
    return torch.where(has, swept["attract"] + swept["repel"], 0.0), has.to(swept["repel"])


@paper(reference="Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006")
def contrastive(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    margin: float = 1.0,
    unit: bool = False,
) -> Outcome:
    """Positives are drawn together, and negatives are pushed apart until they are a margin away.

    With d_ij = |x_i - y_j|, attract weights w_ij and repel weights r_ij, over all pairs of the batch,

        attract = sum_ij w_ij d_ij^2 / 2 / sum_ij w_ij,    repel = sum_ij r_ij max(0, margin - d_ij)^2 / 2 / sum_ij r_ij

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i. None: the anchors themselves.
        rule: who attracts and who repels whom.
        margin: > 0, in units of distance; two unit rows are at most 2 apart.
        unit: scale rows to length 1 first.

    Returns:
        Two terms of weight 1, both at least 0, in squared units of distance: "contrastive_attract", "contrastive_repel".

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The paper adds up listed pairs. In a batch almost all pairs are negatives, so each kind has its own mean here.

    Relations:
        `lifted` weighs the negatives by their nearness; `triplet` compares each negative with the positive.

    References:
        Hadsell et al. 2006.

    >>> x = torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    >>> {name: term.item() for name, term in contrastive(x, x).terms.items()}      # (1 - 0.5)^2 / 2
    {'contrastive_attract': 0.0, 'contrastive_repel': 0.125}
    """
    a, c = _sides(anchors, candidates, unit)
    rows = sweep(
        lambda s, p, _a, _c, _k: {
            "pull": times(p.attract, s["s"]),
            "push": times(p.repel, (margin - distance(s["s"])).relu().square()),
            "attract": p.attract,
            "repel": p.repel,
        },
        a, c, scores={"s": squared()}, rule=rule, rows=dict.fromkeys(("pull", "push", "attract", "repel"), "total"),
    ).rows  # fmt: skip
    attract, repel = _average(rows["pull"] / 2, rows["attract"]), _average(rows["push"] / 2, rows["repel"])
    terms = {"contrastive_attract": attract, "contrastive_repel": repel}
    return Outcome(terms, dict.fromkeys(terms, 1.0), {})


@paper(
    reference="Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition and Clustering, "
    "arXiv:1503.03832, 2015"
)
@paper(
    reference="Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, arXiv:1703.07737, 2017"
)
def triplet(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    margin: float = 0.2,
    negatives: Literal["all", "hardest", "semi-hard"] = "hardest",
    soft: bool = False,
    power: Literal[1, 2] = 1,
    unit: bool = True,
) -> Outcome:
    """Each anchor is to be nearer to its farthest positive than to its negatives, by a margin.

    With d_ij = |x_i - y_j|^power, p_i = max d_ij over positives and [u] = max(0, margin + u), or log(1 + exp(u)) if soft,

        "hardest":    mean over anchors of [p_i - min_k d_ik]
        "semi-hard":  mean over anchors of [p_i - min_k {d_ik > p_i}]; where no negative is farther, the farthest of them
        "all":        sum_ik r_ik [p_i - d_ik] / sum_ik r_ik over the pairs where [p_i - d_ik] > 0 (all pairs if soft)

    Means are over anchors with a positive and a negative, those with a loss of 0 included, but for "all".

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i. None: the anchors themselves.
        rule: who attracts and who repels whom; only "all" reads how strongly, and only of negatives.
        margin: at least 0, in units of d; not read if soft.
        negatives: which negatives an anchor meets.
        soft: a soft margin, log(1 + exp(u)).
        power: 1 for distances (Hermans et al.), 2 for squared distances (FaceNet).
        unit: scale rows to length 1 first, as in FaceNet; Hermans et al. do not.

    Returns:
        One term, "triplet", at least 0, in units of d; with hard negatives and all rows equal it is the margin.

    Raises:
        ValueError: for plain tensors of different length, or an unknown kind of negatives.

    Differs:
        Of several positives only the farthest counts, also for "all" and "semi-hard", where the papers take each in turn.
        FaceNet does not say what to do without a semi-hard negative; the farthest is what TensorFlow's loss takes.

    Relations:
        Batch hard is "hardest". A softmax over one positive and one negative is the soft margin: see `infonce`.

    References:
        Schroff et al. 2015, arXiv:1503.03832; Hermans et al. 2017, arXiv:1703.07737.

    >>> round(triplet(torch.eye(3), torch.eye(3).roll(1, 0), margin=0.5).loss.item(), 4)     # sqrt(2) + 0.5 - 0
    1.9142
    """
    if negatives not in ("all", "hardest", "semi-hard"):
        raise ValueError(f"wanted negatives 'all', 'hardest' or 'semi-hard', got '{negatives}'")
    a, c = _sides(anchors, candidates, unit)

    def cost(gap: Tensor) -> Tensor:
        return softplus(gap) if soft else (gap + margin).relu()

    def d(scores: Mapping[str, Tensor]) -> Tensor:
        return distance(scores["s"]) if power == 1 else scores["s"]

    score = {"s": squared()}
    positive = sweep(
        lambda s, p, _a, _c, _k: {"far": keep(d(s), p.attract > 0, FLOOR)},
        a, c, scores=score, rule=rule, rows={"far": "maximum"},
    ).rows["far"]  # fmt: skip
    a = replace(a, facts={**a.facts, FARTHEST: positive})
    if negatives == "all":
        rows = sweep(
            lambda s, p, a, _c, _k: {
                "cost": times(p.repel, cost(a[FARTHEST] - d(s))),
                "triplets": times(p.repel, _in_play(a[FARTHEST] - d(s), None if soft else margin).to(d(s))),
            },
            a, c, scores=score, rule=rule, rows={"cost": "total", "triplets": "total"},
        ).rows  # fmt: skip
        return Outcome.term("triplet", _average(rows["cost"], rows["triplets"]))
    hardest = negatives == "hardest"
    rows = sweep(
        lambda s, p, a, _c, _k: {
            "near": keep(d(s), p.repel > 0 if hardest else (p.repel > 0) & (d(s) > a[FARTHEST]), -FLOOR),
            "far": keep(d(s), p.repel > 0, FLOOR),
        },
        a, c, scores=score, rule=rule, rows={"near": "minimum"} if hardest else {"near": "minimum", "far": "maximum"},
    ).rows  # fmt: skip
    negative = rows["near"] if hardest else torch.where(rows["near"] < -FLOOR / 2, rows["near"], rows["far"])
    has = (positive > FLOOR / 2) & (negative.abs() < -FLOOR / 2)
    gap = torch.where(has, positive - negative, 0.0)
    return Outcome.term("triplet", mean(cost(gap), has.to(gap)))


def _in_play(gap: Tensor, margin: float | None) -> Tensor:
    """Which triplets cost something; with a soft margin (None) all of an anchor that has a positive."""
    return gap > FLOOR / 2 if margin is None else gap + margin > 0


@paper(
    reference="Oh Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding, "
    "arXiv:1511.06452, 2016"
)
def lifted(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    margin: float = 1.0,
    unit: bool = False,
) -> Outcome:
    """Each positive pair is to be nearer than all negatives of both its members, weighed by their nearness.

    With d_ij = |x_i - y_j|, attract weights w_ij and repel weights r_ij, for each positive pair

        J_ij = d_ij + log( sum_k r_ik exp(margin - d_ik) + sum_l r_lj exp(margin - d_lj) )

    and the result is sum_ij w_ij max(0, J_ij)^2 / 2 / sum_ij w_ij. k runs over candidates and l over anchors.

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i. None: the anchors themselves, as in the paper.
        rule: who attracts and who repels whom.
        margin: > 0, in units of distance.
        unit: scale rows to length 1 first.

    Returns:
        One term, "lifted", at least 0, in squared units of distance. A positive pair without a negative costs 0.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The smooth form of the paper, over all negatives of the batch; its authors also sample pairs. Within one set each
        pair counts in both orders, which leaves the mean as it is.

    Relations:
        `generalized_lifted` takes a logsumexp over the positives too, one anchor at a time.

    References:
        Oh Song et al. 2016, arXiv:1511.06452.

    >>> round(lifted(torch.eye(2), torch.eye(2)).loss.item(), 4)     # (log(2 exp(1 - sqrt(2))))^2 / 2
    0.0389
    """
    a, c = _sides(anchors, candidates, unit)
    first = sweep(
        lambda s, p, _a, _c, _k: {REPELLED: (margin - distance(s["s"]), p.repel)},
        a, c, scores={"s": squared()}, rule=rule, rows={REPELLED: "logsumexp"}, columns={REPELLED: "logsumexp"},
        bounds={REPELLED: (margin - 2 - WEIGHTS, margin + WEIGHTS)} if unit else None,
    )  # fmt: skip
    a, c = (replace(x, facts={**x.facts, **lse}) for x, lse in ((a, first.rows), (c, first.columns)))
    rows = sweep(
        lambda s, p, a, c, _k: {
            "cost": times(p.attract, (distance(s["s"]) + torch.logaddexp(a[REPELLED], c[REPELLED])).relu().square()),
            "attract": p.attract,
        },
        a, c, scores={"s": squared()}, rule=rule, rows={"cost": "total", "attract": "total"},
    ).rows  # fmt: skip
    return Outcome.term("lifted", _average(rows["cost"] / 2, rows["attract"]))


@paper(
    reference="Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, arXiv:1703.07737, 2017"
)
def generalized_lifted(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    margin: float = 1.0,
    unit: bool = False,
) -> Outcome:
    """Each anchor is to be nearer to its positives than to its negatives, both weighed by how wrong they are.

        loss_i = max(0, log sum_j w_ij exp(d_ij) + log sum_k r_ik exp(margin - d_ik)),    d_ij = |x_i - y_j|

    and the result is the mean over anchors with a positive and a negative.

    Args:
        anchors, candidates, rule, margin, unit: as in `lifted`.

    Returns:
        One term, "generalized_lifted", at least 0, in units of distance.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The paper adds up anchors; this is their mean.

    Relations:
        `triplet` with the hardest negative has maximum and minimum in place of both logsumexps.

    References:
        Hermans et al. 2017, arXiv:1703.07737.

    >>> round(generalized_lifted(torch.eye(2), torch.eye(2), margin=2.0).loss.item(), 4)     # 2 - sqrt(2)
    0.5858
    """

    def row(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        both, has = _sum_of_both(swept)
        return both.relu(), has

    return custom(
        lambda s, p, _a, _c, _k: {
            "attract": (distance(s["s"]), p.attract),
            "repel": (margin - distance(s["s"]), p.repel),
        },
        row, rows={"attract": "logsumexp", "repel": "logsumexp"}, scores={"s": squared()}, unit=unit,
        name="generalized_lifted",
    )(anchors, candidates, rule=rule)  # fmt: skip


@paper(reference="Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016")
def n_pair(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    l2: float = 0.002,
    unit: bool = False,
) -> Outcome:
    """Each anchor tells its positive from all negatives by plain dot products, while a penalty keeps rows short.

        loss_i = log( 1 + sum_k r_ik exp(x_i . y_k - x_i . y_p) ),    l2 = (mean_i |x_i|^2 + mean_j |y_j|^2) / 4

    Args:
        anchors, candidates, rule: as in `infonce`, which also says what several positives mean.
        l2: weight of the penalty, at least 0; 0.002, and the quarter in the formula, are those of TensorFlow's npairs loss.
        unit: scale rows to length 1 first; the paper does not, and the penalty is then a constant.

    Returns:
        Two terms, both at least 0: "n_pair" in nats, of weight 1, and "n_pair_l2", of weight `l2`. The notes of `infonce`.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        The paper names the penalty and not its weight.

    Relations:
        `infonce` at temperature 1 without unit length, and a penalty.

    References:
        Sohn, NIPS 2016.

    >>> outcome = n_pair(torch.eye(2), torch.eye(2))
    >>> {name: round(term.item(), 4) for name, term in outcome.terms.items()}      # log(1 + exp(-1)), (1 + 1) / 4
    {'n_pair': 0.3133, 'n_pair_l2': 0.5}
    """
    a, c = _sides(anchors, candidates, unit)
    found = infonce(a, c, rule=rule, temperature=1.0, unit=False)
    wide = torch.promote_types(a.z.dtype, torch.float32)
    short = torch.stack([mean(x.z.to(wide).square().sum(-1)) for x in (a, c)]).sum() / 4
    return Outcome(
        {"n_pair": found.terms["infonce"], "n_pair_l2": short}, {"n_pair": 1.0, "n_pair_l2": l2}, found.notes
    )
