"""A softmax over shared and private candidates: loops, the union, no private rows, gradients, other rows' private rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from counterpoint.objectives.private import infonce_private
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.synthetic import made, private_to
from counterpoint.types import Embeddings, Pairs, same_sample
from tests.objectives.contract import RULES, two_sets


def own_rows(a: Embeddings, seed: int) -> Embeddings:
    """Two private rows of each anchor, one of which mostly attracts it."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, *a.z.shape, generator=generator, dtype=torch.float64)
    return Embeddings.cat([made(a, z[0], attracts=0.0), made(a, z[1], attracts=0.75)])


def in_one(rule: Callable[..., Pairs]) -> Callable[..., Pairs]:
    """A rule over candidates some of which are private."""

    def both(a: Embeddings, c: Embeddings) -> Pairs:
        first, second = rule(a, c), private_to()(a, c)
        mine = (c.id < 0)[None, :]
        return Pairs(*(torch.where(mine, x, y) for x, y in zip(second, first, strict=True)))

    return both


@pytest.mark.parametrize(("compete", "unit"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("name", ["same sample", "labelled", "graded"])
def test_it_is_infonce_over_the_union(name: str, compete: bool, unit: bool) -> None:
    a, c, (za, zc) = two_sets(9, 13, 3, torch.float64)
    own = own_rows(a, 1)
    z = own.z.requires_grad_()
    how = {"temperature": 0.3, "positives_compete": compete, "unit": unit}
    loss = infonce_private(a, c, own, own=private_to(), rule=RULES[name], **how).loss
    labels = torch.cat([c.facts["label"], torch.zeros(len(own), dtype=torch.int64)])
    attracts = torch.cat([torch.zeros(len(c)), own.facts["attracts"]])  # a union drops what not all rows have
    everything = replace(Embeddings.cat([c, own]), facts={"attracts": attracts, "label": labels})
    expected = infonce(a, everything, rule=in_one(RULES[name]), **how)
    assert torch.allclose(loss, expected.loss)
    leaves = (za, zc, z)
    for one, two in zip(*(torch.autograd.grad(x, leaves) for x in (loss, expected.loss)), strict=True):
        assert torch.allclose(one, two)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_without_private_rows_it_is_infonce(rule: Callable[..., Pairs]) -> None:
    a, c, (za, zc) = two_sets(9, 13, 0, torch.float64)
    none = own_rows(a, 0).rows(slice(0, 0))
    found = infonce_private(a, c, none, own=private_to(), rule=rule, temperature=0.3)
    plain = infonce(a, c, rule=rule, temperature=0.3)
    assert torch.equal(found.loss, plain.loss)
    for one, two in zip(*(torch.autograd.grad(x.loss, (za, zc)) for x in (found, plain)), strict=True):
        assert torch.allclose(one, two, rtol=1e-12)
    assert all(torch.equal(found.notes[name], note) for name, note in plain.notes.items())


def test_of_two_anchors_by_hand() -> None:
    a, c = Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1)
    own = made(a, -torch.eye(2), attracts=0.0)
    found = infonce_private(a, c, own, own=private_to(), temperature=1.0)
    assert found.loss.item() == pytest.approx(math.log(math.e + 1 + 1 / math.e) - 1, rel=1e-6)
    assert found.notes["negatives"].tolist() == [2.0, 2.0]
    assert found.notes["negative"].tolist() == pytest.approx([-0.5, -0.5])


def test_a_private_row_is_nobody_elses() -> None:
    a, c, (za, _) = two_sets(7, 11, 2, torch.float64)
    a = Embeddings.of(za, id=torch.arange(7), facts=a.facts)
    own = made(a, own_rows(a, 1).z[:7].requires_grad_(), attracts=0.0)
    each: list[Tensor] = []
    for i in range(7):
        loss = infonce_private(a.rows(slice(i, i + 1)), c, own, own=private_to(), rule=labelled(), temperature=0.3).loss
        each.append(torch.autograd.grad(loss, own.z)[0].abs().sum(1) > 0)
    seen = torch.stack(each)
    assert (seen == torch.diag(seen.diagonal())).all()
    assert seen.sum() >= 3


def test_private_rows_alone_can_be_positive_and_negative() -> None:
    a = Embeddings.of(torch.eye(2))
    nothing = Embeddings.of(torch.zeros(0, 2), id=torch.zeros(0, dtype=torch.int64))
    own = Embeddings.cat([made(a, torch.eye(2), attracts=1.0), made(a, -torch.eye(2), attracts=0.0)])
    loss = infonce_private(a, nothing, own, own=private_to(), rule=same_sample, temperature=1.0).loss
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("compete", [True, False])
def test_an_anchor_with_positives_alone_counts_only_where_they_compete(compete: bool) -> None:
    a, c, _ = two_sets(5, 0, 0, torch.float64)
    a = replace(a, id=torch.arange(5))
    rows = Embeddings.cat([made(a, own_rows(a, seed).z[:5], attracts=1.0) for seed in (1, 2)])
    rows = Embeddings.cat([rows, made(a.rows(slice(0, 2)), own_rows(a, 3).z[:2], attracts=0.0)])  # two have a negative
    found = infonce_private(a, c, rows, own=private_to(), temperature=0.3, positives_compete=compete).loss
    plain = infonce(a, rows, rule=private_to(), temperature=0.3, positives_compete=compete).loss
    some = infonce(a.rows(slice(0, 2)), rows, rule=private_to(), temperature=0.3, positives_compete=compete).loss
    assert torch.allclose(found, plain)
    assert torch.allclose(found, some) != compete
