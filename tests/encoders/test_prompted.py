"""Prefixes in attention and words around texts: closed forms, what they leave alone, and the folder gives the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from counterpoint.encoders.adapt import prefixed
from counterpoint.encoders.attended import eager
from counterpoint.encoders.folder import save
from counterpoint.encoders.pooling import AtMask
from counterpoint.encoders.prompted import Prefix, attend, attentions
from counterpoint.encoders.reshaped import pooled, truncated
from counterpoint.encoders.static import Sizes, fresh_static
from counterpoint.encoders.text import TextEncoder, embed, load
from counterpoint.encoders.tiny import SPECIAL
from counterpoint.errors import Refusal

TEXTS = ["q1 d1 w1", "q2 w5", "d3 w1 w2 w3 w4"]
PROMPTBERT = "Jiang et al.: PromptBERT: Improving BERT Sentence Embeddings with Prompts, arXiv:2201.04337, 2022"
MASK = SPECIAL.index("[MASK]")


def strong(folder: Path, *, tokens: int = 3) -> TextEncoder:
    """An encoder with a prefix that says something."""
    torch.manual_seed(0)
    encoder = prefixed(load(str(folder)), tokens=tokens).eval()
    nn.init.normal_(encoder.model[0].soft.keys)
    nn.init.normal_(encoder.model[0].soft.values)
    return encoder


@pytest.mark.proves(row=119, fact="closed-form")
@pytest.mark.parametrize("masked", ["none", "words", "scores"])
def test_attention_with_a_prefix_is_its_formula(masked: str) -> None:
    torch.manual_seed(0)
    layer, prefix = nn.Module(), Prefix(2, 2, 3, 4)
    nn.init.normal_(prefix.keys)
    layer.__dict__["prefix"] = (prefix, 1)
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None, :].expand(-1, 1, 5, -1)
    mask = {"none": None, "words": seen, "scores": torch.where(seen, 0.5, -1e9)}[masked]
    found, _ = attend(layer, q, k, v, mask, scaling=0.3)
    added = torch.zeros(2, 1, 5, 5) if mask is None else mask if masked == "scores" else torch.where(seen, 0.0, -1e9)
    for n in range(2):
        for h in range(2):
            scores = 0.3 * q[n, h] @ torch.cat([prefix.keys[1, h], k[n, h]]).T
            scores[:, 3:] += added[n, 0]
            wanted = scores.softmax(1) @ torch.cat([prefix.values[1, h], v[n, h]])
            assert torch.allclose(found[n, :, h], wanted, atol=1e-5)


@pytest.mark.proves(row=119, fact="closed-form")
def test_a_prefix_without_attention_changes_nothing(tiny: Path) -> None:
    """The first number of each head's queries is 1 and of its keys 0, so that it is a prefix's alone to be seen by."""
    plain, other = load(str(tiny)).eval(), strong(tiny)
    for encoder in (plain, other):
        for layer in encoder.model[0].auto_model.encoder.layer:
            own = layer.attention.self
            for part, value in ((own.query, 1.0), (own.key, 0.0)):
                part.weight.data[::8] = 0
                part.bias.data[::8] = value
    other.model[0].soft.keys.data[..., 0] = -1e4
    assert torch.allclose(other(TEXTS), plain(TEXTS), atol=1e-6)
    other.model[0].soft.keys.data[..., 0] = 1e4
    assert not torch.allclose(other(TEXTS), plain(TEXTS), atol=1e-2)


def test_rows_do_not_depend_on_their_neighbours_and_dropout_takes_of_the_prefix(tiny: Path) -> None:
    encoder = strong(tiny)
    assert torch.allclose(encoder(TEXTS)[1], encoder(TEXTS[1:2])[0], atol=1e-5)
    encoder.set_dropout(0.0)
    encoder.train()
    assert torch.equal(encoder(TEXTS), encoder(TEXTS))
    encoder.model[0].soft.dropout.p = 0.5
    same = encoder(["q1 d1", "q1 d1"])
    assert not torch.allclose(same[0], same[1], atol=1e-3)  # each text by itself


@pytest.mark.proves(row=119, fact="reference")
def test_a_decoder_sees_a_prefix_as_past_keys_and_values(tmp_path: Path) -> None:
    """P-tuning v2 gives its prefix to transformers as what came before the text."""
    from transformers import DynamicCache, LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 20}
    model = LlamaModel(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes)).eval()
    ids, seen = torch.randint(0, 20, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    prefix, past = Prefix(2, 2, 3, 8).eval(), DynamicCache(config=model.config)
    nn.init.normal_(prefix.keys)
    for layer in range(2):
        past.update(*(p[layer].detach().expand(2, -1, -1, -1) for p in (prefix.keys, prefix.values)), layer)
    with torch.no_grad():
        whole = torch.cat([torch.ones(2, 3, dtype=torch.int64), seen], 1)
        wanted = model(ids, attention_mask=whole, position_ids=torch.arange(5)[None], past_key_values=past)
        plain = model(ids, attention_mask=seen).last_hidden_state
        for number, layer in enumerate(attentions(model)):
            layer.module.__dict__["prefix"] = (prefix, number)
        for mask in (seen, None):
            found = model(ids, attention_mask=mask).last_hidden_state
            assert torch.allclose(found[0], wanted.last_hidden_state[0], atol=1e-5)
        found = model(ids, attention_mask=seen).last_hidden_state
    assert torch.allclose(found[1, :3], wanted.last_hidden_state[1, :3], atol=1e-5)
    assert not torch.allclose(found[0], plain[0], atol=1e-2)


def test_prefix_and_template_are_saved_and_found_again(tiny: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    for name, encoder in (("prefix", strong(tiny)), ("both", pooled(strong(tiny), "prompt"))):
        z = embed(encoder, TEXTS)
        save(encoder, tmp_path / name)
        assert torch.allclose(embed(load(tmp_path / name), TEXTS), z, atol=1e-6)
        theirs = SentenceTransformer(str(tmp_path / name), device="cpu", trust_remote_code=True)
        assert np.allclose(theirs.encode(TEXTS, normalize_embeddings=True), z.numpy(), atol=1e-5)
        theirs.save(str(tmp_path / f"{name} again"))
        assert torch.allclose(embed(load(tmp_path / f"{name} again"), TEXTS), z, atol=1e-6)
    with pytest.raises(ValueError, match=r"counterpoint\.encoders\.prompted\.PromptedTransformer"):
        SentenceTransformer(str(tmp_path / "prefix"), device="cpu")
    short = truncated(strong(tiny), layers=1)
    assert torch.equal(short.model[0].soft.keys, strong(tiny).model[0].soft.keys[:1])
    kept = strong(tiny)
    own = kept.model[0].soft.keys
    assert prefixed(kept, tokens=9).model[0].soft.keys is own


@pytest.mark.proves(reference=PROMPTBERT, fact="closed-form")
def test_the_state_at_the_mask_of_a_whole_template_stands_for_a_text(tiny: Path) -> None:
    plain = load(str(tiny)).eval()
    words = plain.model.tokenizer.get_vocab()
    for template, before, after in (
        ("w1 w2 {} w3 [MASK] w4", "w1 w2", "w3 [MASK] w4"),
        ("[MASK] w1 {}", "[MASK] w1", ""),
    ):
        encoder = pooled(plain, "prompt", template=template).eval()
        encoder.lengths["positive"] = 11
        long = "q1 q2 q3 q4 q5 q6 q7 q8 q9 q10"
        for text, role in (("q1 [MASK] q2", "anchor"), ("", "anchor"), (long, "positive")):
            room = 11 - 2 - len(before.split()) - len(after.split()) if role == "positive" else None
            line = [*before.split(), *text.split()[:room], *after.split()]
            ids = [2, *(words[w] for w in line), 3]
            features = encoder.model.preprocess([text, "q1"], max_length=11 if role == "positive" else None)
            assert features["input_ids"][0, : len(ids)].tolist() == ids
            assert features["attention_mask"][0].sum() == len(ids)
            own = 1 + len(before.split()) + len(line[len(before.split()) : len(line) - len(after.split())]) + 1
            at = own if after else 1
            assert ids[at] == MASK
            h = plain.model[0].auto_model(input_ids=torch.tensor([ids])).last_hidden_state[0, at]
            assert torch.allclose(encoder([text, "q1"], role)[0], h, atol=1e-5)
    back = pooled(encoder, "mean").eval()
    assert torch.allclose(back(TEXTS), plain(TEXTS), atol=1e-6)


def test_of_several_masks_the_first_or_the_last_counts() -> None:
    states, ids = torch.arange(5.0)[None, :, None], torch.tensor([[7, 9, 7, 9, 0]])
    for last, wanted in ((True, 3.0), (False, 1.0)):
        features = {"token_embeddings": states, "input_ids": ids}
        assert AtMask(1, token=9, last=last)(features)["sentence_embedding"].item() == wanted


def test_what_does_not_fit_is_refused(tiny: Path) -> None:
    encoder, table = load(str(tiny)), fresh_static(TEXTS, Sizes(width=8))
    narrow = pooled(encoder, "prompt")
    narrow.lengths["anchor"] = 9
    for call, words in (
        (lambda: prefixed(encoder, tokens=0), "at least 1 token"),
        (lambda: prefixed(table), "a transformer for a prefix"),
        (lambda: eager(strong(tiny)), "without a prefix"),
        (lambda: pooled(encoder, "prompt", template="{} w1"), r"one \{\} and one \[MASK\]"),
        (lambda: narrow(["q1"]), "room for a text"),
        (lambda: pooled(table, "prompt"), "a transformer with a pooling module"),
    ):
        with pytest.raises(Refusal, match=words):
            call()
