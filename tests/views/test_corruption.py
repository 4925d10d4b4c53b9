"""SCARF's views: how many features change, to what, and that rows draw for themselves."""

from __future__ import annotations

import pytest
import torch

from counterpoint.views.arrays import clean_and_corrupted, corrupted
from counterpoint.views.draws import uniform

ROWS = torch.arange(6 * 10, dtype=torch.float32).reshape(6, 10)
POOL = -torch.arange(1, 8 * 10 + 1, dtype=torch.float32).reshape(8, 10)  # below 0: never equal to a row's own value


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.6, 6), (0.69, 6), (1.0, 10)])
def test_floor_of_rate_times_features_change_to_values_of_the_same_feature(rate: float, count: int) -> None:
    found = corrupted(ROWS, torch.arange(6), POOL, rate=rate, generator=seeded())
    changed = found != ROWS
    assert changed.sum(1).tolist() == [count] * 6
    for i, j in changed.nonzero().tolist():
        assert found[i, j] in POOL[:, j]


def test_by_plain_loops() -> None:
    generator = seeded(4)
    order, donors = (uniform(generator, [9, 2], 10) for _ in range(2))
    expected = ROWS[:2].clone()
    for i in range(2):
        for j in sorted(range(10), key=lambda j: order[i, j].item())[:6]:
            expected[i, j] = POOL[int(donors[i, j] * 8), j]
    assert torch.equal(corrupted(ROWS[:2], torch.tensor([9, 2]), POOL, rate=0.6, generator=seeded(4)), expected)


def test_every_feature_and_every_donor_has_its_turn() -> None:
    rows = torch.zeros(4000, 4)
    pool = torch.arange(1, 6, dtype=torch.float32)[:, None].expand(5, 4)
    found = corrupted(rows, torch.arange(4000), pool, rate=0.5, generator=seeded())
    assert ((found > 0).sum(0) - 2000).abs().max() < 4 * 32
    counts = torch.stack([(found == k).sum() for k in range(1, 6)])
    assert (counts - 1600).abs().max() < 4 * 36
    same = (found[:, :1] == found[:, 1:2]) & (
        found[:, :1] > 0
    )  # donors of two features are drawn apart: 1 in 5 are equal
    both = (found[:, :2] > 0).all(1)
    assert 0.13 < same.sum() / both.sum() < 0.27


def test_shape_stays_and_pieces_draw_what_the_whole_draws() -> None:
    rows, pool = ROWS.reshape(6, 2, 5), POOL.reshape(8, 2, 5)
    views = clean_and_corrupted(pool, rate=0.6)

    def second(at: slice) -> torch.Tensor:
        batch = {"id": torch.arange(6)[at], "row": torch.arange(20, 26)[at], "anchor": rows[at]}
        found = views(batch, seeded())
        assert torch.equal(found["first"]["array"], rows[at])
        return found["second"]["array"]

    whole = second(slice(None))
    assert whole.shape == rows.shape
    assert torch.equal(torch.cat([second(slice(0, 2)), second(slice(2, 6))]), whole)
