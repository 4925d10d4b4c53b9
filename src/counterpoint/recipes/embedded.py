"""Recipes whose views are made where a text enters the transformer, not of its words."""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders import embedded
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of, with_draws
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, same_sample
from counterpoint.views.items import Views

__all__ = ["consert"]
KIND = "text"
View = Literal["none", "shuffle", "token_cutoff", "feature_cutoff", "dropout", "adversarial"]


def twice_drawn(count: int) -> Views:
    """The anchors twice, each view with random numbers of its own.

    Args:
        count: of numbers for each text.
    """
    return lambda batch, generator: {
        name: {**with_draws(batch, generator, count=count), "view": view}
        for view, name in enumerate(("first", "second"))
    }


def encoded(encoder: TextEncoder, batch: Batch, one: embedded.One) -> Embeddings:
    """A batch of texts with draws through a function of a model and a pass; what it makes beside "z" are facts.

    Args:
        encoder: whose model the function gets.
        batch: with text, role, id, row, view and draws.
        one: see `encoders.embedded`.
    """
    found = encoder.read(batch["text"], batch["role"], one=one, beside={"draws": batch["draws"]})
    facts = {**{k: v for k, v in found.items() if k != "z"}, "row": batch["row"].to(encoder.device)}
    return Embeddings.of(found["z"], id=batch["id"], view=batch["view"], facts=facts)


def _one(view: View, rate: float, norm: float) -> embedded.One:
    """What makes a view, by its name."""
    makers = {
        "none": lambda: embedded.unchanged,
        "shuffle": lambda: embedded.shuffled,
        "token_cutoff": lambda: embedded.changed(embedded.token_cutoff(rate)),
        "feature_cutoff": lambda: embedded.changed(embedded.feature_cutoff(rate)),
        "dropout": lambda: embedded.changed(embedded.element_cutoff(rate)),
        "adversarial": lambda: embedded.adversarial(norm),
    }
    return makers[view]()


@paper(row=164)
def consert(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.1,
    first: View = "feature_cutoff",
    second: View = "shuffle",
    rate: float = 0.2,
    norm: float = 0.01,
    dropout: float = 0.0,
) -> Method:
    """ConSERT: two views of a text made on its matrix of token embeddings; both are drawn to each other, all else repels.

    Args:
        encoder: a transformer. Its own dropout is set to `dropout`.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        first, second: what makes the views: coordinates or tokens cut off, single numbers ("dropout"), positions shuffled,
            a step against the model, or nothing.
        rate: share that is cut off, in [0, 1); 0.15 for tokens in the paper.
        norm: length of an adversarial step for each token, at least 0.
        dropout: rate of the dropout layers while training; the paper takes them out.

    Raises:
        Refusal: for a model that is no transformer, or views that are equal.

    Differs:
        Without labels the adversarial step goes away from a shuffled view of the text, where the paper's goes up a
        supervised loss. No loss of labelled pairs beside it.

    Relations:
        With no edits and dropout it is SimCSE with both views as anchors and candidates.

    References:
        Yan et al. 2021, arXiv:2105.11741; the pair of views and 0.2 as in the authors' scripts/unsup-consert-base.sh.
    """
    del train
    encoder = texts_of(encoder, "consert")
    count = embedded.draws_for(encoder)
    if first == second == "none" and not dropout:
        raise Refusal("two views that differ for consert", "none twice", remedy="a dropout above 0")
    encoder.set_dropout(dropout)
    ones = {name: _one(view, rate, norm) for name, view in (("first", first), ("second", second))}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {name: encoded(cast(TextEncoder, modules["encoder"]), b, ones[name]) for name, b in views.items()}

    both = ("first", "second")
    objective = Contrast(both, both, same_sample, partial(infonce, temperature=temperature))
    return Method(nn.ModuleDict({"encoder": encoder}), twice_drawn(count), encode, objective, encoder_of)
