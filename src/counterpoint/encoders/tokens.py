"""More than one vector a text: the token sets of a text encoder, their projection, and which tokens stand where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint._ops.neighbours import Neighbours, neighbours
from counterpoint._ops.scores import Score, maxsim
from counterpoint._ops.unit import to_unit
from counterpoint.encoders.adapt import backbone_of
from counterpoint.encoders.beside import beside, has_beside
from counterpoint.encoders.text import TextEncoder, inference
from counterpoint.errors import Refusal
from counterpoint.types import Embeddings

PROJECTION = "tokens"  # the part beside an encoder, and its file
MASK = "mask"  # the fact that says which tokens are there
BATCH = 64  # texts at a time
Part = Sequence[tuple[int, int]]  # pieces of a text, from a character to another


class TokenSets(NamedTuple):
    """Token vectors of n texts, padded to one number of tokens, and which of them are there."""

    z: Float[Tensor, "n t d"]
    mask: Bool[Tensor, "n t"]

    def embeddings(self, **kwargs: Any) -> Embeddings:
        """The sets as embeddings whose fact "mask" says which tokens are there; `kwargs` as those of `Embeddings.of`."""
        facts = {**kwargs.pop("facts", {}), MASK: self.mask}
        return Embeddings.of(self.z, facts=facts, **kwargs)


def projection_of(encoder: TextEncoder, width: int | None = None, *, bias: bool = False) -> nn.Linear:
    """The layer after the token vectors of a multi-vector model: the one that it was saved with, else a new one.

    Args:
        encoder: what it stands beside; `folder.save` writes it too.
        width: of a new one's result; None: the width of the tokens.
        bias: whether a new one has a bias.

    Raises:
        Refusal: for a model whose tokens have no vectors of their own.
    """
    backbone = backbone_of(encoder)
    if backbone is None:
        raise Refusal("a transformer, whose tokens have vectors", "another model", where=str(encoder.folder))

    def make(stored: Mapping[str, Tensor]) -> nn.Linear:
        below = int(backbone.config.hidden_size)
        above = len(stored["weight"]) if stored else (width or below)
        return nn.Linear(below, above, bias="bias" in stored if stored else bias)

    return cast(nn.Linear, beside(encoder, PROJECTION, make))


def has_tokens(encoder: TextEncoder) -> bool:
    """Whether the model was trained to be read token by token."""
    return has_beside(encoder, PROJECTION)


def token_states(
    model: Any, features: dict[str, Any], *, tokens: int | None = None, without: Sequence[int] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The last layer's states of the first tokens of some texts, without gaps between them: states, ids, mask.

    Args:
        model: of sentence-transformers.
        features: of a pass.
        tokens: how many are kept, and padded to; None: those of the pass.
        without: ids of tokens that do not count, such as special ones.
    """
    ids, there = features["input_ids"], features["attention_mask"].bool()
    states = model[0](dict(features))["token_embeddings"]
    if len(without):
        there = there & ~torch.isin(ids, torch.tensor(list(without), device=ids.device))
    size = ids.shape[1] if tokens is None else tokens
    order = torch.argsort((~there).to(torch.int8), dim=1, stable=True)[:, :size]
    mask, ids = there.gather(1, order), ids.gather(1, order)
    states = states.gather(1, order[..., None].expand(*order.shape, states.shape[-1])) * mask[..., None]
    more = max(0, size - states.shape[1])
    return (
        nn.functional.pad(states, (0, 0, 0, more)),
        nn.functional.pad(ids * mask, (0, more)),
        nn.functional.pad(mask, (0, more), value=False),
    )


def _sets(
    model: Any, features: dict[str, Any], *, projection: nn.Module | None, tokens: int, without: Sequence[int]
) -> dict[str, Tensor]:
    where = features.pop("where", None)  # beside the tokens, in their order: what no model knows
    states, ids, mask = token_states(model, features, tokens=tokens, without=without)
    z = states if projection is None else projection(states)
    found = {"z": to_unit(z.float() * mask[..., None]), "mask": mask, "id": ids}
    if where is not None:
        found["where"] = where[..., :tokens] & mask[:, None]
    return found


def token_sets(
    encoder: TextEncoder, texts: Sequence[str], role: str = "anchor", *, tokens: int = 64, special: bool = True
) -> TokenSets:
    """The token vectors of texts, scaled to length 1; with the projection of a multi-vector model.

    Args:
        encoder: a transformer.
        texts: n texts.
        role: which prompt and length.
        tokens: how many of each text are kept, the first ones; shorter texts are padded with absent ones.
        special: whether special tokens, such as the first one of BERT, are part of a set.

    Returns:
        z [n, tokens, d] and the mask [n, tokens]; absent tokens are zeros. With gradient, where it is not off.

    Raises:
        Refusal: for a model whose tokens have no vectors of their own.

    >>> from counterpoint.encoders.text import load
    >>> encoder = load("sentence-transformers/all-MiniLM-L6-v2").eval()
    >>> z, mask = token_sets(encoder, ["a cat", "a"], tokens=6)
    >>> z.shape, mask.sum(1).tolist()
    (torch.Size([2, 6, 384]), [4, 3])
    """
    found = _read(encoder, texts, role, tokens=tokens, special=special)
    return TokenSets(found["z"], found["mask"])


def token_sets_of_parts(
    encoder: TextEncoder, texts: Sequence[str], parts: Sequence[Sequence[Part]], *, tokens: int, role: str = "anchor"
) -> tuple[TokenSets, Bool[Tensor, "n p t"]]:
    """The token sets of texts, and for each part of a text which tokens are of it; from one pass.

    Args:
        encoder: a transformer with a tokenizer that says where its tokens stand.
        texts: n texts.
        parts: of each text; short of the longest list, parts have no tokens.
        tokens: as in `token_sets`.
        role: which prompt and length.
    """
    where = places(encoder, texts, parts, role)
    found = _read(encoder, texts, role, tokens=tokens, special=True, where=where)
    return TokenSets(found["z"], found["mask"]), found["where"]


def _read(
    encoder: TextEncoder, texts: Sequence[str], role: str, *, tokens: int, special: bool, where: Tensor | None = None
) -> dict[str, Tensor]:
    if backbone_of(encoder) is None:
        raise Refusal("a transformer, whose tokens have vectors", "another model", where=str(encoder.folder))
    projection = projection_of(encoder) if has_tokens(encoder) else None
    without = () if special else encoder.model.tokenizer.all_special_ids
    one = partial(_sets, projection=projection, tokens=tokens, without=without)
    beside_tokens = {}
    if where is not None:
        more = max(0, tokens - where.shape[-1])
        beside_tokens["where"] = nn.functional.pad(where, (0, more), value=False)
    return encoder.read(texts, role, one=one, beside=beside_tokens)


def places(
    encoder: TextEncoder, texts: Sequence[str], parts: Sequence[Sequence[Part]], role: str = "anchor"
) -> Bool[Tensor, "n p t"]:
    """Which tokens of a text are of which of its parts, token 0 being the first that the model reads.

    Args:
        encoder: whose tokenizer says where its tokens stand.
        texts: n texts.
        parts: of each text, each some pieces from a character to another; a token belongs to a piece that it shares a
            character with.
        role: which prompt stands before the text.

    Raises:
        Refusal: for a tokenizer that does not say where its tokens stand.
    """
    tokenizer = encoder.model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise Refusal("a tokenizer that says where its tokens stand", type(tokenizer).__name__)
    if not texts:
        return torch.zeros(0, 1, 1, dtype=torch.bool)
    prompt = encoder.prompts.get(role) or ""
    longest = encoder.lengths.get(role, encoder.longest)
    told = tokenizer(
        [prompt + text for text in texts],
        truncation=True,
        max_length=longest,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    most, size = max((len(p) for p in parts), default=0), max((len(x) for x in told["input_ids"]), default=0)
    found = torch.zeros(len(texts), max(most, 1), max(size, 1), dtype=torch.bool)
    for i, offsets in enumerate(told["offset_mapping"]):
        left, right = (torch.tensor(side) - len(prompt) for side in zip(*offsets, strict=True))
        real = (right > left) & ~torch.tensor(told["special_tokens_mask"][i], dtype=torch.bool)
        for p, part in enumerate(parts[i]):
            for start, end in part:
                found[i, p, : len(left)] |= real & (left < end) & (right > start)
    return found


def embed_tokens(
    encoder: TextEncoder, texts: Sequence[str], role: str = "anchor", *, tokens: int = 64, precision: str = "fp32"
) -> TokenSets:
    """The token sets of many texts, on the CPU and without gradients; texts of like length share a batch.

    Args:
        encoder: a transformer.
        texts: n texts.
        role: which prompt and length.
        tokens: as in `token_sets`.
        precision: "fp32" or "bf16" matrix products.
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    with inference(encoder, precision):
        some = [
            token_sets(encoder, [texts[i] for i in order[start : start + BATCH]], role, tokens=tokens)
            for start in range(0, max(len(order), 1), BATCH)
        ]
    back = torch.argsort(torch.tensor(order, dtype=torch.int64))
    return TokenSets(*(torch.cat(column).cpu()[back] for column in zip(*some, strict=True)))


def nearest_sets(queries: TokenSets, corpus: TokenSets, k: int, *, score: Score | None = None) -> Neighbours:
    """The k token sets of a corpus that match each query best, by late interaction; exact, and never all scores at once.

    Args:
        queries: n sets.
        corpus: m sets.
        k: how many, at least 1.
        score: such as `maxsim(mask="mask")` (None) or `rcmd(mask="mask")` of objectives.transport.

    Returns:
        Places in the corpus, best first, and their scores.

    References:
        Khattab, Zaharia 2020, arXiv:2004.12832 (late interaction).

    >>> from counterpoint.encoders.text import load
    >>> encoder = load("sentence-transformers/all-MiniLM-L6-v2")
    >>> corpus = embed_tokens(encoder, ["how to sort a list", "the weather in May", "a soup of beans"], "positive")
    >>> nearest_sets(embed_tokens(encoder, ["rain and sun", "order the items"]), corpus, 1).index.tolist()
    [[1], [0]]
    """
    score = maxsim(mask=MASK) if score is None else score
    return neighbours(queries.embeddings(), corpus.embeddings(), k, score=score)


def named_sets(
    encoder: TextEncoder, texts: Sequence[str], role: str = "anchor", *, tokens: int = 64
) -> tuple[TokenSets, list[list[str]]]:
    """The token sets of texts, and what the tokenizer calls the tokens of each.

    Args:
        encoder: a transformer.
        texts: n texts.
        role: which prompt and length.
        tokens: as in `token_sets`.
    """
    found = _read(encoder, texts, role, tokens=tokens, special=True)
    ids = [own[there].tolist() for own, there in zip(found["id"], found["mask"], strict=True)]
    names = [encoder.model.tokenizer.convert_ids_to_tokens(own) for own in ids]
    return TokenSets(found["z"], found["mask"]), names
