"""The margin family: hand-sized cases, plain loops, public references, invariances, rows that equal each other."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor, nn

from counterpoint.objectives.margin import contrastive, distance, generalized_lifted, lifted, n_pair, triplet
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Outcome, Pairs, Relation
from tests.objectives.contract import RULES, assert_tiles_equal_dense, two_sets

HADSELL = "Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006"
FACENET = (
    "Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition and Clustering, "
    "arXiv:1503.03832, 2015"
)
HERMANS = "Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, arXiv:1703.07737, 2017"
SONG = (
    "Oh Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding, "
    "arXiv:1511.06452, 2016"
)
SOHN = "Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016"

OBJECTIVES: dict[str, Callable[..., Outcome]] = {
    "contrastive": partial(contrastive, margin=2.5),
    "contrastive unit": partial(contrastive, unit=True),
    "triplet hardest": triplet,
    "triplet hardest soft": partial(triplet, soft=True, unit=False),
    "triplet semi-hard": partial(triplet, negatives="semi-hard", power=2),
    "triplet all": partial(triplet, negatives="all"),
    "triplet all soft": partial(triplet, negatives="all", soft=True, unit=False),
    "lifted": lifted,
    "lifted unit": partial(lifted, unit=True),
    "generalized lifted": generalized_lifted,
    "n pair": n_pair,
}
EUCLIDEAN: dict[str, Any] = {"distance": distances.LpDistance(normalize_embeddings=False, p=2, power=1)}


def draw(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(labels: list[int], seed: int = 0) -> Embeddings:
    return Embeddings.of(draw(len(labels), seed=seed), facts={"label": torch.tensor(labels)})


LABELS = [0, 0, 1, 1, 1, 2, 2, 3, 0]
TWOS = [0, 1, 2, 3, 0, 1, 2, 3]  # one positive each


def sets(seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Two sets with graded, ignored and missing pairs."""
    a, c, _ = two_sets(9, 8, seed, torch.float64)
    return a, c


def loops(a: Embeddings, c: Embeddings, rule: Any, *, unit: bool, power: int = 1) -> tuple[list[list[float]], Pairs]:
    """All distances one by one, and the rule's matrix."""
    x, y = (nn.functional.normalize(r.z.detach(), dim=-1) if unit else r.z.detach() for r in (a, c))
    return [[float((p - q).norm()) ** power for q in y] for p in x], rule(a, c)


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# ---- contrastive


@pytest.mark.proves(reference=HADSELL, fact="closed-form")
def test_contrastive_hand_sized_case() -> None:
    a = Embeddings.of(torch.tensor([[0.0], [3.0]]), id=torch.tensor([1, 2]))
    c = Embeddings.of(torch.tensor([[2.0], [3.5]]), id=torch.tensor([5, 6]))
    found = contrastive(a, c, rule=listed(Relation.of([1, 2], [5, 6])), margin=2.0)
    assert found.terms["contrastive_attract"].item() == pytest.approx((2.0**2 / 2 + 0.5**2 / 2) / 2)
    assert found.terms["contrastive_repel"].item() == pytest.approx(
        (0 + (2 - 1) ** 2 / 2) / 2
    )  # 3.5 is outside, 1 inside
    assert found.loss.item() == pytest.approx(1.0625 + 0.25)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("unit", [True, False])
def test_contrastive_equals_plain_loops(rule: Any, unit: bool) -> None:
    a, c = sets()
    d, pairs = loops(a, c, rule, unit=unit)
    index = [(i, j) for i in range(len(a)) for j in range(len(c))]
    pull = sum(float(pairs.attract[i, j]) * d[i][j] ** 2 / 2 for i, j in index) / float(pairs.attract.sum())
    push = sum(float(pairs.repel[i, j]) * max(0.0, 1.5 - d[i][j]) ** 2 / 2 for i, j in index) / float(pairs.repel.sum())
    found = contrastive(a, c, rule=rule, margin=1.5, unit=unit).terms
    assert found["contrastive_attract"].item() == pytest.approx(pull, rel=1e-9)
    assert found["contrastive_repel"].item() == pytest.approx(push, rel=1e-9)


@pytest.mark.proves(reference=HADSELL, fact="reference")
def test_contrastive_equals_half_the_mean_square_of_the_public_pair_losses() -> None:
    """pytorch-metric-learning's is linear in the distance; its losses of single pairs are squared here."""
    rows = classes(LABELS)
    public = losses.ContrastiveLoss(neg_margin=2.5, reducer=reducers.DoNothingReducer(), **EUCLIDEAN)
    pairs = public(rows.z, rows.facts["label"])
    found = contrastive(rows, rule=labelled(), margin=2.5).terms
    for ours, theirs in (("contrastive_attract", "pos_loss"), ("contrastive_repel", "neg_loss")):
        expected = pairs[theirs]["losses"].square().mean() / 2
        assert found[ours].item() == pytest.approx(expected.item(), rel=1e-9)


# ---- triplet


@pytest.mark.proves(reference=FACENET, fact="closed-form")
def test_triplet_hand_sized_case_of_squared_distances() -> None:
    """Anchor 0 of positive 2 and negatives 3, -5: 4 - 9 is outside a margin of 4, inside one of 6."""
    a = Embeddings.of(torch.tensor([[0.0]]), id=torch.tensor([1]))
    c = Embeddings.of(torch.tensor([[2.0], [3.0], [-5.0]]), id=torch.tensor([5, 6, 7]))
    how: Any = {"rule": listed(Relation.of([1], [5])), "unit": False, "power": 2}
    assert triplet(a, c, margin=4.0, **how).loss.item() == 0
    assert triplet(a, c, margin=6.0, **how).loss.item() == pytest.approx(6 + 4 - 9)
    assert triplet(a, c, margin=6.0, negatives="all", **how).loss.item() == pytest.approx(1)  # -5 costs nothing
    assert triplet(a, c, margin=30.0, negatives="all", **how).loss.item() == pytest.approx((25 + 9) / 2)


def triplets_by_loops(
    a: Embeddings, c: Embeddings, rule: Any, *, margin: float, negatives: str, soft: bool, power: int, unit: bool
) -> float:
    """The docstring's formula, one anchor at a time."""
    d, pairs = loops(a, c, rule, unit=unit, power=power)

    def cost(gap: float) -> float:
        return math.log1p(math.exp(gap)) if soft else max(0.0, margin + gap)

    anchors, above, below = [], 0.0, 0.0
    for i in range(len(a)):
        positives = [d[i][j] for j in range(len(c)) if pairs.attract[i, j] > 0]
        others = [(d[i][k], float(pairs.repel[i, k])) for k in range(len(c)) if pairs.repel[i, k] > 0]
        if not positives or not others:
            continue
        p = max(positives)
        beyond = [x for x, _ in others if x > p]
        chosen = min(x for x, _ in others)
        if negatives == "semi-hard":
            chosen = min(beyond) if beyond else max(x for x, _ in others)
        anchors.append(cost(p - chosen))
        above += sum(r * cost(p - x) for x, r in others)
        below += sum(r for x, r in others if cost(p - x) > 0)
    return above / below if negatives == "all" else average(anchors)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("negatives", ["all", "hardest", "semi-hard"])
@pytest.mark.parametrize(("soft", "power", "unit"), [(False, 1, True), (True, 1, False), (False, 2, True)])
def test_triplet_equals_plain_loops(rule: Any, negatives: Any, soft: bool, power: Any, unit: bool) -> None:
    a, c = sets(1)
    how: Any = {"rule": rule, "margin": 0.3, "negatives": negatives, "soft": soft, "power": power, "unit": unit}
    assert triplet(a, c, **how).loss.item() == pytest.approx(triplets_by_loops(a, c, **how), rel=1e-9)


@pytest.mark.proves(reference=HERMANS, fact="reference")
@pytest.mark.parametrize("soft", [False, True])
def test_hardest_equals_the_public_batch_hard_loss(soft: bool) -> None:
    rows = classes(LABELS[:-2])  # every class has two
    public = losses.TripletMarginLoss(margin=0.5, smooth_loss=soft, reducer=reducers.MeanReducer(), **EUCLIDEAN)
    hard = miners.BatchHardMiner(**EUCLIDEAN)(rows.z, rows.facts["label"])
    expected = public(rows.z, rows.facts["label"], hard)  # its soft margin is log(1 + exp(margin + u))
    if soft:
        public.margin = 0.0
        expected = public(rows.z, rows.facts["label"], hard)
    found = triplet(rows, rule=labelled(), margin=0.5, soft=soft, unit=False)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.proves(reference=HERMANS, fact="reference")
@pytest.mark.parametrize("soft", [False, True])
def test_all_equals_the_public_loss_over_all_triplets_for_one_positive_each(soft: bool) -> None:
    rows = classes(TWOS)
    margin = 0.0 if soft else 0.4
    reducer = reducers.MeanReducer() if soft else reducers.AvgNonZeroReducer()
    public = losses.TripletMarginLoss(margin=margin, smooth_loss=soft, reducer=reducer, **EUCLIDEAN)
    z, y = (rows.z.clone().requires_grad_() for _ in range(2))
    expected = public(z, rows.facts["label"])
    found = triplet(
        Embeddings.of(y, facts=rows.facts), rule=labelled(), margin=margin, soft=soft, negatives="all", unit=False
    ).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(*(torch.autograd.grad(*one)[0] for one in ((found, y), (expected, z))))


@pytest.mark.proves(reference=FACENET, fact="reference")
def test_semi_hard_equals_tensorflows_loss_for_one_positive_each() -> None:
    """triplet_semihard_loss of tensorflow.contrib.losses.metric_learning, restated: the mean over positive pairs of
    max(0, margin + d_ap - d_an), d squared, d_an the least above d_ap, or the largest where none is above."""
    rows = classes(TWOS, seed=2)
    z, label = nn.functional.normalize(rows.z, dim=-1), rows.facts["label"]
    d = (z[:, None] - z[None]).square().sum(-1)
    expected, kinds = [], set()
    for i, p in ((i, p) for i in range(8) for p in range(8) if i != p and label[i] == label[p]):
        others = d[i][label != label[i]]
        above = others[others > d[i, p]]
        kinds.add(len(above) > 0)
        expected.append((0.7 + d[i, p] - (above.min() if len(above) else others.max())).relu())
    assert kinds == {True, False}
    found = triplet(rows, rule=labelled(), margin=0.7, negatives="semi-hard", power=2)
    assert found.loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-9)


def test_triplet_of_given_triplets_equals_torchs() -> None:
    a, p, n = draw(6), draw(6, seed=1), draw(6, seed=2)
    ids = torch.arange(6)
    own = listed(Relation.of([*range(6), *range(6)], [*range(10, 16), *range(20, 26)], [1.0] * 6 + [0.0] * 6))

    def only_own(x: Embeddings, y: Embeddings) -> Pairs:  # each anchor meets its own negative
        listed_pairs = own(x, y)
        return Pairs(listed_pairs.attract, listed_pairs.repel * (y.id[None, :] == x.id[:, None] + 20))

    candidates = Embeddings.of(torch.cat([p, n]), id=torch.cat([ids + 10, ids + 20]))
    expected = nn.TripletMarginLoss(margin=0.8, eps=0)(a, p, n)
    found = triplet(Embeddings.of(a, id=ids), candidates, rule=only_own, margin=0.8, unit=False)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_triplet_of_equal_rows_costs_the_margin() -> None:
    z = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    for negatives in ("all", "hardest", "semi-hard"):
        loss = triplet(z, z, margin=0.3, negatives=negatives).loss  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="'all', 'hardest' or 'semi-hard', got 'hard'"):
        inspect.unwrap(triplet)(z, z, negatives="hard")  # type: ignore[arg-type] # below the check of types


# ---- lifted


@pytest.mark.proves(reference=SONG, fact="closed-form")
def test_lifted_hand_sized_case() -> None:
    """Rows 0, 1 of a class and 3 of another on a line: d = 1, negatives at 3 and 2."""
    rows = Embeddings.of(torch.tensor([[0.0], [1.0], [3.0]]), facts={"label": torch.tensor([0, 0, 1])})
    expected = (math.log(math.exp(2 - 3) + math.exp(2 - 2)) + 1) ** 2 / 2
    assert lifted(rows, rule=labelled(), margin=2.0).loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("unit", [True, False])
def test_lifted_equals_plain_loops(rule: Any, unit: bool) -> None:
    a, c = sets(3)
    d, (w, r) = loops(a, c, rule, unit=unit)
    above = below = 0.0
    for i, j in ((i, j) for i in range(len(a)) for j in range(len(c)) if w[i, j] > 0):
        push = sum(float(r[i, k]) * math.exp(1.2 - d[i][k]) for k in range(len(c)))
        push += sum(float(r[k, j]) * math.exp(1.2 - d[k][j]) for k in range(len(a)))
        above += float(w[i, j]) * (max(0.0, d[i][j] + math.log(push)) ** 2 if push > 0 else 0.0) / 2
        below += float(w[i, j])
    assert lifted(a, c, rule=rule, margin=1.2, unit=unit).loss.item() == pytest.approx(above / below, rel=1e-9)


@pytest.mark.proves(reference=SONG, fact="reference")
def test_lifted_equals_the_public_loss() -> None:
    rows = classes(LABELS)
    expected = losses.LiftedStructureLoss(neg_margin=0.9, **EUCLIDEAN)(rows.z, rows.facts["label"])
    assert lifted(rows, rule=labelled(), margin=0.9).loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.proves(reference=HERMANS, fact="closed-form")
def test_generalized_lifted_hand_sized_case() -> None:
    rows = Embeddings.of(torch.tensor([[0.0], [1.0], [3.0]]), facts={"label": torch.tensor([0, 0, 1])})
    expected = ((1 + 2.5 - 3) + (1 + 2.5 - 2)) / 2  # the row at 3 has no positive
    assert generalized_lifted(rows, rule=labelled(), margin=2.5).loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_generalized_lifted_equals_plain_loops(rule: Any) -> None:
    a, c = sets(4)
    d, (w, r) = loops(a, c, rule, unit=False)
    expected = []
    for i in range(len(a)):
        pull = sum(float(w[i, j]) * math.exp(d[i][j]) for j in range(len(c)))
        push = sum(float(r[i, j]) * math.exp(1.2 - d[i][j]) for j in range(len(c)))
        if pull > 0 and push > 0:
            expected.append(max(0.0, math.log(pull) + math.log(push)))
    assert generalized_lifted(a, c, rule=rule, margin=1.2).loss.item() == pytest.approx(average(expected), rel=1e-9)


@pytest.mark.proves(reference=HERMANS, fact="reference")
def test_generalized_lifted_equals_the_public_loss() -> None:
    rows = classes(LABELS[:-2])  # the public loss counts a row without a positive as if that logsumexp were 0
    expected = losses.GeneralizedLiftedStructureLoss(neg_margin=0.9, **EUCLIDEAN)(rows.z, rows.facts["label"])
    assert generalized_lifted(rows, rule=labelled(), margin=0.9).loss.item() == pytest.approx(expected.item(), rel=1e-9)


# ---- n-pair


@pytest.mark.proves(reference=SOHN, fact="closed-form")
def test_n_pair_equals_the_papers_formula_with_the_penalty() -> None:
    a, p, l2 = draw(5), draw(5, seed=1), 0.3
    s = a @ p.T
    loss = average([math.log(1 + sum(math.exp(s[i, j] - s[i, i]) for j in range(5) if j != i)) for i in range(5)])
    penalty = 0.25 * l2 * (a.square().sum(1).mean() + p.square().sum(1).mean()).item()
    assert n_pair(a, p, l2=l2).loss.item() == pytest.approx(loss + penalty, rel=1e-9)
    assert n_pair(a, p, l2=0.0).loss.item() == pytest.approx(infonce(a, p, temperature=1.0, unit=False).loss.item())


@pytest.mark.proves(reference=SOHN, fact="reference")
def test_n_pair_equals_the_public_loss() -> None:
    a, p, label = draw(5), draw(5, seed=1), torch.arange(5)
    plain = distances.DotProductSimilarity(normalize_embeddings=False)
    expected = losses.NPairsLoss(distance=plain)(torch.cat([a, p]), torch.cat([label, label]))
    assert n_pair(a, p).terms["n_pair"].item() == pytest.approx(expected.item(), rel=1e-9)


# ---- all of them


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shuffling_and_rotating_change_nothing(name: str) -> None:
    objective = OBJECTIVES[name]
    rows = classes(LABELS)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(draw(4, seed=9))[0]
    base = objective(rows, rule=labelled()).loss.item()
    turned = Embeddings.of(rows.z @ rotation, facts=rows.facts)
    assert base > 0
    assert objective(rows.rows(order), rule=labelled()).loss.item() == pytest.approx(base, rel=1e-9)
    assert objective(rows, rows.rows(order), rule=labelled()).loss.item() == pytest.approx(base, rel=1e-9)
    assert objective(turned, rule=labelled()).loss.item() == pytest.approx(base, rel=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_unit_length_forgets_scale_and_only_distances_forget_place(name: str) -> None:
    objective, rows = OBJECTIVES[name], classes(LABELS)
    unit = getattr(objective, "keywords", {}).get("unit", name.startswith("triplet"))
    base = objective(rows, rule=labelled()).loss.item()
    longer, moved = (Embeddings.of(z, facts=rows.facts) for z in (rows.z * 1.3, rows.z + 1))
    assert (objective(longer, rule=labelled()).loss.item() == pytest.approx(base, rel=1e-9)) == unit
    assert (objective(moved, rule=labelled()).loss.item() == pytest.approx(base, rel=1e-9)) == (
        not unit and name != "n pair"
    )


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if "soft" not in name and name != "n pair"])
def test_classes_far_apart_cost_nothing(name: str) -> None:
    ends = torch.tensor([[0.0, 9.0], [0.0, 9.0], [9.0, 0.0], [9.0, 0.0]])
    wide: dict[str, Any] = {"margin": -9.0} if name == "lifted unit" else {}  # two unit rows are at most 2 apart
    rows = Embeddings.of(ends, facts={"label": torch.tensor([0, 0, 1, 1])})
    assert OBJECTIVES[name](rows, rule=labelled(), **wide).loss.item() == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_equals_finite_differences(name: str) -> None:
    rows, c = classes(LABELS[:5]), classes(LABELS[2:7], seed=1)
    c = Embeddings.of(c.z, id=torch.arange(10, 15), facts=c.facts)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        a = Embeddings.of(x, facts=rows.facts)
        return OBJECTIVES[name](a, Embeddings.of(y, id=c.id, facts=c.facts), rule=labelled()).loss

    assert torch.autograd.gradcheck(loss, (rows.z.requires_grad_(), c.z.requires_grad_()))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_give_finite_gradients(name: str, dtype: torch.dtype) -> None:
    z = torch.ones(4, 3, dtype=dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(OBJECTIVES[name](z, z).loss, z)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["alone", "without a negative", "without a positive"])
def test_rows_without_a_turn_change_nothing(name: str, kind: str) -> None:
    """Two anchors with a positive and a negative each, and a third that lacks one of them or both."""
    z, c = draw(3).requires_grad_(), Embeddings.of(draw(3, seed=1), id=torch.arange(10, 13))
    attract = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, kind == "without a negative"]], dtype=torch.float64)
    repel = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, kind == "without a positive"]], dtype=torch.float64)

    def loss(rows: int) -> Tensor:
        a = Embeddings.of(z[:rows], id=torch.arange(rows))
        found = OBJECTIVES[name](a, c, rule=lambda x, y: Pairs(attract[x.id][:, y.id - 10], repel[x.id][:, y.id - 10]))
        return torch.stack([term for key, term in found.terms.items() if key != "n_pair_l2"]).sum()

    (gradient,) = torch.autograd.grad(loss(3), z)
    assert torch.isfinite(gradient).all()
    assert gradient[:2].abs().max() > 0
    if kind == "alone" or name.startswith(("triplet", "generalized", "n pair")):  # these need both
        assert loss(3).item() == pytest.approx(loss(2).item(), rel=1e-12)
        assert gradient[2].abs().max() == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_pairs_at_all_cost_nothing(name: str) -> None:
    z = draw(3).requires_grad_()
    a = Embeddings.of(z, facts={"label": torch.tensor([-1, -1, -1])})
    for key, term in OBJECTIVES[name](a, a.rows(slice(0, 0)), rule=labelled()).terms.items():
        if key != "n_pair_l2":
            (gradient,) = (
                torch.autograd.grad(term, z, allow_unused=True, retain_graph=True) if term.requires_grad else (None,)
            )
            assert term.item() == 0
            assert gradient is None or gradient.abs().max() == 0


def test_a_distance_has_gradient_zero_at_zero() -> None:
    squares = torch.tensor([0.0, 9.0], requires_grad=True)
    assert torch.autograd.grad(distance(squares).sum(), squares)[0].tolist() == [0, pytest.approx(1 / 6)]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=10, deadline=None, derandomize=True)  # a hinge may flip between two roundings of one number
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(rule: Any, name: str, n: int, m: int, seed: int) -> None:
    assert_tiles_equal_dense(lambda a, c: OBJECTIVES[name](a, c, rule=rule), n=n, m=m, seed=seed)
