"""Losses of several terms, and ALIGN: equal to the authors' formulas, to their parts, and without a term to the rest."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.align.modeling_align import align_loss

from counterpoint.objectives.joint import alignment_uniformity, cuaxu, sscd
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment, koleo, uniformity
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Pairs
from tests.objectives.contract import RULES, assert_same, two_sets


def raw(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


def assert_agree(ours: Any, theirs: Any, *inputs: Tensor, rel: float = 1e-11) -> None:
    """Two functions of the same inputs, in value and all gradients."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    assert_same(ours(*leaves), theirs(*leaves), leaves, relative=rel)


# ALIGN


@pytest.mark.proves(row=269, fact="reference")
def test_align_equals_transformers_in_value_and_gradient() -> None:
    """align_loss of modeling_align: label smoothing 0.1, and a temperature that the scores are divided by and learned."""
    assert_agree(
        lambda x, y, t: infonce(x, y, temperature=t, directions="both", label_smoothing=0.1).loss,
        lambda x, y, t: align_loss(unit(x) @ unit(y).T / t),
        raw(6),
        raw(6, seed=1),
        torch.tensor(0.3, dtype=torch.float64),
    )


@pytest.mark.proves(row=269, fact="closed-form")
def test_align_of_equal_rows_is_the_logarithm_of_their_number() -> None:
    x = torch.ones(5, 3, dtype=torch.float64)
    found = infonce(x, x.clone(), directions="both", label_smoothing=0.1).loss.item()
    assert found == pytest.approx(math.log(5), rel=1e-12)


# alignment and uniformity


def uniform(x: Tensor, t: float) -> Tensor:
    """uniform_loss of align_uniform/__init__.py at github.com/SsnL/align_uniform."""
    return torch.pdist(x, p=2).pow(2).mul(-t).exp().mean().log()


@pytest.mark.proves(row=106, fact="reference")
@pytest.mark.parametrize(("weight", "alpha", "t"), [(1.0, 2.0, 2.0), (0.5, 1.0, 3.0), (0.0, 2.0, 2.0)])
def test_the_combined_loss_is_that_of_the_authors_readme(weight: float, alpha: float, t: float) -> None:
    """align_loss(x, y) + lam * (uniform_loss(x) + uniform_loss(y)) / 2."""

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        x, y = unit(x), unit(y)
        return (x - y).norm(p=2, dim=1).pow(alpha).mean() + weight * (uniform(x, t) + uniform(y, t)) / 2

    def ours(x: Tensor, y: Tensor) -> Tensor:
        return alignment_uniformity(x, y, weight=weight, alpha=alpha, t=t).loss

    assert_agree(ours, theirs, raw(6), raw(6, seed=1))


# CUAXU


@pytest.mark.proves(row=0, fact="reference")
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0), (0.0, 0.0, 3.0)])
def test_cuaxu_equals_the_authors_code_in_value_and_gradient(weights: tuple[float, float, float]) -> None:
    """The terms of clips/hf_clip.py at github.com/abrar-fahim/contrastive-gap (commit 8c1a17b)."""
    align, within, across = weights

    def theirs(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        x, y = unit(x), unit(y)
        logits, labels = x @ y.T / t, torch.arange(len(x))
        clip = (nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)) / 2
        inner = 0.5 * uniform(x, 2.0) + 0.5 * uniform(y, 2.0)
        apart = (x[:, None] - y[None]).square().sum(-1)
        cross = apart[~torch.eye(len(x), dtype=torch.bool)].mul(-2).exp().mean().log()
        return clip + within * inner + across * cross + align * (x - y).norm(dim=1).pow(2).mean()

    def ours(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return cuaxu(x, y, temperature=t, align=align, within=within, across=across).loss

    assert_agree(ours, theirs, raw(6), raw(6, seed=1), torch.tensor(0.2, dtype=torch.float64))


@pytest.mark.proves(row=0, fact="closed-form")
def test_cuaxu_of_a_gap() -> None:
    """Both sides equal within and opposite across: log n, 4, 0 and -4t."""
    x = torch.tensor([[1.0, 0]], dtype=torch.float64).expand(4, 2)
    found = cuaxu(x, -x, t=2.0).terms
    assert found["infonce"].item() == pytest.approx(math.log(4), rel=1e-12)
    assert found["alignment"].item() == pytest.approx(4, rel=1e-12)
    assert found["within"].item() == pytest.approx(0, abs=1e-12)
    assert found["across"].item() == pytest.approx(-8, rel=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_cuaxu_is_the_sum_of_its_parts_under_any_rule(rule: Any) -> None:
    a, c, _ = two_sets(9, 11, 2, torch.float64)
    a, c = replace(a, z=a.z.detach()), replace(c, z=c.z.detach())
    found = cuaxu(a, c, rule=rule, temperature=0.3, align=2.0, within=3.0, across=5.0, t=1.5)
    clip = infonce(a, c, rule=rule, temperature=0.3, directions="both")
    parts = [
        clip.loss,
        2 * alignment(a, c, rule=rule).loss,
        1.5 * uniformity(a, rule=rule, t=1.5).loss,
        1.5 * uniformity(c, rule=rule, t=1.5).loss,
        5 * uniformity(a, c, rule=rule, t=1.5).loss,
    ]
    assert found.loss.item() == pytest.approx(sum(p.item() for p in parts), rel=1e-12)
    assert found.notes.keys() == clip.notes.keys()


# SSCD


def shared_source(a: Embeddings, c: Embeddings) -> Pairs:
    """Rows that have any source in common are copies of each other; oneself is not."""
    sources = [(e.facts["sources"] > 0).to(a.z) for e in (a, c)]
    match = sources[0] @ sources[1].T > 0
    oneself = (a.id[:, None] == c.id[None, :]) & (a.view[:, None] == c.view[None, :])
    return Pairs((match & ~oneself).to(a.z), (~match).to(a.z))


def sscd_of_the_authors(z: Tensor, match: Tensor, t: float, weight: float, *, mixup: bool) -> Tensor:
    """SSCD.loss of sscd/train.py at github.com/facebookresearch/sscd-copy-detection (commit 550e40c), without its 1e-6."""
    similar = z @ z.T
    own, other = match & ~torch.eye(len(z), dtype=torch.bool), ~match
    nearest = torch.where(other, similar, -100.0).amax(1)
    exp = (similar / t).exp()
    surprise = -(exp / (exp + (other * exp).sum(1)[:, None])).log() * own
    nce = (surprise.sum(1) / own.sum(1)).mean() if mixup else surprise.sum() / len(z)
    return nce - weight * (2 - 2 * nearest).clamp(min=1e-6).sqrt().log().mean()


@pytest.mark.proves(row=88, fact="reference")
@pytest.mark.parametrize(("t", "weight"), [(0.05, 30.0), (0.3, 2.0)])
def test_sscd_equals_the_authors_code_in_value_and_gradient(t: float, weight: float) -> None:
    """Two copies of each image."""
    ids = torch.arange(5).repeat(2)

    def ours(z: Tensor) -> Tensor:
        rows = replace(Embeddings.of(z, id=ids), view=torch.arange(10) // 5)
        return sscd(rows, temperature=t, entropy=weight).loss

    match = ids[:, None] == ids[None, :]
    assert_agree(ours, lambda z: sscd_of_the_authors(unit(z), match, t, weight, mixup=False), raw(10))


@pytest.mark.proves(row=88, fact="reference")
def test_sscd_counts_every_source_of_a_mixed_image() -> None:
    """Rows 0 and 5 are half image 0 and half image 3: copies of both, and of each other."""
    sources = torch.eye(5, dtype=torch.float64).repeat(2, 1)
    sources[[0, 5]] = torch.tensor([0.5, 0, 0, 0.5, 0], dtype=torch.float64)
    match = sources @ sources.T > 0
    ids = torch.tensor([-1, 1, 2, 3, 4, -1, 1, 2, 3, 4])

    def ours(z: Tensor) -> Tensor:
        rows = replace(Embeddings.of(z, id=ids, facts={"sources": sources}), view=torch.arange(10) // 5)
        return sscd(rows, rule=shared_source, temperature=0.2).loss

    assert_agree(ours, lambda z: sscd_of_the_authors(unit(z), match, 0.2, 30.0, mixup=True), raw(10))


@pytest.mark.proves(row=88, fact="closed-form")
def test_sscd_of_two_opposite_images() -> None:
    x = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    copies = Embeddings.cat([Embeddings.of(x), Embeddings.of(x, view=1)])
    found = sscd(copies, temperature=0.5).terms
    assert found["koleo"].item() == pytest.approx(-math.log(2), rel=1e-12)
    assert found["infonce"].item() == pytest.approx(math.log(1 + 2 * math.exp(-4)), rel=1e-12)
    assert sscd(copies, temperature=0.5, entropy=0.0).loss.item() == pytest.approx(
        infonce(copies, temperature=0.5).loss.item(), rel=1e-12
    )


def test_sscd_is_the_sum_of_its_parts() -> None:
    a, _, _ = two_sets(9, 9, 2, torch.float64)
    options: Any = {"rule": labelled()}
    expected = infonce_separate(a, temperature=0.1, **options).loss + 7 * koleo(a, **options).loss
    found = sscd(a, temperature=0.1, entropy=7.0, **options)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert found.notes.keys() == {"positive", "negative", "negatives"}
    assert sscd(raw(4)).terms["infonce"].item() == 0  # no copies: only the spread is left


@pytest.mark.parametrize("loss", [alignment_uniformity, partial(cuaxu, temperature=0.3)], ids=["au", "cuaxu"])
def test_order_scale_and_rotation_do_not_matter(loss: Any) -> None:
    x, y = raw(6), raw(6, seed=1)
    base = loss(x, y).loss.item()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(raw(6, seed=4))[0]
    assert loss(x[order], y[order]).loss.item() == pytest.approx(base, rel=1e-12)
    assert loss(2 * x, 3 * y).loss.item() == pytest.approx(base, rel=1e-12)
    assert loss(x @ rotation, y @ rotation).loss.item() == pytest.approx(base, rel=1e-9)
    assert loss(y, x).loss.item() == pytest.approx(base, rel=1e-12)
