"""Guessing words that were masked: what a transformer learns from texts alone, before or beside any contrast."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear

from counterpoint.encoders.adapt import backbone_of
from counterpoint.errors import Refusal
from counterpoint.types import Batch

if TYPE_CHECKING:
    from counterpoint.encoders.text import TextEncoder

FILE = "words.safetensors"  # of a head that was trained here, beside the model
MASKED, OTHER = 0.8, 0.9  # of the chosen words 80 % are masked, 10 % become another word, 10 % stay: Devlin et al. 2019


class Words(nn.Module):
    """The head that guesses words: a layer, GELU, a norm, and the table of the model's own words.

        logits = E norm(gelu(W h + b)) + c

    Args:
        width: of a token's state.
        vocabulary: number of words.

    References:
        Devlin et al. 2019, arXiv:1810.04805, as in their code: the output words are the input words.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Float[Tensor, "e d"], table: Float[Tensor, "v d"]) -> Float[Tensor, "e v"]:
        """The logits of all words at some places.

        Args:
            states: of the places.
            table: the input embeddings of all words.
        """
        return linear(self.norm(gelu(self.dense(states))), table, self.bias)


def words_of(encoder: TextEncoder) -> Words:
    """The head of an encoder: the one it was saved with, else that of BERT where its folder has it, else a new one.

    It is kept beside the encoder, not in it: what embeds texts has no use for it. `folder.save` writes it.

    Raises:
        Refusal: for a model without a table of words and a mask token, such as static embeddings.
    """
    backbone = backbone_of(encoder)
    if backbone is None or getattr(encoder.model.tokenizer, "mask_token_id", None) is None:
        raise Refusal(
            "a transformer with a mask token", "another model", remedy="BERT, RoBERTa, MPNet and such have one"
        )
    if "words" not in encoder.__dict__:
        table = backbone.get_input_embeddings().weight
        head = Words(table.shape[1], table.shape[0])
        found = _stored(encoder)
        if found:
            head.load_state_dict(found)
        encoder.__dict__["words"] = head.to(encoder.device)
    return encoder.__dict__["words"]


def _stored(encoder: TextEncoder) -> dict[str, Tensor]:
    """The weights of a head in the encoder's folder, by our names; {}: it has none that fit."""
    own, whole = encoder.folder / FILE, encoder.folder / "model.safetensors"
    if own.exists():
        return load_file(own)
    stored = load_file(whole) if whole.exists() else {}
    of_bert = {"dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm"}
    names = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in of_bert.items() for part in ("weight", "bias")}
    names["bias"] = "cls.predictions.bias"
    return {ours: stored[theirs] for ours, theirs in names.items()} if set(names.values()) <= set(stored) else {}


class Hidden(NamedTuple):
    """Tokens of which some are hidden: the edited ids, and which were chosen to be guessed."""

    ids: Int[Tensor, "n t"]
    chosen: Bool[Tensor, "n t"]


def hide(
    ids: Int[Tensor, "n t"],
    words: Bool[Tensor, "n t"],
    draws: Float[Tensor, "n l"],
    *,
    rate: float,
    mask: int,
    vocabulary: int,
) -> Hidden:
    """Choose a share of the words; of those 80 % are masked, 10 % become any other token, 10 % stay.

    Args:
        ids: of the tokens.
        words: which of them may be chosen; not special ones, not padding.
        draws: in [0, 1), one number a place, l of at least t; a number decides all about its place.
        rate: share that is chosen, in [0, 1].
        mask: id of the mask token.
        vocabulary: number of tokens.

    References:
        Devlin et al. 2019, arXiv:1810.04805, appendix A.1.

    >>> ids, words = torch.tensor([[7, 8, 9, 6]]), torch.tensor([[True, True, True, False]])
    >>> hide(ids, words, torch.tensor([[0.1, 0.9, 0.49, 0.0]]), rate=0.5, mask=1, vocabulary=10)
    Hidden(ids=tensor([[1, 8, 9, 6]]), chosen=tensor([[ True, False,  True, False]]))
    """
    draws = draws[:, : ids.shape[1]].to(ids.device)
    chosen = words & (draws < rate)
    what = draws / rate if rate else torch.ones_like(draws)
    other = ((what - MASKED) / (OTHER - MASKED) * vocabulary).long().clamp(0, vocabulary - 1)
    edited = torch.where(chosen & (what < MASKED), mask, ids)
    return Hidden(torch.where(chosen & (what >= MASKED) & (what < OTHER), other, edited), chosen)


def word_places(encoder: TextEncoder, features: dict[str, Any]) -> Bool[Tensor, "n t"]:
    """Which tokens of a pass are words of the text: neither padding nor special."""
    special = torch.tensor(encoder.model.tokenizer.all_special_ids, device=features["input_ids"].device)
    return features["attention_mask"].bool() & ~torch.isin(features["input_ids"], special)


def guessing(encoder: TextEncoder, head: Words, batch: Batch, *, rate: float = 0.15) -> dict[str, Tensor]:
    """How badly each text's hidden words are guessed, and how many they are; row by row.

        masked_i = mean over hidden words w of text i of -log p(w | the rest of the text)

    Args:
        encoder: a transformer with a mask token.
        head: of its words.
        batch: with text, role and draws [n, l], a number in [0, 1) for each token.
        rate: share of the words that is hidden.

    Returns:
        "masked" [n], nats, with gradient; "hidden" [n], the number of words that were guessed. A mean over rows weighted by
        "hidden" is the mean over words.
    """
    one = partial(_guess, encoder, head, rate)
    return encoder.read(batch["text"], batch["role"], one=one, beside={"draws": batch["draws"]})


def _guess(encoder: TextEncoder, head: Words, rate: float, model: Any, features: dict[str, Any]) -> dict[str, Tensor]:
    ids, tokenizer = features["input_ids"], model.tokenizer
    table = backbone_of(encoder).get_input_embeddings().weight
    hidden = hide(ids, word_places(encoder, features), features.pop("draws"), rate=rate,
                  mask=tokenizer.mask_token_id, vocabulary=len(table))  # fmt: skip
    states = model[0]({**features, "input_ids": hidden.ids})["token_embeddings"]
    row, place = hidden.chosen.nonzero(as_tuple=True)
    costs = cross_entropy(head(states[row, place], table).float(), ids[row, place], reduction="none")
    count = hidden.chosen.sum(1).float()
    total = torch.zeros_like(count).index_add(0, row, costs)
    return {"masked": total / count.clamp(min=1), "hidden": count}
