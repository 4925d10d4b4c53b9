"""Recipes in which the model stays as it is: a trained prefix in its attention says what its vectors are for."""

from __future__ import annotations

from functools import partial

from counterpoint.data.batches import Rows
from counterpoint.encoders.adapt import prefixed
from counterpoint.encoders.encoder import Encoder
from counterpoint.objectives.margin import triplet
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import refuse_without_dropout, simcse, simcse_supervised
from counterpoint.training.method import Method, replace
from counterpoint.types import Embeddings, Outcome, PairRule

__all__ = ["promcse", "promcse_supervised"]
KIND = "text"
NEEDS = {"promcse_supervised": ("anchor", "positive", "negative")}


@paper(row=119)
def promcse(encoder: Encoder, train: Rows, *, tokens: int = 16, temperature: float = 0.05, head: bool = True) -> Method:
    """PromCSE: SimCSE of a frozen model; what trains are a few keys and values that stand before those of each layer.

    It wants a rate some hundred times that of the whole model: 0.03 in the authors' run.

    Args:
        encoder: a transformer with dropout; from now on it has a prefix, which is saved with it, and all else is frozen.
        train: rows with anchor; every other column is ignored.
        tokens: of the prefix, at least 1. An encoder that has a prefix keeps it.
        temperature: divides the cosine; > 0.
        head: a layer with tanh after the encoder while training, as in the paper; it is not saved.

    Raises:
        Refusal: for an encoder without dropout, or whose attention takes no prefix.

    Differs:
        The backbone's own pooling is kept where the paper takes the first token. Positions of words do not count the
        prefix. "Before" in `fit` is the model with its new prefix, which starts from small random numbers.

    Relations:
        `simcse` of `encoders.adapt.prefixed`.

    References:
        Jiang, Zhang, Wang 2022, arXiv:2203.06875; numbers as in YJiangcm/PromCSE.
    """
    encoder = texts_of(encoder, "promcse")
    refuse_without_dropout(encoder, "promcse")
    return simcse(prefixed(encoder, tokens=tokens), train, temperature=temperature, head=head)


@paper(row=119)
def promcse_supervised(
    encoder: Encoder,
    train: Rows,
    *,
    tokens: int = 10,
    temperature: float = 0.05,
    hard_weight: float = 1.0,
    margin: float = 0.2,
    weight: float = 10.0,
    head: bool = True,
) -> Method:
    """Supervised PromCSE: supervised SimCSE of a frozen model with a prefix, and a hinge on each anchor's nearest negative.

        loss = SimCSE + weight * mean_i max(0, margin + max_j {cos(x_i, y_j), cos(x_i, z_j)} - cos(x_i, y_i))

    over positives y_j of other anchors and all contradictions z_j of the batch.

    Args:
        encoder: a transformer; from now on it has a prefix, which is saved with it, and all else is frozen.
        train: rows with anchor, positive and negative.
        tokens: of the prefix, at least 1. An encoder that has a prefix keeps it.
        temperature: divides the cosine; > 0.
        hard_weight: weight of an anchor's own contradiction in its denominator; > 0.
        margin: by which the positive is to be nearer, in units of cosine, at least 0.
        weight: of the hinge in the loss, at least 0.
        head: a layer with tanh after the encoder while training; it is not saved.

    Raises:
        Refusal: for an encoder whose attention takes no prefix.

    Differs:
        As in `promcse` and `simcse_supervised`. The hinge reads no `hard_weight`.

    Relations:
        With weight 0 it is `simcse_supervised` of `encoders.adapt.prefixed`. The hinge is half of `triplet` with squared
        distances, the hardest negatives and twice the margin, since squared distances of unit vectors are 2 - 2 cos.

    References:
        Jiang, Zhang, Wang 2022, arXiv:2203.06875; numbers as in YJiangcm/PromCSE.
    """
    encoder = prefixed(texts_of(encoder, "promcse_supervised"), tokens=tokens)
    method = simcse_supervised(encoder, train, temperature=temperature, hard_weight=hard_weight, head=head)
    hinge = partial(triplet, margin=2 * margin, power=2)

    def loss(anchors: Embeddings, candidates: Embeddings, *, rule: PairRule) -> Outcome:
        contrast = infonce(anchors, candidates, rule=rule, temperature=temperature)
        return Outcome.of(contrast=(1.0, contrast), energy=(weight / 2, hinge(anchors, candidates, rule=rule)))

    return replace(method, objective=loss)
