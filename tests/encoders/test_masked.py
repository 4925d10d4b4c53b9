"""Guessing masked words: which words are hidden, what a guess costs, and whose head is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy

from counterpoint.data.batches import Rows
from counterpoint.encoders.folder import save
from counterpoint.encoders.masked import FILE, guessing, hide, word_places, words_of
from counterpoint.encoders.static import Sizes, fresh_static
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.recipes.masked import mlm

from ..conftest import toy_rows

TEXTS = ["q1 d1 w1 w2", "q2", "d3 w4 w5"]


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of BERT with its own head, whose biases are not 0."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("bert") / "masked"
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig.from_pretrained(tiny))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("cls."):
                weight.add_(0.1 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def test_the_shares_of_what_is_hidden_are_those_of_bert() -> None:
    draws = torch.rand(2000, 100, generator=torch.Generator().manual_seed(0))
    ids, words = torch.full((2000, 100), 7), torch.ones(2000, 100, dtype=torch.bool)
    words[:, :10] = False
    hidden = hide(ids, words, draws, rate=0.15, mask=1, vocabulary=50)
    assert not hidden.chosen[:, :10].any()
    count = hidden.chosen.sum().item()
    assert count / (2000 * 90) == pytest.approx(0.15, abs=0.01)
    assert (hidden.ids == 1)[hidden.chosen].float().mean().item() == pytest.approx(0.8 + 0.1 / 50, abs=0.01)
    others = hidden.ids[hidden.chosen & (hidden.ids != 1) & (hidden.ids != 7)]
    assert len(others) / count == pytest.approx(0.1 * 48 / 50, abs=0.005)
    assert set(others.tolist()) == set(range(50)) - {1, 7}
    assert torch.equal(hidden.ids[~hidden.chosen], ids[~hidden.chosen])


@pytest.mark.parametrize(
    ("draw", "wanted"), [(0.0, 1), (0.39, 1), (0.41, 1), (0.425, 5), (0.4499, 9), (0.46, 7), (0.6, 7)]
)
def test_a_number_decides_all_about_its_place(draw: float, wanted: int) -> None:
    """Below 0.4 = 0.8 x 0.5 it is masked, up to 0.45 another word, up to 0.5 it stays and is guessed."""
    draw = draw if draw != 0.41 else 0.399
    hidden = hide(torch.tensor([[7]]), torch.tensor([[True]]), torch.tensor([[draw]]), rate=0.5, mask=1, vocabulary=10)
    assert hidden.ids.item() == wanted
    assert hidden.chosen.item() == (draw < 0.5)
    assert not hide(
        torch.tensor([[7]]), torch.tensor([[True]]), torch.zeros(1, 1), rate=0.0, mask=1, vocabulary=9
    ).chosen


def test_words_are_neither_padding_nor_special(tiny: Path) -> None:
    encoder = load(str(tiny))
    features = dict(encoder.model.preprocess(TEXTS))
    assert word_places(encoder, features).sum(1).tolist() == [4, 1, 3]


def test_the_cost_is_that_of_transformers_with_the_same_weights(reference: Path) -> None:
    from transformers import BertForMaskedLM

    encoder, theirs = load(reference).eval(), BertForMaskedLM.from_pretrained(reference).eval()
    head = words_of(encoder)
    draws = torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    found = guessing(encoder, head, {"text": TEXTS, "role": "anchor", "draws": draws}, rate=0.6)
    for i, text in enumerate(TEXTS):
        features = dict(encoder.model.preprocess([text]))
        ids, words = features["input_ids"], word_places(encoder, features)
        hidden = hide(ids, words, draws[i : i + 1], rate=0.6, mask=4, vocabulary=theirs.config.vocab_size)
        assert found["hidden"][i] == hidden.chosen.sum()
        if hidden.chosen.any():
            logits = theirs(input_ids=hidden.ids, attention_mask=features["attention_mask"]).logits
            assert torch.allclose(
                found["masked"][i], cross_entropy(logits[hidden.chosen], ids[hidden.chosen]), atol=1e-5
            )
        else:
            assert found["masked"][i] == 0


def test_a_checkpoint_of_bert_brings_its_head_and_another_model_gets_a_new_one(reference: Path, tiny: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(reference / "model.safetensors")
    head = words_of(load(reference))
    assert torch.equal(head.dense.weight, stored["cls.predictions.transform.dense.weight"])
    assert torch.equal(head.bias, stored["cls.predictions.bias"])
    new = words_of(load(str(tiny)))
    assert not new.bias.any()
    with pytest.raises(Refusal, match="mask token"):
        words_of(fresh_static(TEXTS, Sizes(width=8)))


def test_a_trained_head_is_saved_beside_the_model_and_found_again(tiny: Path, tmp_path: Path) -> None:
    encoder = load(str(tiny))
    head = words_of(encoder)
    assert words_of(encoder) is head
    assert "words" not in dict(encoder.named_children())  # what embeds texts has no use for it
    with torch.no_grad():
        head.bias.normal_()
    save(encoder, tmp_path / "model")
    assert (tmp_path / "model" / FILE).exists()
    again = words_of(load(tmp_path / "model"))
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    save(load(str(tiny)), tmp_path / "plain")
    assert not (tmp_path / "plain" / FILE).exists()


def test_mlm_is_the_mean_over_hidden_words_and_learns_no_contrast(tiny: Path) -> None:
    torch.manual_seed(0)
    encoder = load(str(tiny))
    encoder.set_dropout(0.0)
    data = Rows.of(pl.DataFrame({"anchor": [row["query"] for row in toy_rows(20)]}))
    method = mlm(encoder, data, rate=0.5)
    batch = data.take(np.arange(6))
    views = method.views(batch, torch.Generator().manual_seed(0))
    sets = method.encode(method.modules, views)
    outcome = method.objective(method.modules, sets)
    facts = sets["text"].facts
    assert torch.allclose(outcome.loss, (facts["masked"] * facts["hidden"]).sum() / facts["hidden"].sum())
    assert sets["text"].z.shape == (6, 0)
    other = method.views(data.take(np.array([3])), torch.Generator().manual_seed(0))
    assert torch.equal(other["text"]["draws"][0], views["text"]["draws"][3])  # what is hidden belongs to the row
    assert len(views["text"]["draws"].unique(dim=0)) == 6
