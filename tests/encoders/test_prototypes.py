"""Learned prototypes: unit rows, frozen at first, in a checkpoint."""

from __future__ import annotations

import pytest
import torch

from counterpoint.encoders.prototypes import Prototypes


def made(frozen: int = 0) -> Prototypes:
    return Prototypes(4, 3, frozen=frozen, generator=torch.Generator().manual_seed(0))


def test_they_have_length_1_and_ids_of_no_sample() -> None:
    rows = made().rows("label")
    assert torch.allclose(rows.z.norm(dim=1), torch.ones(4))
    assert rows.id.tolist() == [-1, -2, -3, -4]
    assert rows.facts["label"].tolist() == [0, 1, 2, 3]
    assert rows.placement == "replicated"


def test_settle_scales_without_turning() -> None:
    prototypes = made()
    before = prototypes.weight.detach().clone()
    with torch.no_grad():
        prototypes.weight *= torch.tensor([[2.0], [0.1], [7.0], [1.0]])
    prototypes.settle()
    assert torch.allclose(prototypes.weight, before, atol=1e-6)


def test_the_gradient_comes_after_the_frozen_steps() -> None:
    prototypes, seen = made(frozen=2), []
    for _ in range(4):
        seen.append(prototypes.rows().z.requires_grad)
        prototypes.settle()
    assert seen == [False, False, True, True]


def test_the_count_of_steps_is_part_of_a_checkpoint() -> None:
    prototypes, other = made(frozen=1), made(frozen=1)
    prototypes.settle()
    other.load_state_dict(prototypes.state_dict())
    assert other.rows().z.requires_grad


@pytest.mark.parametrize(("count", "frozen"), [(0, 0), (3, -1)])
def test_numbers_out_of_range_are_refused(count: int, frozen: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Prototypes(count, 3, frozen=frozen)
