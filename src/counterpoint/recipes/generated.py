"""Recipes for texts that a language model wrote or judged, as `counterpoint generate` makes them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_ids
from counterpoint.encoders.encoder import Encoder
from counterpoint.objectives.judged import scored
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.recipes.text import encode_items, encoder_of, simcse_supervised
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Relation
from counterpoint.views.draws import uniform
from counterpoint.views.items import anchors_and_candidates
from counterpoint.views.rules import kept_in_meaning, turned_in_meaning

__all__ = ["claif", "clhaif", "syncse"]
KIND = "text"
NEEDS = {"claif": ("anchor", "positive", "value"), "clhaif": ("anchor", "positive", "negative", "value")}
LEAST = 2.0**-20  # weight of a positive that was judged to be none: it does not turn into a negative


def judged(relation: Relation, highest: float) -> Relation:
    """The relation with values from 0 to 1; of pairs that nobody judged, positives have 1 and negatives 0."""
    value = (relation.grade > 0).float() if relation.value is None else relation.value / highest
    return replace(relation, value=value)


@paper(row=108)
def claif(encoder: Encoder, train: Rows, *, highest: float = 1.0) -> Method:
    """CLAIF: the cosine of a pair is fitted to the score that a language model gave it; no other pair is looked at.

        loss = mean over listed pairs of (cos(h_i, h_j) - y_ij)^2

    Args:
        encoder: encodes both sides.
        train: rows with anchor, positive and value, such as `generate --as pairs` writes; any judged pairs will do.
        highest: the value of two texts that mean the same; > 0. 5 for STS.

    Differs:
        A pair of two equal texts is left out.

    Relations:
        The loss is `objectives.judged.scored`. Without negatives in the loss nothing but low scores keeps texts apart.

    References:
        Cheng et al. 2023, arXiv:2305.01918, equation 3.
    """
    rule = listed(judged(train.relation, highest), others=0)
    objective = Contrast(("anchor",), ("candidate",), rule, partial(scored, unit=True))
    modules = nn.ModuleDict({"encoder": encoder})
    return Method(modules, anchors_and_candidates(negatives=0), encode_items, objective, encoder_of)


@paper(row=108)
def clhaif(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    hard_weight: float = 1.0,
    highest: float = 1.0,
    head: bool = True,
) -> Method:
    """CLHAIF: supervised SimCSE of which each anchor counts as much as a language model finds its positive alike.

        loss = - (1/n) sum_i y_i log( exp(s_ii+ / t) / (sum_j exp(s_ij+ / t) + exp(s_ij- / t)) )

    Args:
        encoder: encodes both sides.
        train: rows with anchor, positive, negative and the value of the positive.
        temperature: divides the cosine; > 0.
        hard_weight: weight of an anchor's own negative in its denominator; > 0.
        highest: the value of two texts that mean the same; > 0.
        head: as in `simcse_supervised`.

    Differs:
        Of the authors' two kinds of soft labels this is the one that their script takes: what a positive lacks is given to
        no other candidate.

    Relations:
        With values of 1 it is `simcse_supervised`.

    References:
        Cheng et al. 2023, arXiv:2305.01918, section 4.2; xiami2019/CLAIF, simcse/models.py ("smooth_positive").
    """
    method = simcse_supervised(encoder, train, temperature=temperature, hard_weight=hard_weight, head=head)
    relation = judged(train.relation, highest)
    assert relation.value is not None
    soft = torch.where(relation.grade > 0, relation.value.clamp(min=LEAST), 0.0)
    rule = listed(replace(relation, grade=soft), negative_weight=hard_weight)
    loss = partial(infonce, temperature=temperature, normalize="none")
    return replace(method, objective=Contrast(("anchor",), ("candidate",), rule, loss))


@paper(row=117)
def syncse(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    hard_weight: float = 1.0,
    head: bool = True,
    seed: int = 0,
) -> Method:
    """SynCSE: supervised SimCSE on positives and hard negatives that were written for texts without labels.

    `generate` lets a language model write them. Where a text has none, rules do it here, once: words replaced by others of
    their meaning, and what contradicts it (a "not", a number, an exchange).

    Args:
        encoder: encodes both sides.
        train: rows with anchor; and positive and negative, as far as they were written.
        temperature: divides the cosine; > 0.
        hard_weight: weight of an anchor's own negative in its denominator; > 0.
        head: as in `simcse_supervised`.
        seed: of what rules draw.

    Differs:
        Rules stand in for a language model where it was not asked. The authors' script adds a masked-language loss, which their
        paper does not have.

    Relations:
        Where every row has its triple it is `simcse_supervised`.

    References:
        Zhang, Lan, He 2023, arXiv:2305.15077.
    """
    written = with_triples(train, seed=seed)
    method = simcse_supervised(encoder, written, temperature=temperature, hard_weight=hard_weight, head=head)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        rows = batch["row"].tolist()
        own = {"positive": [written.positives[i] for i in rows], "negative": [written.negatives[i] for i in rows]}
        return method.views({**batch, **own}, generator)

    return replace(method, views=views)


def with_triples(train: Rows, *, seed: int = 0) -> Rows:
    """The rows, each with a positive, and with a negative where rules have one; what is there stays.

    Args:
        train: rows with anchor.
        seed: of the draws of the rules.

    >>> import polars as pl
    >>> made = with_triples(Rows.of(pl.DataFrame({"anchor": ["a large house", "ok"], "positive": [[], ["fine"]]})))
    >>> made.positives, made.negatives
    ([['a big house'], ['fine']], [['a house large'], []])
    """
    draws = uniform(torch.Generator().manual_seed(seed), train.ids, 2).tolist()
    near = [
        own or [kept_in_meaning(t, u)] for t, own, (u, _) in zip(train.anchors, train.positives, draws, strict=True)
    ]
    turned = [[turned_in_meaning(t, u) or t] for t, (_, u) in zip(train.anchors, draws, strict=True)]
    far = [
        own or [x for x in made if x != t] for t, own, made in zip(train.anchors, train.negatives, turned, strict=True)
    ]
    relation, edges = train.relation, []
    for known, *lists in zip(train.ids.tolist(), near, far, strict=True):
        edges += [
            (known, c, grade)
            for grade, texts in zip((1.0, 0.0), lists, strict=True)
            for c in content_ids(texts).tolist()
        ]
    anchor, candidate, grade = (list(column) for column in zip(*edges, strict=True)) if edges else ([], [], [])
    whole = Relation.of(
        [*relation.anchor_id.tolist(), *anchor],
        [*relation.candidate_id.tolist(), *candidate],
        [*relation.grade.tolist(), *grade],
    )
    return replace(train, positives=near, negatives=far, relation=whole)
