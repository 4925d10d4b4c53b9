"""Propositions: one vector for each marked part of a text, all from one encoding of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.encoders.beside import beside, has_beside
from counterpoint.encoders.text import TextEncoder
from counterpoint.encoders.tokens import Part, places, token_states

PROPOSITIONS = "propositions"  # the part beside an encoder, and its file


def masked_mean(states: Float[Tensor, "n t d"], mask: Bool[Tensor, "n p t"]) -> Float[Tensor, "n p d"]:
    """The mean state over the tokens of each part; zeros for a part without tokens.

    >>> states, mask = torch.eye(2)[None], torch.tensor([[[True, True], [False, True]]])
    >>> masked_mean(states, mask).tolist()
    [[[0.5, 0.5], [0.0, 1.0]]]
    """
    weight = mask.to(states)
    return weight @ states / weight.sum(-1, keepdim=True).clamp(min=1)


def propositions_of(encoder: TextEncoder) -> nn.Module:
    """The two layers after the mean of a proposition: those that the encoder was saved with, else new ones."""

    def make(_stored: Mapping[str, Tensor]) -> nn.Module:
        d = encoder.width
        return nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))

    return beside(encoder, PROPOSITIONS, make)


def _means(model: Any, features: dict[str, Any]) -> dict[str, Tensor]:
    where = features.pop("where")
    states, _, mask = token_states(model, features)
    wanted = where[..., : mask.shape[1]] & mask[:, None]
    wanted = torch.where(where.any(-1, keepdim=True), wanted, mask[:, None])
    return {"z": masked_mean(states.float(), wanted)}


def embed_parts(
    encoder: TextEncoder, texts: Sequence[str], parts: Sequence[Sequence[Part]], role: str = "anchor"
) -> Float[Tensor, "n p d"]:
    """A vector for each part of each text; each text is read once, and its parts know what stands around them.

    The mean state of a part's tokens, and the layers of `propositions_of` where the model has them.

    Args:
        encoder: a transformer with a tokenizer that says where its tokens stand.
        texts: n texts.
        parts: of each, such as the pieces of a proposition, each from a character to another; a part without a token, and
            so one without pieces, is the whole text with its special tokens, which is the mean that pools a text.
        role: which prompt and length.

    References:
        Chen et al. 2024, arXiv:2311.04335.

    >>> from counterpoint.encoders.text import load
    >>> encoder = load("sentence-transformers/all-MiniLM-L6-v2").eval()
    >>> embed_parts(encoder, ["cats sleep, dogs bark"], [[[(0, 10)], [(12, 21)]]]).shape
    torch.Size([1, 2, 384])
    """
    found = encoder.read(texts, role, one=_means, beside={"where": places(encoder, texts, parts, role)})["z"]
    return propositions_of(encoder)(found).float() if has_beside(encoder, PROPOSITIONS) else found
