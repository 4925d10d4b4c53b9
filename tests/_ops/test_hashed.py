"""Numbers drawn by identity: the published generator, even, and the same wherever a row stands."""

from __future__ import annotations

import torch

from counterpoint._ops.hashed import STEP, hashed_uniform, mixed


def test_the_mixer_is_splitmix64() -> None:
    # The first outputs of the reference implementation (Vigna, splitmix64.c) from the state 1234567.
    out = [int(mixed(torch.tensor(1234567) + torch.tensor(STEP) * k)) % 2**64 for k in (1, 2, 3)]
    assert out == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_even_and_belong_to_their_keys() -> None:
    x = hashed_uniform(3, torch.arange(20_000))
    assert x.min() >= 0
    assert x.max() < 1
    assert torch.histc(x.float(), 10, 0, 1).sub(2000).abs().max() < 250
    order = torch.randperm(20_000)
    assert torch.equal(hashed_uniform(3, torch.arange(20_000)[order]), x[order])
    assert not torch.equal(hashed_uniform(4, torch.arange(20_000)), x)


def test_keys_broadcast_and_are_not_exchangeable() -> None:
    grid = hashed_uniform(0, torch.arange(3)[:, None], torch.arange(4))
    assert grid.shape == (3, 4)
    assert grid[1, 2] == hashed_uniform(0, torch.tensor([1]), torch.tensor([2]))
    assert grid[1, 2] != grid[2, 1]
    assert len(torch.unique(grid)) == 12
    assert hashed_uniform(0, torch.tensor([-5, 2**62])).shape == (2,)
