"""Cross-encoders: row by row, saved and loaded with equal scores by us and by sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from counterpoint.bundled import MINILM
from counterpoint.encoders.cross import CrossEncoder, is_cross_encoder, judge_pairs, load_cross, save_cross
from counterpoint.errors import Refusal

LEFT = ["q1 q2 w3", "q4", "q5 q6 q7 q8 " * 30, "q1", "q9 w1"] * 5
RIGHT = ["d1 d2", "d4 w5 w6", "d5", "d7 d8 d9 d10 " * 40, "d11"] * 5


@pytest.fixture(scope="module")
def cross(tiny: Path) -> CrossEncoder:
    torch.manual_seed(3)
    encoder = load_cross(str(tiny)).eval()
    torch.nn.init.normal_(encoder.model.classifier.weight)  # so that scores differ
    return encoder


def test_scores_are_row_by_row_and_in_the_order_of_the_rows(cross: CrossEncoder) -> None:
    whole = judge_pairs(cross, LEFT, RIGHT, batch=7)
    alone = torch.stack([judge_pairs(cross, [a], [b])[0] for a, b in zip(LEFT, RIGHT, strict=True)])
    assert whole.shape == (25,)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert len(torch.unique(whole[:5].round(decimals=3))) == 5
    assert torch.allclose(cross(LEFT, RIGHT).detach(), whole, atol=1e-5)
    assert len(cross([], [])) == 0


def test_the_two_sides_are_not_exchangeable(cross: CrossEncoder) -> None:
    assert not torch.allclose(
        judge_pairs(cross, LEFT[:2], RIGHT[:2]), judge_pairs(cross, RIGHT[:2], LEFT[:2]), atol=1e-3
    )


def test_the_saved_folder_gives_equal_scores_in_both_libraries(cross: CrossEncoder, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Theirs

    cut = CrossEncoder(cross.model, cross.tokenizer, 24).eval()
    expected = judge_pairs(cut, LEFT, RIGHT)
    save_cross(cut, tmp_path / "model")
    assert [p.name for p in (tmp_path / "model").iterdir() if p.suffix in (".bin", ".pt", ".pkl")] == []
    assert (tmp_path / "model" / "model.safetensors").exists()
    again = load_cross(tmp_path / "model")
    assert again.longest == 24
    assert torch.allclose(judge_pairs(again, LEFT, RIGHT), expected, atol=1e-6)
    theirs = Theirs(str(tmp_path / "model"), device="cpu")
    scores = theirs.predict(
        list(zip(LEFT, RIGHT, strict=True)), activation_fn=torch.nn.Identity(), convert_to_tensor=True
    )
    assert (scores - expected).abs().max() < 1e-5
    plain = theirs.predict([(LEFT[0], RIGHT[0])], convert_to_tensor=True)
    assert plain.item() == pytest.approx(torch.sigmoid(expected[0]).item(), abs=1e-5)


def test_a_bi_encoder_lends_its_layers(tiny: Path) -> None:
    torch.manual_seed(0)
    one, two = load_cross(MINILM), load_cross(MINILM)
    base = {n: p for n, p in one.named_parameters() if "classifier" not in n}
    assert all(torch.equal(p, dict(two.named_parameters())[n]) for n, p in base.items())
    assert not torch.equal(one.model.classifier.weight, two.model.classifier.weight)
    assert not is_cross_encoder(MINILM)
    assert not is_cross_encoder(tiny)


def test_what_is_no_cross_encoder_is_one_line(cross: CrossEncoder, tmp_path: Path) -> None:
    save_cross(cross, tmp_path / "model")
    assert is_cross_encoder(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["id2label"] = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    config["label2id"] = {v: int(k) for k, v in config["id2label"].items()}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refusal, match="one output, got 3"):
        load_cross(tmp_path / "model")
    with pytest.raises(Refusal, match="no such folder"):
        load_cross("./nothing")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "nothing"}))
    with pytest.raises(Refusal):
        load_cross(tmp_path / "model")


def test_dropout_is_set_and_longest_is_kept_within_the_model(cross: CrossEncoder, tiny: Path) -> None:
    encoder = load_cross(str(tiny), longest=10_000)
    assert encoder.longest == 64
    assert load_cross(str(tiny), longest=16).longest == 16
    encoder.set_dropout(0.0)
    encoder.train()
    assert torch.equal(encoder(LEFT[:3], RIGHT[:3]), encoder(LEFT[:3], RIGHT[:3]))
    assert cross.count_tokens(["q1 q2"], ["d1"]) == [len(cross.tokenizer("q1 q2", "d1")["input_ids"])]
