"""Recipes that learn from where texts stand: pieces of one document, sentences beside each other."""

from __future__ import annotations

import copy
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoint.data.batches import Rows
from counterpoint.data.identity import ids_of
from counterpoint.encoders.encoder import Encoder
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.soft import near
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of, with_guessing
from counterpoint.recipes.text import encode_items, encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Outcome, same_sample
from counterpoint.views.draws import uniform
from counterpoint.views.items import Views
from counterpoint.views.spans import span_length, span_near

__all__ = ["declutr", "quick_thoughts"]
KIND = "text"
LONG, SHORT = (4.0, 2.0), (2.0, 4.0)  # the beta distributions of the lengths of anchors and of positives: DeCLUTR


def anchors_and_spans(*, anchors: int, positives: int, shortest: int, longest: int) -> Views:
    """Pieces of each document: "anchor", and "positive" with several pieces near each anchor, under "texts".

    An anchor is a sample of its own: its id is that of its words, and its positives' id is the same.

    Args:
        anchors: pieces of a document.
        positives: pieces near each of them.
        shortest, longest: words of a piece.
    """
    limits = {"shortest": shortest, "longest": longest}

    def of_one(text: str, numbers: list[float]) -> tuple[str, tuple[str, ...]]:
        words = text.split()
        long = span_length(len(words), numbers[0], beta=LONG, **limits)
        start = int(numbers[1] * (len(words) - long + 1))
        pairs = zip(numbers[2::2], numbers[3::2], strict=True)
        around = [span_near(len(words), (start, start + long), pair, beta=SHORT, **limits) for pair in pairs]
        return " ".join(words[start : start + long]), tuple(" ".join(words[slice(*place)]) for place in around)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        each = 2 * (1 + positives)
        numbers = uniform(generator, batch["row"], anchors * each).tolist()
        made = [
            of_one(text, row[k * each : (k + 1) * each])
            for text, row in zip(batch["anchor"], numbers, strict=True)
            for k in range(anchors)
        ]
        places = batch["row"][:, None] * anchors + torch.arange(anchors)
        shared = {"id": ids_of([anchor for anchor, _ in made]), "row": places.flatten(), "role": "anchor"}
        return {
            "anchor": {**shared, "text": [anchor for anchor, _ in made], "view": 0},
            "positive": {**shared, "texts": [around for _, around in made], "view": 1},
        }

    return views


def averaged(modules: nn.ModuleDict, batch: Batch) -> Embeddings:
    """For each row the mean of the embeddings of its texts; all rows have as many."""
    several = len(batch["texts"][0]) if len(batch["texts"]) else 1
    z: Float[Tensor, "n d"] = modules["encoder"]([text for row in batch["texts"] for text in row], batch["role"])
    return Embeddings.of(z.view(-1, several, z.shape[1]).sum(1) / several, id=batch["id"], view=batch["view"])


@paper(row=128)
def declutr(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    anchors: int = 2,
    positives: int = 2,
    shortest: int = 32,
    longest: int = 512,
    rate: float = 0.15,
    masked: float = 1.0,
) -> Method:
    """DeCLUTR: a long piece of a document is drawn to the mean of short pieces around it, beside guessing masked words.

    Other anchors of the same document are hard negatives. Of a document shorter than `shortest` all pieces are the whole.

    Args:
        encoder: a transformer with a mask token; with as many tokens as the longest pieces have.
        train: rows with anchor, documents; every other column is ignored.
        temperature: divides the cosine; > 0.
        anchors: pieces of each document.
        positives: pieces near each anchor; their embeddings are averaged.
        shortest, longest: words of a piece.
        rate: share of an anchor's words that are hidden and guessed, in (0, 1).
        masked: weight of guessing; 0 is contrast alone.

    Raises:
        Refusal: for a model without words to guess.

    Differs:
        Lengths are in words, not in tokens. Anchors of one document may overlap, where the authors' code keeps them apart.
        The words of an anchor are hidden in a pass of its own, where the authors embed the anchor with hidden words.

    Relations:
        With one positive it is NT-Xent over pairs of pieces.

    References:
        Giorgi et al. 2021, arXiv:2006.03659; numbers as in training_config/declutr.jsonnet of JohnGiorgi/DeCLUTR.
    """
    del train
    encoder = texts_of(encoder, "declutr")

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        means = {name: averaged(modules, batch) for name, batch in views.items() if "texts" in batch}
        return encode_items(modules, {name: batch for name, batch in views.items() if "texts" not in batch}) | means

    views = anchors_and_spans(anchors=anchors, positives=positives, shortest=shortest, longest=longest)
    both = ("anchor", "positive")
    objective = Contrast(both, both, same_sample, partial(infonce, temperature=temperature))
    method = Method(nn.ModuleDict({"encoder": encoder}), views, encode, objective, encoder_of)
    return with_guessing(method, encoder, rate=rate, weight=masked, of="anchor")


def places(train: Rows, *, context: int) -> Int[Tensor, " n"]:
    """Where each row stands in the corpus; rows of two sources are further apart than a context.

    Args:
        train: rows in the order of the corpus.
        context: sentences on each side that belong to a sentence.
    """
    gaps = [0] * len(train)
    if train.sources is not None:
        gaps[1:] = [int(one != next) for one, next in zip(train.sources, train.sources[1:], strict=False)]
    return torch.arange(len(train)) + context * torch.tensor(gaps, dtype=torch.int64).cumsum(0)


def in_context(train: Rows, *, context: int) -> Views:
    """Each row of a batch with the rows around it, as "sentence" and once more as "context".

    Args:
        train: the corpus, in its order.
        context: rows on each side.
    """
    where = places(train, context=context)

    def views(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
        around = (batch["row"][:, None] + torch.arange(-context, context + 1)).flatten()
        rows = around[(around >= 0) & (around < len(train))]
        texts = train.items.take([train.anchors[i] for i in rows.tolist()])
        shared = {"text": texts, "id": train.ids[rows], "row": where[rows], "view": 0}
        return {"sentence": {**shared, "role": "anchor"}, "context": {**shared, "role": "anchor"}}

    return views


@paper(row=105)
def quick_thoughts(encoder: Encoder, train: Rows, *, context: int = 1) -> Method:
    """Quick Thoughts: a sentence picks the sentences beside it in the corpus out of all others, by a plain dot product.

    Sentences go through one encoder, and what they are compared with through another; both start as the given one.

        loss_i = - mean over j with 0 < |i - j| <= context of log( exp(f_i . g_j) / sum over k != i of exp(f_i . g_k) )

    Args:
        encoder: f, and the start of g.
        train: rows with anchor, in the order of the corpus; where a column says the source of each row, a sentence has no
            context in another source.
        context: sentences on each side that belong to a sentence, at least 1.

    Differs:
        A row of the batch brings the sentences around it, so that batches may be in any order; the authors take batches of
        consecutive sentences. One that two rows bring counts twice. A row that was held out leaves no gap. The saved model
        is f alone, where the paper appends g's vector to that of f: a sentence-transformers folder holds one transformer.
        A sentence is no candidate for itself, as in the paper; in the authors' code it is one with the score 0.

    Relations:
        `infonce` of two encoders under `near` of the row's place.

    References:
        Logeswaran, Lee 2018, arXiv:1803.02893; lajanugen/S2V, src/s2v_model.py: several sentences of a context share the
        target.
    """
    encoder = texts_of(encoder, "quick_thoughts")
    if context < 1:
        raise ValueError(f"wanted a context of at least 1 sentence, got {context}")
    names = {"sentence": "encoder", "context": "other"}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {k: encode_items({"encoder": modules[names[k]]}, {k: batch})[k] for k, batch in views.items()}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        rule = near("row", kernel=lambda steps: (steps <= context).to(steps))
        return infonce(sets["sentence"], sets["context"], rule=rule, temperature=1.0, unit=False)

    modules = nn.ModuleDict({"encoder": encoder, "other": copy.deepcopy(encoder)})
    return Method(modules, in_context(train, context=context), encode, objective, encoder_of)
