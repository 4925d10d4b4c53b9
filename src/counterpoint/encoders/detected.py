"""Words that a masked language model put in place of others, and a second transformer that has to find them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from counterpoint._ops.processes import to_rows
from counterpoint._ops.reduce import moments
from counterpoint.encoders.adapt import backbone_of
from counterpoint.encoders.embedded import One, entering
from counterpoint.encoders.masked import Words, hide, word_places

if TYPE_CHECKING:
    from counterpoint.encoders.text import TextEncoder


@torch.no_grad()
def filled(
    generator: TextEncoder, words: Words, features: dict[str, Any], draws: Float[Tensor, "n l"], *, rate: float
) -> Int[Tensor, "n t"]:
    """The tokens of a pass with some hidden, and at those places the likeliest words of a model; without gradient.

    Args:
        generator: guesses.
        words: its head.
        features: of a pass.
        draws: in [0, 1), as in `encoders.masked.hide`.
        rate: share of the words that are hidden.
    """
    ids, table = features["input_ids"], backbone_of(generator).get_input_embeddings().weight
    hidden = hide(ids, word_places(generator, features), draws, rate=rate,
                  mask=generator.model.tokenizer.mask_token_id, vocabulary=len(table))  # fmt: skip
    first: Any = generator.model[0]
    states = first({**features, "input_ids": hidden.ids})["token_embeddings"]
    row, place = hidden.chosen.nonzero(as_tuple=True)
    return ids.index_put((row, place), words(states[row, place], table).argmax(1))


def judged(
    judge: TextEncoder, head: nn.Linear, features: dict[str, Any], z: Float[Tensor, "n d"]
) -> Float[Tensor, "n t k"]:
    """The logits of each token of a pass, by a transformer in which a vector stands at the first place of each text.

    Args:
        judge: the transformer.
        head: of its states.
        features: of a pass.
        z: a vector for each text, of the width of the judge's tokens.
    """
    at = features["attention_mask"].argmax(1)  # padding may be on the left
    rows = torch.arange(len(z), device=z.device)
    first: Any = judge.model[0]
    with entering(judge.model, lambda states: states.index_put((rows, at), z.to(states.dtype))):
        return head(first(dict(features))["token_embeddings"]).float()


def detecting(generator: TextEncoder, words: Words, judge: TextEncoder, *, head: nn.Linear, rate: float) -> One:
    """For `TextEncoder.read`: embeddings, and how badly a judge that is told them finds the words that were replaced.

        detected_i = mean over tokens t of text i of -log p(x''_t = x_t | x'', z_i),   x'' = filled(x)

    Args:
        generator, words: put words in place of hidden ones.
        judge, head: say of each token whether it is the text's own.
        rate: share of the words that are hidden.

    Returns:
        Of a pass: "z"; "detected" [n], nats, with gradient to the judge, and to the encoder through z alone; "tokens" [n].
    """

    def one(model: Any, features: dict[str, Any]) -> dict[str, Tensor]:
        draws = features.pop("draws")
        z = model(dict(features))["sentence_embedding"]
        ids, mask = features["input_ids"], features["attention_mask"].bool()
        edited = filled(generator, words, features, draws, rate=rate)
        logits = judged(judge, head, {**features, "input_ids": edited}, z)
        cost, count = _cost(logits, edited != ids, mask)
        return {"z": z.float(), "detected": cost, "tokens": count}

    return one


def _cost(
    logits: Float[Tensor, "n t k"], replaced: Bool[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    costs = cross_entropy(logits.transpose(1, 2), replaced.long(), reduction="none")
    count = mask.sum(1).to(costs)
    return (costs * mask).sum(1) / count, count


class BatchNorm(nn.Module):
    """Each coordinate with mean 0 and variance 1 over the rows of all processes; it looks across rows, so not in `encode`.

    It keeps no running statistics: what it is part of is not used after training.

    Args:
        width: d.
        learned: whether each coordinate has a scale and a shift of its own.
        eps: added to the variance.

    References:
        Ioffe, Szegedy 2015, arXiv:1502.03167.

    >>> BatchNorm(1, eps=0.0)(torch.tensor([[1.0], [3.0]])).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(self, width: int, *, learned: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(width), requires_grad=learned)
        self.shift = nn.Parameter(torch.zeros(width), requires_grad=learned)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The rows of this process."""
        found = moments(z, diagonal=True)
        centre, root = to_rows(torch.stack([found.mean, (found.covariance + self.eps).rsqrt()]))
        return (z - centre) * root * self.scale + self.shift


def projector(width: int) -> nn.Sequential:
    """DiffCSE's head: two layers, each with batch norm; the last norm has no scale of its own."""
    inner, outer = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
    return nn.Sequential(inner, BatchNorm(2 * width), nn.ReLU(), outer, BatchNorm(width, learned=False))
