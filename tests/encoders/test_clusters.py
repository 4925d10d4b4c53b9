"""Clusters: capacity by brute force, k-means, centroids that follow, samples, and the clustered memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint._ops.launch import in_processes
from counterpoint._ops.sinkhorn import sinkhorn
from counterpoint.encoders.clusters import (
    Centroids,
    ClusteredMemory,
    Samples,
    means_of,
    spherical_kmeans,
    subclasses,
    within_capacity,
)
from counterpoint.types import Embeddings


def draw(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(z: Tensor, ids: list[int] | None = None, **facts: Tensor) -> Embeddings:
    return Embeddings.of(z, id=torch.tensor(ids) if ids is not None else torch.arange(len(z)), facts=facts)


def planted(n: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three clusters that lie far apart, and which row is of which."""
    label = torch.arange(n) % 3
    return 5 * torch.eye(3, 4, dtype=torch.float64)[label] + 0.3 * draw(n, seed=seed), label


# ---- capacity and k-means


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10_000))
def test_capacity_takes_the_best_pair_of_all_first(n: int, k: int, seed: int) -> None:
    score, capacity = draw(n, k, seed), -(-n // k)
    left, wanted = [capacity] * k, [-1] * n
    for place in score.flatten().argsort(descending=True).tolist():
        i, j = divmod(place, k)
        if wanted[i] < 0 and left[j]:
            wanted[i], left[j] = j, left[j] - 1
    assert within_capacity(score, capacity).tolist() == wanted


def test_too_little_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 5"):
        within_capacity(draw(5, 2), 2)
    with pytest.raises(ValueError, match="clusters of 3"):
        spherical_kmeans(draw(3), 4)
    with pytest.raises(ValueError, match="at least 1"):
        subclasses(draw(3), torch.zeros(3).long(), capacity=0)


def test_kmeans_finds_planted_clusters_whatever_the_lengths() -> None:
    z, label = planted()
    found = spherical_kmeans(z * torch.rand(30, 1, dtype=torch.float64).add(0.1), 3)
    assert len({(int(a), int(b)) for a, b in zip(found.cluster, label, strict=True)}) == 3
    assert torch.allclose(found.centers, means_of(normalize(z, dim=1), found.cluster, 3))


def test_kmeans_ends_where_each_row_is_nearest_to_its_own_mean() -> None:
    z = draw(60)
    found = spherical_kmeans(z, 5)
    assert torch.equal(found.cluster, (normalize(z, dim=1) @ normalize(found.centers, dim=1).T).argmax(1))


@pytest.mark.proves(row=197, fact="closed-form")
def test_subclasses_stay_inside_classes_and_obey_the_cap() -> None:
    digits = load_digits()
    z, label = torch.from_numpy(digits.data[:300]), torch.from_numpy(digits.target[:300]).long()
    label[:20] = -1
    found = subclasses(z, label, capacity=7)
    assert torch.equal(found < 0, label < 0)
    sizes = torch.bincount(found[found >= 0])
    assert sizes.max() <= 7
    assert sizes.min() >= 1
    for number in range(len(sizes)):
        assert len(label[found == number].unique()) == 1
    classes = torch.bincount(label[label >= 0])
    assert len(sizes) == sum(-(-int(n) // 7) for n in classes)


def test_a_small_class_stays_whole() -> None:
    assert subclasses(draw(4), torch.tensor([3, 3, 8, 8]), capacity=2).tolist() == [0, 0, 1, 1]


# ---- samples


def test_samples_remember_by_row_and_are_grouped_once_seen() -> None:
    z, label = planted(9)
    samples = Samples(11, 4).double()
    samples.write(rows(z, row=torch.arange(9) + 1))
    samples.group(3)
    assert samples.of(torch.tensor([0, 10])).tolist() == [-1, -1]
    assert len({(int(a), int(b)) for a, b in zip(samples.of(torch.arange(9) + 1), label, strict=True)}) == 3
    assert torch.equal(samples.z[1:10], z)


@pytest.mark.proves(row=18, fact="closed-form")
def test_back_translation_is_the_mean_of_what_the_other_side_groups() -> None:
    """clustering.PBT of megvii-research/protoclip: the student's rows averaged by the teacher's labels; 0 where none is."""
    mine, others = Samples(5, 2), torch.tensor([2, 0, 2, 0, 0])
    mine.write(rows(draw(5, 2).float(), row=torch.arange(5)))
    found = mine.means(3, others)
    assert torch.allclose(found[0], mine.z[[1, 3, 4]].mean(0))
    assert torch.allclose(found[2], mine.z[[0, 2]].mean(0))
    assert not found[1].any()


def test_samples_group_inside_classes() -> None:
    samples, label = Samples(6, 4).double(), torch.tensor([0, 0, 0, 1, 1, 1])
    samples.write(rows(draw(6), row=torch.arange(6)))
    samples.group(label=label, capacity=2)
    assert samples.cluster.max() == 3
    assert torch.equal(samples.cluster, subclasses(samples.z, label, capacity=2))


# ---- centroids


@pytest.mark.proves(row=146, fact="closed-form")
def test_a_centroid_moves_to_the_mean_of_its_rows_and_others_stay() -> None:
    state = Centroids(3, 2, momentum=0.75).double()
    state.z.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    state.started.fill_(True)
    state.follow(rows(torch.tensor([[4.0, 0.0], [2.0, 1.0], [0.0, 3.0]]).double()))
    wanted = torch.tensor([[0.75 + 0.25 * 3, 0.25 * 0.5], [0.0, 0.75 + 0.25 * 3], [-1.0, 0.0]]).double()
    assert torch.allclose(state.z, wanted)


@pytest.mark.proves(row=146, fact="closed-form")
def test_the_hard_negative_is_the_nearest_other_centroid() -> None:
    z, _ = planted()
    state = Centroids(3, 4).double()
    state.follow(rows(z))
    a = rows(draw(20, seed=5), ids=list(range(50, 70)))
    cosines = normalize(a.z, dim=1) @ normalize(state.z, dim=1).T
    made = state.foreign(a)
    for i in range(20):
        ranked = sorted(range(3), key=lambda k: -float(cosines[i, k]))
        assert int(state.assign(a.z)[i]) == ranked[0]
        assert int(made.id[i]) == -1 - ranked[1]
        assert torch.equal(made.z[i], state.z[ranked[1]])
    assert torch.equal(made.facts["owner"], a.id)
    assert set(made.facts["cluster"].tolist()) == {-1}


def test_before_the_first_step_there_are_no_centroids() -> None:
    state = Centroids(2, 4).double()
    assert state.assign(draw(3)).tolist() == [-1, -1, -1]
    assert len(state.foreign(rows(draw(3)))) == 0
    state.follow(rows(planted()[0]))
    assert bool(state.started)


# ---- the clustered memory


def full(clusters: int = 3) -> tuple[ClusteredMemory, Tensor]:
    z, label = planted(12)
    memory = ClusteredMemory(12, 4, clusters=clusters).double()
    memory.push(rows(z))
    return memory, label


def test_the_memory_is_clustered_when_it_is_full() -> None:
    z, label = planted(12)
    memory = ClusteredMemory(12, 4, clusters=3).double()
    memory.push(rows(z[:7], list(range(7))))
    assert not memory.started
    assert memory.rows().facts["cluster"].tolist() == [-1] * 7
    memory.push(rows(z[7:], list(range(7, 12))))
    found = memory.rows().facts["cluster"]
    assert len({(int(a), int(b)) for a, b in zip(found, label, strict=True)}) == 3


@pytest.mark.proves(row=10, fact="closed-form")
def test_new_rows_are_shared_out_evenly_and_take_the_oldest_places() -> None:
    memory, _ = full()
    centers = memory.centers.clone()
    new = rows(5 * torch.eye(1, 4, dtype=torch.float64) + 0.3 * draw(6, seed=7), list(range(100, 106)))
    memory.push(new)
    known = memory.rows()
    assert sorted(known.id.tolist()) == [*range(6, 12), *range(100, 106)]
    cluster = {int(i): int(c) for i, c in zip(known.id, known.facts["cluster"], strict=True)}
    z = normalize(new.z, dim=1)
    there = replace(Embeddings.of(normalize(centers, dim=1)), placement="replicated")
    plan = sinkhorn(rows(z), there, scale=20.0, iterations=3)
    wanted = (20 * z @ there.z.T + plan.rows[:, None] + plan.columns).argmax(1)
    assert [cluster[i] for i in range(100, 106)] == wanted.tolist()
    assert len(wanted.unique()) > 1  # all lie at one center, and still not all go there
    means = means_of(known.z, known.facts["cluster"], 3)
    some = torch.bincount(known.facts["cluster"], minlength=3) > 0
    assert torch.allclose(memory.centers[some], means[some])


@pytest.mark.proves(row=10, fact="reference")
def test_batches_are_written_as_the_authors_write_them() -> None:
    """add_memory_embdeddings_OT of memory.py of stypoumic/BECLR at 02146cf, with distributed_sinkhorn of utils/sinkhorn.py
    at a4f5f60, of rows of length 1: the authors keep rows, and take the means of rows, as long as they come.

    State has no gradient; the sizes of batches divide that of the memory, where the authors drop what is left over.
    """
    memory, _ = full(4)
    order = memory.rows().id.argsort()  # the oldest first
    bank, labels = memory.rows().z[order], memory.rows().facts["cluster"][order]
    centers, pointer, shared_out = memory.centers.clone(), 0, set()
    for step, size in enumerate((6, 3, 3, 4, 4)):
        new = normalize(draw(size, seed=20 + step) + torch.tensor([2.0, 0.0, 0.0, 0.0]), dim=1)
        q = (new @ normalize(centers, dim=1).T / 0.05).exp().T
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / len(centers)
            q = q / q.sum(0, keepdim=True) / size
        at = slice(pointer, pointer + size)
        bank[at], labels[at], pointer = new, q.argmax(0), (pointer + size) % 12
        counts = torch.bincount(labels, minlength=len(centers))
        sums = torch.zeros_like(centers).index_add(0, labels, bank)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
        shared_out |= set(q.argmax(0).tolist())
        ids = list(range(100 * step + 100, 100 * step + 100 + size))
        memory.push(rows(7 * new, ids))
        known = memory.rows()
        cluster = {int(i): int(c) for i, c in zip(known.id, known.facts["cluster"], strict=True)}
        assert [cluster[i] for i in ids] == labels[at].tolist()
        ours, theirs = (z[z[:, 0].argsort()] for z in (known.z, bank))
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
        assert torch.allclose(memory.centers, centers, rtol=1e-9, atol=1e-12)
    assert len(shared_out) == 4  # rows that all lie near one center go to every cluster


def test_an_empty_cluster_keeps_its_center() -> None:
    memory, _ = full()
    cluster = memory.queue.get_buffer("fact_cluster")
    memory.centers[2] = torch.tensor([0.0, 0.0, 0.0, -1.0])
    cluster[cluster == 2] = 0
    memory.push(rows(5 * torch.eye(1, 4, dtype=torch.float64), [200]))
    assert memory.centers[2].tolist() == [0.0, 0.0, 0.0, -1.0]


@pytest.mark.proves(row=10, fact="closed-form")
@pytest.mark.parametrize("count", [1, 2, 9])
def test_neighbours_are_the_nearest_of_the_nearest_cluster_but_oneself(count: int) -> None:
    memory, _ = full()
    a = rows(planted(8, seed=9)[0], list(range(8)))
    found, known = memory.nearest(a, count), memory.rows()
    home = (normalize(a.z, dim=1) @ normalize(memory.centers, dim=1).T).argmax(1)
    for i in range(8):
        mates = [j for j in range(12) if int(known.facts["cluster"][j]) == int(home[i]) and int(known.id[j]) != i]
        ranked = sorted(mates, key=lambda j: -float(normalize(a.z[i], dim=0) @ known.z[j]))[:count]
        mine = found.facts["owner"] == i
        assert found.id[mine].tolist() == [int(known.id[j]) for j in ranked]
        assert torch.equal(found.z[mine], known.z[ranked])
    assert (found.age > 0).all()


def test_no_neighbour_is_found_before_the_memory_is_full_or_where_none_is_asked_for() -> None:
    memory = ClusteredMemory(12, 4, clusters=3).double()
    memory.push(rows(draw(5)))
    assert len(memory.nearest(rows(draw(3)), 2)) == 0
    assert len(full()[0].nearest(rows(draw(3)), 0)) == 0
    assert len(full()[0].nearest(rows(draw(0)), 2)) == 0


@pytest.mark.parametrize("sizes", [(4, 8), (0, 12), (9, 3)])
def test_state_is_the_same_on_all_processes_and_as_on_one(sizes: tuple[int, int]) -> None:
    batches = [rows(planted(12, seed=s)[0], list(range(20 * s, 20 * s + 12)), row=torch.arange(12)) for s in range(3)]

    def work(rank: int, count: int) -> list[Tensor]:
        memory, centroids = ClusteredMemory(12, 4, clusters=3).double(), Centroids(3, 4, momentum=0.5).double()
        samples = Samples(12, 4).double()
        share = slice(None) if count == 1 else slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
        for batch in batches:
            for state in (memory.push, centroids.follow, samples.write):
                state(batch.rows(share))
            samples.group(3)
        found = [*memory.state_dict().values(), *centroids.state_dict().values(), *samples.state_dict().values()]
        return [x.double() for x in found]

    (one,) = in_processes(1, work)
    for found in in_processes(2, work):
        assert all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(found, one, strict=True))


@pytest.mark.parametrize("made", [
    lambda: Centroids(1, 3), lambda: Centroids(3, 3, momentum=1.0), lambda: ClusteredMemory(3, 2, clusters=4),
    lambda: ClusteredMemory(3, 2, clusters=1, eps=0.0),
])  # fmt: skip
def test_numbers_out_of_range_are_refused(made: object) -> None:
    with pytest.raises(ValueError, match="wanted"):
        made()  # type: ignore[operator]
