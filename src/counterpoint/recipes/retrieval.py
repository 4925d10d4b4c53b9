"""Recipes of general text embedding: pairs of many sources, in stages."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.errors import Refusal, closest
from counterpoint.objectives.custom import Rule
from counterpoint.objectives.joint import infonce_joint
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.recipes.negatives import carrying
from counterpoint.recipes.text import encode_items, encoder_of, pairs_with_negatives
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Pairs
from counterpoint.views.items import Views, anchors_and_candidates

__all__ = ["gte", "nv_embed"]
NEEDS = {"gte": ("anchor", "positive"), "nv_embed": ("anchor", "positive", "negative")}
SOURCES = ","  # between the names of several sources in one argument


@paper(row=141)
def gte(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.01,
    hard: int = 0,
    reverse: bool = True,
    among_anchors: bool = True,
    among_candidates: bool = True,
) -> Method:
    """GTE: labelled pairs, whose denominator has queries against queries and documents against documents too.

    Its two stages are two runs, `counterpoint stages plan.json`: many weak pairs, then curated triples with hard negatives.

        [{"data": "weak.csv", "recipe": "gte", "order": "by_source", "order_settings": {"temperature": 2.0}},
         {"data": "curated.csv", "recipe": "gte", "settings": {"hard": 1}}]

    Batches of one source each, with sources drawn by n^alpha for n rows, are the order `by_source` with a temperature of
    1 / alpha; the paper's alpha is 0.5.

    Args:
        encoder: encodes both sides.
        train: rows with anchor and positive, and negative where `hard` is above 0.
        temperature: divides the cosine; > 0.
        hard: how many of a row's negatives a batch takes, drawn anew each time; at least 0.
        reverse, among_anchors, among_candidates: as of `infonce_joint`.

    Differs:
        As `infonce_joint`. Sources are drawn in whole numbers of batches an epoch, which is less random.

    Relations:
        `pairs` in one direction with all three sums left out.

    References:
        Li et al. 2023, arXiv:2308.03281.
    """
    loss = partial(
        infonce_joint, temperature=temperature, reverse=reverse, among_anchors=among_anchors,
        among_candidates=among_candidates,
    )  # fmt: skip
    objective = Contrast(("anchor",), ("candidate",), listed(train.relation), loss)
    modules = nn.ModuleDict({"encoder": encoder})
    return Method(modules, anchors_and_candidates(negatives=hard), encode_items, objective, encoder_of)


def with_source(views: Views) -> Views:
    """The same views, of which that of the anchors has the number of each row's source."""

    def told(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        found = views(batch, generator)
        return {**found, "anchor": {**found["anchor"], "source": batch["source"]}}

    return told


def sources_named(train: Rows, names: str) -> torch.Tensor:
    """The numbers of the sources in a list of names.

    Raises:
        Refusal: for rows without sources, or a name that none has.
    """
    asked = [name.strip() for name in names.split(SOURCES)]
    if train.sources is None:
        raise Refusal(
            "rows with a source", "none", where="--set retrieval", remedy="name the column with --source COLUMN"
        )
    for name in asked:
        if name not in train.source_names:
            remedy = closest(name, train.source_names)
            raise Refusal("a source of the data", f"'{name}'", where="--set retrieval", remedy=remedy)
    return torch.tensor([train.source_names.index(name) for name in asked])


def in_batch_for(rule: Rule, alone: Rule, sources: torch.Tensor) -> Rule:
    """One rule for anchors of these sources, another for those of all others.

    Args:
        rule: of anchors whose fact `source` is among them.
        alone: of the others.
        sources: numbers.
    """

    def of(a: Embeddings, c: Embeddings) -> Pairs:
        there = torch.isin(a.facts["source"], sources.to(a.z.device))[:, None]
        one, other = rule(a, c), alone(a, c)
        return Pairs(torch.where(there, one.attract, other.attract), torch.where(there, one.repel, other.repel))

    return of


@paper(row=266)
def nv_embed(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.02,
    negatives: int = 7,
    retrieval: str = "",
) -> Method:
    """NV-Embed's training: hard negatives and those of the batch; on tasks other than retrieval the hard ones alone.

    Its two stages are two runs, `counterpoint stages plan.json`: retrieval, then a mixture of tasks, where texts of a batch
    that belong to one class would be false negatives of each other.

        [{"data": "retrieval.csv", "recipe": "nv_embed"},
         {"data": "all.csv", "recipe": "nv_embed", "settings": {"retrieval": "none"}}]

    Args:
        encoder: encodes both sides; the instruction of a query is its prompt.
        train: rows with anchor, positive and negative, and source where some are named.
        temperature: divides the cosine; > 0.
        negatives: how many of a row's negatives a batch takes, drawn anew each time; at least 1.
        retrieval: sources whose anchors have the whole batch for negatives, with commas between them; those of all other
            sources have what their rows list alone. "": all have the batch, which is the first stage; "none": no anchor,
            which is the paper's second.

    Raises:
        Refusal: for sources that the rows do not have.

    Differs:
        The training alone: latent attention and attention without a causal mask are of the encoder, and one instruction
        serves all tasks. The paper's second stage turns the batch off for retrieval too, which here is a choice.

    Relations:
        `pairs_with_negatives` in one direction where no source is named, or all are.

    References:
        Lee et al. 2024, arXiv:2405.17428.
    """
    method = pairs_with_negatives(encoder, train, temperature=temperature, negatives=negatives, directions="forward")
    if not retrieval:
        return method
    whole, alone = listed(train.relation), listed(train.relation, others=0.0)
    rule: Rule = alone
    if retrieval != "none":
        rule = in_batch_for(whole, alone, sources_named(train, retrieval))
    objective = Contrast(("anchor",), ("candidate",), rule, partial(infonce, temperature=temperature))
    method = replace(method, objective=objective)
    if retrieval == "none":
        return method
    return replace(method, views=with_source(method.views), encode=carrying(encode_items, "source"))
