"""Joins, reductions, nearest neighbours: against brute force."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint._ops.join import matches
from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.reduce import mean
from counterpoint.types import Embeddings

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
    found = neighbours(a, c, k, memory=memory)
    scores = a.z @ c.z.T
    for i in range(n):
        allowed = [j for j in range(m) if c.id[j] != a.id[i]]
        expected = sorted(allowed, key=lambda j: -scores[i, j].item())[:k]
        assert [j for j in found.index[i].tolist() if j >= 0] == expected


def test_neighbours_of_nothing_are_nothing() -> None:
    empty, one = Embeddings.of(torch.zeros(0, 2)), Embeddings.of(torch.zeros(1, 2))
    assert neighbours(empty, one, 3).index.shape == (0, 1)
