"""A transformer from nothing: texts and seed decide every byte, its tokenizer loses no letter, and `fit` starts from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import counterpoint
from counterpoint.encoders.folder import save
from counterpoint.encoders.fresh import Sizes, byte_level, fresh, write_transformer
from counterpoint.encoders.tiny import SPECIAL
from counterpoint.errors import Refusal
from counterpoint.training.loop import Stopped
from counterpoint.verbs.resume import resume

from ..conftest import toy_rows
from .test_static import files

TEXTS = ["A small dog barks.", "a small cat sleeps", "Ein größerer Hund"]
SMALL = Sizes(layers=1, width=32, vocabulary=300, length=16)


def test_texts_and_seed_decide_every_byte(tmp_path: Path) -> None:
    for name, texts, seed in (("a", TEXTS, 0), ("b", TEXTS, 0), ("c", TEXTS, 1), ("d", TEXTS[:2], 0)):
        write_transformer(tmp_path / name, texts, SMALL, seed=seed)
    a, b, c, d = (files(tmp_path / name) for name in "abcd")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"model.safetensors"}
    assert "tokenizer.json" in {name for name in a if a[name] != d[name]}


def test_its_tokenizer_is_lower_case_and_knows_every_letter() -> None:
    tokenizer = byte_level(TEXTS, 300)
    ids = tokenizer.encode("A SMALL Dog é 犬").ids
    assert tokenizer.decode(ids).split() == [
        "a",
        "small",
        "dog",
        "e",
        "犬",
    ]  # letters without accents, as BERT has them
    assert (ids[0], ids[-1]) == (SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]"))
    assert SPECIAL.index("[UNK]") not in ids
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(5))
    assert len(tokenizer.encode(" small").ids) == 3  # it stands twice in the texts, so it is one token


def test_sizes_are_as_asked() -> None:
    encoder = fresh(TEXTS, Sizes(layers=2, width=128, vocabulary=265, length=16, dropout=0.3))
    config = encoder.model[0].auto_model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 128, 2)
    assert (encoder.longest, encoder.dropout, config.vocab_size) == (16, 0.3, 265)
    assert config.attention_probs_dropout_prob == config.hidden_dropout_prob == 0.3
    assert config.intermediate_size == 512
    with pytest.raises(Refusal, match="multiple of 64"):
        fresh(TEXTS, Sizes(width=100))


def test_the_folder_goes_with_the_encoder_and_what_was_saved_stays(tmp_path: Path) -> None:
    encoder = fresh(TEXTS, SMALL)
    place, z = encoder.folder, encoder.eval()(["a dog"])
    save(encoder, tmp_path / "model")
    del encoder
    import gc

    gc.collect()
    assert not place.exists()
    assert torch.allclose(counterpoint.load(tmp_path / "model").encoder.eval()(["a dog"]), z, atol=1e-6)


def test_a_stopped_run_from_nothing_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "toy.csv"
    data.write_text("\n".join(["query,doc", *(f"{row['query']},{row['doc']}" for row in toy_rows(120))]) + "\n")
    settings = {"model": "transformer:layers=1,width=32", "steps": 6, "batch": 16, "quiet": True, "precision": "fp32"}
    whole = counterpoint.fit(data, out=str(tmp_path / "whole"), **settings)

    from counterpoint.training import loop

    step, done = loop.step, []

    def stops(*args: object, **kwargs: object) -> object:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(0)
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", stops)
        with pytest.raises((KeyboardInterrupt, Stopped)):
            counterpoint.fit(data, out=str(tmp_path / "stopped"), save_steps=2, **settings)
    assert not (tmp_path / "stopped").exists()
    again = resume(tmp_path / "stopped", quiet=True)
    assert again.metrics == whole.metrics
    written = json.loads((again.path / "run.json").read_text())["settings"]
    assert (written["model"], written["lr"]) == (settings["model"], 5e-4)
    assert files(again.path / "model") == files(whole.path / "model")
