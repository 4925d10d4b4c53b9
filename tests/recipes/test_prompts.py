"""PromCSE is SimCSE in which a prefix and the head train and nothing else; with contradictions it has the authors' hinge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cosine_similarity, margin_ranking_loss

import counterpoint
from counterpoint.data.batches import Rows
from counterpoint.encoders.adapt import prefixed
from counterpoint.encoders.text import embed, load
from counterpoint.recipes.prompts import promcse, promcse_supervised
from counterpoint.recipes.text import simcse, simcse_supervised
from counterpoint.training.method import Method

from ..conftest import toy_rows

COUNT = 10
TEXTS = toy_rows(3 * COUNT)
DATA = Rows.of(
    pl.DataFrame(
        {
            "anchor": [row["query"] for row in TEXTS[:COUNT]],
            "positive": [[row["doc"]] for row in TEXTS[:COUNT]],
            "negative": [[row["doc"]] for row in TEXTS[COUNT : 2 * COUNT]],
        }
    )
)


def made(recipe: Any, folder: Path, *, tokens: int | None = None, **settings: Any) -> Method:
    torch.manual_seed(0)
    encoder = load(str(folder))
    return recipe(encoder if tokens is None else prefixed(encoder, tokens=tokens), DATA, **settings)


def learned(method: Method) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch, and the gradients that are there."""
    torch.manual_seed(1)
    views = method.views(DATA.take(np.arange(COUNT)), torch.Generator().manual_seed(0))
    loss = method.objective(method.modules, method.encode(method.modules, views)).loss
    loss.backward()
    found = {name: p.grad for name, p in method.modules.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("recipe", [promcse, promcse_supervised])
def test_only_the_prefix_and_the_head_learn(recipe: Any, tiny: Path) -> None:
    _, gradients = learned(made(recipe, tiny))
    prefix = {"encoder.model.0.prefix.keys", "encoder.model.0.prefix.values"}
    assert set(gradients) == prefix | {"head.0.weight", "head.0.bias"}
    assert all(gradients[name].abs().flatten(1).max(1).values.min() > 0 for name in prefix)  # in every layer
    assert gradients["encoder.model.0.prefix.keys"].shape == (2, 4, 16 if recipe is promcse else 10, 8)


@pytest.mark.proves(row=119, fact="closed-form")
def test_without_the_hinge_both_are_simcse_on_prefixes(tiny: Path) -> None:
    pairs = (
        (made(promcse, tiny), made(simcse, tiny, tokens=16)),
        (made(promcse_supervised, tiny, weight=0.0), made(simcse_supervised, tiny, tokens=10)),
    )
    for ours, plain in pairs:
        (loss, gradients), (wanted, others) = learned(ours), learned(plain)
        assert loss == wanted
        assert gradients.keys() == others.keys()
        assert all(torch.equal(gradients[name], others[name]) for name in others)
    hinged, _ = learned(made(promcse_supervised, tiny))
    assert hinged > loss + 0.1


@pytest.mark.proves(row=119, fact="reference")
@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_the_hinge_is_the_authors(margin: float, tiny: Path) -> None:
    """Re-stated from cl_forward in promcse/models.py of github.com/YJiangcm/PromCSE."""
    method = made(promcse_supervised, tiny, margin=margin, weight=3.0, head=False)
    views = method.views(DATA.take(np.arange(COUNT)), torch.Generator().manual_seed(0))
    sets = method.encode(method.modules, views)
    torch.manual_seed(2)
    x = torch.randn(COUNT, 4)
    y, other = x + 0.7 * torch.randn(COUNT, 4), torch.randn(COUNT, 4)
    leaves = [t.clone().requires_grad_() for t in (x, y, other)]
    anchors, candidates = sets["anchor"], sets["candidate"]
    candidate = replace(candidates, z=torch.cat(leaves[1:]))
    outcome = method.objective(method.modules, {"anchor": replace(anchors, z=leaves[0]), "candidate": candidate})
    (3.0 / 2 * outcome.terms["energy"]).backward()

    again = [t.clone().requires_grad_() for t in (x, y, other)]
    z1, z2, z3 = again
    between = cosine_similarity(z1[:, None], z2[None], dim=-1)
    own = torch.eye(COUNT).bool()
    hardest = torch.cat([between.masked_fill(own, -1e9), cosine_similarity(z1[:, None], z3[None], dim=-1)], 1).amax(1)
    costs = margin_ranking_loss(between.diag(), hardest, torch.ones(COUNT), margin=margin, reduction="none")
    assert 0 < (costs > 0).sum() < COUNT
    (3.0 * costs.mean()).backward()
    assert outcome.weights["energy"] * outcome.terms["energy"].item() == pytest.approx(
        3 * costs.mean().item(), rel=1e-5
    )
    for ours, theirs in zip(leaves, again, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    assert outcome.loss.item() == pytest.approx((outcome.terms["contrast"] + 3 * costs.mean()).item(), rel=1e-5)


def test_a_trained_prefix_is_found_again_with_the_pooling_at_a_mask(tiny: Path, tmp_path: Path) -> None:
    settings = {"steps": 2, "batch": 16, "quiet": True, "precision": "fp32", "lr": 0.03, "pooling": "prompt"}
    run = counterpoint.fit(toy_rows(120), recipe="promcse", model=str(tiny), out=str(tmp_path / "run"), **settings)
    trained, base = load(run.path), load(str(tiny))
    assert trained.model[0].template == 'This sentence : "{}" means [MASK].'
    assert trained.model[0].soft.keys.abs().max() > 0.08  # a new one has a spread of 0.02
    own = dict(base.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in trained.named_parameters() if "prefix" not in name)
    z = embed(trained, ["q1 d1"])
    with torch.no_grad():
        trained.model[0].soft.values.add_(1.0)
    assert not torch.allclose(embed(trained, ["q1 d1"]), z, atol=1e-3)
