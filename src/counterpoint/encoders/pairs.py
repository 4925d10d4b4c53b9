"""A light head on two vectors: what a student of a cross-encoder scores pairs with, after each text was read alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.encoders.beside import beside
from counterpoint.encoders.text import TextEncoder

PAIRS = "pairs"  # the part beside an encoder, and its file
Kind = Literal["compare", "dot"]


class PairHead(nn.Module):
    """The score of two vectors: layers on what compares them, or their dot product and a line.

        compare:  MLP([u, v, u * v, |u - v|])
        dot:      a u . v + b

    Args:
        width: d of the vectors.
        kind: which of the two; with "dot" the order of candidates is that of the dot product.
        hidden: width of the layer between, of "compare".

    References:
        Barkan et al. 2020, arXiv:1908.05161, section 3; models/feature_extractors.py at
        github.com/microsoft/Distilled-Sentence-Embedding.
    """

    def __init__(self, width: int, kind: Kind = "compare", *, hidden: int = 512) -> None:
        super().__init__()
        if kind == "compare":
            self.layers = nn.Sequential(nn.Linear(4 * width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        else:
            self.layers = nn.Sequential(nn.Linear(1, 1))
            nn.init.ones_(cast(nn.Linear, self.layers[0]).weight)
            nn.init.zeros_(cast(nn.Linear, self.layers[0]).bias)

    @property
    def kind(self) -> Kind:
        """Which of the two it is."""
        return "dot" if len(self.layers) == 1 else "compare"

    def forward(self, u: Float[Tensor, "n d"], v: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The score of row i of u with row i of v."""
        seen = (u * v).sum(-1, keepdim=True) if self.kind == "dot" else torch.cat([u, v, u * v, (u - v).abs()], -1)
        return self.layers(seen)[:, 0].float()


def pair_head_of(encoder: TextEncoder, kind: Kind = "compare", *, hidden: int = 512) -> PairHead:
    """The head of an encoder: the one that it was saved with, else a new one.

    Args:
        encoder: what it stands beside; `folder.save` writes it too.
        kind, hidden: of a new one.
    """

    def make(stored: Mapping[str, Tensor]) -> nn.Module:
        if not stored:
            return PairHead(encoder.width, kind, hidden=hidden)
        compared = "layers.2.weight" in stored
        size = len(stored["layers.0.weight"])
        return PairHead(encoder.width, "compare" if compared else "dot", hidden=size)

    return cast(PairHead, beside(encoder, PAIRS, make))


def read_once(encoder: TextEncoder, texts: Sequence[str], role: str = "anchor") -> Float[Tensor, "n d"]:
    """The embeddings of texts; equal texts are read once.

    Args:
        encoder: the model.
        texts: n texts.
        role: which prompt and length.
    """
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return encoder(list(place), role)[[place[text] for text in texts]]
