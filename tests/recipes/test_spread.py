"""What recipes against collapse change, beside what they leave as it is in their parents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.recipes.spread import groups_of, orders, three_layers, unsee, whitenedcse
from counterpoint.recipes.text import simcse
from counterpoint.training.method import Method
from counterpoint.types import Embeddings, Outcome

from ..conftest import toy_rows

DATA = Rows.of(pl.DataFrame({"anchor": [row["query"] for row in toy_rows(40)]}))


def made(recipe: Any, folder: Path, **settings: Any) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), DATA, **settings)


def run(method: Method, count: int = 12) -> tuple[dict[str, Embeddings], Outcome]:
    torch.manual_seed(1)
    method.modules.train()
    sets = method.encode(method.modules, method.views(DATA.take(np.arange(count)), torch.Generator().manual_seed(0)))
    return sets, method.objective(method.modules, sets)


@pytest.mark.proves(row=28, fact="closed-form")
def test_whitenedcse_with_one_positive_and_no_whitening_is_simcse(tiny: Path) -> None:
    assert torch.equal(run(made(whitenedcse, tiny, positives=1, group=0))[1].loss, run(made(simcse, tiny))[1].loss)


@pytest.mark.proves(row=28, fact="reference")
def test_whitenedcse_whitens_each_copy_in_its_own_groups_and_adds_up_its_positives(tiny: Path) -> None:
    """Re-stated from models.py and shuffled_group_whitening.py of github.com/SupstarZh/WhitenedCSE, loop by loop."""
    method = made(whitenedcse, tiny, eps=1e-4)
    sets, outcome = run(method)
    views = []
    for k, order in enumerate(orders(sets["copy 0"].facts["salt"], 32, 3)):
        z, white = sets[f"copy {k}"].z, torch.zeros(12, 32)
        for start in range(0, 32, 4):
            at = order[start : start + 4]
            moved = z[:, at] - z[:, at].mean(0)
            u, s, _ = torch.linalg.svd(moved.T @ moved / 12 + 1e-4 * torch.eye(4))
            white[:, at] = moved @ (u @ torch.diag(s.rsqrt()) @ u.T)
        views.append(normalize(method.modules["head"](white), dim=1))
    wanted = torch.stack([cross_entropy(views[0] @ other.T / 0.05, torch.arange(12)) for other in views[1:]]).sum()
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert list(outcome.terms) == ["positive 1", "positive 2"]


def test_whitenedcse_shuffles_anew_each_step_and_each_copy_for_itself(tiny: Path) -> None:
    method = made(whitenedcse, tiny)
    salts = [method.views(DATA.take(np.arange(3)), torch.Generator().manual_seed(s))["copy 0"]["salt"] for s in (0, 1)]
    first, other = (orders(salt, 32, 2) for salt in salts)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert [groups_of(384, 6), groups_of(7, 6), groups_of(5, 6)] == [64, 7, 1]


def lone_vicreg(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """vicreg_loss of sentence_transformers/losses/VICRegLoss.py at github.com/asparius/UNSEE, re-stated."""
    loss = 25 * (x - y).square().mean()
    for z in (x, y):
        moved = z - z.mean(0)
        loss = loss + 25 * (1 - (moved.var(0) + 1e-4).sqrt()).relu().mean() / 2
        covariance = moved.T @ moved / (len(z) - 1)
        loss = loss + (covariance - torch.diag(covariance.diag())).square().sum() / z.shape[1]
    return loss


@pytest.mark.proves(row=157, fact="reference")
def test_unsee_compares_each_view_with_the_targets_encoding_of_the_other(tiny: Path) -> None:
    sets, outcome = run(made(unsee, tiny))
    x, y = sets["first"], sets["second"]
    wanted = lone_vicreg(x.z, y.facts["target"]) + lone_vicreg(y.z, x.facts["target"])
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert not x.facts["target"].requires_grad
    assert not torch.equal(x.facts["target"], y.facts["target"])


def lone_barlow(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """barlow_loss of sentence_transformers/losses/BarlowLoss.py at github.com/asparius/UNSEE, re-stated."""
    x, y = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (x, y))
    c = x.T @ y / len(x)
    off = c - torch.diag(c.diag())
    return (c.diag() - 1).square().sum() + 0.0051 * off.square().sum()


@pytest.mark.proves(row=157, fact="reference")
def test_unsee_with_barlow_twins(tiny: Path) -> None:
    sets, outcome = run(made(unsee, tiny, loss="barlow_twins"))
    x, y = sets["first"], sets["second"]
    wanted = lone_barlow(x.z, y.facts["target"]) + lone_barlow(y.z, x.facts["target"])
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0])
def test_the_target_of_unsee_follows_by_its_momentum_and_by_no_gradient(momentum: float, tiny: Path) -> None:
    method = made(unsee, tiny, momentum=momentum)
    encoder, target = (dict(method.modules[name].named_parameters()) for name in ("encoder", "target"))
    before = {name: weight.clone() for name, weight in target.items()}
    sets, outcome = run(method)
    outcome.loss.backward()
    assert all(weight.grad is None for weight in target.values())
    with torch.no_grad():
        for weight in encoder.values():
            weight.add_(1.0)
    method.after(method.modules, sets, outcome)
    for name, weight in target.items():
        assert torch.allclose(weight, momentum * before[name] + (1 - momentum) * encoder[name], atol=1e-5)


@pytest.mark.proves(row=157, fact="closed-form")
def test_unsee_without_memory_dropout_and_head_is_the_loss_of_the_encoder_with_itself(tiny: Path) -> None:
    method = made(unsee, tiny, momentum=0.0, head=False)
    method.modules["encoder"].set_dropout(0.0)
    method.modules["target"].set_dropout(0.0)
    sets, outcome = run(method)
    z = sets["first"]
    assert torch.allclose(z.z, z.facts["target"])
    assert outcome.loss.item() == pytest.approx(2 * lone_vicreg(z.z, z.z).item(), rel=1e-4)
    assert replace(z, facts={}).z.requires_grad


def test_the_head_of_unsee_is_ten_times_as_wide_inside() -> None:
    assert [len(p) for n, p in three_layers(8).named_parameters() if n.endswith("bias")] == [80, 80, 8]
