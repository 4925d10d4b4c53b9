"""The attention of a transformer at some pairs of tokens of a text, and how well that of two views agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.hashed import hashed_uniform
from counterpoint.encoders.embedded import BITS, One, backbone_in
from counterpoint.errors import Refusal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from counterpoint.encoders.text import TextEncoder

PARTS = 2  # into which the layers of a head are dealt, in turn: as in the authors' code
SPARE = 2  # times as many pairs are drawn as are compared: dropout takes some
SIDE = 2**16  # more than the tokens of any text
FEWEST = 3  # pairs; a correlation of two is 1
ROOM = 1e-6  # below a squared correlation of 1, where information has no end


def eager(encoder: TextEncoder) -> None:
    """Have a transformer work out its attention so that it can be read, in place; it is the same but slower.

    Raises:
        Refusal: for a transformer with a prefix, which its own attention would leave out.
    """
    if any(getattr(module, "soft", None) is not None for module in encoder.model):
        raise Refusal("a transformer without a prefix", "one with a prefix", remedy="start from its base model")
    backbone_in(encoder.model).set_attn_implementation("eager")


def attending(*, layers: int, samples: int) -> One:
    """For `TextEncoder.read`: embeddings, and the attention of the upper layers at random pairs of tokens.

    Args:
        layers: how many, from the top; at most all. An even number is dealt to two parts, in turn.
        samples: pairs that are compared.

    Returns:
        Of a pass: "z"; "attention" [n, heads * parts, pairs]: the weights at twice as many pairs, the same pairs for all
        heads and parts, by the first of the text's draws; 0 where dropout took one, or where a text has fewer pairs.

    Raises:
        Refusal: for a backbone that does not say its attention.
    """

    def one(model: SentenceTransformer, features: dict[str, Any]) -> dict[str, Tensor]:
        draws, mask = features.pop("draws"), features["attention_mask"].bool()
        said, z = _attention(model, features)
        chosen = said[-layers:]
        parts = PARTS if len(chosen) % PARTS == 0 else 1
        # [n, heads, parts, layers of a part, t, t]
        whole = torch.stack([torch.stack(chosen[k::parts], 2) for k in range(parts)], 2).float()
        n, heads, _, deep, t, _ = whole.shape
        at = torch.arange(t)
        number = (torch.arange(deep)[:, None, None] * SIDE + at[:, None]) * SIDE + at
        keys = hashed_uniform(0, (draws[:, :1] * 2**BITS).long(), number.flatten()).to(z.device)
        real = (mask[:, :, None] & mask[:, None, :]).repeat(1, deep, 1).flatten(1)
        order = torch.where(real, keys, 2.0).argsort(stable=True, dim=1)[:, : SPARE * samples]
        there = real.gather(1, order)[:, None, None]
        taken = whole.flatten(3).gather(3, order[:, None, None].expand(n, heads, parts, -1)) * there
        filled = torch.nn.functional.pad(taken, (0, SPARE * samples - order.shape[1]))
        return {"z": z, "attention": filled.flatten(1, 2)}

    return one


def _attention(model: SentenceTransformer, features: dict[str, Any]) -> tuple[tuple[Tensor, ...], Tensor]:
    """The attention of each layer in a pass, [n, heads, t, t], and the embeddings."""
    read = {name: features[name] for name in model.tokenizer.model_input_names if name in features}
    found = backbone_in(model)(**read, output_attentions=True)
    if not found.attentions or found.attentions[0] is None:
        raise Refusal("a transformer that says its attention", "one that does not")
    states = {**features, "token_embeddings": found.last_hidden_state}
    for module in list(model)[1:]:
        states = module(states)
    return found.attentions, states["sentence_embedding"].float()


def agreement(
    first: Float[Tensor, "n c s"], second: Float[Tensor, "n c s"], *, samples: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """How much the attention of two views says of each other, if their logarithms are jointly Gaussian.

        I = -log(1 - rho^2) / 2,   rho = correlation of log a and log b over pairs where both are above 0

    Args:
        first, second: attention at the same pairs, 0 where there is none.
        samples: the first so many pairs that both have are compared.

    Returns:
        I averaged over the c parts that have three pairs or more, in nats, [n], at most 6.9; and 1 for a row that has one
        such part, 0 for others, [n].

    References:
        Klein, Nabi 2023, arXiv:2211.04928 (miCSE); SAP-samples/acl2023-micse, model/models.py.

    >>> a = torch.tensor([[[0.1, 0.2, 0.4, 0.8]]])
    >>> agreement(a, a.square(), samples=4)[0]      # the logarithms are in proportion
    tensor([6.9...])
    """
    both = (first > 0) & (second > 0)
    both = both & (both.cumsum(2) <= samples)
    count = both.sum(2).to(first)
    x, y = (_centred(a, both, count) for a in (first, second))
    spread = (x.square().sum(2) * y.square().sum(2)).clamp(min=torch.finfo(x.dtype).tiny)
    information = -0.5 * torch.log1p(-((x * y).sum(2).square() / spread).clamp(max=1 - ROOM))
    enough = (count >= FEWEST).to(x)
    parts = enough.sum(1)
    return (information * enough).sum(1) / parts.clamp(min=1), (parts > 0).to(x)


def _centred(a: Tensor, both: Tensor, count: Tensor) -> Tensor:
    logs = torch.where(both, a, 1.0).log()
    middle = logs.sum(2) / count.clamp(min=1)
    return (logs - middle[:, :, None]) * both
