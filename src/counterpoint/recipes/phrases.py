"""Recipes for short phrases: names, titles, entities."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from counterpoint._ops.reduce import mean
from counterpoint.data.batches import Rows
from counterpoint.data.identity import ids_of
from counterpoint.encoders.characters import CHARACTERS, characters_of, embed_phrases
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import TextEncoder
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Outcome, same_sample
from counterpoint.views.items import draw
from counterpoint.views.text import deleted_words, edited, either, reordered, typos

__all__ = ["pearl"]
KIND = "text"
READ = {"pearl": "encoders.characters.embed_phrases"}
TYPES = "types"  # the head that tells kinds of phrases apart
UNKNOWN = -1  # the kind of a phrase that nobody told


def phrases_and_edits(batch: Batch, generator: torch.Generator, *, rate: float, negatives: int) -> dict[str, Batch]:
    """Each phrase and an edit of it; given negatives of the rows join them, with edits of their own.

    Args:
        batch: rows with anchor, and negatives where there are some.
        generator: of the draws.
        rate: likelihood that a word gets a typo, or is deleted.
        negatives: of a row, at most.
    """
    hard = draw(batch["negative"], negatives, rows=batch["row"], generator=generator)
    phrases = [*batch["anchor"], *hard]
    ids = torch.cat([batch["id"], ids_of(hard)])
    label = batch.get("label", torch.full_like(batch["id"], UNKNOWN))
    label = torch.cat([label, torch.full((len(hard),), UNKNOWN, dtype=label.dtype)])
    # a negative draws by its content, so that it draws alike in whichever row and process it stands
    rows = torch.cat([batch["row"], ids[len(batch["id"]) :]])
    whole = {"anchor": phrases, "id": ids, "row": rows, "label": label}
    edit = either(typos(rate), deleted_words(rate), reordered(2))
    return edited(None, edit)(whole, generator)


def encode_phrases(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each phrase by its words and its letters; where kinds are told apart, with what that costs as a fact."""
    encoder, sets = cast(TextEncoder, modules["encoder"]), {}
    for name, batch in views.items():
        z, label = embed_phrases(encoder, batch["text"], batch["role"]), batch["label"].to(encoder.device)
        facts = {"known": (label != UNKNOWN).float()}
        if TYPES in modules:
            costs = cross_entropy(modules[TYPES](z).float(), label.clamp(min=0), reduction="none")
            facts["type"] = costs * facts["known"]
        sets[name] = Embeddings.of(z, id=batch["id"], view=batch["view"], facts=facts)
    return sets


@paper(row=140)
def pearl(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.07,
    rate: float = 0.3,
    negatives: int = 2,
    type_weight: float = 1.0,
    width: int | None = None,
) -> Method:
    """PEARL: phrases find their misspelled and edited selves, by words and by letters, and tell which kind they are of.

        loss = NT-Xent over phrases and their edits + w sum_v mean -log p(kind | z_v),   z = [words, letters]

    An embedding is what the encoder makes of a phrase, and beside it a vector of its letters, which is saved with the model;
    `encoders.characters.embed_phrases` reads both.

    Args:
        encoder: reads the words.
        train: rows with anchor; negatives are used where there are some, and labels, the kinds of phrases.
        temperature: divides the cosine; > 0.
        rate: likelihood that a word gets a typo, or is deleted; in [0, 1].
        negatives: how many of a row's negatives join a batch as phrases of their own; at least 1.
        type_weight: w, at least 0; with 0 there is no head for kinds.
        width: of the vector of letters; None: a quarter of the encoder's.

    Differs:
        Letters are read as hashed pieces, where the paper takes a small attention model that was pre-trained (LOVE). An
        edit is a typo, deleted words or an exchange of words; the paper's paraphrases and synonyms come from other models.
        A given negative has no kind.

    Relations:
        Without edits and letters it is `simcse` with both views as anchors.

    References:
        Chen et al. 2024, arXiv:2401.10407; source/main.py, loss.py, loader.py and model.py at github.com/tigerchen52/PEARL.
    """
    encoder = texts_of(encoder, "pearl")
    modules = nn.ModuleDict({"encoder": encoder, CHARACTERS: characters_of(encoder, width)})
    kinds = 0 if train.labels is None else int(train.labels.max()) + 1
    if kinds > 1 and type_weight:
        both_widths = encoder.width + characters_of(encoder).fusion.out_features
        modules[TYPES] = nn.Linear(both_widths, kinds).to(encoder.device)
    both = ("first", "second")
    contrast = Contrast(both, both, same_sample, partial(infonce, temperature=temperature))

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        outcome = contrast(modules, sets)
        if TYPES not in modules:
            return outcome
        types = [mean(sets[name].facts["type"], sets[name].facts["known"]) for name in both]
        told = Outcome.term("types", torch.stack(types).sum())
        return Outcome.of(phrases=(1.0, outcome), types=(type_weight, told))

    views = partial(phrases_and_edits, rate=rate, negatives=negatives)
    return Method(modules, views, encode_phrases, objective, encoder_of)
