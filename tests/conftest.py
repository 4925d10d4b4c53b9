"""What all tests share: shape checks, a tiny model, a toy table."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches a network
os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny: threads would only wait for each other
os.environ.setdefault("COLUMNS", "200")

from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401 - the hook looks it up by name

install_import_hook("counterpoint", "tests.shapes.checked")

import pytest  # noqa: E402

with warnings.catch_warnings():  # what other libraries warn of while they are imported is theirs
    warnings.simplefilter("ignore")
    import sentence_transformers  # noqa: F401

TOPICS = 40
WORDS = [f"{side}{i}" for side in ("q", "d") for i in range(TOPICS)] + [f"w{i}" for i in range(100)]


def make_tiny_model(folder: Path, *, dropout: float = 0.1) -> Path:
    """A transformers backbone with 2 layers of width 32 and a token for each word of the toy table."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes, **rates)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def toy_rows(count: int = 600, seed: int = 0) -> list[dict[str, str]]:
    """Query topics i and j belong to documents with topics i and j; queries and documents share no word, so only
    training can tell."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        i, j = draw.sample(range(TOPICS), 2)
        noise = [f"w{draw.randrange(100)}" for _ in range(2)]
        rows.append({"query": f"q{i} q{j} {noise[0]}", "doc": f"d{i} d{j} {noise[1]}"})
    return rows


@pytest.fixture
def toy_csv(tmp_path: Path) -> Path:
    path = tmp_path / "toy.csv"
    lines = ["query,doc", *(f"{row['query']},{row['doc']}" for row in toy_rows())]
    path.write_text("\n".join(lines) + "\n")
    return path
