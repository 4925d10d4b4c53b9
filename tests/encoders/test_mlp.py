"""The encoder of arrays: what it computes, that it is row-wise, and that a saved one is the same or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.encoders.mlp import MLP, Sizes, is_saved, load, save
from counterpoint.encoders.sizes import parsed
from counterpoint.encoders.text import embed
from counterpoint.errors import Refusal
from counterpoint.training.machine import memory_bytes

SMALL = Sizes(hidden=8, depth=3, width=5)


def made(shape: tuple[int, ...] = (4,), sizes: Sizes = SMALL) -> MLP:
    torch.manual_seed(0)
    return MLP(shape, sizes).fitted(torch.randn(50, *shape) * 3 + 7)


def test_standardised_inputs_have_mean_0_and_deviation_1_and_constants_are_0() -> None:
    rows = torch.randn(500, 3) * torch.tensor([1.0, 1e-3, 1e6]) + torch.tensor([0.0, 1e3, 5.0])
    rows = torch.cat([rows, torch.full((500, 1), 0.1)], 1)
    encoder = MLP((4,), SMALL).fitted(rows)
    z = encoder.standardised(rows)
    assert encoder.scale[3] == 1, "what never changed is not divided by a rounding error"
    assert z.mean(0).abs().max() < 0.1
    assert torch.allclose(z[:, [0, 2]].std(0, correction=0), torch.ones(2), atol=1e-3)
    assert z[:, 3].tolist() == [0] * 500


def test_the_layers_by_hand() -> None:
    encoder = MLP((1, 2), Sizes(hidden=2, depth=2, width=1))
    with torch.no_grad():
        encoder.layers[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        encoder.layers[3].weight.copy_(torch.tensor([[2.0, 3.0]]))
        encoder.layers[3].bias.fill_(0.5)
        encoder.mean.copy_(torch.tensor([1.0, 0.0]))
        encoder.scale.copy_(torch.tensor([2.0, 1.0]))
    assert encoder(torch.tensor([[[5.0, -4.0]], [[-5.0, 4.0]]])).tolist() == [[2 * 2 + 3 * 4 + 0.5], [0.5]]


def test_it_is_row_wise_in_training_mode_too() -> None:
    encoder, rows = made((2, 3)), torch.randn(7, 2, 3)
    whole = encoder.train()(rows)
    assert torch.allclose(torch.cat([encoder(rows[i : i + 1]) for i in range(7)]), whole, atol=1e-6)


def test_dropout_can_be_set_where_it_was_none() -> None:
    encoder, rows = made(), torch.randn(3, 4)
    assert encoder.dropout == 0
    encoder.set_dropout(0.5)
    assert encoder.dropout == 0.5
    assert not torch.equal(encoder.train()(rows), encoder(rows))
    assert torch.equal(encoder.eval()(rows), encoder(rows))


def test_random_weights_tell_rows_apart() -> None:
    z = embed(MLP((64,)), torch.randn(100, 64))
    assert (z @ z.T).fill_diagonal_(0).abs().max() < 0.95


def test_a_saved_encoder_is_the_same(tmp_path: Path) -> None:
    encoder, rows = made((3, 2)), torch.randn(5, 3, 2)
    save(encoder, tmp_path / "m")
    assert is_saved(tmp_path / "m")
    again = load(tmp_path / "m")
    assert torch.equal(encoder.eval()(rows), again.eval()(rows))
    assert again.sizes == encoder.sizes
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": 0}, "hidden of at least 1"),
        ({"depth": "3"}, "depth"),
        ({"dropout": 1.0}, "dropout"),
        ({"shape": None}, "config.json"),
        ({"width": 6}, "weights that fit"),
        ({"shape": [9]}, "weights that fit"),
    ],
)
def test_a_changed_config_is_refused(change: dict, words: str, tmp_path: Path) -> None:
    save(made(), tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(Refusal, match=words) as refusal:
        load(tmp_path / "m")
    assert "\n" not in str(refusal.value)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save(made(), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(Refusal, match="weights that fit"):
        load(tmp_path / "m")
    weights.unlink()
    with pytest.raises(Refusal, match="weights that fit"):
        load(tmp_path / "m")
    encoder = made()
    torch.nn.init.constant_(encoder.layers[0].weight, float("nan"))
    save(encoder, tmp_path / "n")
    with pytest.raises(Refusal, match="NaN"):
        load(tmp_path / "n")


def test_sizes_from_words() -> None:
    assert parsed("mlp", Sizes()) == Sizes()
    assert parsed("mlp:dropout=0.2,width=9", Sizes()) == Sizes(dropout=0.2, width=9)
    for name, words in (("mlp:depth=0", "at least 1"), ("mlp:wide=3", "width"), ("mlp:width=x", "'x'"),
                        ("mlp:dropout=1", "dropout")):  # fmt: skip
        with pytest.raises(Refusal, match=words):
            parsed(name, Sizes())


def test_another_shape_is_refused() -> None:
    with pytest.raises(Refusal, match="2 x 3"):
        made((2, 3))(torch.zeros(4, 6))
    with pytest.raises(Refusal, match="first axis"):
        made((4,))(torch.zeros(4))


def test_embed_keeps_the_order_of_arrays() -> None:
    encoder, rows = made(), torch.randn(9, 4)
    z = embed(encoder, rows, batch=4)
    assert torch.allclose(z, torch.nn.functional.normalize(encoder.eval()(rows), dim=1), atol=1e-6)


def test_more_rows_take_more_memory() -> None:
    encoder = MLP((1000,))
    extra = memory_bytes(encoder, 10_000) - memory_bytes(encoder, 0)
    assert extra == 10_000 * encoder.bytes_per_row
    assert encoder.bytes_per_row == 4 * 3 * (1000 + 4 * 256)
    assert np.isfinite(extra)
