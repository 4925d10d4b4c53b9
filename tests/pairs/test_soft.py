"""Soft targets: what the weights are, their limits, the losses of the papers, peers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax, normalize

from counterpoint.objectives.sigmoid import siglip
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.pairs.soft import alike, complemented, near, overlapping, regraded
from counterpoint.types import Embeddings, Relation, same_sample
from tests.objectives.contract import assert_same


def drawn(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(n: int = 7, **facts: Tensor) -> tuple[Embeddings, Embeddings, list[Tensor]]:
    """Two views of n samples with the same facts, whose vectors require grad."""
    z = [drawn(n, seed=1).requires_grad_(), drawn(n, seed=2).requires_grad_()]
    a, c = (Embeddings.of(x, view=view, facts=facts) for view, x in enumerate(z))
    return a, c, z


@pytest.mark.proves(row=62, fact="closed-form")
def test_a_pair_a_width_apart_attracts_by_one_over_e() -> None:
    e = Embeddings.of(torch.zeros(3, 1), facts={"value": torch.tensor([0.0, 2.0, 4.0])})
    weights = near(width=2.0)(e, e).attract
    assert torch.allclose(weights[0], torch.tensor([0.0, math.exp(-1), math.exp(-2)]))
    gaussian = near(width=2.0, kernel="gaussian")(e, e).attract
    assert torch.allclose(gaussian[0], torch.tensor([0.0, math.exp(-0.5), math.exp(-2)]))
    assert torch.allclose(near(width=2.0, kernel="inverse")(e, e).attract[0], torch.tensor([0.0, 1 / 2, 1 / 3]))
    squares = near(width=2.0, kernel=lambda d: 1 / (1 + d.square()))(e, e).attract
    assert torch.allclose(squares[0], torch.tensor([0.0, 1 / 2, 1 / 5]))


def rs_cl(z: Tensor, other: Tensor, state: Tensor, tau: float, beta: float) -> Tensor:
    """rs_cl_loss of rscl/losses.py of github.com/Simon-Bruno/vla-rscl (00ee1dd) with alpha = 1 and gamma = 0.

    Equation 3 of arXiv:2510.01711 as a mean over anchors, of states that are scaled to length 1 first.
    """
    logits, state = normalize(z, dim=1) @ normalize(other, dim=1).T / tau, normalize(state, dim=1)
    weights = torch.softmax(-torch.cdist(state, state) / beta, 1)
    return -(weights * log_softmax(logits, 1)).sum(1).mean()


@pytest.mark.proves(row=62, fact="reference")
@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_infonce_of_near_states_equals_a_peer(beta: float) -> None:
    state = drawn(7, 3, seed=4)
    a, c, z = views(value=normalize(state, dim=1))
    found = infonce(a, c, rule=near(width=beta), temperature=0.2).loss
    assert_same(found, rs_cl(*z, state, 0.2, beta), z, relative=1e-7)


def test_the_width_leads_from_one_positive_to_all() -> None:
    a, c, _ = views(value=torch.arange(7).double())
    narrow, one = infonce(a, c, rule=near(width=1e-3)).loss, infonce(a, c, rule=same_sample).loss
    assert narrow.item() == pytest.approx(one.item(), rel=1e-12)
    logits = normalize(a.z, dim=1) @ normalize(c.z, dim=1).T / 0.05
    wide = infonce(a, c, rule=near(width=1e9)).loss
    assert wide.item() == pytest.approx(-log_softmax(logits, 1).mean().item(), rel=1e-7)


def test_the_least_loss_over_logits_is_the_entropy_of_the_targets() -> None:
    value = drawn(5, 2, seed=3)
    target = torch.softmax(-torch.cdist(value, value) / 0.7, 1)
    logits = target.log()  # a student that says what the target says
    a = Embeddings.of(logits, facts={"value": value})
    c = Embeddings.of(torch.eye(5, dtype=torch.float64), view=1, facts={"value": value})
    found = infonce(a, c, rule=near(width=0.7), temperature=1.0, unit=False).loss
    assert found.item() == pytest.approx(-(target * target.log()).sum(1).mean().item(), rel=1e-9)


@pytest.mark.proves(row=208, fact="closed-form")
def test_overlaps_of_labels_by_hand() -> None:
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    e = Embeddings.of(torch.zeros(5, 1), facts={"labels": labels})
    cosine = overlapping()(e, e)
    assert torch.allclose(cosine.attract[0], torch.tensor([0.0, 1 / math.sqrt(2), 0.0, 2 / math.sqrt(6), 0.0]))
    assert cosine.repel[0].tolist() == [0, 0, 1, 0, 1]
    assert torch.allclose(
        overlapping(measure="jaccard")(e, e).attract[3], torch.tensor([2 / 3, 1 / 3, 1 / 3, 0.0, 0.0])
    )
    few = overlapping(measure="jaccard", least=0.5)(e, e)
    assert few.attract[3].tolist() == pytest.approx([2 / 3, 0, 0, 0, 0])
    assert few.repel[3].tolist() == [0, 1, 1, 0, 1]
    assert overlapping()(e, replace(e, view=e.view + 1)).attract[4].tolist() == [
        0,
        0,
        0,
        0,
        1,
    ]  # of no label, but oneself
    assert torch.equal(cosine.attract, overlapping()(*[told(e, labels[:, [2, 0, 1]])] * 2).attract)


def told(rows: Embeddings, labels: Tensor) -> Embeddings:
    return replace(rows, facts={"labels": labels})


def test_one_label_each_is_labelled_and_labels_of_ones_own_are_same_sample() -> None:
    label = torch.tensor([0, 1, 1, 2, 0])
    e = Embeddings.of(torch.zeros(5, 1), facts={"label": label, "labels": torch.eye(3)[label], "own": torch.eye(5)})
    for measure in ("cosine", "jaccard"):
        for other in (e, replace(e, view=e.view + 1)):
            found, wanted = overlapping(measure=measure)(e, other), labelled()(e, other)
            assert torch.equal(found.attract, wanted.attract)
            assert torch.equal(found.repel, wanted.repel)
            alone = overlapping("own", measure=measure)(e, other)
            assert torch.equal(alone.attract, same_sample(e, other).attract)
            assert torch.equal(alone.repel, same_sample(e, other).repel)


@pytest.mark.proves(row=208, fact="closed-form")
def test_siglip_of_complemented_overlaps_is_binary_cross_entropy_with_soft_targets() -> None:
    labels = (drawn(7, 4, seed=5) > 0).double()
    labels[:, 0] = 1
    a, c, z = views(labels=labels)
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.3 - 1
    unit = normalize(labels, dim=1)
    expected = binary_cross_entropy_with_logits(logits, unit @ unit.T, reduction="sum") / 7
    found = siglip(a, c, rule=complemented(overlapping()), temperature=0.3, bias=-1.0).loss
    assert_same(found, expected, z, relative=1e-7)


def test_a_similarity_that_matches_its_target_has_no_gradient() -> None:
    labels = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    weight = 1 / math.sqrt(2)
    logit = torch.full((2,), math.log(weight / (1 - weight)), dtype=torch.float64)
    z = torch.stack([logit, -logit.flip(0)]).requires_grad_()  # only pairs of two samples are looked at
    a = Embeddings.of(z, facts={"labels": labels})
    c = Embeddings.of(torch.tensor([[9.0, 9.0], [1.0, 0.0]]).double(), view=0, facts={"labels": labels})
    loss = siglip(a, c, rule=complemented(overlapping()), temperature=1.0, bias=0.0, unit=False).loss
    assert torch.autograd.grad(loss, z)[0][0].abs().max() < 1e-12
    assert loss.item() > 0


def cwcl(p: Tensor, u: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Both directions of cwcl_loss in github.com/suinleelab/CellCLIP, src/clip/methods.py at d8138f1, of one channel."""
    logits, p = normalize(u, dim=1) @ normalize(v, dim=1).T / t, normalize(p, dim=1)
    weights = p @ p.T / 2 + 0.5
    weights = weights / weights.sum(1, keepdim=True)
    return -(weights * log_softmax(logits, 1)).sum() / len(u), cross_entropy(logits.T, torch.arange(len(u)))


@pytest.mark.proves(row=220, fact="reference")
def test_infonce_of_what_a_teacher_finds_alike_equals_a_peer() -> None:
    teacher = drawn(7, 3, seed=6)
    a, c, z = views(teacher=teacher)
    assert_same(infonce(a, c, rule=alike(), temperature=0.1).loss, cwcl(teacher, *z, 0.1)[0], z, relative=1e-7)
    soft, hard = cwcl(teacher, *z, 0.1)
    both = infonce(a, c, rule=alike(), temperature=0.1).loss + infonce(c, a, temperature=0.1).loss
    assert_same(both, soft + hard, z, relative=1e-7)


@pytest.mark.proves(row=220, fact="closed-form")
def test_weights_of_a_teacher_by_hand_and_by_threshold() -> None:
    teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])  # of any length
    e = Embeddings.of(torch.zeros(4, 1), facts={"teacher": teacher})
    pairs = alike()(e, e)
    assert pairs.attract[0].tolist() == pytest.approx([0, 0.5, 0, 0.8])
    assert pairs.repel[0].tolist() == [0, 0, 1, 0]  # the opposite alone
    some = alike(least=0.6, graded=False)(e, e)
    assert some.attract[0].tolist() == [0, 0, 0, 1]
    assert some.repel[0].tolist() == [0, 1, 1, 0]


def test_a_teacher_of_classes_is_labelled() -> None:
    label = torch.tensor([0, 1, 1, 2])
    e = Embeddings.of(torch.zeros(4, 1), facts={"label": label, "teacher": torch.eye(3)[label]})
    other = replace(e, view=e.view + 1)
    assert torch.equal(alike(least=1.0)(e, other).attract, labelled()(e, other).attract)
    assert torch.equal(alike(least=1.0)(e, other).repel, labelled()(e, other).repel)


def test_stale_rows_of_oneself_are_ignored_and_other_stale_rows_are_not() -> None:
    e = Embeddings.of(torch.zeros(2, 1), facts={"value": torch.tensor([0.0, 0.0])})
    queue = replace(e, view=e.view + 1, age=e.age + 1)
    assert near()(e, queue).attract.tolist() == [[0, 1], [1, 0]]
    assert near()(e, queue).repel.tolist() == [[0, 0], [0, 0]]


@pytest.mark.proves(row=113, fact="closed-form")
def test_graded_pairs_multiply_their_loss() -> None:
    """GCL: sum_i w_i (row and column cross-entropy of pair i) / 2n; a weight of 0 leaves a negative."""
    _, _, z = views()
    a, c = Embeddings.of(z[0], id=torch.arange(7)), Embeddings.of(z[1], id=torch.arange(10, 17))
    grades = torch.tensor([4.0, 1.0, 9.0, 16.0, 1.0, 4.0, 25.0])
    relation = Relation.of(range(7), range(10, 17), grades)
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.2
    both = (
        cross_entropy(logits, torch.arange(7), reduction="none"),
        cross_entropy(logits.T, torch.arange(7), reduction="none"),
    )
    expected = (grades.sqrt() * (both[0] + both[1])).sum() / 14
    rule = listed(regraded(relation, torch.sqrt))
    found = infonce(a, c, rule=rule, temperature=0.2, directions="both", normalize="none").loss
    assert_same(found, expected, z, relative=1e-7)
    twice = listed(regraded(relation, lambda g: 2 * g.sqrt()))
    double = infonce(a, c, rule=twice, temperature=0.2, directions="both", normalize="none").loss
    assert double.item() == pytest.approx(2 * found.item(), rel=1e-9)
    ones = listed(regraded(relation, torch.ones_like))
    clip = infonce(*z, temperature=0.2, directions="both").loss
    assert infonce(a, c, rule=ones, temperature=0.2, directions="both", normalize="none").loss.item() == pytest.approx(
        clip.item()
    )
    with pytest.raises(ValueError, match="at least 0, got -25"):
        regraded(relation, lambda g: -g)


@pytest.mark.proves(row=246, fact="reference")
def test_swapped_captions_are_negatives_of_images_and_have_no_turn() -> None:
    """ClipLoss of src/open_clip/loss.py of github.com/vinid/neg_clip (e680f8e), the authors' fork of open_clip: all
    captions are columns of the images, and of the rows of captions the first n are kept."""
    images, captions, swapped = (drawn(6, seed=k).requires_grad_() for k in (1, 2, 3))
    texts = torch.cat([captions, swapped])
    x, y = normalize(images, dim=1), normalize(texts, dim=1)
    expected = (
        cross_entropy(x @ y.T / 0.07, torch.arange(6)) + cross_entropy((y @ x.T / 0.07)[:6], torch.arange(6))
    ) / 2
    a = Embeddings.of(images, id=torch.arange(6))
    c = Embeddings.of(texts, id=torch.arange(10, 22))
    rule = listed(Relation.of(range(6), range(10, 16)))
    found = infonce(a, c, rule=rule, temperature=0.07, directions="both").loss
    assert_same(found, expected, [images, captions, swapped], relative=1e-7)


def test_a_relation_carries_values_and_lists_alone() -> None:
    relation = Relation.of([2, 1, 1, 1], [5, 6, 5, 6], [1.0, 0.0, 2.0, 3.0], value=[0.1, -0.2, 0.3, 9.0])
    assert relation.value is not None
    assert relation.value.tolist() == pytest.approx([0.3, -0.2, 0.1])  # sorted; the first edge of a pair counts
    a, c = (Embeddings.of(torch.zeros(2, 1), id=torch.tensor(ids)) for ids in ([1, 2], [6, 5]))
    rule = listed(relation, negative_weight=0.5, others=0.0)
    edges = rule.edges(a, c)
    values = torch.zeros(2, 2).index_put((edges.row, edges.col), edges.value)
    assert torch.allclose(values, torch.tensor([[-0.2, 0.3], [0.0, 0.1]]))
    assert rule(a, c).attract.tolist() == [[0, 2], [0, 1]]
    assert rule(a, c).repel.tolist() == [[0.5, 0], [0, 0]]
    with pytest.raises(ValueError, match="as many values as anchors, got 1 for 2"):
        Relation.of([1, 2], [5, 6], value=[1.0])


def test_complemented_leaves_alone_what_is_ignored() -> None:
    e = Embeddings.of(torch.zeros(3, 1), id=torch.tensor([1, 1, 2]))
    assert complemented(same_sample)(e, e).repel.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    rule = complemented(listed(Relation.of([1], [2], [0.25]), others=0.0))
    assert rule.elsewhere == (0.0, 0.0)
    assert rule(e, e).repel.tolist() == [[0, 0, 0.75], [0, 0, 0.75], [0, 0, 0]]
    sure = complemented(listed(Relation.of([1], [2], [4.0])))  # more than a yes leaves nothing for a no
    assert sure(e, e).repel.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: near(width=0.0), "width above 0, got 0.0"),
        (lambda: near(width=-1.0), "got -1.0"),
    ],
)
def test_bad_arguments_are_refused(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()  # type: ignore[operator]
