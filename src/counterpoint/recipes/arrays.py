"""Recipes for arrays of numbers: SCARF."""

from __future__ import annotations

from functools import partial

from torch import nn

from counterpoint.data.arrays import Arrays
from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.mlp import relu_layers
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.recipes.text import encode_items, encoder_of, with_training_head
from counterpoint.training.method import Contrast, Method
from counterpoint.types import same_sample
from counterpoint.views.arrays import clean_and_corrupted

__all__ = ["scarf"]
KIND = "arrays"


@paper(
    reference="Bahri, Jiang, Tay, Metzler: SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption, "
    "arXiv:2106.15147, 2021"
)
def scarf(
    encoder: Encoder, train: Rows, *, temperature: float = 1.0, rate: float = 0.6, head: int = 256, depth: int = 2
) -> Method:
    """SCARF: a row has to find its corrupted self, in which most features have the values of random other rows.

    -log(exp(s_ii / temperature) / sum_k exp(s_ik / temperature)), with s_ik the cosine of clean row i and corrupted row k
    after a head that is not saved; averaged over i.

    Args:
        encoder: encodes the rows.
        train: rows of arrays; each feature's new values are those of these rows, as often as they occur.
        temperature: divides the cosine; > 0.
        rate: share of the features that are replaced, in (0, 1].
        head: width of the training head; at least 1.
        depth: its layers; at least 1.

    Raises:
        Refusal: for items that are no arrays, or numbers out of range.

    Differs:
        The paper's denominator is a mean over the batch, which moves the loss by log n and no gradient. The encoder may
        have dropout.

    References:
        Bahri et al. 2021, arXiv:2106.15147, algorithm 1; sizes, rate and temperature are those of its experiments.
    """
    if not isinstance(train.items, Arrays):
        raise Refusal("arrays for scarf", train.items.kind, remedy="simcse is its like for texts")
    if not 0 < rate <= 1 or min(head, depth) < 1:
        raise Refusal("a rate in (0, 1], a head and a depth of at least 1", f"{rate}, {head}, {depth}", where="--set")
    views = clean_and_corrupted(train.items.take(train.anchors), rate=rate)
    objective = Contrast(("first",), ("second",), same_sample, partial(infonce, temperature=temperature))
    method = Method(nn.ModuleDict({"encoder": encoder}), views, encode_items, objective, encoder_of)
    return with_training_head(method, nn.Sequential(*relu_layers([encoder.width, *[head] * depth])))
