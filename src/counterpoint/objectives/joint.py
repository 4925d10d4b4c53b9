"""Losses of several terms: a softmax with what keeps its rows apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, per_row, sweep, times
from counterpoint.objectives.positives import infonce_separate
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
from counterpoint.objectives.spread import alignment, koleo, uniformity
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

OWN, OTHER = "_own side", "_other side"  # facts: the logarithm of what stands in a denominator by reason of a row


def _within(anchors: Embeddings, candidates: Embeddings, rule: Rule, t: float) -> Outcome:
    """The mean of both sides' uniformity, each among itself."""
    sides = {name: (0.5, uniformity(rows, rule=rule, t=t)) for name, rows in (("x", anchors), ("y", candidates))}
    return Outcome.of(**sides)


@paper(row=106)
def alignment_uniformity(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"],
    *,
    rule: Rule = same_sample,
    weight: float = 1.0,
    alpha: float = 2.0,
    t: float = 2.0,
) -> Outcome:
    """Positives near and each side spread over the sphere, without a softmax.

        loss = alignment + weight (uniformity of the anchors + uniformity of the candidates) / 2

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1. One view of each sample.
        candidates: m rows, the other view; with plain tensors row i pairs with row i, explicitly.
        rule: who attracts whom across the sides, and who repels whom within each.
        weight: of the second term, at least 0.
        alpha: the power of the distance of positives.
        t: the sharpness of the potential.

    Returns:
        Two terms, "alignment" and "uniformity", with their weights.

    Raises:
        ValueError: for plain tensors of different length, or an alpha or a t that is not above 0.

    Differs:
        As of `alignment` and `uniformity`.

    Relations:
        `infonce` optimises both terms in the limit of many negatives, which is what the paper shows. `cuaxu` has both
        beside it.

    References:
        Wang, Isola 2020, arXiv:2005.10242, figure 6; github.com/SsnL/align_uniform.

    >>> import torch
    >>> round(alignment_uniformity(torch.eye(3), torch.eye(3)).loss.item(), 4)      # 0 and -2t
    -4.0
    """
    x, y = as_embeddings(anchors, candidates)
    near, even = alignment(x, y, rule=rule, alpha=alpha), _within(x, y, rule, t)
    return Outcome.of(alignment=(1.0, near), uniformity=(weight, even))


@paper(row=0)
def cuaxu(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"],
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.07,
    align: float = 1.0,
    within: float = 1.0,
    across: float = 1.0,
    t: float = 2.0,
) -> Outcome:
    """The loss of CLIP with what closes the gap between its two sides: alignment, and uniformity within and across them.

        loss = infonce in both directions + align * mean_i |x_i - y_i|^2
             + within * (uniformity of the x + uniformity of the y) / 2
             + across * log mean_(i repels j) exp(-t |x_i - y_j|^2)

    Args:
        anchors: n rows of one encoder, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows of the other; with plain tensors row i pairs with row i, explicitly.
        rule: who attracts and who repels whom, across the sides and within each.
        temperature: of the softmax, above 0; it may require grad.
        align, within, across: weights of the terms, at least 0; all 0 is CLIP, `across` alone 0 is the authors' CUA.
        t: the sharpness of the potentials.

    Returns:
        Four terms, "infonce", "alignment", "within" and "across", with their weights. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, or a temperature or a t that is not above 0.

    Differs:
        As of `alignment` and `uniformity`: rows of equal id do not repel.

    Relations:
        `alignment_uniformity` is this without its softmax and without `across`.

    References:
        Fahim et al. 2024, arXiv:2405.18570; clips/hf_clip.py at github.com/abrar-fahim/contrastive-gap, where all
        weights are 1.

    >>> import torch
    >>> e = torch.eye(3)
    >>> round(cuaxu(e, e, temperature=1.0).loss.item(), 4)      # log(1 + 2/e) + 0 - 4 - 4
    -7.4486
    """
    x, y = as_embeddings(anchors, candidates)
    return Outcome.of(
        infonce=(1.0, infonce(x, y, rule=rule, temperature=temperature, directions="both")),
        alignment=(align, alignment(x, y, rule=rule)),
        within=(within, _within(x, y, rule, t)),
        across=(across, uniformity(x, y, rule=rule, t=t)),
    )


@paper(row=88)
def sscd(
    anchors: Embeddings | Float[Tensor, "n d"],
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    entropy: float = 30.0,
) -> Outcome:
    """Copies of an image near, and each image far from its nearest other: descriptors for copy detection (SSCD).

        loss = infonce_separate + entropy * koleo

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1. All copies of all images as one set.
        rule: who is a copy of whom; a mixed image is one of each of its sources, so the rule may compare sources. Pairs that
            are no copies have to repel.
        temperature: of the softmax, above 0.
        entropy: the weight of the second term, at least 0.

    Returns:
        Two terms, "infonce" and "koleo", with their weights. Notes as of `infonce`.

    Raises:
        ValueError: for a temperature that is not above 0.

    Differs:
        The objective alone: mixing is of the views, pooling and whitening of the encoder and of its use. The authors' code
        adds 1e-6 to denominators and, without mixing, divides the sum over copies by the number of rows and not of copies,
        which is the same for two copies of each.

    Relations:
        entropy = 0 and two copies of each image is SimCLR: `infonce`.

    References:
        Pizzi et al. 2022, arXiv:2202.10261; sscd/train.py at github.com/facebookresearch/sscd-copy-detection, whose
        defaults are t = 0.05 and weight 30.

    >>> import torch
    >>> e = torch.eye(2)
    >>> copies = Embeddings.cat([Embeddings.of(e), Embeddings.of(e, view=1)])
    >>> round(sscd(copies, temperature=1.0, entropy=1.0).loss.item(), 4)      # log(1 + 2/e) - log(2) / 2
    0.2049
    """
    rows = anchors if isinstance(anchors, Embeddings) else Embeddings.of(anchors)
    return Outcome.of(
        infonce=(1.0, infonce_separate(rows, rule=rule, temperature=temperature)),
        koleo=(entropy, koleo(rows, rule=rule)),
    )


def _among(rows: Embeddings, rule: Rule, temperature: Temperature) -> Float[Tensor, " n"]:
    """Of each row the logarithm of the sum of e^(s / t) over the rows of its own side that repel it."""
    one, other, _, bound = cooled(rows, rows, temperature)
    found = compare(logits(False), one, other, rule=rule, directions="forward", bounds=between(bound))
    return found.rows["denominator"]


def _of_pairs(
    scores: Mapping[str, Tensor], pairs: Pairs, a: Side, c: Side, _params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    """What each positive pair costs: the logarithm of its denominator less its logit."""
    return {"cost": times(pairs.attract, torch.logaddexp(a[OWN], c[OTHER]) - scores["s"])}


@paper(row=141)
def infonce_joint(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"],
    *,
    rule: Rule = same_sample,
    temperature: float | Float[Tensor, ""] = 0.01,
    reverse: bool = True,
    among_anchors: bool = True,
    among_candidates: bool = True,
) -> Outcome:
    """A pair has to be nearer than its anchor to any other row, and than its candidate to any other row ("improved" loss).

    For a pair of anchor i and candidate j with attract weights w_ij (normalised: sum_j w_ij = 1), over rows that repel,

        Z_ij = sum_k e^(s(q_i, d_k) / t) + sum_k e^(s(q_k, d_j) / t) + sum_k e^(s(q_i, q_k) / t) + sum_k e^(s(d_k, d_j) / t)
        loss_i = - sum_j w_ij log( e^(s(q_i, d_j) / t) / Z_ij )

    where the first two sums have the pair itself too; the mean is over anchors with a positive and a competitor.

    Args:
        anchors: n rows, the queries q; scaled to length 1.
        candidates: m rows, the documents d, hard negatives among them; with plain tensors row i pairs with row i.
        rule: who attracts and who repels whom, across the sides and within each.
        temperature: t > 0; may require grad.
        reverse, among_anchors, among_candidates: whether the second, third and fourth sum stand in the denominator.

    Returns:
        One term, "infonce_joint", in nats; log(4n - 2) when all embeddings are equal. Notes as of `infonce`.

    Raises:
        ValueError: for plain tensors of different length, or a temperature that is not above 0.

    Differs:
        Equal rows are not negatives, and an anchor without a positive or a competitor does not count.

    Relations:
        `infonce` with the first sum alone. Swapping the sides changes nothing where each row is in one pair.

    References:
        Li et al. 2023, arXiv:2308.03281, equation 3.

    >>> round(infonce_joint(torch.ones(3, 2), torch.ones(3, 2)).loss.exp().item(), 3)
    10.0
    """
    a, c, t, bound = cooled(anchors, candidates, temperature)
    first = compare(logits(), a, c, rule=rule, directions="both" if reverse else "forward", bounds=between(bound))
    own = first.rows["denominator"]
    if among_anchors:
        own = torch.logaddexp(own, _among(a, rule, temperature))
    other = first.columns["denominator"] if reverse else torch.full_like(c.z[:, 0], FLOOR)
    if among_candidates:
        other = torch.logaddexp(other, _among(c, rule, temperature))
    sides = (a.told(**{OWN: own}), c.told(**{OTHER: other}))
    cost = sweep(_of_pairs, *sides, scores=LOGITS, rule=rule, rows={"cost": "total"}).rows["cost"]

    def row(found: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        counts, attract = competing(found, compete=True), found["attract"]
        loss = cost / torch.where(attract > 0, attract, torch.ones_like(attract))
        return torch.where(counts, loss, torch.zeros_like(loss)), counts.to(loss)

    return Outcome({"infonce_joint": per_row(row, first, "forward")}, {"infonce_joint": 1.0}, gaps(t, first.rows))
