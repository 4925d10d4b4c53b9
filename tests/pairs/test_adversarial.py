"""Rows moved along gradients: DCLR's noise and CLAPS's negatives and positives, beside the authors' code and at limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax, softmax

from counterpoint.objectives.private import infonce_private
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.adversarial import (
    adversarial_negatives,
    adversarial_positives,
    ascended,
    noise,
    noise_negatives,
)
from counterpoint.pairs.synthetic import private_to
from counterpoint.types import Embeddings, Pairs
from tests.pairs.test_synthetic import unit

IDS = torch.tensor([9, 4, 7, 1])


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(n: int = 4) -> tuple[Embeddings, Embeddings]:
    first, second = (Embeddings.of(unit(n, seed=s).requires_grad_(), id=IDS[:n], view=s) for s in (0, 1))
    return first, second


def beside(a: Embeddings, p: Embeddings) -> Callable[[Embeddings], Tensor]:
    """The loss of anchors that have noise among their negatives."""
    rows = replace(p, placement="replicated")
    return lambda n: infonce(a, Embeddings.cat([rows, n]), temperature=0.05).loss


@pytest.mark.proves(row=102, fact="reference")
def test_noise_negatives_are_the_authors() -> None:
    """The loop over pgd in sentemb_forward of simcse/models.py at github.com/RUCAIBox/DCLR (e2c3430), and its softmax."""
    a, p = views()
    steps, size = 3, 1e-3
    found = noise_negatives(6, a, beside(a, p), generator=draws(), steps=steps, size=size)
    loss = beside(a, p)(found)

    def scores(x: Tensor, y: Tensor) -> Tensor:
        return cosine_similarity(x[:, None], y[None, :], dim=-1) / 0.05

    n = torch.randn(6, 6, generator=draws()).double().requires_grad_()
    labels = torch.arange(4)
    for _ in range(steps):
        value = cross_entropy(torch.cat([scores(a.z, p.z), scores(a.z, n)], 1), labels)
        gradient = torch.autograd.grad(value, n, retain_graph=True)[0]
        n = n + gradient / gradient.norm(dim=-1, keepdim=True) * size
    expected = cross_entropy(torch.cat([scores(a.z, p.z), scores(a.z, n.detach())], 1), labels)
    assert torch.allclose(found.z, n, atol=1e-12)
    assert torch.allclose(loss, expected)
    for one, two in zip(*(torch.autograd.grad(x, (a.z, p.z)) for x in (loss, expected)), strict=True):
        assert torch.allclose(one, two)


@pytest.mark.proves(row=102, fact="closed-form")
def test_one_step_of_noise_goes_along_the_mean_of_near_rows() -> None:
    a = Embeddings.of(torch.eye(3, dtype=torch.float64)[:1])
    start = noise(1, a, draws()).z[0]
    found = noise_negatives(1, a, lambda n: (n.z @ a.z.T).exp().sum(), generator=draws(), size=0.25)
    assert torch.allclose(found.z[0], start + 0.25 * a.z[0])


def test_ascent_does_not_lower_what_it_climbs() -> None:
    a, p = views()
    objective, rows = beside(a, p), noise(6, a, draws())
    found = [objective(ascended(rows, objective, size=0.05, steps=k)).item() for k in range(6)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 1e-3
    assert objective(ascended(rows, objective, size=-0.05)).item() < found[0]


def test_ascended_noise_comes_nearer_to_the_rows() -> None:
    a, p = views()
    still, moved = (noise_negatives(20, a, beside(a, p), generator=draws(), steps=k, size=0.2) for k in (0, 20))
    mean = a.z.detach().sum(0)
    assert (moved.z @ mean).sum() > (still.z @ mean).sum() + 1


def test_no_noise_is_the_loss_as_it_was() -> None:
    a, p = views()
    none = noise_negatives(0, a, beside(a, p), generator=draws(), steps=2)
    assert torch.equal(beside(a, p)(none), infonce(a, p, temperature=0.05).loss)


def test_noise_is_gaussian_and_belongs_to_nobody() -> None:
    a, _ = views()
    rows = noise(5000, a, draws())
    assert rows.z.mean().abs() < 0.02
    assert rows.z.std().item() == pytest.approx(1, abs=0.02)
    assert rows.z.dtype == a.z.dtype
    assert (rows.id == -1 - torch.arange(5000)).all()
    assert rows.placement == "replicated"
    assert torch.equal(rows.z, noise(5000, a, draws()).z)


def test_ascent_keeps_who_the_rows_are_and_cuts_the_gradient() -> None:
    a, _ = views()
    a = replace(a, z=torch.cat([a.z[:3], torch.zeros(1, 6, dtype=torch.float64)]))
    moved = ascended(a, lambda e: e.z.square().sum(), size=2.0)
    assert torch.allclose(moved.z[:3], 3 * a.z[:3])
    assert moved.z[3].tolist() == [0] * 6  # no gradient, no move
    assert moved.id.tolist() == a.id.tolist()
    assert not moved.z.requires_grad
    with torch.no_grad():
        assert torch.equal(ascended(a, lambda e: e.z.square().sum(), size=2.0).z, moved.z)
    with pytest.raises(ValueError, match="at least 0 steps, got -1"):
        ascended(a, lambda e: e.z.sum(), size=1.0, steps=-1)


class Decoder:
    """Sources and targets of token states with the heads of CLAPS: words, a projection, a mean over real tokens."""

    def __init__(self) -> None:
        generator = draws(1)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.words, self.turn = drawn(7, 5).requires_grad_(), drawn(5, 5).requires_grad_()
        self.source, self.target = drawn(4, 3, 5).requires_grad_(), drawn(4, 3, 5).requires_grad_()
        self.labels = torch.randint(7, (4, 3), generator=generator)
        self.mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
        self.labels[~self.mask] = -100
        self.leaves = (self.turn, self.source, self.target)

    def pooled(self, states: Tensor) -> Tensor:
        found = (states @ self.turn).relu() * self.mask[..., None]
        return found.sum(1) / self.mask.sum(1, keepdim=True)

    def surprise(self, states: Tensor) -> Tensor:
        return cross_entropy((states @ self.words.T).flatten(0, 1), self.labels.flatten(), ignore_index=-100)

    def divergence(self, states: Tensor) -> Tensor:
        true = softmax(self.target.detach() @ self.words.T, -1) * self.mask[..., None]
        return kl_div(log_softmax(states @ self.words.T, -1), true, reduction="sum") / self.mask.sum()


def cosines(x: Tensor, y: Tensor) -> Tensor:
    return cosine_similarity(x[:, None], y[None, :], dim=-1)


def authors_step(states: Tensor, loss: Callable[[Tensor], Tensor], size: float) -> Tensor:
    """One move of generate_adv and generate_cont_adv in src/summarization/models.py at github.com/seanie12/CLAPS (a0a5747)."""
    leaf = states.detach().requires_grad_()
    gradient = torch.autograd.grad(loss(leaf), leaf)[0]
    return states.detach() + size * gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-12)


@pytest.mark.proves(row=174, fact="reference")
def test_claps_is_the_authors_rows_and_loss() -> None:
    d, t, small, large = Decoder(), 0.1, 0.3, 1.5
    tokens = Embeddings(d.target, IDS, *[torch.zeros(4, dtype=torch.int64)] * 3)
    tokens = replace(tokens, view=tokens.view + 1)
    sources = Embeddings.of(d.pooled(d.source), id=IDS)

    def contrast(e: Embeddings) -> Tensor:
        return infonce(sources, replace(e, z=d.pooled(e.z)), temperature=t).loss

    order = torch.tensor([2, 0, 3, 1])
    negative = adversarial_negatives(tokens, lambda e: d.surprise(e.z), size=small)
    positive = adversarial_positives(tokens, contrast, lambda e: d.divergence(e.z), size=large)
    own = [replace(rows, z=d.pooled(rows.z)) for rows in (negative, positive)]
    clean = replace(tokens, z=d.pooled(tokens.z)).rows(order)
    first = infonce_private(sources, clean, own[0].rows(order), own=private_to("sample"), temperature=t).loss

    def others(a: Embeddings, c: Embeddings) -> Pairs:
        away = (a.id[:, None] != c.id[None, :]).to(a.z)
        return Pairs(torch.zeros_like(away), away)

    second = infonce_private(
        sources, clean, Embeddings.cat(own), own=private_to("sample"), rule=others, temperature=t
    ).loss  # fmt: skip

    labels = torch.arange(4)
    pooled = d.pooled(d.source).detach()

    def contrastive(h: Tensor) -> Tensor:
        return cross_entropy(cosines(pooled, d.pooled(h)) / t, labels)

    bad = authors_step(d.target, d.surprise, small)
    far = authors_step(d.target, contrastive, large)
    good = authors_step(far, d.divergence, -large)
    assert torch.allclose(negative.z, bad)
    assert torch.allclose(positive.z, good)
    source = d.pooled(d.source)
    scores = cosines(source, d.pooled(d.target))
    worse = cosine_similarity(source, d.pooled(bad))[:, None]
    eye = torch.eye(4, dtype=torch.bool)
    hard = torch.where(eye, cosine_similarity(source, d.pooled(good))[:, None], scores)
    # both by one temperature; the public code leaves the second logits undivided
    expected = [cross_entropy(torch.cat([s, worse], 1) / t, labels) for s in (scores, hard)]
    assert torch.allclose(first, expected[0])
    assert torch.allclose(second, expected[1])
    both = ((first + second) / 2, (expected[0] + expected[1]) / 2)
    for one, two in zip(*(torch.autograd.grad(x, d.leaves) for x in both), strict=True):
        assert torch.allclose(one, two)


@pytest.mark.proves(row=174, fact="closed-form")
def test_a_negative_says_something_less_likely_and_a_positive_the_same_from_further_away() -> None:
    d = Decoder()
    d.mask, d.labels = torch.ones_like(d.mask), d.labels.clamp(min=0)
    tokens = Embeddings(d.target, IDS, *[torch.zeros(4, dtype=torch.int64)] * 3)
    sources = Embeddings.of(d.pooled(d.source), id=IDS, view=1)

    def contrast(e: Embeddings) -> Tensor:
        return infonce(sources, replace(e, z=d.pooled(e.z)), temperature=0.1).loss

    negative = adversarial_negatives(tokens, lambda e: d.surprise(e.z), size=0.1)
    assert d.surprise(negative.z) > d.surprise(d.target)
    assert torch.allclose((negative.z - d.target).norm(dim=-1), torch.full((4, 3), 0.1, dtype=torch.float64))
    far = ascended(tokens, contrast, size=0.5)
    positive = adversarial_positives(tokens, contrast, lambda e: d.divergence(e.z), size=0.5)
    assert d.divergence(positive.z) < d.divergence(far.z)
    assert contrast(replace(tokens, z=positive.z)) > contrast(tokens)
    assert (negative.facts["attracts"].sum(), positive.facts["attracts"].sum()) == (0, 4)
    assert positive.id.tolist() == (-1 - IDS).tolist()


def test_moves_of_no_length_are_the_targets() -> None:
    a, p = views()
    loss = lambda e: infonce(a, e).loss  # noqa: E731
    for still in (adversarial_negatives(p, loss, size=0.0), adversarial_positives(p, loss, loss, size=0.0)):
        assert torch.equal(still.z, p.z)
        assert not still.z.requires_grad
    doubled = infonce_private(a, p, adversarial_negatives(p, loss, size=0.0), own=private_to("sample"), temperature=0.1)
    scores = nn.functional.normalize(a.z, dim=1) @ nn.functional.normalize(p.z, dim=1).T / 0.1
    copies = torch.cat([scores, scores.diagonal()[:, None]], 1)
    assert torch.allclose(doubled.loss, cross_entropy(copies, torch.arange(4)))
