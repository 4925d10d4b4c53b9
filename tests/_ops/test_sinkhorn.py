"""Balanced assignment: marginals, the authors' loop, limits, tiles and processes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint._ops.sinkhorn import Plan, sinkhorn
from counterpoint._ops.sweep import sweeping
from counterpoint.types import Embeddings


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def plan_of(z: Tensor, p: Tensor, *, eps: float = 0.05, iterations: int = 3) -> tuple[Plan, Tensor]:
    """The plan, and its matrix."""
    there = replace(Embeddings.of(p), placement="replicated")
    plan = sinkhorn(Embeddings.of(z), there, scale=1 / eps, iterations=iterations)
    return plan, (z @ p.T / eps + plan.rows[:, None] + plan.columns).exp()


def authors_codes(scores: Tensor, eps: float, iterations: int) -> Tensor:
    """main_swav.py of facebookresearch/swav at 04b8f43, distributed_sinkhorn, for one process: Q is [k, n]."""
    q = (scores / eps).exp().T
    q = q / q.sum()
    k, n = q.shape
    for _ in range(iterations):
        q = q * ((1 / k) / q.sum(1, keepdim=True))
        q = q * ((1 / n) / q.sum(0, keepdim=True))
    return (q / q.sum(0, keepdim=True)).T


@pytest.mark.proves(row=23, fact="reference")
@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
@pytest.mark.parametrize(("n", "k"), [(32, 5), (7, 9)])
def test_codes_are_those_of_the_authors(iterations: int, n: int, k: int) -> None:
    z, p = unit(n), unit(k, seed=1)
    _, found = plan_of(z, p, iterations=iterations)
    assert torch.allclose(found, authors_codes(z @ p.T, 0.05, iterations), rtol=1e-9, atol=1e-12)


@pytest.mark.proves(row=10, fact="reference")
def test_codes_are_those_of_the_clustered_memory_too() -> None:
    """utils/sinkhorn.py of stypoumic/BECLR at a4f5f60: per prototype 1/K, per sample 1/B, in turn."""
    z, p = unit(24), unit(4, seed=1)
    q = (z @ p.T / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 4
        q = q / q.sum(0, keepdim=True) / 24
    assert torch.allclose(plan_of(z, p)[1], (q * 24).T, rtol=1e-9)


def test_rows_are_given_away_whole_and_columns_get_equally_much() -> None:
    z, p = unit(40), unit(5, seed=1)
    _, found = plan_of(z, p, eps=0.2, iterations=100)
    assert torch.allclose(found.sum(1), torch.ones(40, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found.sum(0), torch.full((5,), 8.0, dtype=torch.float64), atol=1e-6)


def test_two_rows_by_hand() -> None:
    """Scores [[2, 0], [1, 0]]: with x = exp(a diagonal of the plan), symmetry gives odds of exp(1/2)."""
    z, p = torch.tensor([[2.0, 0.0], [1.0, 0.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    _, found = plan_of(z, p, eps=1.0, iterations=200)
    share = math.exp(0.5) / (1 + math.exp(0.5))
    assert torch.allclose(found, torch.tensor([[share, 1 - share], [1 - share, share]], dtype=torch.float64))


def test_a_large_eps_is_even_and_a_small_one_does_not_overflow() -> None:
    z, p = unit(12), unit(4, seed=1)
    assert torch.allclose(plan_of(z, p, eps=1e7)[1], torch.full((12, 4), 0.25, dtype=torch.float64), atol=1e-6)
    _, sharp = plan_of(z.float(), p.float(), eps=1e-4, iterations=50)
    assert torch.isfinite(sharp).all()
    assert torch.allclose(sharp.sum(1), torch.ones(12), atol=1e-2)


def test_tiles_equal_the_dense_reference() -> None:
    z, p = unit(33), unit(7, seed=1)
    with sweeping(backend="dense"):
        dense = plan_of(z, p)[0]
    with sweeping(memory=1500):
        tiled = plan_of(z, p)[0]
    assert all(torch.allclose(x, y, rtol=1e-10) for x, y in zip(dense, tiled, strict=True))


@pytest.mark.parametrize("sizes", [(5, 7, 12), (0, 24, 0), (22, 1, 1)])
def test_uneven_processes_are_one(sizes: tuple[int, ...]) -> None:
    z, p = unit(24), unit(4, seed=1)
    cuts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    wanted = plan_of(z, p)[0]
    parts = in_processes(3, lambda rank, _count: list(plan_of(z[cuts[rank] : cuts[rank + 1]], p)[0]))
    assert torch.allclose(torch.cat([part[0] for part in parts]), wanted.rows, rtol=1e-10)
    for part in parts:
        assert torch.allclose(part[1], wanted.columns, rtol=1e-10)


def test_rows_that_every_process_has_are_counted_once() -> None:
    z, p = unit(24), unit(4, seed=1)

    def work(_rank: int, _count: int) -> list[Tensor]:
        kept, there = (replace(Embeddings.of(x), placement="replicated") for x in (z, p))
        return list(sinkhorn(kept, there, scale=20.0, iterations=3))

    for part in in_processes(2, work):
        assert torch.allclose(part[1], plan_of(z, p)[0].columns, rtol=1e-10)
