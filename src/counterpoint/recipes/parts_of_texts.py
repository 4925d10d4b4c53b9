"""Recipes that give a vector to each marked part of a text."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.propositions import PROPOSITIONS, embed_parts, propositions_of
from counterpoint.encoders.text import TextEncoder
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings
from counterpoint.views.items import anchors_and_candidates
from counterpoint.views.units import unmarked

__all__ = ["sub_sentence"]
KIND = "text"
READ = {"sub_sentence": "encoders.propositions.embed_parts"}
NEEDS = {"sub_sentence": ("anchor", "positive")}


def with_one_label(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
    """The two propositions of each row, which share a label: the id of the first."""
    views = anchors_and_candidates(negatives=0)(batch, generator)
    views["candidate"] = {**views["candidate"], "view": 1}
    return {name: {**view, "label": batch["id"]} for name, view in views.items()}


def encode_propositions(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each marked text as the vector of its marked part; a text that stands in a batch several times is read once."""
    encoder, sets = cast(TextEncoder, modules["encoder"]), {}
    for name, batch in views.items():
        marked = [unmarked(text) for text in batch["text"]]
        own: dict[str, list] = {}
        at = []
        for text, pieces in marked:
            own.setdefault(text, []).append(pieces)
            at.append((text, len(own[text]) - 1))
        place = {text: i for i, text in enumerate(own)}
        found = embed_parts(encoder, list(own), list(own.values()), batch["role"])
        z = found[[place[text] for text, _ in at], [part for _, part in at]]
        facts = {"label": batch["label"].to(z.device)}
        sets[name] = Embeddings.of(z, id=batch["id"], view=batch.get("view", 0), facts=facts)
    return sets


@paper(row=145)
def sub_sentence(encoder: Encoder, train: Rows, *, temperature: float = 0.1) -> Method:
    """Sub-sentence encoder: propositions marked within texts; those of one meaning attract, all others of the batch repel.

    A proposition is what stands in double square brackets in a text, in one piece or several: "[[Dogs]] run and [[bark]]."
    The brackets are taken away and the text is read once, however many propositions it has. The mean of the tokens of a
    proposition passes two layers, which are saved beside the model; `encoders.propositions.embed_parts` reads both.
    Propositions of one text are each other's negatives.

    Args:
        encoder: a transformer; encodes both sides.
        train: rows with anchor and positive: two texts with a marked proposition each, equal in meaning. Without brackets
            the whole text is meant.
        temperature: divides the cosine; > 0.

    Raises:
        Refusal: for a tokenizer that does not say where its tokens stand.

    Differs:
        What is marked alike and listed beside several propositions has the label of each of their rows. Special tokens
        belong to no proposition but the whole text.

    Relations:
        It is SupCon over both sides, with a label for each row of the data.

    References:
        Chen et al. 2024, arXiv:2311.04335; model/pl_subencoder.py, layers.py and losses.py at
        github.com/schen149/sub-sentence-encoder, whose loss has this temperature by default.
    """
    del train
    encoder = texts_of(encoder, "sub_sentence")
    both = ("anchor", "candidate")
    objective = Contrast(both, both, labelled("label"), partial(infonce, temperature=temperature))
    modules = nn.ModuleDict({"encoder": encoder, PROPOSITIONS: propositions_of(encoder)})
    return Method(modules, with_one_label, encode_propositions, objective, encoder_of)
