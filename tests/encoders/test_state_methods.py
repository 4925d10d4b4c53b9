"""A whole small method for each kind of state: several processes are one, caching changes nothing, a checkpoint goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.processes import joined
from counterpoint.encoders.clusters import Centroids, ClusteredMemory, Samples
from counterpoint.encoders.codebook import Codebook
from counterpoint.encoders.estimates import Estimates
from counterpoint.encoders.momentum import Queue, follow, teacher_of
from counterpoint.encoders.prototypes import Prototypes
from counterpoint.objectives.clustered import band, block_infonce, prototypical, swapped
from counterpoint.objectives.estimated import estimated
from counterpoint.objectives.hardest import infonce_hardest
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.clusters import beside_made, cluster_mates, siblings
from counterpoint.pairs.filters import equal, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.remembered import against_queue
from counterpoint.testing import (
    assert_method_caches,
    assert_method_encodes_rows,
    assert_method_goes_on,
    assert_method_is_finite,
    assert_method_over_processes,
)
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome, same_sample

ROWS, WIDTH, OUT = 14, 6, 5
Sets = dict[str, Embeddings]


def batch() -> dict[str, Any]:
    """Fourteen rows of three blurred classes."""
    generator = torch.Generator().manual_seed(3)
    label = torch.arange(ROWS) % 3
    centers = torch.randn(3, WIDTH, generator=generator)
    x = centers[label] + 0.7 * torch.randn(ROWS, WIDTH, generator=generator)
    return {"id": torch.arange(ROWS) + 30, "row": torch.arange(ROWS), "x": x, "label": label}


def method(
    objective: Callable[..., Outcome], after: Callable[..., None], teacher: bool = False, **state: Any
) -> Method:
    """One linear layer, for two or three views that are functions of a row."""
    torch.manual_seed(0)
    encoder = nn.Linear(WIDTH, OUT)
    modules = {"encoder": encoder, **({"teacher": teacher_of(encoder)} if teacher else {}), **state}

    def views(b: Batch, _generator: torch.Generator) -> dict[str, Batch]:
        names = ("first", "second", "third")
        return {name: {**b, "x": b["x"].roll(v, 1), "view": v} for v, name in enumerate(names)}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> Sets:
        found = {}
        for name, b in views.items():
            by = modules["teacher"] if teacher and name == "second" else modules["encoder"]
            facts = {"row": b["row"], "label": b["label"]}
            found[name] = Embeddings.of(by(b["x"]), id=b["id"], view=b["view"], facts=facts)
        return found

    return Method(nn.ModuleDict(modules), views, encode, objective, lambda m: m["encoder"], after)


def told(rows: Embeddings, **facts: Tensor) -> Embeddings:
    return replace(rows, facts={**rows.facts, **facts})


def two(sets: Sets) -> Embeddings:
    return Embeddings.cat([sets["first"], sets["second"]])


def swav() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        past = {v: cast(Queue, m[f"past{v}"]).rows() for v in (0, 1)}
        return swapped(
            Embeddings.cat(list(sets.values())), cast(Prototypes, m["prototypes"]).rows(), past=past, eps=0.2
        )

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        cast(Prototypes, m["prototypes"]).settle()
        for v, name in enumerate(("first", "second")):
            cast(Queue, m[f"past{v}"]).push(sets[name].to_unit())

    torch.manual_seed(1)
    return method(objective, after, prototypes=Prototypes(4, OUT, frozen=1), past0=Queue(20, OUT), past1=Queue(20, OUT))


def protoclip() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        tables, parts = [cast(Samples, m[f"samples{v}"]) for v in (0, 1)], {}
        sides = [sets["first"].to_unit(), sets["second"].to_unit()]
        for v, rows in enumerate(sides):
            mine, other = tables[v], tables[1 - v]
            number = torch.arange(3)
            facts = {"cluster": number, "teacher": other.means(3)}
            prototypes = replace(
                Embeddings.of(mine.means(3, other.cluster), id=-1 - number, facts=facts), placement="replicated"
            )
            rows = told(rows, cluster=other.of(rows.facts["row"]))
            parts[f"proto{v}"] = (0.5, prototypical(rows, prototypes, temperature=0.3, teacher_temperature=0.2))
        return Outcome.of(clip=(1.0, infonce(*sides, temperature=0.3, directions="both")), **parts)

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        for v, name in enumerate(("first", "second")):
            cast(Samples, m[f"samples{v}"]).write(sets[name].to_unit())
            cast(Samples, m[f"samples{v}"]).group(3)

    return method(objective, after, samples0=Samples(ROWS, OUT), samples1=Samples(ROWS, OUT))


def beclr() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        anchors, keys = (replace(sets[n], facts={"owner": sets[n].id}) for n in ("first", "second"))
        extra = cast(ClusteredMemory, m["memory"]).nearest(keys, 2)
        return infonce(anchors, joined([keys, extra]), rule=labelled("owner"), temperature=0.3)

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        follow(m["teacher"], m["encoder"], momentum=0.9)
        cast(ClusteredMemory, m["memory"]).push(sets["second"])

    return method(objective, after, teacher=True, memory=ClusteredMemory(12, OUT, clusters=3))


def clusterns() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        state = cast(Centroids, m["centroids"])
        a, c = (told(sets[n], owner=sets[n].id, cluster=state.assign(sets["first"].z)) for n in ("first", "second"))
        candidates = Embeddings.cat([c, state.foreign(a)])
        hard = infonce(a, candidates, rule=without(beside_made(weight=1.5), equal("cluster")), temperature=0.3)
        return Outcome.of(hard=(1.0, hard), band=(0.1, band(a, c, rule=cluster_mates())))

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        cast(Centroids, m["centroids"]).follow(sets["first"])

    return method(objective, after, centroids=Centroids(3, OUT, momentum=0.9))


def tsctm() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        book = cast(Codebook, m["book"])
        topics = book(sets["first"].z.softmax(1))
        rows = Embeddings.cat([replace(sets[n], facts={"code": topics.code}) for n in ("first", "second")])
        loss = partial(infonce, rows, positives_compete=False, temperature=0.5)
        pair, code = loss(rule=without(same_sample, equal("code"))), loss(rule=labelled("code"))
        return Outcome.of(pair=(1.0, pair), code=(0.5, code), cost=(1.0, topics.cost))

    torch.manual_seed(1)
    return method(objective, lambda *_: None, book=Codebook(torch.randn(3, OUT).softmax(1)))


def pamc() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        state = cast(Centroids, m["centroids"])
        rows = [told(sets[n], cluster=state.assign(sets[n].z)) for n in ("first", "second")]
        return block_infonce(Embeddings.cat(rows), temperature=0.4)

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        cast(Centroids, m["centroids"]).follow(two(sets))

    return method(objective, after, centroids=Centroids(3, OUT, momentum=0.9))


def isogclr() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        rows = cast(Estimates, m["estimates"]).of(two(sets))
        return estimated(rows, temperature="temperature", gamma=0.6)

    def after(m: nn.ModuleDict, sets: Sets, outcome: Outcome) -> None:
        cast(Estimates, m["estimates"]).follow(two(sets), outcome)

    return method(objective, after, estimates=Estimates(ROWS, temperature=0.3))


def sbcl() -> Method:
    labels = batch()["label"]

    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        rows = two(sets)
        rows = told(rows, cluster=cast(Samples, m["samples"]).of(rows.facts["row"]))
        fine = infonce(rows, rule=labelled("cluster"), temperature=0.3)
        return Outcome.of(subclass=(1.0, fine), rank=(0.2, infonce(rows, rule=siblings(), temperature=0.5)))

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        cast(Samples, m["samples"]).write(sets["first"])
        cast(Samples, m["samples"]).group(label=labels, capacity=2)

    return method(objective, after, samples=Samples(ROWS, OUT))


def moco_hardest() -> Method:
    def objective(m: nn.ModuleDict, sets: Sets) -> Outcome:
        past = cast(Queue, m["queue"]).rows()
        sides = {"query": (sets["first"], sets["second"]), "key": (sets["second"], sets["first"])}
        loss = partial(infonce_hardest, k=3, rule=against_queue, temperature=0.3)
        plain = {name: [replace(r.to_unit(), facts={}) for r in both] for name, both in sides.items()}
        return Outcome.of(**{name: (0.5, loss(a, joined([c, past]))) for name, (a, c) in plain.items()})

    def after(m: nn.ModuleDict, sets: Sets, _outcome: Outcome) -> None:
        follow(m["teacher"], m["encoder"], momentum=0.9)
        cast(Queue, m["queue"]).push(sets["second"].to_unit())

    return method(objective, after, teacher=True, queue=Queue(20, OUT))


METHODS = (swav, protoclip, beclr, clusterns, tsctm, pamc, isogclr, sbcl, moco_hardest)


@pytest.mark.parametrize("make", METHODS)
def test_several_processes_are_one(make: Callable[[], Method]) -> None:
    assert_method_over_processes(make, batch(), steps=3)


@pytest.mark.parametrize("make", METHODS)
def test_caching_changes_nothing(make: Callable[[], Method]) -> None:
    assert_method_caches(make, batch(), steps=3)


@pytest.mark.parametrize("make", METHODS)
def test_a_checkpoint_goes_on(make: Callable[[], Method]) -> None:
    assert_method_goes_on(make, batch(), steps=2)


@pytest.mark.parametrize("make", METHODS)
def test_it_encodes_rows_and_every_parameter_gets_a_finite_gradient(make: Callable[[], Method]) -> None:
    assert_method_encodes_rows(make, batch())
    assert_method_is_finite(make, batch(), steps=3)


@pytest.mark.parametrize("make", [m for m in METHODS if m is not tsctm])
def test_the_second_step_reads_what_the_first_has_left(make: Callable[[], Method]) -> None:
    """The loss of the same rows under the same weights is another one; a codebook has no state but its weights."""
    m, b = make(), batch()
    views = m.views(b, torch.Generator())
    losses = []
    for _ in range(3):
        with torch.no_grad():
            sets = m.encode(m.modules, views)
        outcome = m.objective(m.modules, sets)
        losses.append(float(outcome.loss.detach()))
        m.after(m.modules, sets, outcome)
    assert len(set(losses)) > 1
