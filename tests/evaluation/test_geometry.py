"""Statistics of an embedding space, on clouds whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import skew
from torch import Tensor

from counterpoint.evaluation.geometry import (
    compactness,
    dependence,
    hardness,
    hubness,
    isotropy,
    mean_cosine,
    modality_gap,
    spectrum,
    subclass_separation,
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
