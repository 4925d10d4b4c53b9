"""Claims of what is remembered between steps: queues, prototypes, clusters, running denominators."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

import torch
from claim import Claim
from claims_made import CONTRAST, moco, plainly
from claims_soft import told
from claims_softmax import SIMCLR
from sklearn.metrics import normalized_mutual_info_score
from small import augmented, balanced_knn, both_halves, digits, halves, knn, long_tailed, mlp, trained, vectors
from torch import Tensor, nn

from counterpoint._ops.processes import joined
from counterpoint.encoders.clusters import Centroids, ClusteredMemory, Samples, means_of, spherical_kmeans
from counterpoint.encoders.estimates import Estimates
from counterpoint.encoders.prototypes import Prototypes
from counterpoint.objectives.clustered import band, prototypical, swapped
from counterpoint.objectives.estimated import estimated
from counterpoint.objectives.hardest import infonce_hardest
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.clusters import beside_made, cluster_mates, siblings
from counterpoint.pairs.filters import equal, without
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome, same_sample


def both(sets: dict[str, Embeddings]) -> Embeddings:
    """Both views as one set."""
    return Embeddings.cat([sets["view0"], sets["view1"]])


def remembered(own_temperature: bool | None, seed: int) -> float:
    """Accuracy with batches of 16; None: the batch's own denominators."""
    data = digits(seed)
    estimates = Estimates(len(data.x), temperature=0.1, eta=0.01 if own_temperature else 0.0)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        if own_temperature is None:
            return infonce(both(sets), temperature=0.1, positives_compete=False)
        rows = cast(Estimates, modules["estimates"]).of(both(sets))
        found = estimated(rows, temperature="temperature", relative=False)
        return found._replace(weights={"estimated": 10.0})  # 1 / t: as steep as the loss that it stands beside

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], outcome: Outcome) -> None:
        if own_temperature is not None:
            cast(Estimates, modules["estimates"]).follow(both(sets), outcome)

    modules = {"encoder": mlp(64), "estimates": estimates}
    found = trained(modules, augmented(), objective, data, seed=seed, batch=16, steps=400, after=after)
    return knn(found["encoder"], data)


def swav(balanced: bool, seed: int) -> float:
    """Accuracy of swapped prediction in batches of 64; without: SimCLR."""
    data = digits(seed)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        if not balanced:
            return SIMCLR(sets["view0"], sets["view1"])
        return swapped(both(sets).to_unit(), cast(Prototypes, modules["prototypes"]).rows())

    def after(modules: nn.ModuleDict, _sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        cast(Prototypes, modules["prototypes"]).settle()

    modules = {"encoder": mlp(64), "prototypes": Prototypes(30, 32, frozen=20)}
    return knn(trained(modules, augmented(), objective, data, seed=seed, batch=64, after=after)["encoder"], data)


def tails(split: bool, seed: int) -> float:
    """Mean accuracy of the five rarest classes, long-tailed, trained with labels."""
    data = long_tailed(digits(seed))
    steps = [0]

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        rows = both(sets)
        if not split:
            return infonce(rows, rule=labelled(), temperature=0.07)
        rows = told(rows, cluster=cast(Samples, modules["samples"]).of(rows.facts["row"]))
        fine = infonce(rows, rule=labelled("cluster"), temperature=0.07)
        return Outcome.of(fine=(1.0, fine), coarse=(0.2, infonce(rows, rule=siblings(), temperature=0.12)))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        samples = cast(Samples, modules["samples"])
        samples.write(sets["view0"].to_unit())
        steps[0] += 1
        if split and steps[0] % 40 == 0:
            samples.group(label=data.y, capacity=20)

    modules = {"encoder": mlp(64), "samples": Samples(len(data.x), 32)}
    found = trained(modules, augmented(), objective, data, seed=seed, after=after)["encoder"]
    return balanced_knn(found, data, range(5, 10))


def neighbours(count: int, seed: int) -> float:
    """Accuracy with remembered neighbours as positives more."""
    data = digits(seed)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (told(rows.to_unit(), owner=rows.id) for rows in (sets["view0"], sets["view1"]))
        found = SIMCLR(a, c)
        near = cast(ClusteredMemory, modules["memory"]).nearest(a, count)
        if not len(near):
            return found
        return Outcome.of(views=(0.5, found), near=(0.5, infonce(a, near, rule=labelled("owner"), temperature=0.1)))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        cast(ClusteredMemory, modules["memory"]).push(replace(sets["view1"], facts={}).to_unit())

    modules = {"encoder": mlp(64), "memory": ClusteredMemory(1024, 32, clusters=20)}
    return knn(trained(modules, augmented(), objective, data, seed=seed, steps=300, after=after)["encoder"], data)


def clustered_negatives(used: bool, seed: int) -> float:
    """Accuracy with the nearest foreign centroid as a negative and cluster mates under a band."""
    data = digits(seed)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (rows.to_unit() for rows in (sets["view0"], sets["view1"]))
        centroids = cast(Centroids, modules["centroids"])
        if not used or not centroids.started:
            return infonce(a, c, temperature=0.1)
        a, c = (told(rows, cluster=centroids.assign(rows.z), owner=rows.id) for rows in (a, c))
        rule = beside_made(without(same_sample, equal("cluster")), weight=1.0)
        near = infonce(a, joined([c, centroids.foreign(a)]), rule=rule, temperature=0.1)
        return Outcome.of(near=(1.0, near), band=(0.1, band(a, c, rule=cluster_mates(), alpha=0.2, beta=0.6)))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        cast(Centroids, modules["centroids"]).follow(replace(sets["view0"], facts={}).to_unit())

    modules = {"encoder": mlp(64), "centroids": Centroids(30, 32, momentum=0.9)}
    return knn(trained(modules, augmented(), objective, data, seed=seed, after=after)["encoder"], data)


def episodes(weight: float, seed: int) -> float:
    """How well clusters of both halves' vectors agree with the classes, after episodes of clustering."""
    data = digits(seed)
    left, right = halves(data.x)
    known: dict[str, Embeddings] = {}
    cluster: dict[str, Tensor] = {}
    steps = [0]

    def episode(modules: nn.ModuleDict) -> None:
        z = {"left": vectors(modules["left"], left), "right": vectors(modules["right"], right)}
        cluster.update({name: spherical_kmeans(rows, 20, iterations=10).cluster for name, rows in z.items()})
        for name, other in (("left", "right"), ("right", "left")):
            own, theirs = (means_of(z[side], cluster[other], 20) for side in (name, other))
            known[name] = Embeddings.of(
                own, id=-1 - torch.arange(20), facts={"cluster": torch.arange(20), "teacher": theirs}
            )

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        clip = SIMCLR(sets["left"], sets["right"])
        if not weight or not known:
            return clip
        terms = {}
        for name, other in (("left", "right"), ("right", "left")):
            rows = sets[name].to_unit()
            rows = told(rows, cluster=cluster[other][rows.facts["row"]])
            terms[name] = (weight / 2, prototypical(rows, known[name], temperature=0.1, teacher_temperature=0.1))
        return Outcome.of(clip=(1.0, clip), **terms)

    def after(modules: nn.ModuleDict, _sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        steps[0] += 1
        if weight and steps[0] % 50 == 0:
            episode(modules)

    modules = trained({"left": mlp(32), "right": mlp(32)}, both_halves, objective, data, seed=seed, after=after)
    sides = [vectors(modules[name], x) for name, x in zip(("left", "right"), halves(data.held), strict=True)]
    found = spherical_kmeans(torch.cat(sides, 1), 10).cluster
    return float(normalized_mutual_info_score(data.answers, found))


def hardest(q: Embeddings, k: Embeddings, queue: Embeddings, _g: torch.Generator) -> Outcome:
    """Of the queue only the 64 nearest."""
    from counterpoint.pairs.remembered import against_queue

    there = infonce_hardest(q, joined([k, queue]), k=64, rule=against_queue, temperature=0.1)
    return there if len(queue) else CONTRAST(q, joined([k, queue]))


CLAIMS = [
    Claim("running denominators (SogCLR)", "they make small batches do as well as large ones",
          "accuracy of 5 neighbours, batches of 16", partial(remembered, False), partial(remembered, None),
          reference="Yuan et al.: Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not "
          "Harm Performance, arXiv:2202.12387, 2022"),
    Claim("own temperatures (iSogCLR)", "a temperature for each sample improves on one for all",
          "accuracy of 5 neighbours, batches of 16", partial(remembered, True), partial(remembered, False), row=187),
    Claim("swapped assignments (SwAV)", "predicting balanced codes beats contrast of instances in small batches",
          "accuracy of 5 neighbours, batches of 64", partial(swav, True), partial(swav, False), row=23),
    Claim("sub-classes (SBCL)", "sub-classes as large as the tail classes help the tail",
          "mean accuracy of the five rarest classes", partial(tails, True), partial(tails, False), row=197),
    Claim("remembered neighbours (BECLR)", "neighbours from a clustered memory are useful positives",
          "accuracy of 5 neighbours", partial(neighbours, 3), partial(neighbours, 0), row=10),
    Claim("clustered negatives (ClusterNS)", "foreign centroids as negatives and a band for mates improve the space",
          "accuracy of 5 neighbours", partial(clustered_negatives, True), partial(clustered_negatives, False), row=146),
    Claim("prototypes of the other side (ProtoCLIP)", "prototypes group what belongs together",
          "mutual information of clusters and classes", partial(episodes, 1.0), partial(episodes, 0.0), row=18),
    Claim("hardest of the queue", "the nearest negatives of a queue alone improve momentum contrast",
          "accuracy of 5 neighbours", partial(moco, hardest), partial(moco, plainly), row=115),
]  # fmt: skip
