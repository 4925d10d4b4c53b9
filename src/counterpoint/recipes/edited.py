"""Recipes whose views are edits of the text: repeated words beside a queue, two strong edits, a masked span."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.momentum import Queue, follow, teacher_of
from counterpoint.errors import Refusal
from counterpoint.objectives.custom import joined
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of, with_guessing
from counterpoint.recipes.text import dense_tanh, encode_items, encoder_of, refuse_without_dropout, with_training_head
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Outcome, same_sample
from counterpoint.views.text import (
    Edit,
    chained,
    deleted_span,
    deleted_words,
    edited,
    masked_span,
    reordered,
    repeated_words,
    substituted,
)
from counterpoint.views.wordnet import wordnet

__all__ = ["clear", "esimcse", "mirror_bert"]
KIND = "text"
BOTH = ("first", "second")


@paper(row=280)
def esimcse(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    rate: float = 0.32,
    queue: int = 160,
    momentum: float = 0.995,
    head: bool = True,
) -> Method:
    """ESimCSE: SimCSE whose second view repeats some words, with a slow teacher's rows of past batches as more negatives.

    Dropout views have equal length, so that a model learns to tell texts by it; repeats take that away.

    Args:
        encoder: must have dropout. The teacher is a copy without.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        rate: of repeats, at least 0: from none to max(2, rate * words) words of a text come twice; 0 repeats nothing.
        queue: rows of past batches that are remembered; 2.5 batches in the paper, whose batch has 64.
        momentum: of the teacher, from 0 to 1.
        head: a layer with tanh after the encoder while training, as in SimCSE; the teacher's rows go through it too.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        Words are repeated where the paper repeats parts of words. A stale row of one's own sample is no negative.

    Relations:
        Without repeats, and in its first step, it is `simcse`.

    References:
        Wu et al. 2022, arXiv:2109.04380; the head of the teacher's rows as in the authors' code (caskcsg/sentemb).
    """
    del train
    encoder = texts_of(encoder, "esimcse")
    refuse_without_dropout(encoder, "esimcse")
    teacher = cast(Encoder, teacher_of(encoder))
    teacher.set_dropout(0.0)
    remembered = Queue(queue, encoder.width).to(encoder.device)
    pair = edited(second=repeated_words(rate))

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        made = pair(batch, generator)
        return made | {"past": made["first"]}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = encode_items(modules, {name: batch for name, batch in views.items() if name != "past"})
        with torch.no_grad():
            return sets | encode_items({"encoder": modules["teacher"]}, {k: v for k, v in views.items() if k == "past"})

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        candidates = joined([sets["second"], cast(Queue, modules["queue"]).rows()])
        return infonce(sets["first"], candidates, rule=same_sample, temperature=temperature)

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        follow(modules["teacher"], modules["encoder"], momentum=momentum)
        cast(Queue, modules["queue"]).push(sets["past"].to_unit())

    modules = nn.ModuleDict({"encoder": encoder, "teacher": teacher, "queue": remembered})
    method = Method(modules, views, encode, objective, encoder_of, after)
    return with_training_head(method, dense_tanh(encoder.width)) if head else method


@paper(row=273)
def mirror_bert(
    encoder: Encoder, train: Rows, *, temperature: float = 0.04, letters: int = 5, shortest: int = 30
) -> Method:
    """Mirror-BERT: a text twice, a few letters of one copy masked, both under dropout; a few thousand texts suffice.

    Args:
        encoder: must have dropout, and a mask token unless nothing is masked.
        train: rows with anchor: sentences, phrases or single words; every other column is ignored.
        temperature: divides the cosine; > 0; 0.04 for sentences and phrases, 0.2 for single words.
        letters: that one mask stands for; 0 masks nothing.
        shortest: texts of fewer letters are not masked.

    Raises:
        Refusal: for an encoder without dropout or without a mask token.

    Differs:
        No dropped attention heads. The backbone's own pooling is kept where the authors take the first token.

    Relations:
        With no letters masked it is SimCSE without head, with both views as anchors and candidates.

    References:
        Liu et al. 2021, arXiv:2104.08027; `shortest` as in the authors' code (cambridgeltl/mirror-bert).
    """
    del train
    encoder = texts_of(encoder, "mirror_bert")
    refuse_without_dropout(encoder, "mirror_bert")
    token = getattr(encoder.model.tokenizer, "mask_token", None)
    if letters and token is None:
        raise Refusal("a model with a mask token for mirror_bert", "none", remedy="--set letters=0 masks nothing")
    masked = masked_span(letters, mask=f" {token} ")
    views = edited(second=lambda text, numbers: masked(text, numbers) if len(text) >= shortest else text)
    objective = Contrast(BOTH, BOTH, same_sample, partial(infonce, temperature=temperature))
    return Method(nn.ModuleDict({"encoder": encoder}), views, encode_items, objective, encoder_of)


@paper(row=82)
def clear(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.1,
    words: float = 0.7,
    spans: int = 0,
    reorder: int = 5,
    synonyms: float = 0.0,
    rate: float = 0.15,
    masked: float = 1.0,
    head: bool = True,
) -> Method:
    """CLEAR: two strong edits of a text are drawn to each other, beside masked language modelling of the text itself.

    Args:
        encoder: a transformer with a mask token.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        words: how likely a word is deleted, in [0, 1]; 0 deletes none.
        spans: how many spans of 5 % of the words are deleted; 5 in the paper, 0 deletes none.
        reorder: how many pairs of spans of 5 % change places; 0 leaves the order.
        synonyms: how likely a word is replaced by one of its meaning, from WordNet; 0.3 in the paper, 0 replaces none.
        rate: share of the words that are hidden and guessed, in (0, 1).
        masked: weight of guessing; 0 is contrast alone.
        head: a layer with tanh after the encoder while training; it is not saved.

    Raises:
        Refusal: for a model without words to guess, or synonyms without WordNet.

    Differs:
        Nothing stands for what is deleted, where the paper puts a token that is new to the model. Pooling is the
        backbone's. The default edits are the paper's pair "del-word and reorder". It starts from any model.

    Relations:
        Without edits and guessing it is SimCSE with both views as anchors and candidates.

    References:
        Wu et al. 2020, arXiv:2012.15466; Chen et al. 2020, arXiv:2002.05709 (NT-Xent).
    """
    del train
    encoder = texts_of(encoder, "clear")
    edit = _strong(words, spans, reorder, synonyms)
    objective = Contrast(BOTH, BOTH, same_sample, partial(infonce, temperature=temperature))
    method = Method(nn.ModuleDict({"encoder": encoder}), edited(edit, edit), encode_items, objective, encoder_of)
    method = with_training_head(method, dense_tanh(encoder.width)) if head else method
    return with_guessing(method, encoder, rate=rate, weight=masked)


def _strong(words: float, spans: int, reorder: int, synonyms: float) -> Edit | None:
    """The edits that are asked for, one after another; None where none is."""
    edits = [
        *([deleted_words(words)] if words else []),
        *([deleted_span(0.05, spans=spans)] if spans else []),
        *([reordered(reorder)] if reorder else []),
        *([substituted(synonyms, wordnet())] if synonyms else []),
    ]
    return chained(*edits) if edits else None
