"""A transformer that starts from nothing, with a tokenizer of its own: for texts that no pretrained model knows."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from counterpoint.encoders.text import TextEncoder, load
from counterpoint.encoders.tiny import SPECIAL
from counterpoint.errors import Refusal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "transformer"
PER_HEAD = 64  # width of an attention head, as in BERT of any size (Turc et al. 2019, arXiv:1908.08962)
LEAST_SEEN = 2  # times that a piece has to stand in the texts to become a token


@dataclass(frozen=True)
class Sizes:
    """How large a transformer is.

    Args:
        layers: at least 1.
        width: dimensions of an embedding, a multiple of 64, or at most 64.
        vocabulary: tokens at most, at least 261 (bytes and special ones); fewer where the texts have fewer.
        length: tokens after which a text is cut.
        dropout: rate of all its dropouts, in [0, 1).

    Relations:
        4 layers of width 256 are the "mini" of Turc et al. 2019, arXiv:1908.08962.
    """

    layers: int = 4
    width: int = 256
    vocabulary: int = 8192
    length: int = 128
    dropout: float = 0.1


def byte_level(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A lower-case byte-level BPE tokenizer of these texts, with BERT's special tokens; the same texts give the same one.

    It knows every letter of every language, and comes out the same each time; that of WordPiece does not.

    Args:
        texts: what it is made from.
        vocabulary: tokens at most; at least 261 are there, bytes and special ones.

    References:
        Radford et al. 2019 (GPT-2).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=LEAST_SEEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def write_transformer(folder: Path, texts: Sequence[str], sizes: Sizes = Sizes(), *, seed: int = 0) -> Path:
    """Write a BERT with random weights and a lower-case tokenizer of these texts; returns its folder.

    Args:
        folder: where it goes.
        texts: what the tokenizer is made from.
        sizes: of the model.
        seed: of the weights.

    Raises:
        Refusal: for a width that is no multiple of the width of a head.

    References:
        Devlin et al. 2019, arXiv:1810.04805; `byte_level` for the tokenizer.
    """
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    heads = max(1, sizes.width // PER_HEAD)
    if sizes.width % heads or (sizes.width > PER_HEAD and sizes.width % PER_HEAD):
        raise Refusal(f"a width that is a multiple of {PER_HEAD}", sizes.width, where=f"--model {NAME}")
    tokenizer = byte_level(texts, sizes.vocabulary)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=sizes.length, **names)
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        intermediate_size=4 * sizes.width,
        max_position_embeddings=sizes.length,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=sizes.dropout,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def fresh(texts: Sequence[str], sizes: Sizes = Sizes(), *, seed: int = 0, device: str = "cpu") -> TextEncoder:
    """A transformer with random weights and mean pooling, and a tokenizer of these texts.

    Args:
        texts: what the tokenizer is made from; at least one word.
        sizes: of the model.
        seed: of the weights; the same texts and seed give the same model.
        device: "cpu", "cuda", "mps".

    >>> texts = ["a small dog barks", "a small cat sleeps"]
    >>> encoder = fresh(texts, Sizes(layers=1, width=32))
    >>> encoder(["a dog"]).shape
    torch.Size([1, 32])
    """
    return made(lambda folder: write_transformer(folder, texts, sizes, seed=seed), device=device)


def made(write: Callable[[Path], Path], *, device: str = "cpu") -> TextEncoder:
    """The encoder of a folder that is written for it, and that goes when the encoder goes; `folder.save` copies it.

    Args:
        write: an empty folder -> the one that holds the model.
        device: "cpu", "cuda", "mps".
    """
    scratch = Path(tempfile.mkdtemp(prefix="counterpoint-"))
    encoder = load(write(scratch), device=device)
    weakref.finalize(encoder, shutil.rmtree, scratch, ignore_errors=True)
    return encoder
