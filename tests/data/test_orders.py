"""Orders of batches: what every one of them promises, then what each alone does, against plain loops and closed forms."""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.data import orders
from counterpoint.data.deal import Order, dealer, generator_of, in_turn
from counterpoint.data.distinct import distinct_stream
from counterpoint.data.hard import table_of
from counterpoint.data.mixtures import shares, whole_counts
from counterpoint.data.orders import balanced, by_source, distinct, endless, grouped, hard, mixed, shuffled, used
from counterpoint.errors import Refusal
from counterpoint.types import Embeddings


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ring(n: int, k: int) -> np.ndarray:
    """The neighbours of rows on a circle: 1 step away, then 2, and so on, on both sides."""
    steps = [s for d in range(1, k) for s in (d, -d)][:k]
    return (np.arange(n)[:, None] + np.array(steps)) % n


# Every order over 203 rows with batches of 8, by what it needs.
MAKE: dict[str, Callable[[int], Order]] = {
    "shuffled": lambda seed: shuffled(203, batch=8, seed=seed),
    "distinct": lambda seed: distinct([[int(i)] for i in draw(0).integers(0, 60, 203)], batch=8, seed=seed),
    "by_source": lambda seed: by_source(draw(0).integers(0, 4, 203), batch=8, seed=seed),
    "by_source, hot": lambda seed: by_source(np.arange(203) // 60, batch=8, seed=seed, temperature=4.0),
    "mixed": lambda seed: mixed(draw(0).integers(0, 4, 203), batch=8, seed=seed),
    "mixed, hot": lambda seed: mixed(np.arange(203) // 60, batch=8, seed=seed, temperature=4.0),
    "balanced": lambda seed: balanced(np.arange(203) % 20, batch=8, seed=seed, per_class=2),
    "grouped": lambda seed: grouped(draw(0).integers(0, 40, 203), batch=8, seed=seed),
    "hard": lambda seed: hard(ring(203, 10), batch=8, seed=seed),
}
ONCE = [name for name in MAKE if name not in ("by_source, hot", "mixed, hot", "balanced")]


def test_every_order_is_tried() -> None:
    assert {name.split(",")[0] for name in MAKE} == set(orders.__all__)


@pytest.mark.parametrize("name", MAKE)
def test_batches_are_whole_and_hold_no_row_twice(name: str) -> None:
    for epoch in range(3):
        batches = list(MAKE[name](1)(epoch))
        assert len(batches) > 15
        for at in batches:
            assert at.dtype == np.int64
            assert at.shape == (8,) == (len(set(at.tolist())),)
            assert 0 <= at.min() <= at.max() < 203


@pytest.mark.parametrize("name", MAKE)
def test_seed_and_epoch_decide_everything(name: str) -> None:
    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(list(MAKE[name](seed)(epoch))).tolist()

    order = MAKE[name](1)
    half = order(0)
    next(half)  # an epoch that is left in the middle leaves nothing behind
    again = np.concatenate(list(order(3))).tolist()
    assert flat(1, 3) == again == np.concatenate(list(order(3))).tolist()
    assert len({str(flat(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("name", ONCE)
def test_no_row_comes_twice_in_an_epoch(name: str) -> None:
    assert all(used(MAKE[name](0), 203, epoch=epoch).again == 0 for epoch in range(3))


@pytest.mark.parametrize("name", MAKE)
def test_every_row_is_used_in_the_long_run(name: str) -> None:
    order = MAKE[name](0)
    seen = {int(i) for epoch in range(40) for at in order(epoch) for i in at}
    alone = set()
    if name == "grouped":  # rows whose label has no other row
        labels = draw(0).integers(0, 40, 203)
        alone = {i for i in range(203) if (labels == labels[i]).sum() == 1}
    assert seen == set(range(203)) - alone


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**63 - 1))
def test_a_shuffle_leaves_no_row_out_twice_in_a_row(n: int, batch: int, seed: int) -> None:
    batch = min(n, batch)
    order = shuffled(n, batch=batch, seed=seed)
    seen = [sorted(np.concatenate(list(order(epoch))).tolist()) for epoch in range(6)]
    assert all(len(rows) == len(set(rows)) == n - n % batch for rows in seen)
    assert all(set(a) | set(b) == set(range(n)) for a, b in itertools.pairwise(seen))
    if n % batch:  # and each row is left out equally often, within one
        times = Counter(i for e in range(3 * n) for i in set(range(n)) - set(np.concatenate(list(order(e))).tolist()))
        assert {times[i] for i in range(n)} == {3 * (n % batch)}


def test_a_shuffle_is_uniform() -> None:
    found = Counter(tuple(np.concatenate(list(shuffled(3, batch=1, seed=s)(0))).tolist()) for s in range(3000))
    assert len(found) == 6
    assert all(abs(count - 500) < 5 * math.sqrt(500 * 5 / 6) for count in found.values())


def test_a_dealer_deals_each_row_once_a_pass() -> None:
    deal = dealer(np.arange(7), draw(0))
    dealt = [deal(3) for _ in range(7)]
    assert all(len(set(d.tolist())) == 3 for d in dealt)
    assert Counter(np.concatenate(dealt).tolist()) == dict.fromkeys(range(7), 3)


def test_generators_of_other_numbers_differ() -> None:
    assert (
        len({generator_of(*numbers).random() for numbers in ((5,), (5, 0), (5, 1), (6, 0), (0, 5), (5 + 2**32, 0))})
        == 6
    )
    assert sorted(in_turn(np.array([4, 9, 2]), batch=2, seed=0, epoch=7).tolist()) == [2, 4, 9]


# distinct


def naive(ids: list[list[int]], order: list[int], batch: int) -> list[list[int]]:
    """Go through all deferred rows again for every batch, as the slow sampler does: a bound on what greedy can use."""
    rest, batches = list(order), []
    while True:
        chosen, taken, later = [], set(), []
        for row in rest:
            if len(chosen) < batch and not taken & set(ids[row]):
                chosen.append(row)
                taken |= set(ids[row])
            else:
                later.append(row)
        if len(chosen) < batch:
            return batches
        batches.append(chosen)
        rest = later


ragged = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=6, max_size=80)


@settings(max_examples=150, deadline=None)
@given(ragged, st.integers(2, 6), st.integers(0, 3))
def test_no_content_stands_twice_in_a_batch(ids: list[list[int]], batch: int, seed: int) -> None:
    stream = distinct(ids, batch=batch, seed=seed)(0)
    rows: list[int] = []
    try:
        while True:
            at = next(stream).tolist()
            assert len(at) == batch
            for a, b in itertools.combinations(at, 2):
                assert not set(ids[a]) & set(ids[b])
            rows += at
    except StopIteration as end:
        left = end.value
    assert len(rows) == len(set(rows)) == len(ids) - left  # each row is used once or counted as left over


@settings(max_examples=60, deadline=None)
@given(ragged, st.integers(2, 6))
def test_waiting_in_turn_uses_about_as_many_rows_as_going_through_all_again(ids: list[list[int]], batch: int) -> None:
    order = generator_of(0, 0).permutation(len(ids)).tolist()
    ours = used(distinct(ids, batch=batch, seed=0), len(ids)).batches
    assert abs(ours - len(naive(ids, order, batch))) <= 2


@pytest.mark.parametrize("contents", [64, 80, 200])
def test_one_content_a_row_reaches_the_bound_of_counting(contents: int) -> None:
    """B batches can use min(count, B) rows of a content, so B is the largest with sum of min(count, B) >= B batch."""
    which = draw(1).integers(0, contents, 10_000)
    count = np.bincount(which)
    best = max(b for b in range(200) if np.minimum(count, b).sum() >= 64 * b)
    found = used(distinct([[int(i)] for i in which], batch=64, seed=0), 10_000).batches
    assert best - 3 <= found <= best


def test_a_content_in_half_of_the_rows_gets_one_place_in_every_batch() -> None:
    ids = [[0] if i % 2 else [i + 1] for i in range(1, 401)]
    batches = list(distinct(ids, batch=5, seed=0)(0))
    assert len(batches) == 50  # the other half gives 4 of 5 places
    assert all(sum(ids[i] == [0] for i in at.tolist()) == 1 for at in batches)


def test_no_row_waits_for_ever() -> None:
    ids = [[i % 7, 100 + i % 5] for i in range(2000)]
    found = used(distinct(ids, batch=4, seed=0), 2000)
    assert found.left < 20


class Ids(list):
    """A list that can be watched."""


@pytest.mark.parametrize("window", [0, 5, 40])
def test_a_stream_is_held_in_a_bounded_window(window: int) -> None:
    alive: weakref.WeakSet[Ids] = weakref.WeakSet()
    Ids.__hash__ = lambda self: id(self)  # type: ignore[method-assign]
    most = 0
    generator = draw(0)

    def stream() -> Iterator[tuple[int, Ids]]:
        nonlocal most
        for row in range(3000):
            ids = Ids([1000 + row, int(generator.integers(0, 12))])
            alive.add(ids)
            most = max(most, len(alive))
            yield row, ids

    batches, rows = distinct_stream(stream(), batch=8, window=window), []
    left = yield_all(batches, rows)
    assert most <= window + 3  # and the one that just came
    assert left + len(rows) == 3000
    assert len(rows) == len(set(rows))
    assert len(rows) > (0 if window == 0 else 1000)


def yield_all(batches: Iterator[np.ndarray], into: list[int]) -> int:
    while True:
        try:
            into += next(batches).tolist()
        except StopIteration as end:
            return end.value


def test_a_stream_is_read_no_further_than_the_batch_needs() -> None:
    read = []
    batches = distinct_stream(((i, [i]) for i in range(100) if read.append(i) is None), batch=4, window=10)
    next(batches)
    assert read == [0, 1, 2, 3]


# sources


def test_shares_go_by_the_exponent() -> None:
    """alpha = 1 / T; the numbers of the paper's formula by hand: 0.2^0.3 and 0.8^0.3 normalised."""
    a, b = 0.2**0.3, 0.8**0.3
    np.testing.assert_allclose(shares([2, 8], temperature=1 / 0.3), [a / (a + b), b / (a + b)])
    np.testing.assert_allclose(shares([1, 9, 90], temperature=1e12), [1 / 3] * 3)
    np.testing.assert_allclose(shares([5, 5], weights=[1, 3]), [0.25, 0.75])
    np.testing.assert_allclose(shares([2, 4], temperature=1e-9), [0, 1])


def test_whole_counts_have_the_right_mean() -> None:
    expected = np.array([0.3, 2.5, 1.2, 4.0])
    drawn = np.array([whole_counts(expected, draw(seed)) for seed in range(4000)])
    assert (drawn.sum(1) == 8).all()
    assert (abs(drawn - expected) < 1).all()
    np.testing.assert_allclose(drawn.mean(0), expected, atol=5 * 0.5 / math.sqrt(4000))


def test_homogeneous_batches_come_as_often_as_their_share() -> None:
    sources = np.repeat(["a", "b", "c"], [64, 160, 800])
    for temperature, weights in ((1.0, None), (2.0, None), (1.0, {"a": 4.0})):
        order = by_source(sources, batch=16, seed=0, temperature=temperature, weights=weights)
        count: Counter[str] = Counter()
        for epoch in range(30):
            for at in order(epoch):
                (name,) = set(sources[at])
                count[name] += 1
        total = count.total()
        assert total == 30 * 64
        w = np.array([(weights or {}).get(s, 1.0) for s in "abc"])
        expected = np.array([4, 10, 50]) ** (1 / temperature) * w
        expected = expected / expected.sum()
        for name, p in zip("abc", expected, strict=True):
            assert abs(count[name] - total * p) < 4 * math.sqrt(total * p * (1 - p))  # binomial limits
            assert abs(count[name] - total * p) <= 30  # and nearer: less than one batch an epoch


def test_sources_are_shuffled_over_the_epoch() -> None:
    order = by_source(np.arange(400) // 200, batch=10, seed=0)
    first = [int(at[0] >= 200) for at in order(0)]
    assert sum(first) == 20
    assert first not in (sorted(first), sorted(first, reverse=True))


def test_a_source_that_is_used_up_begins_anew_with_another_shuffle() -> None:
    order = by_source(np.repeat(["a", "b"], [8, 800]), batch=4, seed=0, temperature=1e9)
    small = np.concatenate([at for at in order(0) if at[0] < 8])
    times = Counter(small.tolist())
    assert max(times.values()) - min(times[i] for i in range(8)) <= 1
    passes = small[: len(small) // 8 * 8].reshape(-1, 8)
    assert (np.sort(passes, 1) == np.arange(8)).all()
    assert len({str(p) for p in passes}) > 3


@pytest.mark.parametrize(("temperature", "weights"), [(1.0, None), (3.0, None), (1.0, {"a": 5.0})])
def test_mixed_batches_hold_the_same_shares(temperature: float, weights: dict[str, float] | None) -> None:
    sources = np.repeat(["a", "b", "c"], [50, 200, 750])
    order = mixed(sources, batch=50, seed=0, temperature=temperature, weights=weights)
    w = np.array([(weights or {}).get(s, 1.0) for s in "abc"])
    expected = np.array([50, 200, 750]) ** (1 / temperature) * w
    expected = 50 * expected / expected.sum()
    total = np.zeros(3)
    for epoch in range(5):
        for at in order(epoch):
            count = np.array([(sources[at] == s).sum() for s in "abc"])
            assert (abs(count - expected) <= 2).all()
            total += count
    assert (abs(total / 5 - 20 * expected) < 1).all()


def test_mixed_batches_are_shuffled_inside() -> None:
    at = next(mixed(np.arange(400) // 200, batch=40, seed=0)(0))
    assert len({str(at // 200)} & {str(np.sort(at // 200))}) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: shuffled(3, batch=4, seed=0), "at least 4 rows for a batch of 4, got 3"),
        (lambda: distinct([[1]], batch=2, seed=0), "at least 2 rows"),
        (lambda: hard(ring(3, 2), batch=4, seed=0), "at least 4 rows"),
        (lambda: hard(ring(9, 2), batch=4, seed=0, skip=2), "skip less than the 2 neighbours"),
        (lambda: by_source(["a"] * 9 + ["b"] * 3, batch=4, seed=0), "at least 4 rows of every source .* got 3 of 'b'.*--batch 3"),
        (lambda: by_source(["a"] * 9, batch=4, seed=0, weights={"ab": 1.0}), "a source of the data, got 'ab'"),
        (lambda: by_source(["a"] * 9, batch=4, seed=0, weights={"a": 0.0}), "a weight above 0"),
        (lambda: by_source(["a"] * 9, batch=4, seed=0, temperature=0.0), "a temperature above 0"),
        (lambda: mixed(["a"] * 99 + ["b"] * 2, batch=20, seed=0, temperature=1e9), "rows of 'b', its share of a batch, got 2"),
        (lambda: balanced(["a", "b"] * 9, batch=6, seed=0, per_class=1), "at least 2 rows of a class"),
        (lambda: balanced(["a", "b"] * 9, batch=10, seed=0), "two or more times 4 rows of a class, got 10.*--batch 8"),
        (lambda: balanced(["a", "b"] * 9, batch=4, seed=0), "two or more times 4 rows of a class, got 4.*--batch 8"),
        (lambda: balanced(["a", "b"] * 9 + ["c"], batch=8, seed=0), "at least 4 rows of every class, got 1 of 'c'.*grouped"),
        (lambda: balanced(["a", "b"] * 9 + ["c"] * 2, batch=8, seed=0), "got 2 of 'c'.*per_class=2, or"),
        (lambda: balanced(["a", "b"] * 9, batch=12, seed=0), "3 classes for a batch, got 2.*per_class=6 or more"),
        (lambda: grouped(["a", "b"] * 9, batch=7, seed=0), "an even batch of at least 4, got 7.*--batch 8"),
        (lambda: grouped(["a", "a", "b"], batch=4, seed=0), "two labels with two rows or more, got 1 of 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], Order], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        make()


def test_an_epoch_without_a_batch_ends_the_run() -> None:
    with pytest.raises(Refusal, match="fill a batch"):
        next(endless(distinct([[1], [1], [1]], batch=2, seed=0)))


# labels


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(4, 20), min_size=4, max_size=12), st.integers(2, 4), st.integers(2, 4), st.integers(0, 5))
def test_balanced_batches_hold_k_rows_of_p_classes(sizes: list[int], p: int, k: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = balanced(labels, batch=p * k, seed=seed, per_class=k)
    batches = list(order(0))
    assert len(batches) == len(labels) // (p * k)
    for at in batches:
        assert sorted(Counter(labels[at].tolist()).values()) == [k] * p
    times = Counter(label for at in batches for label in set(labels[at].tolist()))
    assert max(times.values()) - min(times[label] for label in range(len(sizes))) <= 1  # classes equally often
    within = Counter(np.concatenate(batches).tolist())
    for label in range(len(sizes)):  # and the rows of a class
        own = [within[i] for i in np.flatnonzero(labels == label).tolist()]
        assert max(own) - min(own) <= 1


groups = st.lists(st.integers(1, 25), min_size=2, max_size=40).filter(lambda s: sum(x > 1 for x in s) > 1)


@settings(max_examples=200, deadline=None)
@given(groups, st.integers(2, 8), st.integers(0, 5))
def test_grouped_batches_hold_two_labels_and_two_rows_of_each(sizes: list[int], half: int, seed: int) -> None:
    labels = draw(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batch = 2 * half
    if sum(s for s in sizes if s > 1) < batch:
        return
    rows = []
    for at in grouped(labels, batch=batch, seed=seed)(0):
        count = Counter(labels[at].tolist())
        assert len(at) == batch
        assert len(count) > 1
        assert min(count.values()) >= 2
        rows += at.tolist()
    assert len(rows) == len(set(rows))
    if max(sizes) <= sum(s for s in sizes if s > 1) / 4:  # no label rules the data: little is left
        lost = sum(s for s in sizes if s > 1) - len(rows)
        assert lost <= batch + len(rows) // batch * 2 + 2 * half


def test_groups_stay_whole_where_they_fit() -> None:
    sizes = draw(0).integers(2, 9, 400)
    labels = np.repeat(np.arange(400), sizes)
    whole = cut = 0
    for at in grouped(labels, batch=64, seed=0)(0):
        for label, count in Counter(labels[at].tolist()).items():
            whole, cut = whole + (count == sizes[label]), cut + (count < sizes[label])
    assert cut < 0.1 * whole
    assert used(grouped(labels, batch=64, seed=0), len(labels)).left < 64


@pytest.mark.parametrize(
    ("labels", "left"), [(np.arange(200) % 2, 8), (np.arange(300) % 3, 44), (np.arange(900) // 5, 68)]
)
def test_groups_larger_than_half_a_batch_are_cut(labels: np.ndarray, left: int) -> None:
    order = grouped(labels, batch=64, seed=0)
    assert used(order, len(labels)).left <= left
    assert all(max(Counter(labels[at].tolist()).values()) <= 62 for at in order(0))


def test_a_large_label_takes_part_in_every_batch_and_little_is_left() -> None:
    labels = np.r_[np.zeros(500, dtype=int), 1 + np.arange(600) // 3]
    order = grouped(labels, batch=64, seed=0)
    assert used(order, 1100).left < 2 * 64
    pairs_and_threes = np.repeat(np.arange(200), np.tile([2, 3], 100))
    for seed in range(5):  # no single place is left free that would cost a row
        assert used(grouped(pairs_and_threes, batch=8, seed=seed), 500).left <= 8


def test_the_tail_of_a_ruling_label_is_left_out_and_nothing_else() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    rows = np.concatenate(list(grouped(labels, batch=64, seed=0)(0)))
    assert (labels[rows] == 1).sum() >= 96


# hard


def in_batch_hardness(order: Order, z: np.ndarray, epoch: int = 0) -> float:
    """The mean over rows of the share of all rows that are nearer than the nearest three of its batch."""
    score = z @ z.T
    np.fill_diagonal(score, -np.inf)
    rank = np.argsort(np.argsort(-score, 1), 1)
    found = [np.sort(rank[np.ix_(at, at)], 1)[:, :3].mean() for at in order(epoch)]
    return float(np.mean(found)) / len(z)


def test_hard_batches_hold_near_neighbours() -> None:
    z = draw(0).normal(size=(600, 8))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    table = table_of(Embeddings.of(torch.from_numpy(z).float()), k=16).numpy()
    ours = in_batch_hardness(hard(table, batch=20, seed=0), z)
    chance = in_batch_hardness(shuffled(600, batch=20, seed=0), z)
    assert ours < chance / 2  # the least possible is 0.002, chance is 2 / 20
    assert 0.08 < chance < 0.12


def test_clusters_of_a_batch_each_become_the_batches() -> None:
    """The closed form: rows in clusters of exactly a batch, neighbours inside only."""
    cluster = draw(0).permutation(np.repeat(np.arange(10), 6))
    table = np.array([[j for j in range(60) if cluster[j] == cluster[i] and j != i] for i in range(60)])
    for epoch in range(3):
        assert all(len(set(cluster[at])) == 1 for at in hard(table, batch=6, seed=0)(epoch))


def test_the_nearest_may_be_skipped_and_missing_neighbours_are_no_rows() -> None:
    twins = np.arange(100) ^ 1
    table = np.stack([twins, np.full(100, -1)], 1)
    together = [sum(twins[i] in at for i in at) for at in hard(table, batch=10, seed=0)(0)]
    assert together == [10] * 10
    apart = [sum(twins[i] in at for i in at) for at in hard(table, batch=10, seed=0, skip=1)(0)]
    assert np.mean(apart) < 3  # chance: 10 * 9 / 99


def test_the_table_holds_the_nearest_of_other_content() -> None:
    z = torch.from_numpy(draw(3).normal(size=(40, 5))).float()
    z[7] = z[3]
    ids = torch.arange(40)
    ids[7] = ids[3]  # the same text twice
    table = table_of(Embeddings.of(z, id=ids), k=6)
    assert table.dtype == torch.int32
    score = z @ z.T
    for i in range(40):
        others = [j for j in range(40) if ids[j] != ids[i]]
        assert table[i].tolist() == sorted(others, key=lambda j: -float(score[i, j]))[:6]
    assert not {3, 7} & {int(table[3, 0]), int(table[7, 0])} | {3, 7} & set(table[3].tolist())


# time


@pytest.mark.parametrize("contents", [1_000, 60_000, 10**9])
def test_a_hundred_thousand_rows_take_seconds(contents: int) -> None:
    ids = [[i, 10**10 + int(c)] for i, c in enumerate(draw(0).integers(0, contents, 100_000))]
    pops = used(distinct(ids, batch=512, seed=0), 100_000)
    assert pops.left < 2_000
