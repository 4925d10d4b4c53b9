"""Who is a pair of whom where candidates come from a queue."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from counterpoint._ops.layout import Rule
from counterpoint.types import Embeddings, Pairs


def against_queue(a: Embeddings, c: Embeddings) -> Pairs:
    """The other view of this step attracts; rows of a queue repel, but for stale rows of one's own sample.

    attract_ij = [id_i = id_j, age_j = 0]; repel_ij = [id_i != id_j, age_j > 0]. Other rows of this step are ignored.

    References:
        He et al. 2020, arXiv:1911.05722, algorithm 1, where a stale row of one's own sample is a negative.

    >>> import torch
    >>> from dataclasses import replace
    >>> a = Embeddings.of(torch.eye(2), id=torch.tensor([1, 2]))
    >>> queue = replace(Embeddings.of(torch.eye(2), id=torch.tensor([2, 3])), age=torch.tensor([1, 1]))
    >>> against_queue(a, Embeddings.cat([replace(a, view=a.view + 1), queue])).repel.tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    """
    same, fresh = a.id[:, None] == c.id[None, :], (c.age == 0)[None, :]
    return Pairs((same & fresh).to(a.z), (~same & ~fresh).to(a.z))


@dataclass(frozen=True)
class BesideQueue:
    """The rule made by `beside_queue`."""

    rule: Rule

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        pairs, other = self.rule(a, c), (a.id[:, None] != c.id[None, :]) & (c.age == 0)[None, :]
        nothing = torch.zeros_like(pairs.repel)
        return Pairs(torch.where(other, nothing, pairs.attract), torch.where(other, nothing, pairs.repel))


def beside_queue(rule: Rule) -> BesideQueue:
    """As another rule says of one's own sample and of the rows of a queue; other rows of this step are ignored.

    Relations:
        `against_queue` is this with `same_sample`.

    >>> from dataclasses import replace
    >>> from counterpoint.types import same_sample
    >>> a = Embeddings.of(torch.eye(2), id=torch.tensor([1, 2]))
    >>> beside_queue(same_sample)(a, replace(a, view=a.view + 1)).repel.tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    return BesideQueue(rule)
