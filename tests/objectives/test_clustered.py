"""Prototypes, swapped codes, meta-nodes and the band: hand-sized cases, the authors' formulas, limits, shuffles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives.clustered import band, block_infonce, prototypical, swapped
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.clusters import beside_made, cluster_mates, siblings
from counterpoint.pairs.filters import equal, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.pairs.remembered import beside_queue
from counterpoint.types import Embeddings, Outcome, Relation, same_sample
from tests._ops.test_sinkhorn import authors_codes
from tests.objectives.contract import assert_same


def draw(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaf(n: int, d: int = 6, seed: int = 0) -> Tensor:
    """Rows of any length that require grad."""
    return draw(n, d, seed).requires_grad_()


def made(z: Tensor, **facts: Tensor) -> Embeddings:
    """Prototypes: ids below 0, on every process."""
    number = -1 - torch.arange(len(z))
    return replace(Embeddings.of(z, id=number, facts=facts), placement="replicated")


# ---- prototypical


@pytest.mark.proves(row=18, fact="closed-form")
def test_prototypical_by_hand() -> None:
    """Logits (1, 0); teachers at cosine 0 with t' = 1: targets (e, 1) / (1 + e)."""
    rows = Embeddings.of(torch.tensor([[1.0, 0.0]], dtype=torch.float64), facts={"cluster": torch.tensor([0])})
    eye = torch.eye(2, dtype=torch.float64)
    p = made(eye, cluster=torch.arange(2), teacher=eye)
    share = math.e / (1 + math.e)
    expected = math.log(1 + math.e) - share
    found = prototypical(rows, p, temperature=1.0, teacher_temperature=1.0)
    assert found.loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.proves(row=18, fact="reference")
@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_prototypical_is_the_loss_of_the_authors(scale: float) -> None:
    """ProtoLoss in src/training/loss.py of megvii-research/protoclip at f86a73b, with a teacher_temperature above 0."""
    z, student, teacher = leaf(11), draw(4, seed=1).requires_grad_(), draw(4, 3, seed=2)
    labels = torch.randint(4, (11,), generator=torch.Generator().manual_seed(3))
    targets = (teacher[labels] @ teacher.T / 0.4).softmax(1)
    wanted = cross_entropy(scale * z @ student.T, targets)
    rows = Embeddings.of(z, facts={"cluster": labels})
    order = torch.tensor([2, 0, 3, 1])  # prototypes go by their number, not by their place
    teacher.requires_grad_()
    p = made(student[order], cluster=torch.arange(4)[order], teacher=teacher[order])
    found = prototypical(rows, p, temperature=1 / scale, teacher_temperature=0.4)
    assert_same(found.loss, wanted, [z, student])
    assert torch.autograd.grad(found.loss, teacher, allow_unused=True)[0] is None


def test_a_cold_teacher_gives_the_labels_alone() -> None:
    z, teacher = leaf(11), normalize(draw(4, seed=2), dim=1)
    labels = torch.arange(11) % 4
    rows = Embeddings.of(z, facts={"cluster": labels})
    p = made(normalize(draw(4, seed=1), dim=1), cluster=torch.arange(4), teacher=teacher)
    found = prototypical(rows, p, temperature=0.2, teacher_temperature=1e-3, unit=True)
    assert_same(found.loss, infonce(rows, p, rule=labelled("cluster"), temperature=0.2).loss, [z])


def test_rows_without_a_prototype_do_not_count() -> None:
    labels = torch.tensor([0, -1, 1, 7])
    rows = Embeddings.of(leaf(4), facts={"cluster": labels, "t": torch.tensor([0.2, 9.0, 0.5, 9.0]).double()})
    p = made(draw(2, seed=1), cluster=torch.arange(2), teacher=draw(2, seed=2))
    some = prototypical(rows.rows(torch.tensor([0, 2])), p, temperature="t").loss
    assert prototypical(rows, p, temperature="t").loss.item() == pytest.approx(some.item(), rel=1e-12)
    found = prototypical(rows, p, temperature=rows.facts["t"]).loss
    assert found.item() == pytest.approx(some.item(), rel=1e-12)


# ---- swapped


def crops(z: list[Tensor], order: Tensor | None = None) -> Embeddings:
    sets = Embeddings.cat([Embeddings.of(x, id=torch.arange(len(x)) + 50, view=v) for v, x in enumerate(z)])
    return sets if order is None else sets.rows(order)


def authors_swav(z: list[Tensor], p: Tensor, past: dict[int, Tensor]) -> Tensor:
    """main_swav.py of facebookresearch/swav at 04b8f43, the loss of a step: crops 0 and 1 give codes."""
    p, loss = normalize(p, dim=1), torch.zeros((), dtype=torch.float64)
    outputs = [normalize(x, dim=1) @ p.T for x in z]
    for s in (0, 1):
        with torch.no_grad():
            scores = torch.cat([past[s] @ p.T, outputs[s]]) if s in past else outputs[s]
            q = authors_codes(scores, 0.05, 3)[-len(z[s]) :]
        others = [v for v in range(len(z)) if v != s]
        part = [-(q * (outputs[v] / 0.1).log_softmax(1)).sum(1).mean() for v in others]
        loss = loss + torch.stack(part).sum() / len(others)
    return loss / 2


@pytest.mark.proves(row=23, fact="reference")
@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("queued", [False, True])
def test_swapped_is_the_loss_of_the_authors(views: int, queued: bool) -> None:
    z = [draw(9, seed=v).requires_grad_() for v in range(views)]
    p = draw(5, seed=20).requires_grad_()
    past = {s: normalize(draw(12, seed=30 + s), dim=1) for s in (0, 1)} if queued else {}
    kept = {s: replace(Embeddings.of(x, id=torch.arange(12)), placement="replicated") for s, x in past.items()}
    order = torch.randperm(9 * views, generator=torch.Generator().manual_seed(4))
    found = swapped(crops(z, order), made(p), past=kept)  # type: ignore[arg-type]
    assert_same(found.loss, authors_swav(z, p, past), [*z, p])


@pytest.mark.proves(row=33, fact="closed-form")
def test_swapped_across_images_and_texts_beside_clip_is_swalip() -> None:
    """Both kinds are views of one sample, paired by id: CLIP's cross entropies, and SwAV's loss fed with images and texts."""
    images, texts, p = (draw(k, seed=v).requires_grad_() for v, k in enumerate((9, 9, 5)))
    scores = normalize(images, dim=1) @ normalize(texts, dim=1).T / 0.2
    clip = (cross_entropy(scores, torch.arange(9)) + cross_entropy(scores.T, torch.arange(9))) / 2
    mixed = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    both = crops([images, texts])
    sides = both.rows(slice(0, 9)), both.rows(slice(9, None)).rows(mixed)
    beside = swapped(Embeddings.cat(list(sides)), made(p))
    found = Outcome.of(clip=(1.0, infonce(*sides, temperature=0.2, directions="both")), swav=(0.5, beside))
    assert_same(found.loss, clip + 0.5 * authors_swav([images, texts], p, {}), [images, texts, p])


@pytest.mark.proves(row=23, fact="closed-form")
def test_swapped_by_hand() -> None:
    """Views on two prototypes: codes are (1, 0) and (0, 1) as eps goes to 0, even as it grows."""
    eye = torch.eye(2, dtype=torch.float64)
    found = swapped(crops([eye, eye]), made(eye), temperature=0.5, eps=0.01).loss.item()
    assert found == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-9)
    even = swapped(crops([eye, eye]), made(eye), temperature=0.5, eps=1e8).loss.item()
    assert even == pytest.approx(math.log(1 + math.exp(-2)) + 1, rel=1e-6)


def test_equal_prototypes_cost_log_k_and_codes_take_no_gradient() -> None:
    z = [draw(6, seed=v).requires_grad_() for v in (0, 1)]
    assert swapped(crops(z), made(torch.ones(7, 6).double())).loss.item() == pytest.approx(math.log(7), rel=1e-9)
    only = torch.autograd.grad(swapped(crops(z), made(draw(4, seed=5)), coded=(0,)).loss, z, allow_unused=True)
    assert only[0] is None or not only[0].any()
    assert only[1] is not None
    assert only[1].any()


# ---- meta-nodes


def nodes(z: Tensor, cluster: list[int]) -> Embeddings:
    return Embeddings.of(z, id=torch.arange(len(z)), facts={"cluster": torch.tensor(cluster)})


EDGES = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (6, 7), (7, 6), (1, 6)]
GRAPH = listed(Relation.of(*zip(*EDGES, strict=True)))  # type: ignore[arg-type]


def all_pairs(z: Tensor, t: float) -> Tensor:
    """The loss that meta-nodes stand for: all but oneself in the denominator."""
    s = normalize(z, dim=1) @ normalize(z, dim=1).T / t
    drawn = torch.stack([torch.stack([s[i, j] for a, j in EDGES if a == i]).logsumexp(0) for i in range(len(z))])
    away = s.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf).logsumexp(1)
    return away.mean() - drawn.mean()


@pytest.mark.proves(row=185, fact="closed-form")
def test_a_cluster_for_each_row_is_the_loss_of_all_pairs() -> None:
    z = draw(8).requires_grad_()
    found = block_infonce(nodes(z, list(range(8))), rule=GRAPH, temperature=0.7).loss
    assert_same(found, all_pairs(z, 0.7), [z])


@pytest.mark.proves(row=185, fact="closed-form")
def test_rows_that_coincide_lose_nothing() -> None:
    cluster = [0, 0, 0, 1, 1, 1, 2, 2]
    z = draw(3)[torch.tensor(cluster)]
    found = block_infonce(nodes(z, cluster), rule=GRAPH, temperature=0.7).loss.item()
    assert found == pytest.approx(all_pairs(z, 0.7).item(), rel=1e-12)


def test_the_error_shrinks_with_the_spread_of_clusters() -> None:
    cluster = [0, 0, 0, 1, 1, 1, 2, 2]
    centers, noise, errors = draw(3)[torch.tensor(cluster)], draw(8, seed=1), []
    for spread in (0.4, 0.2, 0.1):
        z = centers + spread * noise
        found = block_infonce(nodes(z, cluster), rule=GRAPH, temperature=0.7).loss
        errors.append(abs(float(found - all_pairs(z, 0.7))))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


@pytest.mark.proves(row=185, fact="reference")
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_counted_once_is_the_loss_of_the_authors(tau: float) -> None:
    """NcontrastCC with get_feature_dis, train.py of gayanku/PAMC at 669829e, for a graph without loops."""
    cluster = [0, 0, 0, 1, 1, 1, 2, 2]
    z = draw(8).requires_grad_()
    adjacency = torch.zeros(8, 8, dtype=torch.float64)
    for i, j in EDGES:
        adjacency[i, j] = 1

    def cosines(x: Tensor) -> Tensor:
        length = x.square().sum(1, keepdim=True).sqrt()
        return (1 - torch.eye(len(x), dtype=torch.float64)) * (x @ x.T) / (length @ length.T)

    u = normalize(z, dim=1)  # the authors add up rows as they are; on unit rows both agree
    sums = torch.stack([u[torch.tensor(cluster) == a].sum(0) for a in range(3)])
    drawn = ((tau * cosines(u)).exp() * adjacency).sum(1)
    wanted = (tau * cosines(sums)).exp().sum(1).log().mean() - drawn.log().mean()
    found = block_infonce(nodes(z, cluster), rule=GRAPH, temperature=1 / tau, counted=False)
    assert_same(found.loss, wanted, [z])


def test_rows_without_a_cluster_repel_nothing() -> None:
    z = draw(8)
    some = block_infonce(nodes(z, [0, 0, 1, 1, -1, -1, -1, -1]), rule=same_sample).loss
    assert some.item() == pytest.approx(block_infonce(nodes(z[:4], [0, 0, 1, 1]), rule=same_sample).loss.item())
    assert block_infonce(nodes(z, [-1] * 8), rule=same_sample).loss.item() == 0


def test_nodes_without_an_edge_are_pushed_and_not_drawn() -> None:
    """Only the rows with an edge are in the mean of what draws; all are in what pushes."""
    z, cluster = draw(8), [0, 0, 0, 1, 1, 1, 2, 2]
    some = listed(Relation.of([0, 3, 3], [1, 4, 5]))
    s = normalize(z, dim=1) @ normalize(z, dim=1).T / 0.7
    drawn = (s[0, 1] + torch.logaddexp(s[3, 4], s[3, 5])) / 2
    every = torch.tensor([i for i, _ in EDGES])
    of_graph = torch.stack([s[i, [j for a, j in EDGES if a == i]].logsumexp(0) for i in every.unique().tolist()]).mean()
    found, whole = (block_infonce(nodes(z, cluster), rule=r, temperature=0.7).loss for r in (some, GRAPH))
    assert (found - whole).item() == pytest.approx((of_graph - drawn).item(), rel=1e-9)


# ---- the band, and negatives of a centroid


@pytest.mark.proves(row=146, fact="closed-form")
@pytest.mark.parametrize(("cosine", "cost"), [(0.9, 0.1), (0.8, 0.0), (0.6, 0.0), (0.5, 0.0), (0.2, 0.3)])
def test_the_band_is_free_between_its_margins(cosine: float, cost: float) -> None:
    """Positive at cosine 1: D = cosine - 1, free from -0.5 to -0.2."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]], dtype=torch.float64), facts={"cluster": torch.tensor([3])})
    z = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    c = Embeddings.of(z, id=torch.tensor([0, 1]), view=1, facts={"cluster": torch.tensor([3, 3])})
    found = band(a, c, rule=cluster_mates()).loss.item()
    assert found == pytest.approx(cost, abs=1e-12)


@pytest.mark.proves(row=146, fact="reference")
def test_the_band_and_hard_centroids_are_those_of_the_authors() -> None:
    """simcse/models.py of djz233/ClusterNS at 2469a6a: logits with weights, false_negative_loss and BML_loss."""
    za, zb, t, weight = leaf(9), leaf(9, seed=1), 0.05, 0.4
    centers = draw(4, seed=2)
    cosines = normalize(za.detach(), dim=1) @ normalize(centers, dim=1).T
    order = cosines.topk(2, dim=1).indices
    own, hard = order[:, 0], centers[order[:, 1]]
    ua, ub = normalize(za, dim=1), normalize(zb, dim=1)
    s = ua @ ub.T
    logits = torch.cat([s / t, ua @ normalize(hard, dim=1).T / t + weight * torch.eye(9)], 1)
    wanted = cross_entropy(logits, torch.arange(9))
    deltas = [s[i, j] - s[i, i] for i in range(9) for j in range(9) if i != j and own[i] == own[j]]
    x = torch.stack(deltas)
    wanted_band = ((x + 0.2).relu() + (-x - 0.5).relu()).mean()

    ids = torch.arange(9) + 70
    facts = {"owner": ids, "cluster": own}
    a, twins = Embeddings.of(za, id=ids, facts=facts), Embeddings.of(zb, id=ids, view=1, facts=facts)
    none = torch.full((9,), -1)
    extra = Embeddings.of(hard, id=-1 - order[:, 1], facts={"owner": ids, "cluster": none})
    found = infonce(a, Embeddings.cat([twins, extra]), rule=beside_made(weight=math.exp(weight)), temperature=t)
    assert_same(found.loss, wanted, [za, zb])
    assert_same(band(a, twins, rule=cluster_mates()).loss, wanted_band, [za, zb])
    spared = infonce(
        a,
        Embeddings.cat([twins, extra]),
        rule=without(beside_made(weight=math.exp(weight)), equal("cluster")),
        temperature=t,
    )
    assert spared.loss.item() < found.loss.item()


def test_the_band_weighs_pairs_and_not_anchors() -> None:
    a = Embeddings.of(draw(6), facts={"cluster": torch.tensor([0, 0, 0, 1, 1, 2])})
    b = replace(a, z=draw(6, seed=1), view=a.view + 1)
    x, y = normalize(a.z, dim=1), normalize(b.z, dim=1)
    cluster = a.facts["cluster"].tolist()
    costs = [
        max(0.0, float(x[i] @ y[j] - x[i] @ y[i]) + 0.1) + max(0.0, float(x[i] @ y[i] - x[i] @ y[j]) - 0.3)
        for i in range(6)
        for j in range(6)
        if i != j and cluster[i] == cluster[j]
    ]
    found = band(a, b, rule=cluster_mates(), alpha=0.1, beta=0.3).loss.item()
    assert found == pytest.approx(sum(costs) / len(costs), rel=1e-9)
    assert band(a.rows(slice(5, 6)), b.rows(slice(5, 6)), rule=cluster_mates()).loss.item() == 0


def test_held_pairs_of_an_anchor_without_a_positive_are_free() -> None:
    facts = {"cluster": torch.zeros(4, dtype=torch.int64)}
    a, b = Embeddings.of(draw(4), facts=facts), Embeddings.of(draw(4, seed=1), view=1, facts=facts)
    lone = b.rows(slice(0, 3))  # the fourth anchor has no view here
    found = band(a, lone, rule=cluster_mates()).loss.item()
    assert found == pytest.approx(band(a.rows(slice(0, 3)), lone, rule=cluster_mates()).loss.item(), rel=1e-12)
    assert found > 0


# ---- codes and subclasses: compositions


@pytest.mark.proves(row=167, fact="reference")
def test_codes_make_the_topic_loss_of_the_authors() -> None:
    """models/TSC.py of BobXWu/TSCTM at 3acc759, with augmentation, temperature 0.2 and weight_same_quant 0.6.

    It adds the two views up, where we take their mean.
    """
    first, second, w, t = leaf(8), leaf(8, seed=1), 0.6, 0.2
    code = torch.tensor([0, 1, 0, 2, 1, 0, 3, 2])
    z = normalize(torch.cat([first, second]), dim=1)
    logits = z @ z.T / t
    pair = torch.eye(8, dtype=torch.float64).repeat(2, 2) - torch.eye(16, dtype=torch.float64)
    alike = (code[:, None] == code).double().repeat(2, 2)
    below = (logits.exp() * (1 - alike)).sum(1, keepdim=True).log()
    mates = alike - torch.eye(16, dtype=torch.float64)
    each = (pair * (logits - below)).sum(1) / pair.sum(1) + w * (mates * (logits - below)).sum(1) / mates.sum(1)
    wanted = -each.view(2, 8).sum(0).mean()

    facts = {"code": code}
    two = Embeddings.cat([Embeddings.of(first, facts=facts), Embeddings.of(second, view=1, facts=facts)])
    terms = [
        infonce(two, rule=rule, positives_compete=False, temperature=t)
        for rule in (without(same_sample, equal("code")), labelled("code"))
    ]
    found = Outcome.of(pair=(1.0, terms[0]), code=(w, terms[1]))
    assert_same(2 * found.loss, wanted, [first, second])


@pytest.mark.proves(row=167, fact="closed-form")
def test_distinct_codes_are_the_decoupled_loss_and_equal_ones_never_repel() -> None:
    a, c = leaf(6), leaf(6, seed=1)

    def loss(codes: Tensor, moved: Tensor) -> Tensor:
        """The loss of anchor 1, and of all where codes differ."""
        rows = Embeddings.of(a, facts={"cluster": codes})
        twins = Embeddings.of(moved, view=1, facts={"cluster": codes})
        some = rows if len(codes.unique()) == 6 else rows.rows(slice(1, 2))
        return infonce(some, twins, rule=without(same_sample, equal("cluster")), positives_compete=False).loss

    assert_same(loss(torch.arange(6), c), infonce(a, c, positives_compete=False).loss, [a, c])
    mates = torch.tensor([0, 0, 1, 1, 2, 2])
    gradient = torch.autograd.grad(loss(mates, c), c)[0]
    assert not gradient[0].any()
    assert all(gradient[k].any() for k in (1, 2, 3, 4, 5))


@pytest.mark.proves(row=197, fact="reference")
def test_subclasses_make_the_two_terms_of_the_authors() -> None:
    """SupConLoss_rank in moco/loss.py of JackHck/SBCL at 26961f3: logits [own key, queue], t = 0.07 and 0.12, 0.2."""
    q, k, queue = leaf(5), leaf(5, seed=1), normalize(draw(14, seed=2), dim=1)
    label, cluster = torch.tensor([0, 0, 1, 2, 1]), torch.tensor([0, 1, 3, 4, 2])
    old_label = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 0, 1, 2, 0, 1, 0])
    old_cluster = torch.tensor([0, 0, 1, 2, 3, 3, 4, 5, 1, 2, 5, 0, 2, 1])
    uq, uk = normalize(q, dim=1), normalize(k, dim=1)
    logits = torch.cat([(uq * uk).sum(1, keepdim=True), uq @ queue.T], 1)
    ones = torch.ones(5, 1, dtype=torch.float64)
    same_cluster = (cluster[:, None] == old_cluster).double()
    mask = torch.cat([ones, same_cluster], 1)
    first = -((mask * (logits / 0.07).log_softmax(1)).sum(1) / mask.sum(1)).mean()
    kin = torch.cat([ones, (label[:, None] == old_label).double() * (1 - same_cluster)], 1)
    others = torch.cat([ones, 1 - same_cluster], 1)
    log = logits / 0.12 - ((logits / 0.12).exp() * others).sum(1, keepdim=True).log()
    wanted = first - 0.2 * ((kin * log).sum(1) / kin.sum(1)).mean()

    facts = {"label": label, "cluster": cluster}
    ids = torch.arange(5) + 100
    a = Embeddings.of(q, id=ids, facts=facts)
    past = replace(Embeddings.of(queue, facts={"label": old_label, "cluster": old_cluster}), age=torch.ones(14).long())
    c = Embeddings.cat([Embeddings.of(k, id=ids, view=1, facts=facts), past])
    found = Outcome.of(
        subclass=(1.0, infonce(a, c, rule=beside_queue(labelled("cluster")), temperature=0.07)),
        rank=(0.2, infonce(a, c, rule=beside_queue(siblings()), temperature=0.12)),
    )
    assert_same(found.loss, wanted, [q, k])


@pytest.mark.proves(row=197, fact="closed-form")
def test_one_subclass_for_each_class_leaves_the_views_alone_as_siblings() -> None:
    facts = {"label": torch.tensor([0, 0, 1, 1]), "cluster": torch.tensor([5, 5, 6, 6])}
    a = Embeddings.of(draw(4), facts=facts)
    c = replace(a, view=a.view + 1)
    assert torch.equal(siblings()(a, c).attract, torch.eye(4, dtype=torch.float64))
    assert torch.equal(siblings()(a, c).repel, labelled()(a, c).repel)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, p: prototypical(a, p, teacher_temperature=0.0), "above 0"),
        (lambda a, p: swapped(a, p, eps=0.0), "above 0"),
        (lambda a, _p: block_infonce(a, temperature=-1.0), "above 0"),
        (lambda a, p: band(a, p, alpha=0.6), "at most beta"),
        (lambda _a, _p: beside_made(weight=-1.0), "at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, message: str) -> None:
    a = nodes(draw(3), [0, 1, 2])
    with pytest.raises(ValueError, match=message):
        call(a, made(draw(2), cluster=torch.arange(2), teacher=draw(2)))  # type: ignore[operator]


def test_losses_do_not_depend_on_scale_and_rotation() -> None:
    turn = torch.linalg.qr(draw(6, seed=9))[0]
    a = Embeddings.of(draw(8), facts={"cluster": torch.arange(8) // 2})
    b = replace(a, z=draw(8, seed=1), view=a.view + 1)
    p = made(draw(4, seed=2))
    losses = [
        lambda x, y, p: band(x, y, rule=cluster_mates()),
        lambda x, y, p: swapped(Embeddings.cat([x, y]), p),
        lambda x, y, _p: block_infonce(Embeddings.cat([x, y]), temperature=0.3),
    ]
    for loss in losses:
        turned = [replace(r, z=3 * r.z @ turn) for r in (a, b, p)]
        assert loss(a, b, p).loss.item() == pytest.approx(loss(*turned).loss.item(), rel=1e-9)
