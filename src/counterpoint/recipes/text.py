"""Recipes for any kind of item: labelled pairs, pairs with hard negatives, SimCSE twice, SupCon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import Directions, infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, items_of, same_sample
from counterpoint.views.items import anchors_and_candidates, twice

__all__ = ["pairs", "pairs_with_negatives", "simcse", "simcse_supervised", "supcon"]
NEEDS = {
    "pairs": ("anchor", "positive"),
    "pairs_with_negatives": ("anchor", "positive", "negative"),
    "simcse_supervised": ("anchor", "positive", "negative"),
    "supcon": ("anchor", "label"),
}


def encode_items(modules: Mapping[str, nn.Module] | nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each named batch of items through the encoder, with the ids, views, labels and row numbers that it carries."""
    return {
        name: Embeddings.of(
            modules["encoder"](items_of(batch), batch["role"]),
            id=batch["id"],
            view=batch.get("view", 0),
            facts={fact: batch[fact].to(modules["encoder"].device) for fact in ("label", "row") if fact in batch},
        )
        for name, batch in views.items()
    }


def with_training_head(method: Method, head: nn.Module) -> Method:
    """The method with a head after its encoder, used while training and not saved."""
    head = head.to(next(method.modules.parameters()).device)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = method.encode(modules, views)
        return {name: replace(e, z=modules["head"](e.z).float()) for name, e in sets.items()}

    return replace(method, modules=nn.ModuleDict({**method.modules, "head": head}), encode=encode)


def refuse_without_dropout(encoder: Encoder, recipe: str) -> None:
    """Where dropout makes the views.

    Raises:
        Refusal: the encoder has none.
    """
    if encoder.dropout == 0:
        remedy = "both views would be equal; add --dropout 0.1"
        raise Refusal(f"a model with dropout for {recipe}", "none", remedy=remedy)


def dense_tanh(width: int) -> nn.Module:
    """SimCSE's head: a linear layer and tanh."""
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


def encoder_of(modules: nn.ModuleDict) -> nn.Module:
    """The part that is saved for use: the encoder without training heads."""
    return modules["encoder"]


@paper(
    reference="Henderson et al.: Efficient Natural Language Response Suggestion for Smart Reply, arXiv:1705.00652, 2017"
)
def pairs(encoder: Encoder, train: Rows, *, temperature: float = 0.05, directions: Directions = "both") -> Method:
    """Labelled pairs with in-batch negatives: each anchor picks its positives among all candidates of the batch.

    A batch holds one positive of each row. Whatever else the data list as a positive of an anchor attracts too when it
    happens to be in the batch, and equal items are never each other's negatives.

    Args:
        encoder: encodes both sides.
        train: rows with anchor and positive.
        temperature: divides the cosine; > 0.
        directions: "both" also lets each candidate pick its anchors.

    Differs:
        From the paper: cosine and temperature instead of a plain dot product, as in all later work.

    References:
        Henderson et al. 2017, arXiv:1705.00652.
    """
    loss = partial(infonce, temperature=temperature, directions=directions)
    objective = Contrast(("anchor",), ("candidate",), listed(train.relation), loss)
    modules = nn.ModuleDict({"encoder": encoder})
    return Method(modules, anchors_and_candidates(negatives=0), encode_items, objective, encoder_of)


@paper(reference="Karpukhin et al.: Dense Passage Retrieval for Open-Domain Question Answering, arXiv:2004.04906, 2020")
def pairs_with_negatives(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    directions: Directions = "both",
    negatives: int = 1,
) -> Method:
    """Labelled pairs with given hard negatives: those of every row are candidates for every anchor of the batch.

    Args:
        encoder: encodes both sides.
        train: rows with anchor, positive and negative.
        temperature: divides the cosine; > 0.
        directions: "both" also lets each positive pick its anchors; hard negatives have no turn of their own.
        negatives: how many of a row's negatives a batch takes, drawn anew each time; at least 1.

    Differs:
        From the paper: one encoder for both sides, cosine and temperature instead of a plain dot product.

    References:
        Karpukhin et al. 2020, arXiv:2004.04906.
    """
    method = pairs(encoder, train, temperature=temperature, directions=directions)
    return replace(method, views=anchors_and_candidates(negatives=negatives))


@paper(row=80)
def simcse(encoder: Encoder, train: Rows, *, temperature: float = 0.05, head: bool = True) -> Method:
    """Unsupervised SimCSE: an item encoded twice under different dropout is a positive pair; other items are negatives.

    Args:
        encoder: must have dropout, else both views are equal and nothing is learned.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        head: a layer with tanh after the encoder while training, as in the paper; it is not saved.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        The backbone's own pooling is kept where the paper takes the first token.

    References:
        Gao, Yao, Chen 2021, arXiv:2104.08821; the head as in the authors' code.
    """
    del train
    refuse_without_dropout(encoder, "simcse")
    objective = Contrast(("first",), ("second",), same_sample, partial(infonce, temperature=temperature))
    method = Method(nn.ModuleDict({"encoder": encoder}), twice, encode_items, objective, encoder_of)
    return with_training_head(method, dense_tanh(encoder.width)) if head else method


@paper(row=80)
def simcse_supervised(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    hard_weight: float = 1.0,
    head: bool = True,
) -> Method:
    """Supervised SimCSE: entailments are positives; contradictions are hard negatives that the whole batch shares.

    Args:
        encoder: encodes both sides.
        train: rows with anchor, positive and negative.
        temperature: divides the cosine; > 0.
        hard_weight: weight of an anchor's own contradiction in its denominator (the paper's alpha); > 0.
        head: a layer with tanh after the encoder while training; it is not saved.

    Differs:
        Equal items in a batch are not negatives of each other. The head is dropped after training in both variants,
        where the authors keep it in the supervised one.

    References:
        Gao, Yao, Chen 2021, arXiv:2104.08821, section 4.
    """
    rule = listed(train.relation, negative_weight=hard_weight)
    objective = Contrast(("anchor",), ("candidate",), rule, partial(infonce, temperature=temperature))
    views = anchors_and_candidates(negatives=1)
    method = Method(nn.ModuleDict({"encoder": encoder}), views, encode_items, objective, encoder_of)
    return with_training_head(method, dense_tanh(encoder.width)) if head else method


@paper(reference="Khosla et al.: Supervised Contrastive Learning, arXiv:2004.11362, 2020 (L_out)")
def supcon(encoder: Encoder, train: Rows, *, temperature: float = 0.1) -> Method:
    """SupCon: two dropout views of each item; all rows of one label are positives of each other.

    Args:
        encoder: encodes the items.
        train: rows with anchor and label.
        temperature: divides the cosine; > 0.

    Differs:
        Dropout makes the two views, where the paper augments images. No projection head.

    References:
        Khosla et al. 2020, arXiv:2004.11362; the temperature is the one of its ImageNet runs.
    """
    del train
    both = ("first", "second")
    objective = Contrast(both, both, labelled("label"), partial(infonce, temperature=temperature))
    return Method(nn.ModuleDict({"encoder": encoder}), twice, encode_items, objective, encoder_of)
