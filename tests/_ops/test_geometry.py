"""How rows fill their space: closed forms, plain loops, invariances, what is not defined."""

from __future__ import annotations

import math

import pytest
import torch

from counterpoint._ops.geometry import duplicates, rankme, shared_neighbours, width
from counterpoint.objectives.spread import alignment, uniformity


def some(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_rankme_of_a_frame_is_its_width_and_of_one_line_is_one(d: int) -> None:
    frame = torch.linalg.qr(some(d, d)).Q
    assert rankme(frame) == pytest.approx(d, rel=1e-4)
    assert rankme(torch.cat([frame, -3 * frame])) == pytest.approx(d, rel=1e-4)
    assert rankme(torch.ones(5, 1) @ some(1, d)) == pytest.approx(1, abs=1e-3)


def test_rankme_of_two_known_singular_values() -> None:
    """p = 3/4, 1/4: singular values, not their squares (which would give 0.9 and 0.1)."""
    z = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(z) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_rankme_adds_its_epsilon_to_each_share() -> None:
    share = torch.tensor([1.0] + [0.0] * 999, dtype=torch.float64) + 1e-7
    z = torch.zeros(1000, 1000, dtype=torch.float64)
    z[0, 0] = 5
    assert rankme(z) == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-9)
    assert rankme(z) > 1.001


def test_rankme_is_not_centred_and_knows_no_scale_rotation_or_order() -> None:
    z = some(20, 6)
    turn = torch.linalg.qr(some(6, 6, 1)).Q
    for same in (7 * z, z @ turn, z.flip(0)):
        assert rankme(same) == pytest.approx(rankme(z), rel=1e-4)
    assert rankme(z + 100) < 2 < rankme(z)


def test_width_is_one_on_an_even_sphere_and_zero_when_all_rows_are_equal() -> None:
    frame = torch.eye(5)
    assert width(torch.cat([frame, -frame])) == pytest.approx(1)
    assert width(torch.cat([2 * frame, -9 * frame])) == pytest.approx(1)
    assert width(torch.ones(4, 5)) == pytest.approx(0, abs=1e-6)


def test_width_by_plain_loops_and_its_bound_by_the_mean_cosine() -> None:
    z = some(9, 4) + 1
    unit = z / z.norm(dim=1, keepdim=True)
    total = 0.0
    for k in range(4):
        mean = sum(float(unit[i, k]) for i in range(9)) / 9
        total += math.sqrt(sum((float(unit[i, k]) - mean) ** 2 for i in range(9)) / 9)
    assert width(z) == pytest.approx(2 * total / 4, rel=1e-5)
    assert width(z) <= math.sqrt(1 - float((unit @ unit.T).mean())) + 1e-6


def test_duplicates_count_rows_and_not_contents() -> None:
    ids = torch.tensor([5, 6, 5, 7, 5])
    assert duplicates(ids) == pytest.approx(0.6)
    assert duplicates(ids, torch.tensor([0, 0, 1, 0, 0])) == pytest.approx(0.4)  # two of the three in one view
    assert duplicates(torch.arange(4)) == 0


@pytest.mark.parametrize("k", [1, 3, 8, 50])
def test_shared_neighbours_by_plain_loops(k: int) -> None:
    x, y = some(12, 3), some(12, 5, 1)
    both, most = 0, min(k, 11)
    near = []
    for z in (x, y):
        unit = z / z.norm(dim=1, keepdim=True)
        lists = [sorted((j for j in range(12) if j != i), key=lambda j: -float(unit[i] @ unit[j])) for i in range(12)]
        near.append([set(one[:most]) for one in lists])
    both = sum(len(a & b) for a, b in zip(*near, strict=True))
    assert shared_neighbours(x, y, k) == pytest.approx(both / 12 / most)
    assert shared_neighbours(x, 4 * x, k) == 1


def test_shared_neighbours_of_strangers_is_chance() -> None:
    found = [shared_neighbours(some(60, 8, i), some(60, 8, 100 + i), 6) for i in range(40)]
    assert sum(found) / 40 == pytest.approx(6 / 59, abs=0.01)


def test_shared_neighbours_of_equal_rows_never_counts_oneself() -> None:
    x = torch.ones(30, 2)
    assert 0 <= shared_neighbours(x, some(30, 2), 3) <= 1
    assert shared_neighbours(x, x, 3) == 1


def test_what_is_not_defined_is_nan_and_what_does_not_fit_is_said() -> None:
    nothing, broken = torch.empty(0, 3), torch.tensor([[math.nan, 1.0]])
    for value in (rankme(nothing), rankme(broken), rankme(torch.zeros(2, 2)), width(nothing)):
        assert math.isnan(value)
    assert math.isnan(shared_neighbours(torch.ones(1, 2), torch.ones(1, 2), 1))
    assert math.isnan(duplicates(torch.empty(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match="as many rows"):
        shared_neighbours(torch.ones(3, 2), torch.ones(2, 2), 1)


def test_half_precision_is_read_in_fp32() -> None:
    z = some(8, 4)
    assert rankme(z.bfloat16()) == pytest.approx(rankme(z), rel=0.02)
    assert width(z.bfloat16()) == pytest.approx(width(z), rel=0.02)


def test_the_two_that_are_objectives_too() -> None:
    assert uniformity(torch.ones(4, 3)).loss.item() == pytest.approx(0, abs=1e-6)
    assert alignment(torch.eye(3), -torch.eye(3)).loss.item() == pytest.approx(4)
