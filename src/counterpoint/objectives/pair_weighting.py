"""Losses that weigh each similarity by how wrong it is: among samples, and of samples with learned proxies of classes.

Proxies are a set of `Embeddings` whose z the caller learns, with ids < 0 (they are no sample) and the facts that the rule
reads, such as their labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus as _softplus

from counterpoint._ops.reduce import mean
from counterpoint._ops.running import Bound
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import Rule, custom, squared, sweep
from counterpoint.objectives.softmax import WEIGHTS
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, same_sample

BOTH = ("attract", "repel")  # outputs of every tile here: values of positives and of negatives, with their weights


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to the last digit of fp64, where torch's own stops at exp(-20).

    >>> softplus(torch.tensor(0.0)).item() == torch.tensor(2.0).log().item()
    True
    """
    return _softplus(x, threshold=40.0)  # exp(-40) is below the digits of 40


def _bound(low: float, high: float) -> Bound:
    """A range of values, with room for the weights of a rule."""
    return low - WEIGHTS, high + WEIGHTS


@paper(
    reference="Sun et al.: Circle Loss: A Unified Perspective of Pair Similarity Optimization, arXiv:2002.10857, 2020"
)
def circle(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    m: float = 0.25,
    gamma: float = 256.0,
    unit: bool = True,
) -> Outcome:
    """Each similarity is pulled to its own optimum, the harder the farther away it is.

    With s_ij the similarity, attract weights w_ij and repel weights r_ij, and factors that take no gradient,

        loss_i = log( 1 + sum_j w_ij exp(-gamma f_ij (s_ij - (1 - m))) sum_k r_ik exp(gamma g_ik (s_ik - m)) )
        f_ij = max(0, 1 + m - s_ij),    g_ik = max(0, s_ik + m)

    and the result is the mean over anchors with a positive and a negative.

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i. None: the anchors themselves.
        rule: who attracts and who repels whom.
        m: relaxation: positives aim at 1 + m and negatives at -m; the paper takes 0.25, and 0.4 for fine-grained retrieval.
        gamma: scale > 0; the paper takes 256 for faces, 128 for persons, 80 for fine-grained retrieval.
        unit: scale rows to length 1 first, so that s is the cosine, for which the loss is made; False: the dot product.

    Returns:
        One term, "circle", at least 0, in nats.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        Anchors without a positive or a negative do not count; in the paper there is none.

    Relations:
        With f = g = 1 and one positive it is `infonce` at temperature 1 / gamma with a margin.

    References:
        Sun et al. 2020, arXiv:2002.10857.

    >>> round(circle(torch.eye(2), torch.eye(2), m=0.5, gamma=1.0).loss.item(), 4)      # log(1 + exp(-1/4 - 1/4))
    0.4741
    """

    def row(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        has = (swept["attract"] > FLOOR / 2) & (swept["repel"] > FLOOR / 2)
        return softplus(torch.where(has, swept["attract"] + swept["repel"], 0.0)), has.to(swept["repel"])

    return custom(
        lambda s, p, _a, _c, _k: {
            "attract": (-gamma * (1 + m - s["s"].detach()).relu() * (s["s"] - (1 - m)), p.attract),
            "repel": (gamma * (s["s"].detach() + m).relu() * (s["s"] - m), p.repel),
        },
        row,
        rows=dict.fromkeys(BOTH, "logsumexp"),
        bounds={"repel": _bound(-gamma * m**2, gamma)} if unit else None,  # (s + m)(s - m) lies in [-m^2, 1]
        unit=unit,
        name="circle",
    )(anchors, candidates, rule=rule)


@paper(
    reference="Wang et al.: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, "
    "arXiv:1904.06627, 2019"
)
def multi_similarity(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    unit: bool = True,
) -> Outcome:
    """Positives below a similarity and negatives above it cost, each weighed against the others of its kind.

    With s_ij the similarity, attract weights w_ij and repel weights r_ij,

        loss_i = log(1 + sum_j w_ij exp(-alpha (s_ij - base))) / alpha + log(1 + sum_k r_ik exp(beta (s_ik - base))) / beta

    and the result is the mean over anchors that have a positive or a negative: a sum over no pair is 0.

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i. None: the anchors themselves.
        rule: who attracts and who repels whom.
        alpha: sharpness > 0 among positives.
        beta: sharpness > 0 among negatives.
        base: the similarity that parts them; 0.5 is the authors' code, which their paper calls lambda and sets to 1.
        unit: scale rows to length 1 first, so that s is the cosine; False: s is the plain dot product.

    Returns:
        One term, "multi_similarity", at least 0, in units of similarity.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        Without the paper's mining of pairs: leave pairs out by the rule.

    Relations:
        `proxy_anchor` has the same form, seen from the proxies.

    References:
        Wang et al. 2019, arXiv:1904.06627; github.com/msight-tech/research-ms-loss.

    >>> round(multi_similarity(torch.eye(2), torch.eye(2), beta=2.0).loss.item(), 4)      # 2 log(1 + exp(-1)) / 2
    0.3133
    """

    def row(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        has = (swept["attract"] > FLOOR / 2) | (swept["repel"] > FLOOR / 2)
        return softplus(swept["attract"]) / alpha + softplus(swept["repel"]) / beta, has.to(swept["repel"])

    bounds = {
        "attract": _bound(-alpha * (1 - base), alpha * (1 + base)),
        "repel": _bound(-beta * (1 + base), beta * (1 - base)),
    }
    return custom(
        lambda s, p, _a, _c, _k: {
            "attract": (-alpha * (s["s"] - base), p.attract),
            "repel": (beta * (s["s"] - base), p.repel),
        },
        row,
        rows=dict.fromkeys(BOTH, "logsumexp"),
        bounds=bounds if unit else None,
        unit=unit,
        name="multi_similarity",
    )(anchors, candidates, rule=rule)


@paper(reference="Movshovitz-Attias et al.: No Fuss Distance Metric Learning using Proxies, arXiv:1703.07464, 2017")
def proxy_nca(
    anchors: Embeddings,
    proxies: Embeddings,
    *,
    rule: Rule,
    scale: float = 1.0,
    positives_compete: bool = False,
    unit: bool = True,
) -> Outcome:
    """Each anchor is to be nearer to the proxy of its class than to all other proxies.

    With d_ij = |x_i - p_j|^2, attract weights w_ij and repel weights r_ij,

        loss_i = - log( sum_j w_ij exp(-scale d_ij) / (sum_k r_ik exp(-scale d_ik) + [compete] sum_j w_ij exp(-scale d_ij)) )

    and the result is the mean over anchors with a proxy of their own and another one.

    Args:
        anchors: n rows.
        proxies: m rows; their z is the caller's parameter.
        rule: which proxy is whose, such as `labelled()`.
        scale: > 0, of squared distances; the paper has none. For unit rows it is half an inverse temperature.
        positives_compete: whether an anchor's own proxy stands in the denominator too, which makes it a classifier.
        unit: scale rows and proxies to length 1 first, as the paper does.

    Returns:
        One term, "proxy_nca", in nats; without `positives_compete` it has no lower bound but that of the distances.

    Differs:
        Anchors without a proxy of their own do not count.

    Relations:
        For unit rows and one proxy a class it is `infonce` at temperature 1 / (2 scale) with the same `positives_compete`.

    References:
        Movshovitz-Attias et al. 2017, arXiv:1703.07464, equation 4. Label smoothing in later code is not part of it.

    >>> from counterpoint.pairs.labels import labelled
    >>> rows = Embeddings.of(torch.eye(2), facts={"label": torch.arange(2)})
    >>> proxies = Embeddings.of(torch.eye(2), id=-1 - torch.arange(2), facts={"label": torch.arange(2)})
    >>> proxy_nca(rows, proxies, rule=labelled()).loss.item()      # own distance 0, the other's 2
    -2.0
    """

    def row(swept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        has = (swept["attract"] > FLOOR / 2) & (swept["repel"] > FLOOR / 2)
        apart = torch.where(has, swept["repel"] - swept["attract"], 0.0)
        return softplus(apart) if positives_compete else apart, has.to(apart)

    return custom(
        lambda s, p, _a, _c, _k: {"attract": (-scale * s["s"], p.attract), "repel": (-scale * s["s"], p.repel)},
        row,
        rows=dict.fromkeys(BOTH, "logsumexp"),
        scores={"s": squared()},
        bounds=dict.fromkeys(BOTH, _bound(-4 * scale, 0.0)) if unit else None,
        unit=unit,
        name="proxy_nca",
    )(anchors, proxies, rule=rule)


@paper(reference="Kim et al.: Proxy Anchor Loss for Deep Metric Learning, arXiv:2003.13911, 2020")
def proxy_anchor(
    anchors: Embeddings,
    proxies: Embeddings,
    *,
    rule: Rule,
    margin: float = 0.1,
    alpha: float = 32.0,
    unit: bool = True,
) -> Outcome:
    """Each proxy draws the rows of its class above a similarity and pushes all others below its negative.

    With s_ij the similarity of row i and proxy j, attract weights w_ij and repel weights r_ij,

        attract = mean over proxies with a positive of log(1 + sum_i w_ij exp(-alpha (s_ij - margin)))
        repel   = mean over all proxies of             log(1 + sum_i r_ij exp( alpha (s_ij + margin)))

    Args:
        anchors: n rows.
        proxies: m rows; their z is the caller's parameter.
        rule: which proxy is whose, such as `labelled()`.
        margin: delta of the paper, in units of similarity.
        alpha: sharpness > 0.
        unit: scale rows and proxies to length 1 first, so that s is the cosine; False: s is the plain dot product.

    Returns:
        Two terms of weight 1, both at least 0, in nats: "proxy_anchor_attract" and "proxy_anchor_repel".

    Relations:
        `multi_similarity` has the same form among samples. The means are over proxies: here the proxies are the anchors.

    References:
        Kim et al. 2020, arXiv:2003.13911; github.com/tjddus9597/Proxy-Anchor-CVPR2020.

    >>> from counterpoint.pairs.labels import labelled
    >>> rows = Embeddings.of(torch.eye(2), facts={"label": torch.arange(2)})
    >>> proxies = Embeddings.of(torch.eye(2), id=-1 - torch.arange(2), facts={"label": torch.arange(2)})
    >>> outcome = proxy_anchor(rows, proxies, rule=labelled(), alpha=1.0, margin=0.5)
    >>> {name: round(term.item(), 4) for name, term in outcome.terms.items()}     # log(1 + exp(-1/2)), log(1 + exp(1/2))
    {'proxy_anchor_attract': 0.4741, 'proxy_anchor_repel': 0.9741}
    """
    if unit:
        anchors, proxies = anchors.to_unit(), proxies.to_unit()
    swept = sweep(
        lambda s, p, _a, _c, _k: {
            "attract": (-alpha * (s["s"] - margin), p.attract),
            "repel": (alpha * (s["s"] + margin), p.repel),
        },
        anchors,
        proxies,
        rule=rule,
        columns=dict.fromkeys(BOTH, "logsumexp"),
        bounds=dict.fromkeys(BOTH, _bound(-alpha * (1 - margin), alpha * (1 + margin))) if unit else None,
    ).columns
    drawn = (swept["attract"] > FLOOR / 2).to(swept["attract"])
    terms = {
        "proxy_anchor_attract": mean(softplus(swept["attract"]), drawn),
        "proxy_anchor_repel": mean(softplus(swept["repel"])),
    }
    return Outcome(terms, dict.fromkeys(terms, 1.0), {})
