"""Teacher and queue: equation 2 of MoCo, first in first out, ages, and the same on all processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint._ops.processes import joined
from counterpoint.encoders.momentum import NOTHING, Queue, follow, teacher_of
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.remembered import against_queue
from counterpoint.types import Embeddings


def rows(ids: list[int], seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings.of(torch.randn(len(ids), 3, generator=generator), id=torch.tensor(ids, dtype=torch.int64))


def test_the_teacher_is_the_running_mean_of_the_encoder() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    teacher = teacher_of(student)
    expected = [p.detach().clone() for p in student.parameters()]
    for _ in range(5):
        with torch.no_grad():
            for p in student.parameters():
                p += torch.randn_like(p)
        follow(teacher, student, momentum=0.9)
        expected = [0.9 * e + 0.1 * p.detach() for e, p in zip(expected, student.parameters(), strict=True)]
    assert all(torch.allclose(p, e, atol=1e-6) for p, e in zip(teacher.parameters(), expected, strict=True))


def test_the_limits_of_momentum_are_a_copy_and_standing_still() -> None:
    student, before = nn.Linear(2, 2), None
    teacher = teacher_of(student)
    before = teacher.weight.clone()
    with torch.no_grad():
        student.weight += 1
    follow(teacher, student, momentum=1.0)
    assert torch.equal(teacher.weight, before)
    follow(teacher, student, momentum=0.0)
    assert torch.equal(teacher.weight, student.weight)


@pytest.mark.parametrize("sizes", [[2, 2, 2, 2], [1, 5, 3], [7, 2], [0, 4, 0, 4]])
def test_the_queue_holds_the_last_rows(sizes: list[int]) -> None:
    queue, pushed, made = Queue(5, 3), [], 0
    for k, size in enumerate(sizes):
        batch = rows(list(range(made, made + size)), seed=k)
        made += size
        queue.push(batch)
        pushed += [(int(i), k, z) for i, z in zip(batch.id, batch.z, strict=True)]
    found = {
        int(i): (int(age), z) for i, age, z in zip(*(getattr(queue.rows(), n) for n in ("id", "age", "z")), strict=True)
    }
    last = {i: (len(sizes) - k, z) for i, k, z in pushed[-5:]}
    assert {i: age for i, (age, _) in found.items()} == {i: age for i, (age, _) in last.items()}
    assert all(torch.equal(found[i][1], last[i][1]) for i in last)
    assert NOTHING not in found


def test_an_empty_queue_has_no_rows() -> None:
    assert len(Queue(4, 3).rows()) == 0
    with pytest.raises(ValueError, match="at least 1"):
        Queue(0, 3)


def test_the_queue_remembers_facts_with_their_rows() -> None:
    queue = Queue(4, 3, facts={"label": torch.int64, "weight": torch.float32})
    for k, ids in enumerate(([1, 2, 3], [4, 5])):
        i = torch.tensor(ids)
        facts = {"label": 10 * i, "weight": i / 2, "other": i}
        queue.push(Embeddings.of(rows(ids, seed=k).z, id=i, facts=facts))
    found = queue.rows()
    assert set(found.facts) == {"label", "weight"}
    assert torch.equal(found.facts["label"], 10 * found.id)
    assert torch.equal(found.facts["weight"], found.id / 2)
    assert sorted(found.id.tolist()) == [2, 3, 4, 5]


def test_the_queue_is_part_of_a_checkpoint() -> None:
    queue, other = Queue(4, 3), Queue(4, 3)
    queue.push(rows([1, 2, 3]))
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.push(rows([4, 5], seed=1))
    assert torch.equal(queue.rows().z, other.rows().z)
    assert queue.rows().age.tolist() == other.rows().age.tolist()


def test_the_queue_is_the_same_on_all_processes_and_as_on_one() -> None:
    whole = [rows(list(range(6 * k, 6 * k + 6)), seed=k) for k in range(3)]

    def work(rank: int, count: int) -> list[Tensor]:
        queue, share = Queue(8, 3), 6 // count
        for batch in whole:
            queue.push(batch.rows(slice(rank * share, (rank + 1) * share)))
        return [queue.rows().id, queue.rows().z, queue.rows().age]

    one = in_processes(1, work)[0]
    for found in in_processes(3, work):
        assert all(torch.equal(x, y) for x, y in zip(found, one, strict=True))


def test_momentum_contrast_is_the_formula_of_its_algorithm() -> None:
    """Logits [q.k, q.queue] / t, target 0: He et al., algorithm 1."""
    torch.manual_seed(0)
    q, k, past = (nn.functional.normalize(torch.randn(n, 4, dtype=torch.float64), dim=1) for n in (3, 3, 5))
    queue = Queue(5, 4).double()
    queue.push(Embeddings.of(past, id=torch.arange(10, 15)))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ past.T], 1) / 0.07
    expected = nn.functional.cross_entropy(logits, torch.zeros(3, dtype=torch.int64))
    candidates = joined([Embeddings.of(k, view=1), queue.rows()])
    found = infonce(Embeddings.of(q), candidates, rule=against_queue, temperature=0.07)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_sets_of_two_placements_are_not_put_together_blindly() -> None:
    with pytest.raises(ValueError, match="one placement"):
        Embeddings.cat([rows([1]), Queue(1, 3).rows()])


def test_a_queue_refuses_rows_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"width 4 in the queue, got \[2, 3\]"):
        Queue(4, 4).push(rows([1, 2]))
    with pytest.raises(KeyError, match="the fact 'label', they have: none"):
        Queue(4, 3, facts={"label": torch.int64}).push(rows([1, 2]))
