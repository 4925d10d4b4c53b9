"""The flat map: its forces are those of t-SNE, near rows stay near, the same rows give the same points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from torch import Tensor

from counterpoint.evaluation.flat import _components, _near, _repulsion, flat, turned


def digits(count: int) -> Tensor:
    return torch.from_numpy(load_digits().data[:count]).float()


@pytest.mark.parametrize("reach", [1e-3, 0.3, 3.0, 8.0])
def test_repulsion_is_that_of_all_pairs(reach: float) -> None:
    y = np.random.default_rng(0).normal(size=(2, 300)) * reach
    found, exact = _repulsion(y), repulsion(y)
    # a point feels nothing of itself, so the sum of all forces is 0
    assert np.abs(found.sum(1)).max() < 1e-2 * np.abs(exact).max()
    assert np.linalg.norm(found - exact) < (0.2 if reach > 1 else 0.4) * np.linalg.norm(exact)
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98


def repulsion(y: np.ndarray) -> np.ndarray:
    """By the definition, with all pairs."""
    apart = y[:, :, None] - y[:, None]
    kernel = 1 / (1 + (apart**2).sum(0))
    return (kernel**2 * apart).sum(2) / (kernel.sum() - y.shape[1])


def test_forces_on_a_finished_map() -> None:
    y = flat(digits(300)).T
    found, exact = _repulsion(y), repulsion(y)
    assert np.linalg.norm(found - exact) < 0.15 * np.linalg.norm(exact)


def test_who_is_near_is_shared_out() -> None:
    z = torch.nn.functional.normalize(digits(200))
    row, col, share = _near(z)
    assert share.sum() == pytest.approx(1, abs=1e-5)
    assert (row != col).all()
    assert (np.diff(row) >= 0).all()
    assert len(np.unique(row)) == 200
    dense = np.zeros((200, 200))
    dense[row, col] = share
    assert (dense == dense.T).all()
    cosine = (z @ z.T).fill_diagonal_(-2)
    nearest = cosine.topk(15, dim=1).indices
    assert (dense[np.arange(200)[:, None], nearest.numpy()] > 0).all()


def test_near_rows_are_near_points() -> None:
    z = torch.nn.functional.normalize(digits(600))
    y = flat(z)
    kept = trustworthiness(z.numpy(), y, n_neighbors=15)
    assert kept > 0.95
    assert kept > trustworthiness(z.numpy(), _components(z), n_neighbors=15) + 0.1
    label = load_digits().target[:600]
    nearest = np.linalg.norm(y[:, None] - y[None], axis=2) + np.eye(600) * 1e9
    assert (label[nearest.argmin(1)] == label).mean() > 0.93


def test_same_rows_same_points() -> None:
    z = digits(120)
    assert (flat(z) == flat(z.clone())).all()
    assert np.isfinite(flat(z[:3])).all()
    assert np.isfinite(flat(torch.ones(30, 4))).all()
    assert np.isfinite(flat(torch.zeros(30, 4))).all()
    assert np.isfinite(flat(torch.arange(40.0)[:, None])).all()


def test_rows_without_any_structure_do_not_fall_together() -> None:
    y = flat(torch.randn(100, 8, generator=torch.Generator().manual_seed(0)))
    apart = np.linalg.norm(y[:, None] - y[None], axis=2) + np.eye(100) * 1e9
    assert np.median(apart.min(1)) > 0.1
    assert 3 < np.ptp(y, axis=0).max() < 100


def test_length_of_rows_does_not_matter() -> None:
    z = digits(80)
    # a power of two changes no digit
    assert (flat(z) == flat(4 * z)).all()


def test_start_decides_about_what_is_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.eye(6)
    place = torch.arange(240) % 6
    z = centres[place] + 0.3 * torch.randn(240, 6, generator=generator)
    first = flat(z)
    start = first[:, ::-1] * [1, -1]  # a quarter turn, which principal components know nothing of
    again = flat(z + 0.01 * torch.randn(240, 6, generator=generator), start=start)
    for one, other in ((again, start), (turned(again, onto=first), first)):
        middle = [np.stack([(y - y.mean(0))[place == i].mean(0) for i in range(6)]).ravel() for y in (one, other)]
        assert np.corrcoef(*middle)[0, 1] > 0.9
    assert np.ptp(again, axis=0).max() < 2 * np.ptp(first, axis=0).max()


def test_classes_come_together_from_any_start() -> None:
    """What raised attraction in the early steps is for: without it this is 0.41, from principal components 0.51."""
    y = flat(digits(1797) - digits(1797).mean(0), start=np.random.default_rng(0).normal(size=(1797, 2)))
    assert silhouette_score(y, load_digits().target) > 0.47


def test_turning_changes_no_distance_and_undoes_a_turn() -> None:
    generator = np.random.default_rng(0)
    y = generator.normal(size=(50, 2))
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirrored = y @ turn * [1, -1] + 7
    assert np.allclose(turned(mirrored, onto=y), y - y.mean(0))
    assert np.allclose(turned(y @ turn, onto=y), y - y.mean(0))  # a mirror is its own inverse, a turn is not
    other = turned(2 * mirrored, onto=y)
    assert np.allclose(np.linalg.norm(other[0] - other[1]), 2 * np.linalg.norm(y[0] - y[1]))
