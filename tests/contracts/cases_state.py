"""Parts that stand on prototypes, clusters, codes and running estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.processes import joined
from counterpoint.encoders.clusters import Centroids, ClusteredMemory, subclasses
from counterpoint.encoders.codebook import Codebook
from counterpoint.encoders.estimates import Estimates
from counterpoint.objectives.clustered import band, block_infonce, prototypical, swapped
from counterpoint.objectives.estimated import estimated
from counterpoint.objectives.hardest import infonce_hardest
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.clusters import beside_made, cluster_mates, siblings
from counterpoint.pairs.filters import equal, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.remembered import beside_queue
from counterpoint.types import Embeddings, Outcome, same_sample
from tests.contracts.case import Case, Cases

T = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
Loss = Callable[[Embeddings, Embeddings], Outcome]


def facts(rows: Embeddings, **more: Tensor) -> Embeddings:
    return replace(rows, facts={**rows.facts, **more})


def two_levels(loss: Loss) -> Loss:
    """Clusters inside the labels, by whether an id is even."""

    def called(a: Embeddings, c: Embeddings) -> Outcome:
        return loss(*(facts(r, cluster=2 * r.facts["label"] + r.id % 2) for r in (a, c)))

    return called


def with_teacher(a: Embeddings, c: Embeddings) -> Outcome:
    teacher = c.z.detach().flip(1)
    return prototypical(
        facts(a, t=a.z.square().sum(1) / 4 + 0.1), facts(c, teacher=teacher), cluster="label", temperature="t"
    )


def views(a: Embeddings) -> Embeddings:
    """Three views of each row."""
    turned = [a.z, a.z.flip(1), a.z.roll(1, 1)]
    return Embeddings.cat([replace(a, z=z, view=torch.full_like(a.view, v)) for v, z in enumerate(turned)])


def with_estimates(a: Embeddings, c: Embeddings, *, relative: bool) -> Outcome:
    a = facts(a, estimate=a.facts["label"].to(a.z) / 7, t=0.2 + a.facts["label"].to(a.z).abs() / 10)
    return estimated(a, c, rule=labelled(), temperature="t", relative=relative, gamma=0.7)


def followed(a: Embeddings, c: Embeddings) -> Outcome:
    """The second step, with what the first has left behind."""
    state = Estimates(32, temperature=0.3).to(a.z)
    rows = facts(a, row=a.id % 32)
    for _ in range(2):
        outcome = estimated(state.of(rows), c, rule=labelled(), temperature="temperature", gamma=0.6)
        state.follow(rows, outcome)
    return outcome


def coded(a: Embeddings, c: Embeddings) -> Outcome:
    """Codes and straight-through rows, and what they cost."""
    book = Codebook(torch.eye(4, a.z.shape[1]).to(a.z))
    found = book(a.z)
    a = replace(a, z=a.z + found.z, facts={"code": found.code})
    c = facts(c, code=book.code(c.z.detach()))
    loss = infonce(a, c, rule=without(labelled("code"), equal("code")), positives_compete=False)
    return Outcome.of(loss=(1.0, loss), cost=(1.0, found.cost))


def foreign(a: Embeddings, c: Embeddings) -> Outcome:
    """Centroids of candidates that all processes have; each anchor's nearest but its own."""
    state = Centroids(2, a.z.shape[1]).to(a.z)
    state.follow(replace(c, z=c.z.detach()))
    a = facts(a, cluster=state.assign(a.z), owner=a.id)
    twins = replace(a, z=a.z.flip(1), view=a.view + 5)
    made = state.foreign(a)
    return infonce(a, Embeddings.cat([twins, made]), rule=without(beside_made(weight=2.0), equal("cluster")))


def remembered(a: Embeddings, c: Embeddings) -> Outcome:
    """Rows of a full memory as positives, after new ones were shared out among its clusters."""
    memory = ClusteredMemory(len(c), a.z.shape[1], clusters=2).to(a.z)
    for rows in (c, replace(c.rows(slice(0, 3)), id=c.id[:3] + 100)):
        memory.push(replace(rows, z=rows.z.detach(), facts={}))
    extra = memory.nearest(a, 2)
    a = replace(a, facts={"owner": a.id})
    twins = replace(a, z=a.z.flip(1), view=a.view + 5)
    return infonce(a, joined([twins, replace(extra, z=extra.z.to(a.z))]), rule=labelled("owner"))


def cut(a: Embeddings, c: Embeddings) -> Outcome:
    """Classes of candidates that all processes have, cut; an anchor is of the cluster of its nearest candidate."""
    cluster = subclasses(c.z.detach(), c.facts["label"], capacity=3)
    near = neighbours(replace(a, z=a.z.detach()), replace(c, z=c.z.detach()), 1).index[:, 0]
    return infonce(facts(a, cluster=cluster[near]), facts(c, cluster=cluster), rule=siblings())


CASES: Cases = {
    "prototypical": Case(with_teacher, replicated=True),
    "swapped": Case(lambda a, c: swapped(views(a), c, coded=(0,), iterations=1), replicated=True),
    "swapped, both and a queue": Case(
        lambda a, c: swapped(views(a), c, past={1: replace(c.rows(slice(0, 3)), z=c.z[:3].detach().flip(1))}, eps=0.2),
        sweeps=False,
        replicated=True,
    ),
    "block_infonce": Case(lambda a, _c: block_infonce(a, rule=labelled(), cluster="label", temperature=0.5)),
    "block_infonce, counted once": Case(
        lambda a, _c: block_infonce(a, rule=labelled(), cluster="label", temperature=0.5, counted=False)
    ),
    "band": Case(partial(band, rule=labelled())),
    "band, of cluster mates": Case(partial(band, rule=cluster_mates("label"))),
    "infonce_hardest": Case(partial(infonce_hardest, k=2, rule=labelled())),
    "infonce_hardest, learnable": Case(partial(infonce_hardest, k=2, rule=labelled(), temperature=T), (T,)),
    "estimated": Case(partial(with_estimates, relative=True)),
    "estimated, absolute": Case(partial(with_estimates, relative=False)),
    "Estimates": Case(followed, sweeps=False),
    "without_equal": Case(two_levels(partial(infonce, rule=without(same_sample, equal("cluster"))))),
    "beside_queue": Case(two_levels(partial(infonce, rule=beside_queue(labelled())))),
    "siblings": Case(two_levels(partial(infonce, rule=siblings()))),
    "beside_made": Case(foreign, sweeps=False, replicated=True),
    "subclasses": Case(cut, sweeps=False, replicated=True),
    "ClusteredMemory": Case(remembered, sweeps=False, replicated=True),
    "Codebook": Case(coded, sweeps=False),
}
