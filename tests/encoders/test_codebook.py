"""Quantisation: nearest entry by brute force, the authors' cost, the straight-through gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint.encoders.codebook import Codebook


def draw(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_code_is_the_nearest_entry() -> None:
    z, entries = draw(50), 1.5 * draw(7, seed=1)
    assert torch.equal(Codebook(entries).code(z), torch.cdist(z, entries).argmin(1))


@pytest.mark.proves(row=167, fact="reference")
def test_cost_and_gradient_are_those_of_the_authors() -> None:
    """models/TopicDistQuant.py of BobXWu/TSCTM at 3acc759: q_latent + 0.1 e_latent, and the straight-through row."""
    z, weights = draw(9).softmax(1).detach().requires_grad_(), draw(9, seed=2)
    book = Codebook(draw(4, seed=1).softmax(1), commitment=0.1)
    found = book(z)
    entries = book.entries
    distances = z.square().sum(1, keepdim=True) + entries.square().sum(1) - 2 * z @ entries.T
    quantised = entries[distances.argmin(1)]
    e_latent = (quantised.detach() - z).square().sum(1).mean()
    q_latent = (quantised - z.detach()).square().sum(1).mean()
    through = z + (quantised - z).detach()
    wanted = q_latent + 0.1 * e_latent + (through * weights).sum()
    ours = found.cost.loss + (found.z * weights).sum()
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-12)
    for x, y in zip(*(torch.autograd.grad(v, [z, entries]) for v in (ours, wanted)), strict=True):
        assert torch.allclose(x, y, rtol=1e-10)
        assert y.any()


@pytest.mark.proves(row=167, fact="closed-form")
def test_two_rows_by_hand() -> None:
    """Distances squared 0.02 and 1: their mean, times 1 and 0.5."""
    found = Codebook(torch.eye(2), commitment=0.5)(torch.tensor([[0.9, 0.1], [0.0, 2.0]]))
    assert found.cost.terms["entries"].item() == pytest.approx(0.51, rel=1e-6)
    assert found.cost.loss.item() == pytest.approx(0.765, rel=1e-6)
    assert torch.allclose(found.z, torch.eye(2))


def test_entries_move_to_the_means_of_their_rows() -> None:
    torch.manual_seed(0)
    centers = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    z = centers.repeat_interleave(20, 0) + 0.1 * torch.randn(40, 2)
    book = Codebook(torch.eye(2))
    optimizer = torch.optim.SGD(book.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        book(z).cost.loss.backward()
        optimizer.step()
    assert torch.allclose(book.entries, torch.stack([z[:20].mean(0), z[20:].mean(0)]), atol=1e-3)


def test_the_cost_is_the_mean_over_the_rows_of_all_processes() -> None:
    z, book = draw(9), Codebook(draw(3, seed=1))

    def work(rank: int, count: int) -> list[Tensor]:
        loss = book(z[: 9 if count == 1 else 7] if rank == 0 else z[7:]).cost.loss
        return [loss, torch.autograd.grad(loss, book.entries)[0]]

    (one,) = in_processes(1, work)
    parts = in_processes(2, work)
    assert torch.allclose(parts[0][0], one[0])
    assert torch.allclose(parts[0][1] + parts[1][1], one[1])


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Codebook(torch.eye(2), commitment=-1.0)
    assert isinstance(Codebook(torch.eye(2)).entries, nn.Parameter)
