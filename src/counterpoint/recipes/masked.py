"""Recipes that guess masked words: pre-training of a transformer on texts alone."""

from __future__ import annotations

from dataclasses import replace
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


def guessed(modules: nn.ModuleDict, batch: Batch, *, rate: float) -> Embeddings:
    """Rows without a vector, with what guessing their hidden words costs as facts; see `encoders.masked.guessing`."""
    facts = guessing(modules["encoder"], modules["words"], batch, rate=rate)  # type: ignore[arg-type]
    return Embeddings.of(facts["masked"].detach()[:, None][:, :0], id=batch["id"], facts=facts)


def with_guessing(
    method: Method, encoder: TextEncoder, *, rate: float, weight: float = 1.0, of: str | None = None
) -> Method:
    """The method with masked language modelling beside its loss, by one encoder.

    Args:
        method: any with the encoder under its name.
        encoder: with words to guess.
        rate: share of the words that is hidden, in (0, 1).
        weight: of the mean cost of a hidden word in the loss; 0 trains the method alone.
        of: the view whose texts are guessed, which has row numbers; None: the anchors as they are.
    """

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        made = method.views(batch, generator)
        source = {"row": batch["row"], "id": batch["id"], "text": batch["anchor"]} if of is None else made[of]
        draws = uniform(generator, source["row"], encoder.longest).float()
        return made | {"masked": {"role": "anchor", **source, "draws": draws}}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = method.encode(modules, {name: batch for name, batch in views.items() if name != "masked"})
        return sets | ({"masked": guessed(modules, views["masked"], rate=rate)} if "masked" in views else {})

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        masked = Outcome.term("masked", guesses(sets["masked"]))
        return Outcome.of(contrast=(1.0, method.objective(modules, sets)), masked=(weight, masked))

    modules = nn.ModuleDict({**method.modules, "words": words_of(encoder)})
    return replace(method, modules=modules, views=views, encode=encode, objective=objective)


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
        return {"text": guessed(modules, views["text"], rate=rate)}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return Outcome.term("masked", guesses(sets["text"]))

    views = partial(with_draws, count=encoder.longest)
    return Method(modules, lambda b, g: {"text": views(b, g)}, encode, objective, encoder_of)
