"""Recipes with a vector for each token: late interaction, relaxed transport, and ranking of parts of a text."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from counterpoint._ops.scores import Score
from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_id, content_ids, ids_of
from counterpoint.encoders.cross import judge_pairs, load_cross
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import TextEncoder
from counterpoint.encoders.tokens import MASK, PROJECTION, projection_of, token_sets, token_sets_of_parts
from counterpoint.encoders.units import UNIT_IDS, UNITS, WHOLE, units_of
from counterpoint.objectives.custom import maxsim
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.transport import rcmd
from counterpoint.pairs.filters import within
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Outcome, Relation
from counterpoint.views.items import anchors_and_candidates, draw
from counterpoint.views.units import sentences, whole_passages

__all__ = ["agrame", "clrcmd", "colbert"]
KIND = "text"
READ = {
    "colbert": "encoders.tokens.nearest_sets",
    "clrcmd": "encoders.tokens.nearest_sets",
    "agrame": "encoders.units.rank_units",
}
NEEDS = dict.fromkeys(__all__, ("anchor", "positive"))


def encode_tokens(modules: nn.ModuleDict, views: dict[str, Batch], *, tokens: int) -> dict[str, Embeddings]:
    """Each named batch of texts as token sets of one size, with the mask as a fact."""
    encoder = cast(TextEncoder, modules["encoder"])
    return {
        name: token_sets(encoder, batch["text"], batch["role"], tokens=tokens).embeddings(
            id=batch["id"], view=batch.get("view", 0)
        )
        for name, batch in views.items()
    }


def _late(
    encoder: TextEncoder, train: Rows, score: Score, *, temperature: float, tokens: int, negatives: int
) -> Method:
    """Labelled pairs whose two sides are compared token by token."""
    objective = Contrast(
        ("anchor",),
        ("candidate",),
        listed(train.relation),
        partial(infonce, temperature=temperature, score=score),
    )
    modules = nn.ModuleDict({"encoder": encoder, PROJECTION: projection_of(encoder)})
    views = anchors_and_candidates(negatives=negatives)
    return Method(modules, views, partial(encode_tokens, tokens=tokens), objective, encoder_of)


@paper(
    reference="Khattab, Zaharia: ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over "
    "BERT, arXiv:2004.12832, 2020"
)
def colbert(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 1.0,
    width: int = 128,
    tokens: int = 64,
    negatives: int = 1,
) -> Method:
    """ColBERT: labelled pairs, where each token of the query looks for its best token of the document.

        s_qd = sum_t max_u q_t . d_u,   tokens of length 1

    The projection of the tokens is saved beside the model; `encoders.tokens.token_sets` reads both, and `nearest_sets`
    searches. The pooled vector of the model is not what is trained.

    Args:
        encoder: a transformer; encodes both sides.
        train: rows with anchor and positive; negatives are used where there are some.
        temperature: divides the score; > 0.
        width: of a token's vector.
        tokens: of a text that are read.
        negatives: how many of a row's negatives a batch takes; at least 1.

    Raises:
        Refusal: for a model whose tokens have no vectors of their own.

    Differs:
        The other rows of a batch are negatives too, as in ColBERTv2. Queries are not filled up with mask tokens, prompts
        stand for the markers of both sides, and punctuation counts.

    Relations:
        `pairs` compares one vector a text. `agrame` adds a loss of sentences, `clrcmd` looks in both directions.

    References:
        Khattab, Zaharia 2020, arXiv:2004.12832; Santhanam et al. 2022, arXiv:2112.01488.
    """
    encoder = texts_of(encoder, "colbert")
    projection_of(encoder, width)
    return _late(encoder, train, maxsim(mask=MASK), temperature=temperature, tokens=tokens, negatives=negatives)


@paper(row=161)
def clrcmd(encoder: Encoder, train: Rows, *, temperature: float = 0.05, tokens: int = 64, negatives: int = 1) -> Method:
    """CLRCMD: labelled pairs compared by relaxed transport of their tokens, which says what of one matches what of the other.

    In the softmax of supervised SimCSE the cosine of two vectors is replaced by `rcmd` of two token sets. A layer after
    the tokens is trained with them and saved beside the model. `counterpoint explain` draws the matching.

    Args:
        encoder: a transformer; encodes both sides.
        train: rows with anchor and positive; negatives are used where there are some.
        temperature: divides the score; > 0.
        tokens: of a text that are read.
        negatives: how many of a row's negatives a batch takes; at least 1.

    Raises:
        Refusal: for a model whose tokens have no vectors of their own.

    Differs:
        Equal texts in a batch are not negatives of each other.

    Relations:
        With one token a text it is `pairs_with_negatives` in one direction.

    References:
        Lee et al. 2022, arXiv:2202.13196; src/clrcmd/models.py at github.com/sh0416/clrcmd (the layer, special tokens
        count).
    """
    encoder = texts_of(encoder, "clrcmd")
    projection_of(encoder, bias=True)
    return _late(encoder, train, rcmd(mask=MASK), temperature=temperature, tokens=tokens, negatives=negatives)


def with_units(batch: Batch, generator: torch.Generator, *, marker: str, units: int) -> dict[str, Batch]:
    """The views of passages and their sentences: queries for passages, queries for sentences, passages with their parts.

    Args:
        batch: rows with anchor and positive.
        generator: of the draws.
        marker: what stands before a query for sentences.
        units: sentences of a passage, at most.
    """
    cells = [whole_passages(cell) for cell in batch["positive"]]
    chosen = draw(cells, 1, rows=batch["row"], generator=generator)
    parts = [[[piece] for piece in sentences(text, units)] for text in chosen]
    ids = torch.full((len(chosen), units), -1, dtype=torch.int64)
    for i, (text, own) in enumerate(zip(chosen, parts, strict=True)):
        ids[i, : len(own)] = content_ids(text[a:b] for ((a, b),) in own)
    candidates = ids_of(chosen)
    asking = {"id": batch["id"], "role": "anchor", WHOLE: candidates}
    return {
        "anchor": {**asking, "text": batch["anchor"]},
        "unit anchor": {**asking, "text": [marker + text for text in batch["anchor"]]},
        "candidate": {"text": chosen, "id": candidates, "role": "positive", "parts": parts, UNIT_IDS: ids},
    }


def relevant_units(train: Rows, teacher: str | None, *, units: int) -> Relation:
    """Which sentences of a query's passages answer it: the ones that are listed as positives themselves; by a teacher, each
    by its share of the softmax over its passage.

    Args:
        train: rows with anchor and positive.
        teacher: folder or name of a cross-encoder.
        units: sentences of a passage, at most.
    """
    if teacher is None:
        return train.relation
    pairs = [
        (query, [text[a:b] for a, b in sentences(text, units)])
        for query, cell in zip(train.anchors, train.positives, strict=True)
        for text in whole_passages(cell)
    ]
    left = [query for query, own in pairs for _ in own]
    right = [unit for _, own in pairs for unit in own]
    found = judge_pairs(load_cross(teacher), left, right)
    shares = [part.softmax(0) for part in found.split([len(own) for _, own in pairs])]
    query, unit = ([content_id(text) for text in side] for side in (left, right))
    return Relation.of(query, unit, torch.cat(shares))


@paper(row=149)
def agrame(
    encoder: Encoder,
    train: Rows,
    *,
    teacher: str | None = None,
    unit_weight: float = 1.0,
    marker: str = "sentence: ",
    temperature: float = 1.0,
    width: int = 128,
    tokens: int = 128,
    units: int = 16,
) -> Method:
    """AGRaME: queries find their passage, and within it, from the same encoding, the sentences that answer them.

        loss = ColBERT of passages + w mean_q -log( exp(s_qu) / sum_(u' in passage) exp(s_qu') ),
        s_qu = sum_t max_(j in u) q'_t . d_j

    q' is the query behind a marker, which says that sentences are asked for; j goes over the tokens of sentence u. A
    sentence is relevant where it is listed as a positive of the row beside its passage, or as far as a teacher says so.
    Rows of whose sentences nothing is known train passages alone. `encoders.units.rank_units` ranks sentences.

    Args:
        encoder: a transformer; encodes both sides.
        train: rows with anchor and positive: a passage, and beside it its sentences that answer the query.
        teacher: folder or name of a cross-encoder that judges the sentences before training; None: the data do.
        unit_weight: w of the loss of sentences, at least 0.
        marker: what stands before a query for sentences.
        temperature: divides both scores; > 0.
        width: of a token's vector.
        tokens: of a text that are read.
        units: sentences of a passage, at most; the last one then holds the rest.

    Raises:
        Refusal: for a model whose tokens have no vectors of their own.

    Differs:
        The marker is words before the query, which every tokenizer reads, where the paper takes a token. The weight of the
        loss of sentences was not found; it is 1 here. Passages are compared with those of the batch, without a teacher.

    Relations:
        With a weight of 0 it is `colbert` without given negatives.

    References:
        Reddy et al. 2024, arXiv:2405.15028.
    """
    encoder = texts_of(encoder, "agrame")
    modules = nn.ModuleDict({"encoder": encoder, PROJECTION: projection_of(encoder, width)})
    loss = partial(infonce, temperature=temperature, score=maxsim(mask=MASK))
    passages, inside = listed(train.relation), within(listed(relevant_units(train, teacher, units=units)), WHOLE)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = encode_tokens(modules, {k: v for k, v in views.items() if k != "candidate"}, tokens=tokens)
        sets = {k: s.told(**{WHOLE: views[k][WHOLE].to(s.z.device)}) for k, s in sets.items()}
        return sets | {k: _with_parts(modules, v, tokens) for k, v in views.items() if k == "candidate"}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        by_passage = loss(sets["anchor"], sets["candidate"], rule=passages)
        by_unit = loss(sets["unit anchor"], units_of(sets["candidate"]), rule=inside)
        return Outcome.of(passages=(1.0, by_passage), units=(unit_weight, by_unit))

    return Method(modules, partial(with_units, marker=marker, units=units), encode, objective, encoder_of)


def _with_parts(modules: nn.ModuleDict, batch: Batch, tokens: int) -> Embeddings:
    """Passages as token sets, with the tokens of their sentences as a fact."""
    encoder = cast(TextEncoder, modules["encoder"])
    sets, where = token_sets_of_parts(encoder, batch["text"], batch["parts"], tokens=tokens, role=batch["role"])
    more = batch[UNIT_IDS].shape[1] - where.shape[1]
    facts = {UNITS: nn.functional.pad(where, (0, 0, 0, more), value=False), UNIT_IDS: batch[UNIT_IDS].to(where.device)}
    return sets.embeddings(id=batch["id"], facts=facts)
