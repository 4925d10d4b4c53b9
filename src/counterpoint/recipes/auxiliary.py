"""Recipes with a second task beside SimCSE: replaced words that have to be found, attention that has to agree."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from counterpoint._ops.reduce import mean
from counterpoint.data.batches import Rows
from counterpoint.encoders.attended import agreement, attending, eager
from counterpoint.encoders.detected import detecting, projector
from counterpoint.encoders.embedded import draws_for
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.masked import words_of
from counterpoint.encoders.momentum import teacher_of
from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.recipes.embedded import encoded, twice_drawn
from counterpoint.recipes.masked import texts_of, with_draws
from counterpoint.recipes.text import dense_tanh, encoder_of, refuse_without_dropout, with_training_head
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome

__all__ = ["diffcse", "micse"]
KIND = "text"


@paper(row=100)
def diffcse(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    weight: float = 0.005,
    rate: float = 0.3,
    head: bool = True,
) -> Method:
    """DiffCSE: SimCSE whose vectors also have to tell a judge which words of the text a language model replaced.

    A frozen copy of the encoder guesses hidden words; a second transformer, which gets the vector of the text at its first
    place, says of each token whether it is the text's own. It learns, and its gradient reaches the encoder through the
    vector alone. Only the encoder is saved.

    Args:
        encoder: a transformer with dropout and a mask token, and a head that guesses well: after `mlm`, or from a BERT
            folder that has one. A new head guesses at random, which is easy to see through.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        weight: of the judge's mean cost of a token in the loss (the paper's lambda); at least 0.
        rate: share of the words that are hidden, in (0, 1).
        head: two layers with batch norm after the encoder while training, for the contrast.

    Raises:
        Refusal: for an encoder without dropout, without a mask token, or whose vectors are not as wide as its tokens.

    Differs:
        The generator is a copy of the encoder, where the paper takes a DistilBERT, and has no dropout. Only hidden words
        are replaced, as the paper says; its code takes all guesses. Costs are averaged over the tokens of all texts, as in
        that code, where the paper's formula adds them up; padding does not count. The judge is told the vector before the
        head, which looks across rows.

    Relations:
        With weight 0 and no head it is `simcse` without head.

    References:
        Chuang et al. 2022, arXiv:2204.10298; numbers, head and the likeliest guess as in voidism/DiffCSE.
    """
    del train
    encoder = texts_of(encoder, "diffcse")
    refuse_without_dropout(encoder, "diffcse")
    frozen, judge = cast(TextEncoder, teacher_of(encoder)), copy.deepcopy(encoder)
    frozen.set_dropout(0.0)
    parts = {"generator": frozen, "words": words_of(frozen).requires_grad_(False), "judge": judge}
    wide = words_of(frozen).dense.in_features
    if wide != encoder.width:
        raise Refusal(f"vectors of {wide} numbers, as the model's tokens have", encoder.width)
    parts |= {"told": nn.Linear(wide, 2)} | ({"projector": projector(wide)} if head else {})

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        generator, words, judge, told = (modules[name] for name in ("generator", "words", "judge", "told"))
        one = detecting(generator, words, judge, head=told, rate=rate)  # type: ignore[arg-type]
        return {name: encoded(cast(TextEncoder, modules["encoder"]), batch, one) for name, batch in views.items()}

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        both = Embeddings.cat([sets["first"], sets["second"]])
        cost = mean(both.facts["detected"], both.facts["tokens"])
        z = modules["projector"](both.z) if "projector" in modules else both.z
        halves = z.split([len(sets["first"]), len(sets["second"])])
        first, second = (replace(sets[name], z=half) for name, half in zip(("first", "second"), halves, strict=True))
        contrast = infonce(first, second, temperature=temperature)
        return Outcome.of(contrast=(1.0, contrast), detected=(weight, Outcome.term("detected", cost)))

    modules = nn.ModuleDict({"encoder": encoder, **parts}).to(encoder.device)
    return Method(modules, twice_drawn(draws_for(encoder)), encode, objective, encoder_of)


@paper(row=103)
def micse(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    weight: float = 5e-4,
    layers: int = 4,
    samples: int = 150,
    head: bool = True,
) -> Method:
    """miCSE: SimCSE whose two views also have to pay attention alike; for a few hundred or thousand texts.

        loss = SimCSE - weight * mean_i I_i,   I_i of `encoders.attended.agreement`

    Args:
        encoder: a transformer with dropout; from now on it works out its attention in the open, which is slower.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        weight: of the information between the views' attention, at least 0; 0.0001 to 0.001 in the authors' runs.
        layers: whose attention counts, from the top.
        samples: pairs of tokens at which attention is compared.
        head: a layer with tanh after the encoder while training; it is not saved.

    Raises:
        Refusal: for an encoder without dropout, or that does not say its attention.

    Differs:
        All heads of a text are compared at the same pairs. A text with fewer pairs is compared at those it has, where the
        authors' code leaves it out; that code also scales by the squared share of pairs that are not padding, and leaves
        the top layer out.

    Relations:
        With weight 0 it is `simcse`.

    References:
        Klein, Nabi 2023, arXiv:2211.04928; numbers as in the README of SAP-samples/acl2023-micse.
    """
    del train
    encoder = texts_of(encoder, "micse")
    refuse_without_dropout(encoder, "micse")
    eager(encoder)
    one = attending(layers=layers, samples=samples)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        shared = with_draws(batch, generator, count=1)  # the same pairs of tokens for both views
        return {"first": {**shared, "view": 0}, "second": {**shared, "view": 1}}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {name: encoded(cast(TextEncoder, modules["encoder"]), batch, one) for name, batch in views.items()}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        order = [rows.facts["row"].argsort() for rows in (sets["first"], sets["second"])]
        seen = [s.facts["attention"][at] for s, at in zip((sets["first"], sets["second"]), order, strict=True)]
        alike = mean(*agreement(seen[0], seen[1], samples=samples))
        contrast = infonce(sets["first"], sets["second"], temperature=temperature)
        return Outcome.of(contrast=(1.0, contrast), attention=(weight, Outcome.term("attention", -alike)))

    method = Method(nn.ModuleDict({"encoder": encoder}), views, encode, objective, encoder_of)
    return with_training_head(method, dense_tanh(encoder.width)) if head else method
