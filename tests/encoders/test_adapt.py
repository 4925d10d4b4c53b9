"""LoRA: nothing changes at the start, adapters alone train, and the merged folder is an ordinary one with the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

pytest.importorskip("peft")

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders import adapt
from counterpoint.encoders.adapt import adapters, lora, matrices, merge, merged
from counterpoint.encoders.folder import save
from counterpoint.encoders.text import TextEncoder, autocast, embed, load
from counterpoint.errors import Refusal
from counterpoint.recipes import text
from counterpoint.training.cached import cached
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.processes import Split
from counterpoint.training.rates import factors, passes
from tests.conftest import toy_rows
from tests.encoders.test_text import encode_elsewhere
from tests.training.test_rates import backbone

FP32 = autocast("cpu", "fp32")
TEXTS = ["q1 d1 w1", "q2 w5 w6 w7", "d3"]
LORA = "Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685, 2021"


def rows(count: int = 32) -> Rows:
    data = toy_rows(count)
    return Rows.of(pl.DataFrame({"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}))


def stirred(encoder: TextEncoder) -> TextEncoder:
    """An encoder whose adapters have left their start."""
    torch.manual_seed(1)
    for p in encoder.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return encoder


def trained(encoder: TextEncoder, micro: int | None = None) -> TextEncoder:
    data = rows()
    method = text.pairs(encoder, data)
    feed = plain(data.take, shuffled(len(data), batch=16, seed=0))
    train(method, feed, Schedule(6, 0.02), split=Split(16, 1, micro), seed=0, autocast=FP32)
    return encoder


@pytest.mark.proves(reference=LORA, fact="closed-form")
@pytest.mark.parametrize(("rank", "alpha", "scale"), [(2, None, 2.0), (4, 2.0, 0.5)])
def test_an_adapted_matrix_is_w_plus_scaled_b_a(rank: int, alpha: float | None, scale: float, tiny: Path) -> None:
    plain = dict(load(str(tiny)).named_parameters())
    encoder = stirred(lora(load(str(tiny)), rank=rank, alpha=alpha))
    found = dict(adapters(encoder))
    assert len(found) == 4  # query and value of two layers
    products = {n: (m.lora_B["default"].weight @ m.lora_A["default"].weight).detach() for n, m in found.items()}
    x = torch.randn(3, 32)
    for name, module in found.items():
        w, bias = plain[f"{name}.weight"], plain[f"{name}.bias"]
        assert products[name].abs().max() > 0.1
        expected = x @ (w + scale * products[name]).T + bias
        assert torch.allclose(module(x), expected, atol=1e-5)
    merge(encoder)
    now = dict(encoder.named_parameters())
    assert set(now) == set(plain)
    for name, w in plain.items():
        of = name.removesuffix(".weight")
        change = scale * products[of] if of in products and name.endswith("weight") else 0
        assert torch.allclose(now[name], w + change, atol=1e-6), name


def test_at_the_start_nothing_changes(tiny: Path) -> None:
    assert torch.equal(embed(lora(load(str(tiny))), TEXTS), embed(load(str(tiny)), TEXTS))


@pytest.mark.parametrize("micro", [None, 5])
def test_only_adapters_change(micro: int | None, tiny: Path) -> None:
    encoder = lora(load(str(tiny)), rank=4)
    before = {n: p.detach().clone() for n, p in encoder.named_parameters()}
    trained(encoder, micro)
    changed = {n for n, p in encoder.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if "lora_" in n}
    assert len(changed) == 8


@pytest.mark.parametrize("micro", [None, 5])
def test_a_saved_folder_is_ordinary_and_gives_the_same_vectors(micro: int | None, tiny: Path, tmp_path: Path) -> None:
    base = {p.relative_to(tiny): p.read_bytes() for p in tiny.rglob("*") if p.is_file()}
    encoder = trained(lora(load(str(tiny)), rank=4), micro)
    z, names = embed(encoder, TEXTS), [n for n, _ in encoder.named_parameters()]
    save(encoder, tmp_path / "adapted")
    save(load(str(tiny)), tmp_path / "plain")
    assert [n for n, _ in encoder.named_parameters()] == names  # training can go on
    assert torch.equal(embed(encoder, TEXTS), z)
    saved, plain = (
        {p.relative_to(d): p for p in d.rglob("*") if p.is_file()} for d in (tmp_path / "adapted", tmp_path / "plain")
    )
    assert set(saved) == set(plain)
    changed = [str(n) for n in saved if saved[n].read_bytes() != plain[n].read_bytes()]
    assert changed == ["model.safetensors"]
    weights = [load_file(d / "model.safetensors") for d in (tmp_path / "adapted", tmp_path / "plain")]
    assert [(k, v.shape, v.dtype) for k, v in weights[0].items()] == [
        (k, v.shape, v.dtype) for k, v in weights[1].items()
    ]
    assert (embed(load(str(tmp_path / "adapted")), TEXTS) - z).abs().max() < 1e-5
    assert (embed(load(str(tiny)), TEXTS) - z).abs().max() > 1e-3
    assert np.abs(encode_elsewhere(tmp_path / "adapted", TEXTS, old=False)[1] - z.numpy()).max() < 1e-5
    assert {p.relative_to(tiny): p.read_bytes() for p in tiny.rglob("*") if p.is_file()} == base
    assert (embed(merge(encoder), TEXTS) - z).abs().max() < 1e-5  # type: ignore[arg-type]


def test_a_projection_after_the_backbone_stays_as_it_is(tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    base = load(str(tiny)).model
    model = SentenceTransformer(modules=[*base, Dense(32, 8)], device="cpu")
    encoder = lora(TextEncoder(model, tiny, {}, {}), rank=2)
    assert all("lora_" in n for n, p in encoder.named_parameters() if p.requires_grad)
    assert embed(encoder, TEXTS).shape == (3, 8)


def test_a_model_without_adapters_is_merged_without_a_copy() -> None:
    plain = nn.Linear(2, 2)
    assert merged(plain) is plain
    assert merge(plain) is plain


@pytest.mark.parametrize(
    ("family", "count", "chosen"),
    [("Bert", 6, {"query", "value"}), ("Roberta", 6, {"query", "value"}), ("MPNet", 6, {"q", "v"}),
     ("DistilBert", 6, {"q_lin", "v_lin"}), ("DebertaV2", 6, {"query_proj", "value_proj"}), ("ModernBert", 3, {"Wqkv"}),
     ("Qwen2", 6, {"q_proj", "v_proj"}), ("T5Encoder", 6, {"q", "v"}), ("GPT2", 3, {"c_attn"})],
)  # fmt: skip
def test_queries_and_values_are_found_in_every_family(family: str, count: int, chosen: set[str]) -> None:
    model = backbone(family)
    found = matrices(model, "attention")
    assert (len(found), {n.split(".")[-1] for n in found}) == (count, chosen)
    every = matrices(model, "linear")
    assert set(found) < set(every)
    assert not [n for n in every if "pooler" in n]
    kinds = {type(m).__name__ for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")}
    assert {type(m).__name__ for m in every.values()} == kinds


def test_all_linear_layers_but_the_pooler(tiny: Path) -> None:
    encoder = lora(load(str(tiny)), rank=2, targets="linear")
    assert len(dict(adapters(encoder))) == 12  # query, key, value, output, up, down of two layers
    z = embed(stirred(encoder), TEXTS)
    assert (embed(merge(encoder), TEXTS) - z).abs().max() < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, -1, 33])
def test_a_rank_that_does_not_fit_is_refused(rank: int, tiny: Path) -> None:
    with pytest.raises(Refusal, match="rank from 1 to 32"):
        lora(load(str(tiny)), rank=rank)


def test_an_alpha_that_is_no_scale_is_refused(tiny: Path) -> None:
    with pytest.raises(Refusal, match="alpha above 0"):
        lora(load(str(tiny)), alpha=0.0)


def test_an_encoder_without_linear_layers_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = load(str(tiny)).model.tokenizer
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer._tokenizer, embedding_dim=8)], device="cpu")
    with pytest.raises(Refusal, match=r"linear layers to adapt.*--lora"):
        lora(TextEncoder(static, tiny, {}, {}))
    monkeypatch.setattr(adapt, "QUERY_AND_VALUE", (("nothing", "known"),))
    with pytest.raises(Refusal, match=r"targets='linear'"):
        lora(load(str(tiny)))


def test_without_peft_one_line_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"counterpoint\[peft\]"):
        lora(load(str(tiny)))


def test_dropout_is_a_setting_with_adapters_too(tiny: Path) -> None:
    encoder = lora(load(str(tiny)), rank=4)
    assert encoder.dropout == pytest.approx(0.1)
    encoder.set_dropout(0.0)
    stirred(encoder).train()
    assert encoder.dropout == 0
    assert torch.equal(encoder(TEXTS), encoder(TEXTS))


def test_caching_gives_the_gradient_of_plain_autograd_with_adapters(tiny: Path) -> None:
    data = rows()
    method = text.pairs(stirred(lora(load(str(tiny)), rank=4)), data)
    method.modules.eval()
    views = method.views(data.take(np.arange(12)), torch.Generator().manual_seed(0))
    method.objective(method.modules, method.encode(method.modules, views)).loss.backward()
    plain = {n: p.grad for n, p in method.modules.named_parameters()}
    method.modules.zero_grad(set_to_none=True)
    cached(method.modules, views, encode=method.encode, objective=method.objective, micro=5, autocast=FP32)
    for name, p in method.modules.named_parameters():
        assert (p.grad is None) == (plain[name] is None) == ("lora_" not in name), name
        if p.grad is not None:
            assert plain[name].abs().max() > 0
            assert torch.allclose(p.grad, plain[name], atol=1e-6), name


def test_adapters_have_the_rate_of_their_layer_and_cost_less(tiny: Path) -> None:
    encoder = lora(load(str(tiny)), rank=2)
    found = factors(encoder, 0.5)
    assert {found[n] for n in found if "lora_" in n and "layer.0" in n} == {0.5}
    assert {found[n] for n in found if "lora_" in n and "layer.1" in n} == {1.0}
    assert 2.0 < passes(encoder) < 2.1


@pytest.mark.parametrize("name", text.__all__)
def test_every_recipe_trains_with_adapters(name: str, tiny: Path) -> None:
    data = toy_rows(32)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}
    frame["negative"] = [[data[(i + 7) % 32]["doc"]] for i in range(32)]
    frame["label"] = [r["query"].split()[0] for r in data]
    table = Rows.of(pl.DataFrame(frame))
    method = getattr(text, name)(lora(load(str(tiny)), rank=2), table)
    before = {n: p.detach().clone() for n, p in method.modules.named_parameters()}
    feed = plain(table.take, shuffled(32, batch=16, seed=0))
    train(method, feed, Schedule(2, 0.01, warmup=0.0), split=Split(16, 1), seed=0, autocast=FP32)
    changed = {n for n, p in method.modules.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if "lora_" in n or n.startswith("head")}
