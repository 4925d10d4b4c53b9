"""Hallucinated positives: the border in closed form, the authors' generator and loss, who is kept, limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.hallucinated import border, geodesic, hallucinated_positives
from counterpoint.pairs.remembered import against_queue
from counterpoint.pairs.synthetic import private_to
from counterpoint.types import Embeddings, Outcome
from tests.pairs.test_synthetic import unit


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keys_and_prototypes(n: int = 6, count: int = 5, d: int = 6) -> tuple[Embeddings, Embeddings]:
    keys = Embeddings.of(unit(n, d, seed=1), id=torch.arange(20, 20 + n), view=1)
    ends = Embeddings.of(unit(count, d, seed=2), id=-1 - torch.arange(count))
    return keys, replace(ends, placement="replicated")


def of_the_authors(start: Tensor, p0: Tensor, target: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """generate_positives_using_mixup of moco/generator.py at github.com/anshulbshah/HaLP (ae460b4), of given draws."""
    k = (1 - (target * p0).sum(1)) / ((start * (p0 - target)).sum(1) + 1e-8)
    omega = (target * start).sum(1).acos()
    furthest = (1 / (omega + 1e-8)) * ((omega.sin()) / (k + omega.cos() + 1e-8)).atan()
    t = (1 - back) * furthest
    alpha, beta = ((1 - t) * omega).sin() / (omega.sin() + 1e-8), (t * omega).sin() / (omega.sin() + 1e-8)
    points = alpha[:, None] * start + beta[:, None] * target
    return torch.nn.functional.normalize(points, dim=-1), furthest


def named(rows: Embeddings, ids: Tensor) -> Tensor:
    """The vectors of given ids."""
    return rows.z[(ids[:, None] == rows.id[None, :]).int().argmax(1)]


@pytest.mark.proves(row=226, fact="reference")
def test_halp_is_the_authors_points_and_loss() -> None:
    """Their generator, their mask of points that left their prototype, and the loss of moco/builder_single_modality_halp.py."""
    keys, ends = keys_and_prototypes()
    count, mu, t = 8, 0.7, 0.2
    found = hallucinated_positives(keys, ends, count=count, generator=draws())
    start = named(keys, -1 - found.id)
    p0 = ends.z[(start @ ends.z.T).argmax(1)]
    target = named(ends, found.facts["target"])
    furthest = border(start, p0, target)
    points, expected = of_the_authors(start, p0, target, 1 - found.facts["t"] / furthest)
    assert torch.allclose(furthest, expected, atol=1e-6)
    assert torch.allclose(found.z, points, atol=1e-6)
    assert ((points @ ends.z.T).argmax(1) == (start @ ends.z.T).argmax(1)).all()

    q = unit(6, seed=3).requires_grad_()
    queries, queue = Embeddings.of(q, id=keys.id), Embeddings.of(unit(9, seed=4), id=torch.arange(100, 109))
    candidates = Embeddings.cat([keys, replace(queue, age=queue.age + 1)])
    moco = infonce(queries, candidates, rule=against_queue, temperature=t)
    loss = Outcome.of(moco=(1.0, moco), halp=(mu / (2 * t), alignment(queries, found, rule=private_to("sample")))).loss

    z = torch.nn.functional.normalize(q, dim=1)
    logits = torch.cat([(z * keys.z).sum(1, keepdim=True), z @ queue.z.T], 1) / t
    own = (z[(-1 - found.id) - 20] * points).sum(1)
    valid = torch.ones(len(own), dtype=torch.float64)
    term = -1.0 * (((own / t).exp().log()) * valid).sum() / (valid.sum() + 1e-8)
    whole = torch.nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.int64)) + mu * term
    assert torch.allclose(loss - mu / t, whole, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(loss, q)[0], torch.autograd.grad(whole, q)[0], atol=1e-6)


@pytest.mark.proves(row=226, fact="closed-form")
def test_on_the_border_both_prototypes_are_as_near() -> None:
    keys, ends = keys_and_prototypes(40, 5)
    nearest = (keys.z @ ends.z.T).argmax(1)
    for k in range(5):
        others = nearest != k
        start, p0, target = keys.z[others], ends.z[nearest[others]], ends.z[k].expand(int(others.sum()), -1)
        t = border(start, p0, target)
        assert ((t >= 0) & (t <= 1)).all()
        point = geodesic(start, target, t)
        assert torch.allclose((point * p0).sum(1), (point * target).sum(1))
        short, far = (geodesic(start, target, s * t) for s in (0.9, 1.1))
        assert ((short * p0).sum(1) > (short * target).sum(1)).all()
        assert ((far * p0).sum(1) < (far * target).sum(1)).all()


def test_beyond_a_right_angle_the_border_is_still_ahead() -> None:
    """Where K + cos w is below 0 the authors' arc tangent goes back, away from the target."""
    angle = torch.tensor([0.0, 40.0, 190.0], dtype=torch.float64) * math.pi / 180
    start, p0, target = torch.stack([angle.cos(), angle.sin()], 1)[:, None]
    t = border(start, p0, target)
    assert 0 < t < 1
    point = geodesic(start, target, t)
    assert torch.allclose((point * p0).sum(1), (point * target).sum(1))


def test_the_way_starts_at_the_row_ends_at_the_target_and_stays_on_the_sphere() -> None:
    x, y = unit(5, seed=1), unit(5, seed=2)
    assert torch.allclose(geodesic(x, y, torch.zeros(5)), x)
    assert torch.allclose(geodesic(x, y, torch.ones(5)), y)
    for t in (0.2, 0.7):
        z = geodesic(x, y, torch.full((5,), t, dtype=torch.float64))
        omega = (x * y).sum(1).acos()
        assert torch.allclose(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
        assert torch.allclose((z * x).sum(1).acos(), t * omega)
        slerp = (((1 - t) * omega).sin()[:, None] * x + (t * omega).sin()[:, None] * y) / omega.sin()[:, None]
        assert torch.allclose(z, slerp)
    assert torch.allclose(geodesic(x, x, torch.full((5,), 0.5)), x)  # no way to go


def test_points_belong_to_their_sample_have_unit_norm_and_no_gradient() -> None:
    keys, ends = keys_and_prototypes()
    keys = replace(keys, z=keys.z.requires_grad_())
    found = hallucinated_positives(keys, ends, count=20, generator=draws())
    assert not found.z.requires_grad
    assert torch.allclose(found.z.norm(dim=1), torch.ones(len(found), dtype=torch.float64))
    pairs = private_to("sample")(replace(keys, view=keys.view * 0), found)
    assert pairs.repel.sum() == 0
    assert pairs.attract.sum(0).tolist() == [1] * len(found)
    assert (found.id.unique() == -1 - keys.id.flip(0)).all()
    assert len(found.facts["target"].unique()) > 3
    assert 0 < len(found) < 120  # some left their prototype for a third one


def test_how_far_and_towards_which() -> None:
    keys, ends = keys_and_prototypes(12, 5)
    ranks = (keys.z @ ends.z.T).argsort(1, descending=True)
    second = hallucinated_positives(keys, ends, count=9, among=1, generator=draws())
    place = (-1 - second.id) - 20
    assert (-1 - second.facts["target"] == ranks[place, 1]).all()
    start, target = keys.z[place], ends.z[ranks[place, 1]]
    share = second.facts["t"] / border(start, ends.z[ranks[place, 0]], target)
    assert len(second) == 12 * 9
    assert 0.2 <= share.min() < 0.35
    assert 0.9 < share.max() <= 1
    whole = hallucinated_positives(keys, ends, count=9, among=1, generator=draws(), back=1.0)
    assert torch.allclose(whole.facts["t"] * share / second.facts["t"], 1 - (1 - share) / 0.8)
    every = hallucinated_positives(keys, ends, count=40, generator=draws(), back=1.0)
    towards = -1 - every.facts["target"]
    assert (ranks[(-1 - every.id) - 20] == towards[:, None]).int().argmax(1).unique().tolist() == [1, 2, 3, 4]


def test_points_do_not_depend_on_the_order() -> None:
    keys, ends = keys_and_prototypes()
    found = hallucinated_positives(keys, ends, count=3, generator=draws())
    order = torch.tensor([5, 2, 0])
    moved = hallucinated_positives(keys.rows(order), ends, count=3, generator=draws())
    expected = torch.cat([found.z[found.id == -1 - keys.id[i]] for i in order])
    assert torch.allclose(moved.z, expected)
    other = hallucinated_positives(keys, ends, count=3, generator=draws(4))
    assert not any(torch.isclose(found.z, row).all(1).any() for row in other.z)


def test_no_points_add_nothing_and_refusals() -> None:
    keys, ends = keys_and_prototypes()
    none = hallucinated_positives(keys, ends, count=0, generator=draws())
    assert len(none) == 0
    assert alignment(keys, none, rule=private_to("sample")).loss == 0
    for wrong in ({"count": -1}, {"back": 1.5}):
        with pytest.raises(ValueError, match="wanted 2 prototypes or more"):
            hallucinated_positives(keys, ends, **{"count": 1, "generator": draws(), **wrong})
    with pytest.raises(ValueError, match="got 1, 1 and"):
        hallucinated_positives(keys, ends.rows(slice(0, 1)), count=1, generator=draws())
