"""What a teacher says of listed pairs: closed forms, peers and the authors' code, order alone, invariances, tiles."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.objectives.custom import squared
from counterpoint.objectives.judged import ranked, scored
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Relation, same_sample
from tests.objectives.contract import assert_same, assert_tiles_equal_dense

MARGIN_MSE = (
    "Hofstätter et al.: Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation, "
    "arXiv:2010.02666, 2020 (Margin-MSE)"
)


def drawn(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lists(
    n: int, k: int, *, positives: int, seed: int = 0
) -> tuple[list[Tensor], Embeddings, Embeddings, Relation, Tensor]:
    """n anchors with k candidates of their own each, the first of them positives, and a teacher's values [n k]."""
    z = [drawn(n, seed=seed).requires_grad_(), drawn(n * k, seed=seed + 1).requires_grad_()]
    values = drawn(n, k, seed=seed + 2).float().double()
    a, c = Embeddings.of(z[0]), Embeddings.of(z[1], id=100 + torch.arange(n * k))
    grade = (torch.arange(n * k) % k < positives).float()
    relation = Relation.of(torch.arange(n).repeat_interleave(k), c.id, grade, value=values.flatten())
    return z, a, c, relation, values


@pytest.mark.proves(row=251, fact="reference")
def test_scores_of_pairs_equal_dse() -> None:
    """(logits - teacher)^2, summed over the one output and averaged over pairs: __calc_distillation_loss of
    github.com/microsoft/Distilled-Sentence-Embedding, train/trainers/dse_trainer.py at d0fd45d, with its dot head."""
    z, a, c, relation, values = lists(5, 3, positives=1)
    logits = (z[0].repeat_interleave(3, 0) * z[1]).sum(1, keepdim=True)
    expected = ((logits - values.flatten()[:, None]) ** 2).sum(dim=1).mean()
    assert_same(scored(a, c, rule=listed(relation, others=0.0)).loss, expected, z, relative=1e-6)
    assert scored(a, c, rule=listed(relation)).loss.item() == pytest.approx(
        expected.item()
    )  # others repel, but nobody scored them


@pytest.mark.proves(row=251, fact="reference")
def test_a_head_on_both_vectors_equals_dse_in_its_parameters_too() -> None:
    """The concat head of the same repository, models/feature_extractors.py: u, v, |u - v|, u * v, then a linear layer."""
    z, a, c, relation, values = lists(5, 3, positives=1)
    torch.manual_seed(0)
    layer = nn.Linear(4 * 6, 1).double()

    def head(u: Tensor, v: Tensor) -> Tensor:
        return layer(torch.cat([u, v, (u - v).abs(), u * v], 1))[:, 0]

    logits = head(z[0].repeat_interleave(3, 0), z[1])
    expected = ((logits - values.flatten()) ** 2).mean()
    assert_same(
        scored(a, c, rule=listed(relation), score=head).loss, expected, [*z, *layer.parameters()], relative=1e-6
    )


@pytest.mark.proves(row=251, fact="closed-form")
def test_a_teacher_that_is_a_dot_product_is_met() -> None:
    z, a, c, relation, _ = lists(4, 2, positives=1)
    values = (z[0].repeat_interleave(2, 0) * z[1]).sum(1).detach()
    met = replace(relation, value=values)
    outcome = scored(a, c, rule=listed(met))
    assert outcome.loss.item() < 1e-12
    assert torch.allclose(outcome.notes["residual"], torch.zeros(8, dtype=torch.float64), atol=1e-6)
    off = scored(a, c, rule=listed(replace(relation, value=values - 0.5)))
    assert off.loss.item() == pytest.approx(0.25)
    assert torch.allclose(off.notes["residual"], torch.full((8,), 0.5, dtype=torch.float64))


def test_weights_and_scale_and_other_scores() -> None:
    a = Embeddings.of(torch.tensor([[3.0, 4.0]]))
    c = Embeddings.of(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), id=torch.tensor([7, 8]))
    rule = listed(Relation.of([0, 0], [7, 8], [3.0, 0.0], value=[1.0, -1.0]), negative_weight=0.5)
    assert scored(a, c, rule=rule).loss.item() == pytest.approx((3 * (3 - 1) ** 2 + 0.5 * (8 + 1) ** 2) / 3.5)
    cosine = scored(a, c, rule=rule, unit=True, scale=10.0).loss.item()
    assert cosine == pytest.approx((3 * (6 - 1) ** 2 + 0.5 * (8 + 1) ** 2) / 3.5, rel=1e-6)
    distance = scored(a, c, rule=rule, score=squared()).loss.item()
    assert distance == pytest.approx((3 * (20 - 1) ** 2 + 0.5 * (13 + 1) ** 2) / 3.5)


@pytest.mark.proves(reference=MARGIN_MSE, fact="reference")
@pytest.mark.parametrize("negatives", [1, 4])
def test_margins_equal_sentence_transformers(negatives: int) -> None:
    z, a, c, relation, values = lists(5, negatives + 1, positives=1)
    columns = z[1].unflatten(0, (5, -1)).unbind(1)
    expected = MarginMSELoss(None).compute_loss_from_embeddings([z[0], *columns], values)  # type: ignore[arg-type]
    assert_same(scored(a, c, rule=listed(relation), compare="margins").loss, expected, z, relative=1e-6)


@pytest.mark.proves(reference=MARGIN_MSE, fact="closed-form")
def test_margins_of_several_positives_equal_loops_and_see_no_offset() -> None:
    z, a, c, relation, values = lists(4, 5, positives=2)
    grades = relation.grade * torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0]).repeat(4)
    relation = replace(relation, grade=grades)
    s = (z[0].detach().repeat_interleave(5, 0) * z[1].detach()).sum(1).view(4, 5)
    above, below = 0.0, 0.0
    for i, (p, k) in itertools.product(range(4), itertools.product(range(2), range(2, 5))):
        weight = [1.0, 2.0][p] * 3.0
        above += weight * float(s[i, p] - s[i, k] - values[i, p] + values[i, k]) ** 2
        below += weight
    rule = listed(relation, negative_weight=3.0)
    found = scored(a, c, rule=rule, compare="margins").loss
    assert found.item() == pytest.approx(above / below, rel=1e-6)
    moved = replace(relation, value=relation.value + torch.arange(4).repeat_interleave(5) * 10)  # type: ignore[operator]
    again = scored(a, c, rule=listed(moved, negative_weight=3.0), compare="margins").loss
    assert again.item() == pytest.approx(found.item(), rel=1e-5)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_distributions_equal_sentence_transformers(t: float) -> None:
    z, a, c, relation, values = lists(5, 4, positives=1)
    peer = DistillKLDivLoss(None, temperature=t)  # type: ignore[arg-type]
    expected = peer.compute_loss_from_embeddings([z[0], *z[1].unflatten(0, (5, 4)).unbind(1)], values) / t**2
    cooler = replace(relation, value=relation.value / t)  # type: ignore[operator]
    assert_same(
        scored(a, c, rule=listed(cooler), compare="distributions", scale=1 / t).loss, expected, z, relative=1e-6
    )


@pytest.mark.parametrize("compare", ["scores", "margins", "distributions"])
def test_without_a_listed_pair_nothing_is_lost(compare: Any) -> None:
    z = drawn(3).requires_grad_()
    rows = Embeddings.of(z)
    loss = scored(rows, rows, rule=listed(Relation.of([77], [78], value=[1.0])), compare=compare).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0
    with pytest.raises(TypeError, match="lists its pairs"):
        scored(rows, rows, rule=lambda a, c: same_sample(a, c), compare=compare)


def test_an_anchor_without_a_list_does_not_count() -> None:
    _, a, c, relation, _ = lists(4, 3, positives=1)
    more = Embeddings.cat([a, Embeddings.of(drawn(2, seed=9), id=torch.tensor([50, 51]))])
    for loss in (
        lambda x: scored(x, c, rule=listed(relation), compare="margins"),
        lambda x: scored(x, c, rule=listed(relation), compare="distributions"),
        lambda x: ranked(x, c, rule=listed(replace(relation, grade=torch.ones(12)))),
    ):
        assert loss(more).loss.item() == pytest.approx(loss(a).loss.item(), rel=1e-9)


def order(n: int, k: int, seed: int = 0) -> tuple[list[Tensor], Embeddings, Embeddings, Relation, Tensor]:
    """Lists whose pairs all attract, to be ordered."""
    return lists(n, k, positives=k, seed=seed)


@pytest.mark.proves(row=176, fact="closed-form")
def test_order_by_hand() -> None:
    a = Embeddings.of(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    c = Embeddings.of(
        torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64), id=torch.arange(5, 9)
    )
    rule = listed(Relation.of([0, 0, 0], [5, 6, 7], value=[0.2, 7.0, 0.5]))  # 6 above 7 above 5; 8 is an easy negative
    e = [math.exp(s / 0.5) for s in (1.0, 0.6, 0.0, -1.0)]
    expected = math.log((e[0] + e[3]) / e[0]) + math.log((e[2] + e[0] + e[3]) / e[2]) + math.log(sum(e) / e[1])
    found = ranked(a, c, rule=rule, temperature=0.5)
    assert found.loss.item() == pytest.approx(expected / 3, rel=1e-12)
    assert found.notes["negatives"].tolist() == [1]


@pytest.mark.proves(row=176, fact="closed-form")
def test_each_listed_pair_wins_against_what_lies_below_it() -> None:
    """The formula of arXiv:2407.07479 by loops: pair j against all listed pairs of lower value and all easy negatives."""
    z, a, c, relation, values = order(4, 5)
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.3
    own = torch.arange(20) // 5
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        easy = logits[i][own != i]
        mine, value = logits[i][own == i], values[i]
        for j in range(5):
            expected = (
                expected + torch.logsumexp(torch.cat([mine[j : j + 1], mine[value < value[j]], easy]), 0) - mine[j]
            )
    assert_same(ranked(a, c, rule=listed(relation), temperature=0.3).loss, expected / 20, z, relative=1e-6)


def test_without_easy_negatives_it_is_the_likelihood_of_plackett_and_luce() -> None:
    z, a, c, relation, values = order(3, 4, seed=5)
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.3
    own = torch.stack([logits[i, 4 * i : 4 * i + 4] for i in range(3)])
    down = own.gather(1, values.argsort(1, descending=True))
    suffix = down.flip(1).logcumsumexp(1).flip(1)
    expected = (suffix - down).sum(1).mean() / 4
    assert_same(ranked(a, c, rule=listed(relation, others=0.0), temperature=0.3).loss, expected, z, relative=1e-6)


@pytest.mark.proves(row=176, fact="closed-form")
def test_only_the_order_counts_and_easy_negatives_have_none() -> None:
    _, a, c, relation, _ = order(4, 5)
    base = ranked(a, c, rule=listed(relation)).loss.item()
    for change in (lambda v: v.exp(), lambda v: 3 * v - 100, lambda v: v**3):
        told = replace(relation, value=change(relation.value))
        assert ranked(a, c, rule=listed(told)).loss.item() == pytest.approx(base, rel=1e-12)
    assert ranked(a, c, rule=listed(replace(relation, value=-relation.value))).loss.item() != pytest.approx(base)  # type: ignore[operator]
    easy = Embeddings.of(drawn(3, seed=8), id=torch.arange(300, 303))
    one, other = (
        ranked(a, Embeddings.cat([c, easy.rows(torch.tensor(o))]), rule=listed(relation)).loss
        for o in ([0, 1, 2], [2, 0, 1])
    )
    assert one.item() == pytest.approx(other.item(), rel=1e-12)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert ranked(a, c.rows(shuffled), rule=listed(relation)).loss.item() == pytest.approx(base, rel=1e-12)


def test_a_student_in_the_order_of_the_teacher_costs_nothing_when_it_is_cold() -> None:
    z, a, c, relation, _ = order(3, 4)
    cosine = (normalize(z[0], dim=1).repeat_interleave(4, 0) * normalize(z[1], dim=1)).sum(1).detach()
    same = listed(replace(relation, value=cosine.float()), others=0.0)
    reverse = listed(replace(relation, value=-cosine.float()), others=0.0)
    assert ranked(a, c, rule=same, temperature=1e-3).loss.item() < 1e-3
    assert ranked(a, c, rule=reverse, temperature=1e-3).loss.item() > 10


def test_one_listed_pair_each_is_infonce() -> None:
    z, a, c, relation, _ = order(5, 1)
    found = ranked(a, c, rule=listed(relation), temperature=0.3).loss
    assert_same(found, infonce(a, c, rule=listed(relation), temperature=0.3).loss, z, relative=1e-6)


def test_equal_values_do_not_compete() -> None:
    z, a, c, relation, _ = order(4, 3)
    level = listed(replace(relation, value=torch.zeros(12)))
    found = ranked(a, c, rule=level, temperature=0.3).loss
    assert_same(found, infonce_separate(a, c, rule=level, temperature=0.3).loss, z, relative=1e-6)
    assert ranked(a, c, rule=listed(replace(relation, value=torch.zeros(12)), others=0.0)).loss.item() == 0
    by_label = Embeddings.of(drawn(6, seed=2), facts={"label": torch.arange(6) % 2})
    plain = ranked(by_label, by_label, rule=labelled()).loss.item()  # no values: all equal
    assert plain == pytest.approx(infonce_separate(by_label, by_label, rule=labelled()).loss.item(), rel=1e-9)


def test_gradients_equal_finite_differences() -> None:
    _, a, c, relation, _ = order(3, 4)
    rule = listed(replace(relation, value=torch.tensor([1.0, 2, 2, 0] * 3), grade=torch.tensor([1.0, 0.5, 2, 1] * 3)))

    def loss(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return ranked(replace(a, z=x), replace(c, z=y), rule=rule, temperature=t).loss

    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (drawn(3, seed=1).requires_grad_(), drawn(12, seed=2).requires_grad_(), t))
    split = listed(replace(relation, grade=torch.tensor([1.0, 2, 0, 0] * 3)))

    def margins(x: Tensor, y: Tensor) -> Tensor:
        return scored(replace(a, z=x), replace(c, z=y), rule=split, compare="margins").loss

    assert torch.autograd.gradcheck(margins, (drawn(3, seed=1).requires_grad_(), drawn(12, seed=2).requires_grad_()))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6), others=st.sampled_from([0.0, 1.0]))
def test_tiles_equal_dense(n: int, m: int, seed: int, others: float) -> None:
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    drawn_pairs = torch.Generator().manual_seed(seed)
    edges = torch.randint(1, 9, (2, 20), generator=drawn_pairs)
    relation = Relation.of(edges[0], edges[1], value=torch.randint(4, (20,), generator=drawn_pairs).float())
    rule = listed(relation, others=others)
    assert_tiles_equal_dense(lambda a, c: ranked(a, c, rule=rule, temperature=t), n=n, m=m, seed=seed, learnable=(t,))
    assert_tiles_equal_dense(lambda a, c: scored(a, c, rule=rule, scale=t), n=n, m=m, seed=seed, learnable=(t,))


def test_lists_of_different_length_and_weight_equal_loops() -> None:
    """Anchors with 1 and 3 negatives, and one without; a pair of equal ids, which the rule ignores, changes nothing."""
    a = Embeddings.of(drawn(3, seed=1), id=torch.tensor([1, 2, 3]))
    c = Embeddings.of(drawn(6, seed=2), id=torch.tensor([11, 12, 13, 14, 15, 1]))
    edges = {(0, 0): (1.0, 0.5), (0, 1): (0.0, 2.0), (1, 0): (2.0, 1.0), (1, 2): (0.0, 0.0), (1, 3): (0.0, 3.0)}
    edges |= {(1, 4): (0.0, -1.0), (2, 2): (1.0, 4.0)}
    ids = [(int(a.id[i]), int(c.id[j])) for i, j in edges]
    grades, values = zip(*edges.values(), strict=True)
    rule = listed(Relation.of(*zip(*ids, strict=True), grades, value=values), negative_weight=0.5)
    s, above, below, divergence = a.z @ c.z.T, 0.0, 0.0, 0.0
    for i in range(3):
        mine = [(j, *edges[i, j]) for j in range(6) if (i, j) in edges]
        for (p, w, v), (k, r, u) in itertools.product(mine, mine):
            if w > 0 and r == 0:
                above += w * 0.5 * float(s[i, p] - s[i, k] - v + u) ** 2
                below += w * 0.5
        where = [j for j, _, _ in mine]
        p, q = torch.tensor([v for _, _, v in mine]).double().log_softmax(0), s[i, where].log_softmax(0)
        divergence += float((p.exp() * (p - q)).sum()) / 3
    assert scored(a, c, rule=rule, compare="margins").loss.item() == pytest.approx(above / below, rel=1e-6)
    assert scored(a, c, rule=rule, compare="distributions").loss.item() == pytest.approx(divergence, rel=1e-6)


@pytest.mark.proves(row=176, fact="closed-form")
def test_weights_of_the_order_and_judged_negatives_equal_loops() -> None:
    """Grade 0 is a negative of its weight whatever its value; grades weigh the pairs of a list."""
    z, a, c, relation, values = order(3, 4)
    grades = torch.tensor([2.0, 1.0, 0.0, 0.5] * 3)
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.3
    weight = torch.ones(3, 12, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        mine = [4 * i, 4 * i + 1, 4 * i + 3]
        weight[i, mine], weight[i, 4 * i + 2] = 0.0, 0.7
        for j in mine:
            rivals = weight[i].clone()
            rivals[[k for k in mine if values[i, k - 4 * i] < values[i, j - 4 * i]]] = 1.0
            rivals[j] = 1.0
            expected = expected + grades[j] * ((rivals * logits[i].exp()).sum().log() - logits[i, j]) / 3.5 / 3
    rule = listed(replace(relation, grade=grades), negative_weight=0.7)
    assert_same(ranked(a, c, rule=rule, temperature=0.3).loss, expected, z, relative=1e-6)
