"""Recipes that guess masked words: pre-training of a transformer on texts alone."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from counterpoint._ops.reduce import mean
from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.masked import guessing, words_of
from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal
from counterpoint.papers import paper
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.draws import uniform
from counterpoint.views.items import named

__all__ = ["mlm"]
KIND = "text"


def texts_of(encoder: Encoder, recipe: str) -> TextEncoder:
    """The encoder, where it reads texts.

    Raises:
        Refusal: where it reads something else.
    """
    if not isinstance(encoder, TextEncoder):
        raise Refusal(f"a model of texts for {recipe}", type(encoder).__name__)
    return encoder


def with_draws(batch: Batch, generator: torch.Generator, *, count: int) -> Batch:
    """The anchors once, each with random numbers of its own, one for each token it may have.

    Args:
        batch: rows with anchor.
        generator: of the numbers.
        count: of tokens.
    """
    draws = uniform(generator, batch["row"], count).float()
    return {**named(batch["anchor"]), "id": batch["id"], "row": batch["row"], "role": "anchor", "draws": draws}


def guesses(outcome: Embeddings) -> torch.Tensor:
    """The mean cost of a hidden word, over the words of all processes."""
    return mean(outcome.facts["masked"], outcome.facts["hidden"])


@paper(reference="Devlin et al.: BERT: Pre-training of Deep Bidirectional Transformers, arXiv:1810.04805, 2019")
def mlm(encoder: Encoder, train: Rows, *, rate: float = 0.15) -> Method:
    """Masked language modelling: hidden words of a text are guessed from the rest of it; no contrast at all.

    A stage before contrastive training, for texts that the model has not seen the like of, or for a new transformer
    (`--model transformer`). Its vectors say little until a contrastive stage follows.

    Args:
        encoder: a transformer with a mask token. The head that guesses is saved beside it and found again.
        train: rows with anchor; every other column is ignored.
        rate: share of the words that is hidden, in (0, 1).

    Raises:
        Refusal: for an encoder without words to guess.

    Differs:
        No next-sentence prediction.

    Relations:
        `clear` and `contrabert` add the same cost to a contrast.

    References:
        Devlin et al. 2019, arXiv:1810.04805.
    """
    del train
    encoder = texts_of(encoder, "mlm")
    modules = nn.ModuleDict({"encoder": encoder, "words": words_of(encoder)})

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        batch = views["text"]
        facts = guessing(modules["encoder"], modules["words"], batch, rate=rate)  # type: ignore[arg-type]
        nothing = facts["masked"].detach()[:, None][:, :0]
        return {"text": Embeddings.of(nothing, id=batch["id"], facts=facts)}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return Outcome({"masked": guesses(sets["text"])}, {"masked": 1.0}, {})

    views = partial(with_draws, count=encoder.longest)
    return Method(modules, lambda b, g: {"text": views(b, g)}, encode, objective, encoder_of)
