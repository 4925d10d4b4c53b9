"""Information: entropies and mutual information that a kernel or a classifier estimates from a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.reduce import mean, moments
from counterpoint.objectives.custom import Output, Rule, Side, custom, squared, sweeping
from counterpoint.objectives.spread import EXACT, above_0, alignment, one_set, uniformity
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample


@paper(row=26)
def joint_entropy(
    anchors: Embeddings, *, other: str = "salient", rule: Rule = same_sample, temperature: float = 0.5
) -> Outcome:
    """Spreads pairs of codes over all combinations, so that one of the two says nothing of the other (k-JEM).

    For the codes c_i of n rows and their others s_i, with repel weights r_ij and each row's own kernel of 1,

        loss = mean_i log( (1 + sum_j r_ij exp(-|c_i - c_j|^2 / 2t) exp(-|s_i - s_j|^2 / 2t)) / (1 + sum_j r_ij) )

    Args:
        anchors: n rows, as they are; their fact `other` is the second code, [n, k].
        other: the name of that fact.
        rule: who repels whom; attract weights are not read. By default all pairs but those of equal id.
        temperature: t > 0, the variance of the kernel.

    Returns:
        One term, "joint_entropy", minus the joint entropy but for a constant, in nats: from -log n (all combinations far
        apart) to 0 (all rows equal in both).

    Raises:
        ValueError: for a temperature that is not above 0.
        KeyError: for rows without the fact.

    Differs:
        As in the authors' code the mean over j has the row itself. Rows of equal id do not repel; there are none there.

    Relations:
        With a constant second code it is the same entropy of the first alone; `uniformity` has its logarithm outside
        the mean. Less the entropies of each code it is minus their mutual information.

    References:
        Louiset et al. 2024, arXiv:2402.11928; github.com/neurospin-projects/2024_rlouiset_sep_clr, losses.py.

    >>> rows = Embeddings.of(torch.zeros(2, 1), facts={"salient": torch.tensor([[0.0], [9.0]])})
    >>> round(joint_entropy(rows).loss.item(), 4)      # log 1/2
    -0.6931
    """
    t = 1 / (2 * above_0("a temperature", temperature))

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        return {"joint": ((scores["code"] + scores["other"]) * -t, pairs.repel), "repel": pairs.repel}

    def row(found: Mapping[str, Tensor]) -> Tensor:
        return torch.logaddexp(found["joint"], torch.zeros_like(found["joint"])) - (1 + found["repel"]).log()

    objective = custom(
        tile,
        row,
        scores={"code": squared(), "other": squared(other)},
        rows={"joint": "logsumexp", "repel": "total"},
        unit=False,
        name="joint_entropy",
    )
    with sweeping(precision=EXACT):
        return objective(anchors, anchors, rule=rule)


def _of_two(first: Outcome, second: Outcome) -> Tensor:
    """The mean of two losses."""
    return (first.loss + second.loss) / 2


@paper(row=26)
def sepclr(
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    salient: str = "salient",
    target: str = "target",
    rule: Rule = same_sample,
    temperature: float = 0.5,
    even: float = 2.0,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Outcome:
    """Two codes of each row: what target and background data share, and what the target data alone have.

    For two views, unit common codes c and salient codes s, of which s' is s for targets and 0 for the background,

        common  = align(c) + even uniform(c)          of all rows
        salient = align(s over targets) + even uniform(s')
        null    = mean |s|^2 / 2t over the background
        joint   = `joint_entropy` of c and s'

    with align = mean |x - y|^2 / 2t of pairs, uniform = log mean exp(-|x - y|^2 / 2t) of different samples, and uniform,
    null and joint averaged over the two views.

    Args:
        anchors: n rows of one view: common codes, with the facts `salient`, [n, k], and `target`, true for target data.
        candidates: m rows of the other view, with the same facts.
        salient: the name of the fact that holds the salient code; it is not scaled to length 1.
        target: the name of the fact that tells target rows from the background.
        rule: who pairs with whom, and, of different samples, who repels whom.
        temperature: t > 0, the variance of the kernel.
        even: weight of uniformity beside alignment, at least 0; 2 in the authors' experiments.
        weights: of common, salient, null and joint; those of the authors range from 1 to 1000 with the data.

    Returns:
        Four terms, "common", "salient", "null" and "joint".

    Raises:
        KeyError: for rows without one of the facts.
        ValueError: for a temperature that is not above 0.

    Relations:
        `alignment`, `uniformity` and `joint_entropy`, put together. The authors' variant with attributes weighs pairs by
        a kernel of the attributes: a rule.

    References:
        Louiset et al. 2024, arXiv:2402.11928; github.com/neurospin-projects/2024_rlouiset_sep_clr, cifar_mnist.

    >>> facts = {"salient": torch.zeros(2, 1), "target": torch.tensor([True, False])}
    >>> one, two = (Embeddings.of(torch.eye(2), view=v, facts=facts) for v in (0, 1))
    >>> {name: round(term.item(), 4) for name, term in sepclr(one, two).terms.items()}
    {'common': -4.0, 'salient': 0.0, 'null': 0.0, 'joint': -0.5662}
    """
    t = 1 / (2 * above_0("a temperature", temperature))
    views = [rows.to_unit() for rows in (anchors, candidates)]
    aims = [rows.facts[target].bool() for rows in views]
    own = [replace(rows, z=rows.facts[salient]) for rows in views]
    nulled = [replace(rows, z=rows.z * aim[:, None].to(rows.z)) for rows, aim in zip(own, aims, strict=True)]
    whole = [replace(rows, facts={**rows.facts, salient: other.z}) for rows, other in zip(views, nulled, strict=True)]

    def contrast(pair: list[Embeddings], all_rows: list[Embeddings]) -> Tensor:
        near = alignment(*pair, rule=rule, unit=False).loss * t
        return near + even * _of_two(*(uniformity(rows, rule=rule, t=t, unit=False) for rows in all_rows))

    null = [mean(rows.z.square().sum(1), (~aim).to(rows.z)) * t for rows, aim in zip(own, aims, strict=True)]
    terms = {
        "common": contrast(views, views),
        "salient": contrast([rows.rows(aim) for rows, aim in zip(own, aims, strict=True)], nulled),
        "null": (null[0] + null[1]) / 2,
        "joint": _of_two(*(joint_entropy(rows, other=salient, rule=rule, temperature=temperature) for rows in whole)),
    }
    return Outcome(terms, dict(zip(terms, weights, strict=True)), {})


@paper(row=155)
def mutual_information(anchors: Embeddings | Float[Tensor, "n c"]) -> Outcome:
    """Predictions that are sure of each row and even over all of them: minus the information between row and class.

        loss = mean_i H(p_i) - H(mean_i p_i),          p_i the softmax of the i-th row, H the entropy

    Args:
        anchors: n rows of c logits, or a plain [n, c] tensor, as they are; of unlabelled data, such as a target domain.

    Returns:
        One term, "mutual_information", in nats, from -log c (each row sure, all classes as often) to 0 (all rows alike).

    Relations:
        CLIM adds it to the loss of a classifier and to `infonce`, whose negatives are of one domain alone: a rule that
        repels where the facts of the domain agree. Its two entropies are the terms of SHOT (arXiv:2002.08546).

    References:
        Li et al. 2020, arXiv:2010.16088.

    >>> round(mutual_information(torch.tensor([[99.0, 0.0], [0.0, 99.0]])).loss.item(), 4)
    -0.6931
    """
    z = one_set(anchors).z
    logits = z.to(torch.promote_types(z.dtype, torch.float32))
    log = logits.log_softmax(1)
    each = mean(-(log.exp() * log).sum(1))
    together = moments(log.exp(), diagonal=True).mean.clamp(min=torch.finfo(log.dtype).tiny)
    return Outcome.term("mutual_information", each - torch.special.entr(together).sum())
