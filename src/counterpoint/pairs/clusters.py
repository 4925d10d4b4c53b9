"""Who is a pair of whom where rows have clusters: members under a band, siblings that attract, negatives made for an anchor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint._ops.layout import Rule
from counterpoint.pairs.labels import labelled
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Pairs, same_sample


def _alike(a: Embeddings, c: Embeddings, fact: str) -> Tensor:
    """Which pairs have the same number above or at 0, [n m]."""
    own, other = a.facts[fact][:, None], c.facts[fact][None, :]
    return (own == other) & (own >= 0)


@dataclass(frozen=True)
class ClusterMates:
    """The rule made by `cluster_mates`."""

    fact: str

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        held = _alike(a, c, self.fact) & (a.id[:, None] != c.id[None, :])
        return Pairs(same_sample(a, c).attract, held.to(a.z))


def cluster_mates(fact: str = "cluster") -> ClusterMates:
    """Views of one sample attract; other samples of its cluster are the pairs that `band` holds; the rest is ignored.

    Args:
        fact: the name of the integer fact; below 0 stands for no cluster.

    >>> e = Embeddings.of(torch.eye(3), facts={"cluster": torch.tensor([4, 4, 9])})
    >>> cluster_mates()(e, e).repel.tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return ClusterMates(fact)


@dataclass(frozen=True)
class BesideMade:
    """The rule made by `beside_made`."""

    rule: Rule
    weight: float

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        pairs, made = self.rule(a, c), (c.id < 0)[None, :]
        mine = a.id[:, None] == c.facts["owner"][None, :]
        repel = torch.where(mine, self.weight, 1.0).to(pairs.repel)
        return Pairs(torch.where(made, torch.zeros_like(repel), pairs.attract), torch.where(made, repel, pairs.repel))


@paper(row=146)
def beside_made(rule: Rule = same_sample, *, weight: float = 1.0) -> BesideMade:
    """Made rows repel: that of the anchor itself by a weight of its own, those of others by 1; the rest as another rule says.

    Args:
        rule: of rows with ids at or above 0.
        weight: of an anchor's own made row, such as its nearest foreign centroid: at least 0. The authors of ClusterNS
            add log(weight) to its logit.

    Differs:
        The candidates that are no made rows need the fact `owner` too, which nothing reads.

    References:
        Deng et al. 2023, arXiv:2305.09892; simcse/models.py of github.com/djz233/ClusterNS.

    >>> a = Embeddings.of(torch.eye(2), id=torch.tensor([5, 6]))
    >>> made = Embeddings.of(torch.eye(2), id=torch.tensor([-1, -1]), facts={"owner": torch.tensor([5, 6])})
    >>> beside_made(weight=3.0)(a, made).repel.tolist()
    [[3.0, 1.0], [1.0, 3.0]]
    """
    if not weight >= 0:
        raise ValueError(f"wanted a weight of at least 0, got {weight}")
    return BesideMade(rule, weight)


@dataclass(frozen=True)
class Siblings:
    """The rule made by `siblings`."""

    label: str
    cluster: str

    elsewhere = (0.0, 1.0)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        views = same_sample(a, c).attract > 0
        member, same = _alike(a, c, self.cluster), a.id[:, None] == c.id[None, :]
        attract = views | (_alike(a, c, self.label) & ~member & ~same)
        return Pairs(attract.to(a.z), (~(attract | member | same)).to(a.z))

    def keys(self, a: Embeddings, c: Embeddings) -> tuple[Tensor, Tensor]:
        """Equal keys for rows of one class, or of one sample or cluster, and for what these link."""
        keys = labelled(self.label).keys(a, c)
        both = [
            Embeddings.of(r.z[:, :0], id=k, facts={self.cluster: r.facts[self.cluster]})
            for r, k in zip((a, c), keys, strict=True)
        ]
        return labelled(self.cluster).keys(*both)


@paper(row=197)
def siblings(*, label: str = "label", cluster: str = "cluster") -> Siblings:
    """Rows of one class but of another cluster attract, as do views of one sample; one's own cluster is left out.

    attract_ij = [label_i = label_j, cluster_i != cluster_j] or another view of this step of one sample; repel_ij = 1
    where both are unequal.

    Args:
        label: the name of the fact with the class.
        cluster: the name of the fact with the cluster inside the class, numbered over all classes.

    Differs:
        With `infonce` it is the warmer term of SBCL: 0.2 times that at a temperature of 0.12, beside `infonce` under
        labelled(cluster) at 0.07. In the authors' code a stale row of one's own sample attracts in the first term.

    Relations:
        With one cluster for each class only views of one sample attract.

    References:
        Hou et al. 2023, arXiv:2306.15925; SupConLoss_rank in moco/loss.py of github.com/JackHck/SBCL.

    >>> e = Embeddings.of(torch.eye(3), facts={"label": torch.tensor([4, 4, 4]), "cluster": torch.tensor([1, 1, 2])})
    >>> siblings()(e, e).attract.tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    return Siblings(label, cluster)
