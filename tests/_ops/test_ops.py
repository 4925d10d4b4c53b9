"""Joins, reductions, nearest neighbours: against brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint._ops.join import matches
from counterpoint._ops.neighbours import neighbours, top
from counterpoint._ops.reduce import mean
from counterpoint._ops.unit import BLOCK, to_unit
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Edges, Embeddings, Pairs, Relation, densify, same_sample

IDS = st.lists(st.integers(0, 5), max_size=8)


@settings(deadline=None)
@given(IDS, IDS)
def test_matches_finds_every_equal_pair_once(left: list[int], right: list[int]) -> None:
    row, col = matches(torch.tensor(left, dtype=torch.int64), torch.tensor(right, dtype=torch.int64))
    expected = [(i, j) for i, x in enumerate(left) for j, y in enumerate(right) if x == y]
    assert sorted(zip(row.tolist(), col.tolist(), strict=True)) == expected


def test_mean_without_weight_is_zero_with_zero_gradient() -> None:
    rows = torch.ones(3, requires_grad=True)
    value = mean(rows, torch.zeros(3))
    value.backward()
    assert value.item() == 0
    assert rows.grad is not None
    assert rows.grad.tolist() == [0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.sampled_from([1, 64, 2**20]))
def test_neighbours_equal_a_full_sort_whatever_the_tile(n: int, m: int, k: int, memory: int) -> None:
    generator = torch.Generator().manual_seed(n * 100 + m)
    a = Embeddings.of(torch.randn(n, 3, generator=generator), id=torch.arange(n))
    c = Embeddings.of(torch.randn(m, 3, generator=generator), id=torch.arange(m) + 2)
    found = neighbours(a, c, k, rule=same_sample, memory=memory)
    scores = a.z @ c.z.T
    for i in range(n):
        allowed = [j for j in range(m) if c.id[j] != a.id[i]]
        expected = sorted(allowed, key=lambda j: -scores[i, j].item())[:k]
        assert [j for j in found.index[i].tolist() if j >= 0] == expected


class OnlyListed:
    elsewhere = (0.0, 0.0)
    known = listed(Relation.of([1, 1, 2, 3], [2, 5, 5, 1], [1.0, 2.0, 0.0, 1.0]))

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        return self.known.edges(a, c)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        return densify(self.edges(a, c), self.elsewhere, a, c)


def by_matrix(a: Embeddings, c: Embeddings) -> Pairs:
    attract = ((a.id[:, None] + c.id[None, :]) % 3 == 0).to(a.z)
    return Pairs(attract, 1 - attract)


NEIGHBOUR_RULES = {
    "same": same_sample, "listed": OnlyListed.known, "only": OnlyListed(), "labelled": labelled(), "matrix": by_matrix,
}  # fmt: skip


@pytest.mark.parametrize("among", ["repelled", "attracted"])
@pytest.mark.parametrize("rule", NEIGHBOUR_RULES.values(), ids=list(NEIGHBOUR_RULES))
@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 9), m=st.integers(1, 40), k=st.integers(1, 7), seed=st.integers(0, 999))
def test_neighbours_look_only_where_the_rule_lets_them(
    rule: Any, among: Any, n: int, m: int, k: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Embeddings:
        label = torch.randint(-1, 3, (size,), generator=generator)
        ids = torch.randint(0, 6, (size,), generator=generator)
        return Embeddings.of(torch.randn(size, 3, generator=generator), id=ids, facts={"label": label})

    a, c = draw(n), draw(m)
    found = neighbours(a, c, k, rule=rule, among=among, memory=60)
    wanted, scores = rule(a, c)[among == "repelled"] > 0, a.z @ c.z.T
    for i in range(n):
        expected = sorted((j for j in range(m) if wanted[i, j]), key=lambda j: -scores[i, j].item())[:k]
        assert [j for j in found.index[i].tolist() if j >= 0] == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 9), st.integers(0, 99))
def test_the_best_groups_hold_the_best(n: int, m: int, k: int, seed: int) -> None:
    score = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    value, place = top(score, min(k, m))
    assert torch.equal(value, score.sort(1, descending=True).values[:, :k])
    assert torch.equal(score.gather(1, place), value)


def test_neighbours_of_nothing_are_nothing() -> None:
    empty, one = Embeddings.of(torch.zeros(0, 2)), Embeddings.of(torch.zeros(1, 2))
    assert neighbours(empty, one, 3).index.shape == (0, 1)


def test_unit_rows_have_the_gradient_of_torch_and_a_second_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 3), (4, 2, 3)):
        z = torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        assert torch.allclose(to_unit(z), torch.nn.functional.normalize(z, dim=-1), rtol=1e-14)
        assert torch.autograd.gradcheck(to_unit, z)
        assert torch.autograd.gradgradcheck(to_unit, z)
    zero = torch.zeros(2, 3, requires_grad=True)
    to_unit(zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_unit_rows_by_blocks_are_those_at_once() -> None:
    z = torch.randn(2 * BLOCK + 7, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.arange(len(z) * 2.0).view(-1, 2)
    (found,) = torch.autograd.grad((to_unit(z) * weight).sum(), z)
    (expected,) = torch.autograd.grad((torch.nn.functional.normalize(z, dim=-1) * weight).sum(), z)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-2)
