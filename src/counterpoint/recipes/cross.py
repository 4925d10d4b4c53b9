"""Recipes for cross-encoders: pairs judged alone, and one positive against its negatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.data.mined import pool_of
from counterpoint.encoders.cross import CrossEncoder
from counterpoint.objectives.rerank import binary, listwise, scored_pairs
from counterpoint.papers import paper
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.cross import query_and_candidates

__all__ = ["cross_encoder", "cross_encoder_listwise"]
KIND = "text"
NEEDS = {"cross_encoder": ("anchor", "positive"), "cross_encoder_listwise": ("anchor", "positive")}


def score_pairs(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each pair through the encoder: embeddings of width 0 whose fact "score" carries the gradient."""
    device = modules["encoder"].device
    return {
        name: scored_pairs(
            modules["encoder"](batch["text"], batch["other"]),
            query=batch["id"].to(device),
            positive=batch["positive"].to(device),
            row=batch["row"].to(device),
        )
        for name, batch in views.items()
    }


def _trained_by(loss: Callable[[Embeddings], Outcome], encoder: CrossEncoder, train: Rows, negatives: int) -> Method:
    """The method of a loss of scored pairs."""
    views = query_and_candidates(train.relation, pool_of(train), negatives=negatives)
    return Method(
        nn.ModuleDict({"encoder": encoder}), views, score_pairs, lambda _, sets: loss(sets["pair"]), encoder_of
    )


@paper(reference="Nogueira, Cho: Passage Re-ranking with BERT, arXiv:1901.04085, 2019")
def cross_encoder(encoder: CrossEncoder, train: Rows, *, negatives: int = 4, positive_weight: float = 1.0) -> Method:
    """A cross-encoder that says of each pair whether it belongs together.

    Args:
        encoder: reads both texts together.
        train: rows with anchor and positive; negatives make it sharper ('counterpoint mine' finds some).
        negatives: beside each positive, from the row's own, filled up at random from all texts; at least 1.
        positive_weight: of a positive beside 1 of a negative; > 0.

    Differs:
        From the paper: a few negatives are drawn for each positive in every epoch, where it takes what its data list.

    Relations:
        `cross_encoder_listwise` learns the order of one query's candidates instead.

    References:
        Nogueira, Cho 2019, arXiv:1901.04085.
    """
    return _trained_by(partial(binary, positive_weight=positive_weight), encoder, train, negatives)


@paper(
    reference="Gao, Dai, Callan: Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline, arXiv:2101.08751, "
    "2021"
)
def cross_encoder_listwise(encoder: CrossEncoder, train: Rows, *, negatives: int = 7) -> Method:
    """A cross-encoder that puts a query's positive before its negatives.

    Args:
        encoder: reads both texts together.
        train: rows with anchor and positive; hard negatives matter here ('counterpoint mine' finds some).
        negatives: beside each positive, from the row's own, filled up at random from all texts; at least 1. The paper's
            groups hold 8 pairs.

    Differs:
        From the paper: negatives are the row's own, whichever way they were found, not those of one retriever's top.

    References:
        Gao, Dai, Callan 2021, arXiv:2101.08751.
    """
    return _trained_by(listwise, encoder, train, negatives)
