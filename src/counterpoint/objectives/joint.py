"""Losses of several terms: a softmax with what keeps its rows apart."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from counterpoint.objectives.custom import Rule, as_embeddings
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.softmax import Temperature, infonce
from counterpoint.objectives.spread import alignment, koleo, uniformity
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, same_sample


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
