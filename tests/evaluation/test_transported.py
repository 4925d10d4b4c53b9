"""Prototypes moved by a plan: the authors' loop, a fixed point, limits, and a support that is off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from counterpoint.evaluation.transported import transported


def draw(n: int, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(each: int = 10, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Queries of three classes, equally many of each."""
    label = torch.arange(3).repeat_interleave(each)
    return 2 * torch.eye(3, dtype=torch.float64)[label] + spread * draw(3 * each), label


def means(z: Tensor, label: Tensor) -> Tensor:
    return torch.stack([z[label == k].mean(0) for k in range(3)])


@pytest.mark.proves(row=10, fact="reference")
@pytest.mark.parametrize("passes", [1, 3])
def test_it_is_the_loop_of_the_authors(passes: int) -> None:
    """utils/optimal_transport.py and sinkhorn.py of stypoumic/BECLR at a4f5f60, run until potentials stand still.

    They add 1e-8 to the marginals inside the logarithm.
    """
    z, support = draw(24), draw(4, seed=1)
    wanted = support
    for _ in range(passes):
        cost = (wanted[:, None] - z[None]).square().sum(-1)
        cost = cost / cost.max()
        u, v = torch.zeros(4, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
        for _ in range(300):
            u = 0.1 * (torch.tensor(1 / 4).log() - ((-cost + u[:, None] + v) / 0.1).logsumexp(1)) + u
            v = 0.1 * (torch.tensor(1 / 24).log() - ((-cost + u[:, None] + v) / 0.1).logsumexp(0)) + v
        plan = ((-cost + u[:, None] + v) / 0.1).exp()
        wanted = plan / plan.sum(1, keepdim=True) @ z
    assert torch.allclose(transported(support, z, eps=0.1, iterations=300, passes=passes), wanted, rtol=1e-6)


@pytest.mark.proves(row=10, fact="closed-form")
def test_the_means_of_the_queries_of_each_class_stay_as_they_are() -> None:
    z, label = classes()
    assert torch.allclose(transported(means(z, label), z, eps=1e-3), means(z, label), atol=1e-9)


def test_a_large_eps_gives_the_mean_of_all() -> None:
    z, _ = classes()
    assert torch.allclose(transported(draw(3, seed=4), z, eps=1e6), z.mean(0).expand(3, 3), atol=1e-4)


def test_a_support_that_is_off_finds_its_class() -> None:
    """One example a class, moved away: the nearest prototype of a query is right more often after transport."""
    z, label = classes(spread=0.4)
    support = means(z, label) + torch.tensor([1.3, 0.9, -1.0], dtype=torch.float64)
    right = [float((torch.cdist(z, p).argmin(1) == label).double().mean()) for p in (support, transported(support, z))]
    assert right[0] < 0.9 < right[1]


def test_a_rotation_and_an_order_change_nothing() -> None:
    z, support = draw(24), draw(4, seed=1)
    turn = torch.linalg.qr(draw(3, seed=2))[0]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(transported(support @ turn, (z @ turn)[order]), transported(support, z) @ turn, atol=1e-9)


@pytest.mark.parametrize("wrong", [{"eps": 0.0}, {"iterations": 0}, {"passes": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="wanted an eps"):
        transported(draw(2), draw(4), **wrong)
