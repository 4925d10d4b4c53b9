"""Draws belong to rows: the same in any batch, order or process; and they are uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from counterpoint._ops.hashed import mixed
from counterpoint.views.draws import uniform
from counterpoint.views.items import anchors_and_candidates, draw

MASK = 2**64 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def splitmix64(state: int) -> int:
    """The published function on whole numbers without a sign."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_the_mix_is_splitmix64() -> None:
    states = torch.empty(200, dtype=torch.int64).random_(generator=seeded()) * torch.tensor([1, -1]).repeat(100)
    assert [x & MASK for x in mixed(states).tolist()] == [splitmix64(s & MASK) for s in states.tolist()]


def test_numbers_by_plain_loops() -> None:
    salt = int(torch.empty((), dtype=torch.int64).random_(generator=seeded(3)))
    step, rows = 0x9E3779B97F4A7C15, [0, 5, 2**40]
    first = splitmix64((salt + step) & MASK)
    expected = [
        [(splitmix64(((splitmix64(((first ^ r) + step) & MASK) ^ c) + step) & MASK) >> 11) / 2**53 for c in (0, 1)]
        for r in rows
    ]
    assert uniform(seeded(3), rows, 2).tolist() == expected


def test_they_do_not_depend_on_the_batch() -> None:
    rows = torch.arange(100, 164)
    whole = uniform(seeded(), rows, 5)
    order = torch.randperm(64, generator=seeded(1))
    assert torch.equal(uniform(seeded(), rows[order], 5), whole[order])
    assert torch.equal(torch.cat([uniform(seeded(), part, 5) for part in rows.chunk(4)]), whole)
    assert torch.equal(uniform(seeded(), rows, 3), whole[:, :3])  # nor on how many columns there are
    assert torch.equal(uniform(seeded(), rows), whole[:, 0])


def test_one_draw_moves_the_generator_by_one_number_however_many_rows() -> None:
    states = []
    for count in (0, 1, 100):
        generator = seeded()
        uniform(generator, list(range(count)), 3)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    generator = seeded()
    assert not torch.equal(uniform(generator, [1, 2]), uniform(generator, [1, 2]))


@pytest.mark.parametrize("axis", ["rows", "columns", "steps"])
def test_they_are_uniform_and_uncorrelated_along(axis: str) -> None:
    generator = seeded(7)
    if axis == "steps":
        numbers = torch.stack([uniform(generator, [3])[0] for _ in range(4000)]).numpy()
    else:
        numbers = (
            uniform(generator, range(4000) if axis == "rows" else [3], 1 if axis == "rows" else 4000).numpy().ravel()
        )
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.06


def test_each_item_of_a_cell_is_drawn_equally_often() -> None:
    generator = seeded()
    counts = dict.fromkeys("abcd", 0)
    for _ in range(300):
        for item in draw([list("abcd")] * 10, 2, rows=torch.arange(10), generator=generator):
            counts[item] += 1
    assert min(counts.values()) > 1500 - 4 * 27  # 3,000 draws of 1/2 each: deviation 27
    assert sum(counts.values()) == 6000


def test_no_item_is_drawn_twice_and_the_order_stays() -> None:
    for seed in range(20):
        taken = draw([[1, 2, 3, 4, 5]], 3, rows=torch.tensor([seed]), generator=seeded(seed))
        assert taken == sorted(set(taken))
        assert len(taken) == 3


def test_a_batch_in_pieces_draws_what_the_whole_draws() -> None:
    positives = [[f"p{i}{j}" for j in range(1 + i % 4)] for i in range(12)]
    negatives = [[f"n{i}{j}" for j in range(i % 5)] for i in range(12)]

    def batch(at: range) -> dict:
        columns = {"id": torch.tensor(list(at)), "row": torch.tensor(list(at)) + 50, "anchor": [f"a{i}" for i in at]}
        return columns | {"positive": [positives[i] for i in at], "negative": [negatives[i] for i in at]}

    views = anchors_and_candidates(negatives=2)
    whole = views(batch(range(12)), seeded())["candidate"]["text"]
    parts = [views(batch(at), seeded())["candidate"]["text"] for at in (range(5), range(5, 6), range(6, 12))]
    assert sorted(whole) == sorted(text for part in parts for text in part)
    assert whole[:12] != [cell[0] for cell in positives], "something is drawn"
