"""Statistics of an embedding space, on clouds whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import gammaln, ive
from scipy.stats import skew
from torch import Tensor

from counterpoint.evaluation.geometry import (
    alignment,
    dependence,
    effective_rank,
    explained,
    hardness,
    hubness,
    isotropy,
    mean_cosine,
    modality_gap,
    rankme,
    shared_neighbours,
    spectrum,
    unevenness,
    uniformity,
)
from counterpoint.evaluation.geometry_labels import (
    compactness,
    readable,
    subclass_separation,
    suppression,
    tolerance,
)
from counterpoint.types import Embeddings


def sphere(n: int, d: int, seed: int = 0) -> Tensor:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


def cone(part: float, n: int = 4000, d: int = 32) -> Tensor:
    """Unit rows that share `part` of their length along one axis and are even in all others."""
    return torch.cat([torch.full((n, 1), part, dtype=torch.float64), (1 - part**2) ** 0.5 * sphere(n, d)], 1)


def test_an_even_sphere_and_a_cone() -> None:
    z = sphere(4000, 32)
    assert mean_cosine(z) == pytest.approx(0, abs=1e-3)
    assert isotropy(z) > 0.97
    assert mean_cosine(cone(0.8)) == pytest.approx(0.64, abs=1e-3)
    assert mean_cosine(3 * cone(0.8)) == pytest.approx(mean_cosine(cone(0.8)))  # length says nothing
    # along the axis exp(0.8), against it exp(-0.8)
    assert isotropy(cone(0.8)) == pytest.approx(math.exp(-1.6), rel=1e-3)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    z = sphere(20, 3) + 0.3
    u = z / z.norm(dim=1, keepdim=True)
    cosines = (u @ u.T)[~torch.eye(20, dtype=torch.bool)]
    assert mean_cosine(z) == pytest.approx(float(cosines.mean()), rel=1e-9)
    assert math.isnan(mean_cosine(z[:1]))


def test_a_subspace_shows_in_the_spectrum() -> None:
    z = torch.zeros(3000, 16, dtype=torch.float64)
    z[:, :4] = sphere(3000, 4)
    found = spectrum(z)
    assert found[:4].tolist() == pytest.approx([0.25] * 4, abs=0.02)
    assert float(found[4:].max()) < 1e-20
    u = cone(0.6)
    assert float(spectrum(u).sum()) == pytest.approx(1 - float(u.mean(0).square().sum()), rel=1e-9)
    assert spectrum(torch.ones(5, 3)).tolist() == pytest.approx([0, 0, 0])


def even_uniformity(d: int, part: float = 0.0, t: float = 2.0) -> float:
    """Of an even sphere in d dimensions, under a common part: log E exp(-2 t (1 - part^2) (1 - cos)), by Bessel's I."""
    kappa, order = (
        2 * t * (1 - part**2),
        d / 2 - 1,
    )  # E exp(kappa cos) = Gamma(order + 1) (2 / kappa)^order I_order(kappa)
    return float(gammaln(order + 1) + order * math.log(2 / kappa) + math.log(ive(order, kappa)))


@pytest.mark.parametrize("d", [3, 8, 32])
def test_uniformity_of_a_sphere_a_cone_and_a_collapsed_subspace(d: int) -> None:
    flat = torch.cat([sphere(2000, d), torch.zeros(2000, 16, dtype=torch.float64)], 1)
    assert uniformity(sphere(2000, d)).loss.item() == pytest.approx(even_uniformity(d), abs=0.01)
    assert uniformity(flat).loss.item() == pytest.approx(even_uniformity(d), abs=0.01)
    assert uniformity(cone(0.8, n=2000, d=d)).loss.item() == pytest.approx(even_uniformity(d, 0.8), abs=0.01)
    assert even_uniformity(d, 0.8) > even_uniformity(d)  # 0 is all in one place


def test_alignment_of_two_offset_sets_is_the_offset() -> None:
    x, y = cone(0.5), cone(0.5)
    y[:, 0] *= -1
    assert alignment(x, y).loss.item() == pytest.approx(modality_gap(x, y) ** 2, rel=1e-5)


def test_effective_rank_counts_directions_softly_around_the_middle() -> None:
    one, two = torch.eye(2, dtype=torch.float64)
    z = torch.stack([one, -one] * 30 + [two, -two] * 10)  # variances 3/4 and 1/4
    for power, share in ((2.0, [0.75, 0.25]), (1.0, [3**0.5 / (1 + 3**0.5), 1 / (1 + 3**0.5)])):
        expected = math.exp(-sum(p * math.log(p) for p in share))
        assert effective_rank(z, power=power) == pytest.approx(expected, rel=1e-9)
    flat = torch.cat([sphere(3000, 4), torch.zeros(3000, 12, dtype=torch.float64)], 1)
    assert effective_rank(flat) == pytest.approx(4, abs=0.01)
    assert effective_rank(cone(0.8)) == pytest.approx(32, abs=0.2)  # the axis is the middle
    assert rankme(cone(0.95)) < 31 < effective_rank(cone(0.95))  # which RankMe counts, and heavily
    assert effective_rank(5 * z) == pytest.approx(effective_rank(z))
    assert math.isnan(effective_rank(torch.ones(5, 3)))


def test_neighbours_that_two_models_share() -> None:
    z = sphere(400, 8)
    turn = torch.linalg.qr(sphere(8, 8, seed=3)).Q
    assert shared_neighbours(z, z @ turn, 10) == 1.0
    assert shared_neighbours(z, sphere(400, 8, seed=5), 10) == pytest.approx(10 / 399, abs=0.01)


def test_what_a_number_explains() -> None:
    place = torch.arange(1000) % 10
    value, apart = place.double(), torch.eye(10, dtype=torch.float64)[place]
    assert explained(apart, value) == pytest.approx(1 - 9 / 999)
    z = torch.cat([0.6 * apart, 0.8 * sphere(1000, 16)], 1)  # between: 0.36 less the middle's 0.036, of all but 0.036
    assert explained(z, value) == pytest.approx(0.324 / 0.964, abs=0.01)
    assert explained(z, value.exp()) == pytest.approx(explained(z, value), abs=1e-12)  # by rank alone
    drawn = [explained(sphere(200, 8, seed=s), torch.arange(200.0)) for s in range(100)]
    assert sum(drawn) / 100 == pytest.approx(0, abs=0.003)
    assert math.isnan(explained(z, torch.ones(1000)))


def test_counts_of_neighbours_are_hubness() -> None:
    x, y = (Embeddings.of(sphere(n, 4, seed=s).float(), id=torch.arange(n) + 1000 * s) for n, s in ((300, 1), (80, 2)))
    found = torch.bincount((x.z @ y.z.T).topk(5, 1).indices.flatten(), minlength=80)
    assert unevenness(found, 300) == hubness(x, y, 5)
    assert unevenness(found, 300).skewness == pytest.approx(skew(found.numpy()))


def factors(strength: float, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Items of a source and a topic, each a direction of its own; the topic's is as strong as said."""
    source, topic = torch.arange(600) % 2, torch.arange(600) // 2 % 3
    eye = torch.eye(3, dtype=torch.float64)
    noise = 0.3 * torch.randn(600, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([2 * eye[source], strength * eye[topic]], 1).repeat(1, 2) + noise, {
        "source": source,
        "topic": topic,
    }


def test_a_factor_is_read_from_chance_to_perfect() -> None:
    z, labels = factors(1.0)
    assert readable(z, labels["source"]) == 1.0
    assert readable(z, labels["topic"]) > 0.95
    assert readable(sphere(600, 8), labels["topic"]) == pytest.approx(0, abs=0.1)
    rare = torch.where(torch.arange(600) < 3, 9, labels["source"])  # a class of three cannot be dealt into five parts
    assert readable(z, rare) == 1.0
    faint = torch.cat([sphere(600, 8), 0.02 * (labels["source"][:, None] - 0.5) + 0.002 * sphere(600, 1)], 1)
    assert readable(faint, labels["source"]) > 0.95  # a direction of little variance counts too
    most = (torch.arange(600) % 10 == 0).long()  # nine of ten are one class: saying so is worth nothing
    assert readable(sphere(600, 4, seed=9), most) == pytest.approx(0, abs=0.05)
    assert math.isnan(readable(z, torch.zeros(600).long()))


def test_the_factor_that_a_model_hides() -> None:
    before, labels = factors(1.0)
    after, _ = factors(0.02, seed=1)
    found = suppression(after, labels, reference=before)
    assert found.suppressed == "topic"
    assert found.loss == pytest.approx(found.before["topic"] - found.factors["topic"])
    assert found.loss > 0.6
    assert suppression(before, labels, reference=before).loss == 0
    alone = suppression(after, labels)
    assert (alone.suppressed, alone.before) == ("topic", {})
    assert alone.loss == pytest.approx(alone.factors["source"] - alone.factors["topic"])
    hard = suppression(after, labels, reference=after)  # what the reference does not know either is not suppressed
    assert hard.loss == 0
    with pytest.raises(ValueError, match="two factors"):
        suppression(before, {"topic": labels["topic"]})
    with pytest.raises(ValueError, match="600 and 5"):
        suppression(before, labels, reference=before[:5])


def test_two_sets_that_are_offset() -> None:
    x, y = cone(0.5), cone(0.5)
    y[:, 0] *= -1
    assert modality_gap(x, y) == pytest.approx(1.0, rel=1e-9)
    assert modality_gap(x, 7 * x) == pytest.approx(0, abs=1e-12)


def test_a_hub() -> None:
    """Six directions and one candidate in the middle of them all, which everybody finds first."""
    anchors = Embeddings.of(torch.cat([torch.eye(6) * 2 + 1]), id=torch.arange(6))
    candidates = Embeddings.of(torch.cat([torch.eye(6), torch.ones(1, 6)]), id=torch.arange(10, 17))
    found = hubness(anchors, candidates, 2)  # the own direction, and the middle
    assert found.skewness == pytest.approx(skew([1.0] * 6 + [6.0]))
    assert (found.never, found.largest) == (0.0, 1.0)
    one = hubness(anchors, candidates, 1)  # cosine of the own direction 3 / sqrt(14), of the middle 8 / sqrt(84)
    assert one.never == pytest.approx(6 / 7)
    assert one.largest == 1.0


def test_a_row_is_not_its_own_neighbour() -> None:
    e = Embeddings.of(torch.eye(3))
    assert hubness(e, e, 1).never < 1
    assert hubness(e, e, 1).largest <= 1
    even = Embeddings.of(torch.stack([(a := torch.arange(8) * math.pi / 4).cos(), a.sin()], 1), id=torch.arange(8))
    found = hubness(even, even, 2)
    assert (found.never, found.largest) == (0.0, 0.25)
    assert found.skewness == pytest.approx(0, abs=1e-9)


def test_tolerance_is_the_mean_over_pairs_of_a_class() -> None:
    z, labels = sphere(30, 4), torch.arange(30) % 4
    same = (labels[:, None] == labels) & ~torch.eye(30, dtype=torch.bool)
    assert tolerance(5 * z, labels) == pytest.approx(float((z @ z.T)[same].mean()), rel=1e-9)
    assert math.isnan(tolerance(z, torch.arange(30)))


def test_classes_of_one_point_and_classes_that_say_nothing() -> None:
    labels = torch.arange(4000) % 4
    points = torch.eye(4)[labels]
    assert compactness(points, labels) == pytest.approx(0, abs=1e-12)
    assert compactness(sphere(4000, 8), labels) == pytest.approx(1, abs=0.02)
    # middle at height 0.6 along the class's axis, the rest, 0.64, around it; the middle of all takes 0.36 / 4
    around = torch.cat([0.6 * points.double(), 0.8 * sphere(4000, 16)], 1)
    assert compactness(around, labels) == pytest.approx(0.64 / (1 - 0.36 / 4), abs=0.01)
    assert math.isnan(compactness(torch.ones(3, 2), torch.tensor([0, 0, 1])))


def test_collapse_within_a_class() -> None:
    """Two coarse classes of three fine ones: apart, then mixed; small fine classes count against their own chance."""
    fine = torch.arange(600) % 6
    coarse = fine % 2
    apart = torch.eye(6, dtype=torch.float64)[fine] + 0.05 * sphere(600, 6)
    assert subclass_separation(apart, coarse, fine) == 1.0
    mixed = torch.eye(2, dtype=torch.float64)[coarse]
    mixed = torch.cat([mixed, 0.2 * sphere(600, 8)], 1)
    assert subclass_separation(mixed, coarse, fine) == pytest.approx(0, abs=0.1)
    assert math.isnan(subclass_separation(mixed, coarse, coarse))
    # of three rows two are right, by chance one of them: the third has none of its own, the others one of two
    few = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    assert subclass_separation(few, torch.zeros(3).long(), torch.tensor([5, 5, 6])) == pytest.approx((2 - 1) / (3 - 1))


@pytest.mark.parametrize("known", [True, False])
def test_length_in_the_space(known: bool) -> None:
    value = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    line = torch.stack([value.cos(), value.sin()], 1)
    z = line if known else sphere(500, 2, seed=2)
    assert (dependence(z, value) > 0.99) == known
    assert (abs(dependence(z, value)) < 0.25) == (not known)
    assert math.isnan(dependence(z, torch.ones(500)))


def test_hot_and_cold() -> None:
    e = Embeddings.of(sphere(200, 8).float())
    assert hardness(e, e, 1e3, share=0.1) == pytest.approx(20 / 199, rel=1e-3)
    assert hardness(e, e, 1e-3, share=0.1) == pytest.approx(1, abs=1e-6)
    assert hardness(e, e, 0.05, share=1.0) == pytest.approx(1, abs=1e-5)
    s = e.z.double() @ e.z.double().T / 0.2
    s.fill_diagonal_(-torch.inf)
    p = torch.softmax(s, 1).sort(1, descending=True).values
    assert hardness(e, e, 0.2, share=0.05) == pytest.approx(float(p[:, :10].sum(1).mean()), rel=1e-5)
    with pytest.raises(ValueError, match="temperature above 0"):
        hardness(e, e, 0.0)
