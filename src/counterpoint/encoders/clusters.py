"""Clusters that a method remembers between steps: of all samples, of a queue, and as centroids that follow slowly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.processes import everywhere
from counterpoint._ops.sinkhorn import sinkhorn
from counterpoint._ops.unit import to_unit
from counterpoint.encoders.momentum import Queue
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Pairs

NONE = -1  # the cluster of a row that has none
PUT_OFF = -torch.inf


class Grouped(NamedTuple):
    """The cluster of each row, and the mean of each cluster's unit rows."""

    cluster: Int[Tensor, " n"]
    centers: Float[Tensor, "k d"]


def means_of(z: Float[Tensor, "n d"], cluster: Int[Tensor, " n"], count: int) -> Float[Tensor, "k d"]:
    """The mean of each cluster's rows; 0 for a cluster without any. Rows below 0 belong to none.

    The means of one side's rows under the clusters of the other side are the back translation of ProtoCLIP.

    >>> means_of(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([1, 1, -1]), 2).tolist()
    [[0.0], [2.0]]
    """
    known = cluster >= 0
    sums = z.new_zeros(count, z.shape[1]).index_add(0, cluster[known], z[known])
    sizes = torch.bincount(cluster[known], minlength=count).to(z)
    return sums / sizes.clamp(min=1)[:, None]


def within_capacity(score: Float[Tensor, "n k"], capacity: int) -> Int[Tensor, " n"]:
    """The best cluster for each row where none takes more than `capacity` rows, the best pair of all first.

    Rows ask their best cluster, clusters refuse all but their best rows, and these ask on: since both sides go by the same
    scores, this ends where taking pairs one by one from the best down ends.

    Raises:
        ValueError: where not all rows fit.

    >>> within_capacity(torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.6, 0.5]]), 2).tolist()
    [0, 0, 1]
    """
    n, k = score.shape
    if n > k * capacity:
        raise ValueError(f"wanted room for {n} rows, got {k} clusters of at most {capacity}")
    left = score.clone()
    while True:
        best, choice = left.max(1)
        order = torch.argsort(best, descending=True, stable=True)
        order = order[torch.argsort(choice[order], stable=True)]
        starts = torch.searchsorted(choice[order].contiguous(), choice[order], right=False)
        refused = order[torch.arange(n, device=score.device) - starts >= capacity]
        if not len(refused):
            return choice
        left[refused, choice[refused]] = PUT_OFF


@torch.no_grad()
def spherical_kmeans(
    z: Float[Tensor, "n d"], count: int, *, capacity: int | None = None, iterations: int = 50
) -> Grouped:
    """Clusters of rows by their cosine with the mean of each, from starts that lie far apart.

    Args:
        z: n rows; scaled to length 1 here.
        count: of clusters, from 1 to n.
        capacity: the most rows that one cluster takes; None: any number. Holds n x count scores.
        iterations: at most.

    Returns:
        Clusters numbered from 0. The same on every process that has the same rows: nothing is drawn.

    Raises:
        ValueError: for a count out of range, or clusters that cannot hold all rows.

    >>> spherical_kmeans(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 2).cluster.tolist()
    [0, 0, 1]
    """
    if not 1 <= count <= len(z):
        raise ValueError(f"wanted from 1 to {len(z)} clusters of {len(z)} rows, got {count}")
    z = to_unit(z)
    starts = [0]
    near = z @ z[0]
    for _ in range(count - 1):
        starts.append(int(near.argmin()))
        near = torch.maximum(near, z @ z[starts[-1]])
    centers = z[starts]
    cluster = torch.full((len(z),), NONE, device=z.device)
    for _ in range(iterations):
        score = z @ to_unit(centers).T
        new = score.argmax(1) if capacity is None else within_capacity(score, capacity)
        if torch.equal(new, cluster):
            break
        cluster, means = new, means_of(z, new, count)
        centers = torch.where((means != 0).any(1, keepdim=True), means, centers)
    return Grouped(cluster, centers)


@paper(row=197)
def subclasses(z: Float[Tensor, "n d"], label: Int[Tensor, " n"], *, capacity: int) -> Int[Tensor, " n"]:
    """Each class cut into clusters of at most `capacity` rows, as many as it needs, numbered over all classes.

    Args:
        z: n rows.
        label: the class of each; below 0 stands for none.
        capacity: the size of a tail class: the paper takes the smallest class, but no less than some number.

    Returns:
        The cluster of each row, from 0; -1 without a class. A class of at most `capacity` rows stays whole.

    Differs:
        The authors start from k-means++ and weigh each centroid's similarities by their sum; here starts lie far apart
        and cosines are compared as they are. A class of n rows gets ceil(n / capacity) clusters.

    Relations:
        `spherical_kmeans` of each class alone.

    References:
        Hou et al. 2023, arXiv:2306.15925; balanced_cluster.py of github.com/JackHck/SBCL.

    >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.0, 1.0]])
    >>> subclasses(z, torch.tensor([0, 0, 0, 5]), capacity=2).tolist()
    [0, 1, 0, 2]
    """
    if capacity < 1:
        raise ValueError(f"wanted a capacity of at least 1, got {capacity}")
    found, next_free = torch.full_like(label, NONE), 0
    for name in label[label >= 0].unique().tolist():
        rows = torch.nonzero(label == name).flatten()
        count = math.ceil(len(rows) / capacity)
        found[rows] = spherical_kmeans(z[rows], count, capacity=capacity).cluster + next_free
        next_free += count
    return found


class Samples(nn.Module):
    """The last embedding of each training sample and its cluster, by the fact `row`; in every checkpoint, on all processes.

    Args:
        size: how many samples there are.
        width: d.

    >>> samples = Samples(3, 2)
    >>> samples.write(Embeddings.of(torch.eye(2), facts={"row": torch.tensor([2, 0])}))
    >>> samples.group(2); samples.of(torch.tensor([0, 1, 2])).tolist()
    [0, -1, 1]
    """

    z: Tensor
    cluster: Tensor
    seen: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("z", torch.zeros(size, width))
        self.register_buffer("cluster", torch.full((size,), NONE))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    @torch.no_grad()
    def write(self, rows: Embeddings) -> None:
        """Remember the rows of all processes, under their fact `row`, each sample once."""
        rows = everywhere(rows)
        self.z[rows.facts["row"]], self.seen[rows.facts["row"]] = rows.z.to(self.z), True

    @torch.no_grad()
    def group(self, count: int | None = None, *, label: Tensor | None = None, capacity: int | None = None) -> None:
        """Cluster all samples seen so far: into `count` clusters, or each class into clusters of `capacity`."""
        at = torch.nonzero(self.seen).flatten()
        if label is not None and capacity is not None:
            self.cluster[at] = subclasses(self.z[at], label.to(at.device)[at], capacity=capacity)
        elif count is not None and len(at) >= count:
            self.cluster[at] = spherical_kmeans(self.z[at], count, capacity=capacity).cluster

    def of(self, row: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The clusters of these samples; -1 for one that has none yet."""
        return self.cluster[row]

    def means(self, count: int, cluster: Tensor | None = None) -> Float[Tensor, "k d"]:
        """The mean of each cluster's samples, by their own clusters or by others'."""
        return means_of(self.z, self.cluster if cluster is None else cluster, count)


class Centroids(nn.Module):
    """Centroids that follow the rows nearest to them slowly; the same on every process, and in every checkpoint.

    Read by `assign` and `foreign` before a step, moved by `follow` after it. The first rows that are followed set them: all,
    or of a first batch of fewer rows than twice their number one for every two rows, and the others stay unused.

    Args:
        count: of centroids, at least 2.
        width: d.
        momentum: what of a centroid stays in a step, from 0 to below 1.

    Differs:
        The authors' code adds up the rows of a cluster where this takes their mean, and starts once the mean cosine of a
        batch has fallen; a caller decides when to follow first. The first centroids lie far apart in the first batch,
        which in the authors' scripts has at least two rows for each.

    References:
        Deng et al. 2023, arXiv:2305.09892.

    >>> centroids = Centroids(2, 2, momentum=0.5)
    >>> centroids.follow(Embeddings.of(torch.eye(2)))
    >>> centroids.assign(torch.tensor([[2.0, 1.0], [0.0, 1.0]])).tolist()
    [0, 1]
    """

    z: Tensor
    started: Tensor

    def __init__(self, count: int, width: int, *, momentum: float = 0.999) -> None:
        super().__init__()
        if count < 2 or not 0 <= momentum < 1:
            raise ValueError(f"wanted at least 2 centroids and a momentum in [0, 1), got {count} and {momentum}")
        self.momentum = momentum
        self.register_buffer("z", torch.zeros(count, width))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def _cosines(self, z: Tensor) -> Tensor:
        found = to_unit(z.detach().to(self.z)) @ to_unit(self.z).T
        return found.masked_fill(~(self.z != 0).any(1), PUT_OFF)

    @torch.no_grad()
    def assign(self, z: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The nearest centroid of each row; -1 before there are any."""
        return self._cosines(z).argmax(1) if self.started else torch.full((len(z),), NONE, device=z.device)

    @torch.no_grad()
    def foreign(self, rows: Embeddings) -> Embeddings:
        """The nearest centroid of each row but its own, as a made row that it owns: no row before there are any.

        See `pairs.clusters.beside_made`. They are of no cluster, so that no rule spares them.
        """
        rows = rows if self.started else rows.rows(slice(0, 0))
        second = self._cosines(rows.z).topk(2, 1).indices[:, 1]
        made = Embeddings.of(self.z[second].to(rows.z), id=-1 - second)
        return replace(made, facts={"owner": rows.id, "cluster": torch.full_like(second, NONE)})

    @torch.no_grad()
    def follow(self, rows: Embeddings) -> None:
        """Move each centroid towards the mean of those rows of all processes that are nearest to it."""
        z = everywhere(replace(rows, facts={})).z.to(self.z)
        if not self.started:
            count = min(len(self.z), max(2, len(z) // 2))
            self.z[:count] = spherical_kmeans(z, count, iterations=1).centers
            self.started.fill_(True)
            return
        cluster = self.assign(z)
        some = torch.bincount(cluster, minlength=len(self.z)) > 0
        moved = self.momentum * self.z + (1 - self.momentum) * means_of(z, cluster, len(self.z))
        self.z.copy_(torch.where(some[:, None], moved, self.z))


@paper(row=10)
class ClusteredMemory(nn.Module):
    """Past rows in clusters of like size, in which a row finds its nearest (DyCE of BECLR).

    Once the memory is full it is clustered. From then on new rows are shared out evenly among the clusters (Sinkhorn),
    take the places of the oldest, and each center is the mean of its rows; an empty cluster keeps its center. Read by
    `nearest` before a step, written by `push` after it; the same on every process, and in every checkpoint.

    Args:
        size: rows that are remembered.
        width: d.
        clusters: how many, at least 1 and at most size.
        eps: > 0, of the assignment; the cosine is divided by it.
        iterations: of Sinkhorn.

    Differs:
        The authors put a batch in before they look for its neighbours, so that a row's nearest is itself; here the memory
        is read first, and other views of a row's own sample are passed over. Where a cluster has too few other rows,
        fewer are found; the authors then look at the whole memory. Rows are remembered at length 1, and a center is the mean
        of such rows; the authors remember them, and take their mean, as long as they come.

    References:
        Poulakakis-Daktylidis, Jamali-Rad 2024, arXiv:2402.02444; memory.py and utils/sinkhorn.py of
        github.com/stypoumic/BECLR.

    >>> memory = ClusteredMemory(4, 2, clusters=2)
    >>> memory.push(Embeddings.of(torch.eye(2).repeat(2, 1), id=torch.arange(4)))
    >>> found = memory.nearest(Embeddings.of(torch.tensor([[1.0, 0.2]]), id=torch.tensor([0])), 1)
    >>> found.id.tolist(), found.facts["owner"].tolist()
    ([2], [0])
    """

    centers: Tensor
    started: Tensor

    def __init__(self, size: int, width: int, *, clusters: int, eps: float = 0.05, iterations: int = 3) -> None:
        super().__init__()
        if not 1 <= clusters <= size or not eps > 0:
            raise ValueError(f"wanted from 1 to {size} clusters and an eps above 0, got {clusters} and {eps}")
        self.queue = Queue(size, width, facts={"cluster": torch.int64})
        self.eps, self.iterations = eps, iterations
        self.register_buffer("centers", torch.zeros(clusters, width))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def rows(self) -> Embeddings:
        """What is remembered, with the fact `cluster`."""
        return self.queue.rows()

    @torch.no_grad()
    def push(self, rows: Embeddings) -> None:
        """Put the rows of all processes in, each into a cluster."""
        z = to_unit(rows.z.detach().to(self.centers))
        cluster = torch.full((len(z),), NONE, device=z.device)
        if self.started:
            centers = Embeddings.of(to_unit(self.centers))
            told = replace(rows, z=z, facts={})
            plan = sinkhorn(
                told, replace(centers, placement="replicated"), scale=1 / self.eps, iterations=self.iterations
            )
            cluster = (z @ centers.z.T / self.eps + plan.columns).argmax(1)
        self.queue.push(replace(rows, z=z, facts={"cluster": cluster}))
        known = self.rows()
        if not self.started and len(known) == len(self.queue.z):
            grouped = spherical_kmeans(known.z, len(self.centers))
            self.queue.get_buffer("fact_cluster").copy_(grouped.cluster)
            self.centers.copy_(grouped.centers)
            self.started.fill_(True)
        elif self.started:
            means = means_of(known.z, known.facts["cluster"], len(self.centers))
            some = torch.bincount(known.facts["cluster"], minlength=len(self.centers)) > 0
            self.centers.copy_(torch.where(some[:, None], means, self.centers))

    @torch.no_grad()
    def nearest(self, rows: Embeddings, count: int) -> Embeddings:
        """For each row up to `count` remembered rows of the cluster nearest to it, which it owns; none before clustering.

        With the fact `owner`, the id of the row that they were found for: `labelled("owner")` lets it attract them.
        """
        known = self.rows()
        z = to_unit(rows.z.detach().to(self.centers))
        home = (z @ to_unit(self.centers).T).argmax(1)
        asks = Embeddings(z, rows.id, rows.view, rows.part, rows.age, {"cluster": home})
        if not self.started or not len(rows) or not count:
            none = known.rows(slice(0, 0))
            return replace(none, placement=rows.placement, facts={"owner": none.id})
        index = neighbours(asks, known, count, rule=_of_one_cluster, among="attracted").index
        asked, place = torch.nonzero(index >= 0, as_tuple=True)
        found = known.rows(index[asked, place])
        return replace(found, placement=rows.placement, facts={"owner": rows.id[asked]})


def _of_one_cluster(a: Embeddings, c: Embeddings) -> Pairs:
    """Rows of one cluster that are not of one sample attract."""
    mates = (a.facts["cluster"][:, None] == c.facts["cluster"][None, :]) & (a.id[:, None] != c.id[None, :])
    return Pairs(mates.to(a.z), torch.zeros_like(mates, dtype=a.z.dtype))
