"""Captioning beside contrast: closed forms, open_clip's loss, limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives.captioning import caption_cost, coca
from counterpoint.objectives.softmax import infonce
from counterpoint.types import Embeddings


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    logits = torch.randn(5, 7, 9, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(1, 9, (5, 7), generator=generator)
    labels[torch.arange(7)[None] >= torch.tensor([7, 3, 1, 5, 2])[:, None]] = 0
    return image, text, logits, labels


def sets(image: Tensor, text: Tensor, facts: dict[str, Tensor]) -> tuple[Embeddings, Embeddings]:
    return Embeddings.of(image), Embeddings.of(text, view=1, facts=facts)


@pytest.mark.proves(row=271, fact="reference")
def test_coca_equals_the_loss_of_open_clip() -> None:
    """CoCaLoss of src/open_clip/loss.py of github.com/mlfoundations/open_clip (main), clip_loss_weight 1 and
    caption_loss_weight 2: ClipLoss, and CrossEntropyLoss with ignore_index over all tokens of the batch."""
    image, text, logits, labels = drawn()
    s, ids = normalize(image, dim=1) @ normalize(text, dim=1).T / 0.07, torch.arange(5)
    clip = (cross_entropy(s, ids) + cross_entropy(s.T, ids)) / 2
    expected = clip + 2.0 * nn.CrossEntropyLoss(ignore_index=0)(logits.permute(0, 2, 1), labels)
    found = coca(*sets(image, text, caption_cost(logits, labels)), temperature=0.07).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    inputs = (image, text, logits)
    for g, h in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.allclose(g, h, rtol=1e-8, atol=1e-12)
        assert h.abs().max() > 0


@pytest.mark.proves(row=271, fact="closed-form")
def test_a_decoder_that_knows_nothing_pays_the_logarithm_of_its_words() -> None:
    image, text, logits, labels = drawn()
    costs = caption_cost(torch.zeros_like(logits), labels)
    assert costs["tokens"].tolist() == [7, 3, 1, 5, 2]
    assert torch.allclose(costs["cost"], costs["tokens"] * math.log(9))
    outcome = coca(*sets(image, text, costs))
    assert outcome.terms["captioning"].item() == pytest.approx(math.log(9), rel=1e-12)
    assert outcome.weights == {"contrast": 1.0, "captioning": 2.0}


def test_without_captions_it_is_clip_and_without_contrast_a_captioner() -> None:
    image, text, logits, labels = drawn()
    both = sets(image, text, caption_cost(logits, labels))
    plain = infonce(*both, temperature=0.07, directions="both")
    assert coca(*both, captioning=0.0).loss.item() == pytest.approx(plain.loss.item(), rel=1e-12)
    assert torch.equal(coca(*both).notes["positive"], plain.notes["positive"])
    alone = coca(*both, contrast=0.0).loss
    assert torch.autograd.grad(alone, image)[0].abs().max() == 0


def test_a_long_caption_counts_by_its_tokens_and_none_costs_nothing() -> None:
    image, text, _, _ = drawn()
    a, c = sets(image, text, {"cost": torch.tensor([6.0, 1, 0, 0, 0]), "tokens": torch.tensor([3.0, 1, 0, 0, 0])})
    assert coca(a, c).terms["captioning"].item() == pytest.approx(7 / 4)
    none = replace(c, facts={name: torch.zeros(5) for name in ("cost", "tokens")})
    assert coca(a, none).terms["captioning"].item() == 0


def test_another_padding_and_missing_costs() -> None:
    image, text, logits, labels = drawn()
    other = caption_cost(logits, torch.where(labels == 0, 8, labels - 1), padding=8)
    assert (other["tokens"] <= caption_cost(logits, labels)["tokens"]).all()
    with pytest.raises(KeyError, match="they lack: cost, tokens"):
        coca(Embeddings.of(image), Embeddings.of(text, view=1))
