"""Static token tables: a text is the mean of its tokens' vectors. Trained from nothing, or distilled from a transformer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint.encoders.folder import write_json
from counterpoint.encoders.fresh import byte_level, made
from counterpoint.encoders.text import TextEncoder, inference
from counterpoint.errors import Refusal
from counterpoint.papers import paper

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "static"
FOLDER = "0_StaticEmbedding"  # inside a model folder, as sentence-transformers names it
# The share of all words at which a word's weight is halved: with ranks as in Model2Vec, with counts as in SIF.
BY_RANK, BY_COUNT = 1e-4, 1e-3
CHUNK = 1024  # tokens that go through the model at a time; each is a text of one token


@dataclass(frozen=True)
class Sizes:
    """How large a table is.

    Args:
        width: dimensions of an embedding, at least 1.
        vocabulary: tokens at most, at least 261 (bytes and special ones); fewer where the texts have fewer.
    """

    width: int = 256
    vocabulary: int = 8192


def write_static(folder: Path, tokenizer: Tokenizer, table: Float[Tensor, "v d"]) -> Path:
    """Write a sentence-transformers folder that holds a tokenizer and a vector for each of its tokens; returns it.

    Args:
        folder: where it goes; made where it is missing.
        tokenizer: of the package tokenizers.
        table: row i for the token with the id i.
    """
    from safetensors.torch import save_file

    inner = folder / FOLDER
    inner.mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": table.contiguous().cpu()}, inner / "model.safetensors")
    tokenizer.save(str(inner / "tokenizer.json"))
    kind = "sentence_transformers.models.StaticEmbedding"  # the name that every version since 3.2 knows
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": FOLDER, "type": kind}])
    return folder


def fresh_static(texts: Sequence[str], sizes: Sizes = Sizes(), *, seed: int = 0, device: str = "cpu") -> TextEncoder:
    """A table of random vectors, and a tokenizer of these texts.

    Args:
        texts: what the tokenizer is made from.
        sizes: of the table.
        seed: of the vectors, which are normally distributed; the same texts and seed give the same model.
        device: "cpu", "cuda", "mps".

    Relations:
        The tokenizer is that of `fresh.fresh`; without layers a text of 20 words takes microseconds.

    >>> encoder = fresh_static(["a small dog barks", "a small cat sleeps"], Sizes(width=8))
    >>> torch.allclose(encoder(["a dog"]), encoder(["dog a"]), atol=1e-6)
    True
    """
    tokenizer = byte_level(texts, sizes.vocabulary)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(tokenizer.get_vocab_size(), sizes.width, generator=generator)
    return made(lambda folder: write_static(folder, tokenizer, table), device=device)


def sif(share: Float[Tensor, " v"], common: float = BY_RANK) -> Float[Tensor, " v"]:
    """The weight of a word in the mean of its text: the more common, the less it says.

        weight(w) = a / (a + p(w))

    Args:
        share: p, of each word among all words, in [0, 1].
        common: a > 0.

    References:
        Arora, Liang, Ma 2017, A Simple but Tough-to-Beat Baseline for Sentence Embeddings.

    >>> sif(torch.tensor([0.0, 0.0001, 0.0003]))
    tensor([1.0000, 0.5000, 0.2500])
    """
    return common / (common + share)


def zipf(count: int) -> Float[Tensor, " v"]:
    """How common words are that are sorted from the most common on, where no texts say it: p(i) ~ 1 / (i + 2), i from 0.

    >>> zipf(2)
    tensor([0.6000, 0.4000])
    """
    inverse = 1 / torch.arange(2, count + 2, dtype=torch.float64)
    return (inverse / inverse.sum()).float()


def components(rows: Float[Tensor, "n d"], width: int) -> Float[Tensor, "n w"]:
    """The rows about their mean, in as many principal components; each component's largest entry is positive.

    Args:
        rows: n of them.
        width: w, from 1 to d.

    >>> components(torch.tensor([[0.0, 1.0], [0.0, 3.0]]), 1)
    tensor([[-1.],
            [ 1.]])
    """
    centred = (rows - rows.mean(0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    chosen = vectors.flip(1)[:, :width]
    largest = chosen.gather(0, chosen.abs().argmax(0, keepdim=True))
    return (centred @ (chosen * largest.sign())).to(rows.dtype)


@paper(
    reference="Tulkens, van Dongen: Model2Vec: Turn any Sentence Transformer into a Small Fast Model, 2024, "
    "github.com/MinishLab/model2vec"
)
def distil(
    encoder: TextEncoder, texts: Sequence[str] | None = None, *, width: int = 256, common: float | None = None
) -> TextEncoder:
    """A static table of what an encoder makes of each of its tokens alone: hundreds of times as fast, nearly as good.

        row(w) = a / (a + p(w)) PCA( encoder( <beginning> w <end> ) )

    Args:
        encoder: with a transformer and a tokenizer of the package tokenizers.
        texts: how common words are is counted in them, p(w) = count(w) / count of all; a word that they lack counts as 0.
            None: the vocabulary is taken for sorted from the most common word on, and p as of `zipf`.
        width: dimensions of the table, at least 1, and at most the encoder's own.
        common: a > 0; None: 1e-4 without texts, as the authors have it, and 1e-3 with counts, as Arora et al. have it.

    Returns:
        An encoder of its own, without prompts. Special tokens have rows of 0.

    Raises:
        Refusal: for a model without such a tokenizer, or a width out of range.

    Differs:
        The vectors are pooled as the encoder pools, before it scales them to length 1; the authors take the mean over all
        tokens or the special ones' too, by version. Their vocabulary may be another than the model's; counts from texts are from
        their later training of tables (POTION).

    Relations:
        A table that is trained afterwards starts from here: `--model` takes its folder.

    References:
        github.com/MinishLab/model2vec, model2vec/distill/inference.py; `sif` for the weights.
    """
    tokenizer = getattr(encoder.model.tokenizer, "_tokenizer", None)
    if tokenizer is None:
        remedy = "it is a static table already" if _is_static(encoder) else None
        raise Refusal("a transformer with a fast tokenizer to distil", "another model", remedy=remedy)
    if width < 1:
        raise Refusal("a width of at least 1", width, where="--width")
    common = (BY_RANK if texts is None else BY_COUNT) if common is None else common
    if not common > 0:
        raise Refusal("a share above 0 for common", common)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = set(encoder.model.tokenizer.all_special_ids)
    words = torch.tensor([i for i in range(tokenizer.get_vocab_size()) if i not in special])
    rows = components(_alone(encoder, tokenizer, words), min(width, encoder.width))
    share = zipf(len(words)) if texts is None else shares(tokenizer, texts)[words]
    table = torch.zeros(tokenizer.get_vocab_size(), rows.shape[1])
    table[words] = rows * sif(share, common)[:, None]
    return made(lambda folder: write_static(folder, tokenizer, table), device=str(encoder.device))


def shares(tokenizer: Tokenizer, texts: Sequence[str]) -> Float[Tensor, " v"]:
    """How often each token stands in some texts, as a share of all their tokens; special ones of a text do not count.

    Args:
        tokenizer: of the package tokenizers.
        texts: at least one with a token.

    Raises:
        Refusal: for texts without a token.
    """
    counts = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.int64)
    for start in range(0, len(texts), CHUNK):
        encoded = tokenizer.encode_batch(list(texts[start : start + CHUNK]), add_special_tokens=False)
        ids = [i for one in encoded for i in one.ids]
        counts += torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=len(counts))
    if not counts.any():
        raise Refusal("texts with words", "none", where="--texts")
    return counts / counts.sum()


def _is_static(encoder: TextEncoder) -> bool:
    return type(encoder.model[0]).__name__ == "StaticEmbedding"


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    encoded = tokenizer.encode("a")
    text = [place for place, added in enumerate(encoded.special_tokens_mask) if not added] or [len(encoded.ids)]
    return encoded.ids[: text[0]], encoded.ids[text[-1] + 1 :]


def _alone(encoder: TextEncoder, tokenizer: Tokenizer, words: Int[Tensor, " v"]) -> Float[Tensor, "v d"]:
    """What the encoder makes of each token by itself, between the special tokens, before any scaling to length 1."""
    before, after = _around(tokenizer)
    modules = [module for module in encoder.model if type(module).__name__ != "Normalize"]
    found = []
    with inference(encoder):
        for part in words.split(CHUNK):
            ids = torch.cat([torch.tensor(before).expand(len(part), -1), part[:, None],
                             torch.tensor(after).expand(len(part), -1)], 1).long().to(encoder.device)  # fmt: skip
            features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for module in modules:
                features = module(features)
            found.append(features["sentence_embedding"].float().cpu())
    return torch.cat(found)
