"""A softmax in which only the nearest negatives of each anchor compete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.processes import everywhere
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, per_row, times
from counterpoint.objectives.softmax import Temperature, between, compare, cooled, gaps, picked, sums
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

LEAST = "_least"  # the fact of the smallest cosine that still competes
TIES = 16  # roundings by which a cosine may miss the k-th and still count as equal to it


@torch.no_grad()
def kth_largest(anchors: Embeddings, candidates: Embeddings, *, rule: Rule, k: int) -> Float[Tensor, " n"]:
    """A number between the k-th and the next largest dot product of each anchor with what repels it; -1e9 where there is none.

    Where both are equal it lies just below them, so that all ties are on the near side.

    >>> z = Embeddings.of(torch.eye(2), id=torch.tensor([1, 2]))
    >>> others = Embeddings.of(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), id=torch.tensor([3, 4]))
    >>> kth_largest(z, others, rule=same_sample, k=1).tolist()
    [0.75, 0.25]
    """
    everyone = everywhere(replace(candidates, z=candidates.z.detach()))
    score = neighbours(anchors, everyone, k + 1, rule=rule).score
    if score.shape[1] <= k:
        return score.new_full((len(anchors),), FLOOR)
    near, far = score[:, k - 1], score[:, k]
    slack = TIES * torch.finfo(score.dtype).eps
    between_both = torch.minimum((near + far) / 2, near - slack)
    return torch.where(far.isneginf(), torch.full_like(far, FLOOR), between_both)


@paper(row=115)
def infonce_hardest(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    k: int = 64,
    rule: Rule = same_sample,
    temperature: Temperature = 0.07,
) -> Outcome:
    """Each anchor has to pick its positives out of its k nearest negatives; the rest of the queue does not compete.

    For anchor i with attract weights w_ij (normalised: sum_j w_ij = 1) and repel weights r_ij, of which those of all
    negatives but the k of largest cosine are set to 0,

        loss_i = - sum_j w_ij log( exp(s_ij / t) / sum_k ([w_ik > 0] + r_ik) exp(s_ik / t) )

    and the result is the mean over anchors that have a positive and a competitor.

    Args:
        anchors: n rows, or a plain [n, d] tensor; scaled to length 1.
        candidates: m rows, such as the other view and a queue; with plain tensors row i pairs with row i. None: the anchors.
        k: how many negatives each anchor keeps, at least 1; those that are as near as the k-th stay too.
        rule: who attracts and who repels whom, such as `against_queue`.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.

    Returns:
        One term, "infonce_hardest", in nats, never above `infonce`. Notes as of `infonce`; "negatives" is what is kept.

    Raises:
        ValueError: for plain tensors of different length, a temperature that is not above 0, or a k below 1.

    Differs:
        The paper gives no code; this is its mechanism. Its dual-view loss is this of the queries against keys and queue,
        and of the keys against queries and queue, weighed by `Outcome.of`: the keys have no gradient where a teacher
        makes them.

    Relations:
        With k of at least the number of negatives it is `infonce`, so with a queue the loss of MoCo.

    References:
        Hoang et al. 2025, arXiv:2501.16360; He et al. 2020, arXiv:1911.05722.

    >>> round(infonce_hardest(torch.eye(3), torch.eye(3), k=2, temperature=1.0).loss.item(), 4)      # log(1 + 2 / e)
    0.5514
    """
    if k < 1:
        raise ValueError(f"wanted a k of at least 1, got {k}")
    anchors, candidates = as_embeddings(anchors, candidates)
    anchors, candidates, t, bound = cooled(anchors, candidates, temperature)
    least = kth_largest(anchors, candidates, rule=rule, k=k)
    told = replace(anchors, facts={**anchors.facts, LEAST: torch.where(least > FLOOR / 2, least / t.detach(), least)})

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        s = scores["s"]
        near = times(pairs.repel, (s.detach() >= a[LEAST]).to(s))
        return sums(scores, Pairs(pairs.attract, near)) | {"denominator": (s, near + pairs.attract.sign())}

    swept = compare(tile, told, candidates, rule=rule, directions="forward", bounds=between(bound))
    loss = per_row(partial(picked, compete=True), swept, "forward")
    return Outcome({"infonce_hardest": loss}, {"infonce_hardest": 1.0}, gaps(t, swept.rows))
