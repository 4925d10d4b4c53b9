"""The k nearest negatives: loops, the loss of MoCo at its limit, ties, both views."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint._ops.processes import joined
from counterpoint.encoders.momentum import Queue
from counterpoint.objectives.hardest import infonce_hardest, kth_largest
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.pairs.remembered import against_queue
from counterpoint.types import Embeddings, Outcome, Relation
from tests.objectives.contract import RULES, two_sets


def draw(n: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_queue(keys: Tensor, past: Tensor) -> Embeddings:
    """Keys of this step, and a queue."""
    queue = Queue(len(past), past.shape[1]).double()
    queue.push(Embeddings.of(past, id=torch.arange(len(past)) + 100))
    return joined([Embeddings.of(keys, view=1).to_unit(), queue.rows().to_unit()])


@pytest.mark.proves(row=115, fact="closed-form")
@pytest.mark.parametrize(("k", "others"), [(1, [0.8]), (2, [0.8, 0.6]), (3, [0.8, 0.6, 0.0]), (9, [0.8, 0.6, 0.0])])
def test_only_the_nearest_compete(k: int, others: list[float]) -> None:
    """Positive at cosine 0.6, queue at 0.6, 0.8, 0.0."""
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    keys, past = [[0.6, 0.8]], [[0.6, -0.8], [0.8, 0.6], [0.0, 1.0]]
    c = with_queue(*(torch.tensor(z, dtype=torch.float64) for z in (keys, past)))
    found = infonce_hardest(Embeddings.of(q), c, k=k, rule=against_queue, temperature=0.5)
    below = math.exp(1.2) + sum(math.exp(2 * s) for s in others)
    assert found.loss.item() == pytest.approx(math.log(below) - 1.2, rel=1e-9)
    assert found.notes["negatives"].tolist() == [len(others)]


@pytest.mark.proves(
    row=115, fact="closed-form"
)  # of MoCo, which is its limit: nobody published the loss of the k nearest
def test_a_k_of_the_whole_queue_is_the_loss_of_moco() -> None:
    """moco/builder.py of facebookresearch/moco: logits [q.k, q.queue] / 0.07, target 0; value and gradient."""
    q, k, past = draw(6).requires_grad_(), draw(6, seed=1).requires_grad_(), normalize(draw(9, seed=2), dim=1)
    uq, uk = normalize(q, dim=1), normalize(k, dim=1)
    logits = torch.cat([(uq * uk).sum(1, keepdim=True), uq @ past.T], 1) / 0.07
    wanted = cross_entropy(logits, torch.zeros(6, dtype=torch.int64))
    found = infonce_hardest(Embeddings.of(q), with_queue(k, past), k=9, rule=against_queue, temperature=0.07).loss
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    for ours, theirs in zip(torch.autograd.grad(found, [q, k]), torch.autograd.grad(wanted, [q, k]), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.proves(row=115, fact="closed-form")
def test_it_equals_the_top_of_a_matrix_and_its_gradient() -> None:
    q, k, past = draw(7).requires_grad_(), draw(7, seed=1), normalize(draw(20, seed=2), dim=1)
    uq = normalize(q, dim=1)
    top = (uq @ past.T).topk(4, dim=1).values
    logits = torch.cat([(uq * normalize(k, dim=1)).sum(1, keepdim=True), top], 1) / 0.2
    wanted = cross_entropy(logits, torch.zeros(7, dtype=torch.int64))
    found = infonce_hardest(Embeddings.of(q), with_queue(k, past), k=4, rule=against_queue, temperature=0.2).loss
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert torch.allclose(*(torch.autograd.grad(x, q)[0] for x in (found, wanted)), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("rule", [r for name, r in RULES.items() if name != "graded"])
def test_a_large_k_is_infonce_under_any_rule(rule: object) -> None:
    a, c, _ = two_sets(9, 11, 3, torch.float64)
    found = infonce_hardest(a, c, k=11, rule=rule, temperature=0.3).loss  # type: ignore[arg-type]
    assert found.item() == pytest.approx(infonce(a, c, rule=rule, temperature=0.3).loss.item(), rel=1e-12)  # type: ignore[arg-type]


def test_the_nearest_are_chosen_by_cosine_and_weighed_by_the_rule() -> None:
    """Judged negatives weigh 3: one of them is among the two nearest, the other is not."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]).double(), id=torch.tensor([0]))
    cosine = torch.tensor([0.6, 0.8, 0.7, 0.5, 0.2], dtype=torch.float64)
    c = Embeddings.of(torch.stack([cosine, (1 - cosine.square()).sqrt()], 1), id=torch.arange(10, 15))
    rule = listed(Relation.of([0, 0, 0], [10, 11, 13], [1.0, 0.0, 0.0]), negative_weight=3.0)
    found = infonce_hardest(a, c, k=2, rule=rule, temperature=0.5)
    below = math.exp(1.2) + 3 * math.exp(1.6) + math.exp(1.4)
    assert found.loss.item() == pytest.approx(math.log(below) - 1.2, rel=1e-9)
    assert found.notes["negatives"].tolist() == [4.0]


def test_equals_of_the_kth_all_stay() -> None:
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]), facts={"label": torch.tensor([0])})
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    c = Embeddings.of(z, id=torch.arange(5), view=1, facts={"label": torch.tensor([0, 1, 2, 3, 4])})
    assert infonce_hardest(a, c, k=2, rule=labelled(), temperature=0.3).notes["negatives"].tolist() == [3]
    between = kth_largest(a, c, rule=labelled(), k=2).item()
    assert kth_largest(a, c, rule=labelled(), k=4).tolist() == [-1e9]  # there is no fifth
    assert 0.6 - 1e-5 < between < 0.6 - 1e-6  # a rounding below the three does not leave them out


def test_a_temperature_of_each_anchor_moves_no_threshold() -> None:
    a, c, _ = two_sets(9, 14, 4, torch.float64)
    t = torch.linspace(0.1, 2.0, 9, dtype=torch.float64)
    kept = [infonce_hardest(a, c, k=2, rule=labelled(), temperature=x).notes["negatives"] for x in (0.3, t)]
    assert torch.equal(*kept)
    assert kept[0].max() == 2


def test_the_loss_of_both_views_is_the_same_when_they_are_exchanged() -> None:
    q, k, past = draw(6), draw(6, seed=1), draw(12, seed=2)

    def dual(first: Tensor, second: Tensor, share: float) -> float:
        sides = [
            infonce_hardest(Embeddings.of(x), with_queue(y, past), k=3, rule=against_queue, temperature=0.2)
            for x, y in ((first, second), (second, first))
        ]
        return float(Outcome.of(query=(share, sides[0]), key=(1 - share, sides[1])).loss)

    assert dual(q, k, 0.5) == pytest.approx(dual(k, q, 0.5), rel=1e-12)
    assert dual(q, k, 0.7) == pytest.approx(dual(k, q, 0.3), rel=1e-12)
    assert dual(q, k, 0.7) != pytest.approx(dual(k, q, 0.7), rel=1e-3)


def test_shuffles_change_nothing_and_a_k_below_1_is_refused() -> None:
    a, c, _ = two_sets(9, 14, 4, torch.float64)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    wanted = infonce_hardest(a, c, k=2, rule=labelled()).loss.item()
    assert infonce_hardest(a, c.rows(order), k=2, rule=labelled()).loss.item() == pytest.approx(wanted, rel=1e-12)
    assert infonce_hardest(replace(a, z=3 * a.z), c, k=2, rule=labelled()).loss.item() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="at least 1"):
        infonce_hardest(a, c, k=0)
