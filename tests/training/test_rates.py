"""Rates: schedules by hand, factors by layer on every family of backbones, frozen weights, groups that share nothing."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.layers import alive, depths, freeze, stack_of
from counterpoint.encoders.text import autocast, load
from counterpoint.errors import Refusal
from counterpoint.recipes import text
from counterpoint.training import rates
from counterpoint.training.cached import cached
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, optimizer_for, train
from counterpoint.training.machine import PER_FROZEN, PER_TOKEN, PER_WEIGHT, PROCESS, memory_bytes
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.types import Outcome
from tests.conftest import toy_rows

FP32 = autocast("cpu", "fp32")
SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9, "num_hidden_layers": 3}
TOKENS = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}


def backbone(family: str) -> nn.Module:
    """A backbone of three layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as t
    if family == "T5Encoder":
        return t.T5EncoderModel(t.T5Config(d_model=8, num_layers=3, num_heads=2, d_ff=8, vocab_size=9, d_kv=4))
    if family == "DistilBert":
        return t.DistilBertModel(t.DistilBertConfig(dim=8, n_layers=3, n_heads=2, hidden_dim=8, vocab_size=9))
    if family == "GPT2":
        return t.GPT2Model(t.GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=9, bos_token_id=0, eos_token_id=0))
    extra = TOKENS if family == "ModernBert" else {"num_key_value_heads": 2} if family == "Qwen2" else {}
    return getattr(t, f"{family}Model")(getattr(t, f"{family}Config")(**SMALL, **extra))


def hand_made() -> nn.ModuleDict:
    """A table of words, two layers, a last norm; each has one matrix, and a vector but for the table."""
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    return nn.ModuleDict({"words": nn.Embedding(3, 2), "layers": layers, "norm": nn.LayerNorm(2)})


def rows(count: int = 32) -> Rows:
    data = toy_rows(count)
    return Rows.of(
        pl.DataFrame({"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}),
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("linear", [0, 0.5, 1, 0.75, 0.5, 0]), ("cosine", [0, 0.5, 1, 0.5 + math.sqrt(0.125), 0.5, 0]),
     ("constant", [0, 0.5, 1, 1, 1, 1])],
)  # fmt: skip
def test_schedules_by_hand(shape: str, expected: list[float]) -> None:
    at = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
    found = [rates.rate(p, peak=1.0, warmup=0.2, shape=getattr(rates, shape)) for p in at]
    assert found == pytest.approx(expected, abs=1e-12)
    schedule = Schedule(steps=5, lr=3.0, warmup=0.2, shape=getattr(rates, shape))
    assert [schedule.rate(p) for p in at] == pytest.approx([3 * x for x in expected], abs=1e-12)
    assert rates.rate(0.0, peak=2.0, warmup=0.0, shape=getattr(rates, shape)) == 2.0


@pytest.mark.parametrize(
    "family", ["Bert", "Roberta", "MPNet", "DebertaV2", "DistilBert", "ModernBert", "Qwen2", "T5Encoder", "GPT2"]
)
def test_layers_are_found_in_every_family(family: str) -> None:
    model = backbone(family)
    assert stack_of(model)[1] == 3
    found = rates.factors(model, 0.5)
    table = model.get_input_embeddings()
    words = next(name for name, p in model.named_parameters() if p is table.weight)
    assert found[words] == 0.125
    name = stack_of(model)[0]
    for i, factor in enumerate((0.25, 0.5, 1.0)):
        inside = {found[n] for n in found if n.startswith(f"{name}.{i}.")}
        assert inside == {factor}
    assert set(found) == {n for n, _ in model.named_parameters()}
    for n in (n for n in found if not n.startswith(f"{name}.")):
        late = any(word in n for word in ("pooler", "final", "ln_f")) or n == "norm.weight"
        assert found[n] == (1.0 if late else 0.125), n


def test_factors_of_a_model_made_by_hand() -> None:
    expected = {"words.weight": 0.09, "layers.0.weight": 0.3, "layers.0.bias": 0.3, "layers.1.weight": 1.0}
    expected |= {"layers.1.bias": 1.0, "norm.weight": 1.0, "norm.bias": 1.0}
    assert rates.factors(hand_made(), 0.3) == pytest.approx(expected)
    assert set(rates.factors(nn.Linear(2, 2), 1.0).values()) == {1.0}


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.ModuleDict({"a": hand_made(), "b": hand_made()})])
def test_layers_that_cannot_be_told_are_refused(model: nn.Module) -> None:
    with pytest.raises(Refusal, match=r"one list of layers.*--layer-decay"):
        rates.factors(model, 0.9)
    with pytest.raises(Refusal, match=r"one list of layers.*--freeze"):
        freeze(model, 1)
    assert alive(model) == 1


def test_groups_split_the_weights_by_rate_and_decay() -> None:
    head = nn.ModuleDict({"line": nn.Linear(2, 1), "lists": nn.ParameterDict({"temperature": torch.tensor(0.05)})})
    modules = {"encoder": hand_made(), "head": head}
    found = rates.groups(modules, weight_decay=0.1, layer_decay=0.5, head=10.0)
    names = {id(p): n for part, m in modules.items() for n, p in m.named_parameters()}
    told = {(g["scale"], g["weight_decay"]): [names[id(p)] for p in g["params"]] for g in found}
    assert told == {
        (0.25, 0.1): ["words.weight"],
        (0.5, 0.1): ["layers.0.weight"],
        (0.5, 0.0): ["layers.0.bias"],
        (1.0, 0.1): ["layers.1.weight"],
        (1.0, 0.0): ["layers.1.bias", "norm.weight", "norm.bias"],
        (10.0, 0.1): ["line.weight"],
        (10.0, 0.0): ["line.bias", "lists.temperature"],
    }
    adam = rates.optimizer_of(found, lr=0.2)
    rates.set_rates(adam, 0.1)
    assert [g["lr"] for g in adam.param_groups] == pytest.approx([0.1 * g["scale"] for g in found])


def test_without_options_there_are_two_groups_and_a_shared_weight_is_in_one() -> None:
    model = hand_made()
    found = rates.groups({"encoder": model, "again": model}, weight_decay=0.01)
    assert [(g["scale"], g["weight_decay"], len(g["params"])) for g in found] == [(1.0, 0.01, 3), (1.0, 0.0, 4)]


def test_a_rate_for_new_parts_needs_one_that_trains() -> None:
    for modules in ({"encoder": hand_made()}, {"encoder": hand_made(), "teacher": hand_made().requires_grad_(False)}):
        with pytest.raises(Refusal, match="--head-lr"):
            rates.groups(modules, weight_decay=0.0, head=2.0)
    with pytest.raises(Refusal, match="weights to train"):
        rates.optimizer_of(rates.groups({"encoder": hand_made().requires_grad_(False)}, weight_decay=0.0), 0.1)


def test_the_first_step_of_each_weight_is_its_own_rate(tiny: Path) -> None:
    """Adam's first step is lr * sign(gradient), whatever the gradient is: here is what each layer gets."""
    data = rows()
    method = text.simcse(load(str(tiny)), data)
    before = {n: p.detach().clone() for n, p in method.modules.named_parameters()}
    schedule = Schedule(1, 0.01, warmup=0.0, weight_decay=0.0, layer_decay=0.5, head=3.0, shape=rates.constant)
    train(
        method,
        plain(data.take, shuffled(len(data), batch=32, seed=0)),
        schedule,
        split=Split(32, 1),
        seed=0,
        autocast=FP32,
    )
    at = depths(method.modules["encoder"])
    for name, p in method.modules.named_parameters():
        moved = (p.detach() - before[name]).abs().max().item()
        scale = 3.0 if name.startswith("head") else 0.5 ** (2 - at[name.removeprefix("encoder.")])
        if "pooler" not in name and "key.bias" not in name:  # one shifts all scores of a query alike, and gets nothing
            assert moved == pytest.approx(0.01 * scale, rel=0.02), name


@pytest.mark.parametrize(("layers", "still"), [(0, {0}), (1, {0, 1})])
@pytest.mark.parametrize("micro", [None, 5])
def test_frozen_weights_stay_bit_for_bit(layers: int, still: set[int], micro: int | None, tiny: Path) -> None:
    data = rows()
    method = text.pairs(load(str(tiny)), data)
    encoder = method.modules["encoder"]
    freeze(encoder, layers)
    before = {n: p.detach().clone() for n, p in encoder.named_parameters()}
    schedule = Schedule(4, 0.01, weight_decay=0.5)
    train(
        method,
        plain(data.take, shuffled(len(data), batch=16, seed=0)),
        schedule,
        split=Split(16, 1, micro),
        seed=0,
        autocast=FP32,
    )
    at = depths(encoder)
    for name, p in encoder.named_parameters():
        assert torch.equal(p, before[name]) == (at[name] in still or "pooler" in name), name


def test_more_layers_than_there_are_cannot_be_frozen(tiny: Path) -> None:
    for layers in (2, 3, -1):
        with pytest.raises(Refusal, match="at most 1 of 2 layers"):
            freeze(load(str(tiny)), layers)


def test_caching_gives_the_gradient_of_plain_autograd_with_frozen_layers(tiny: Path) -> None:
    data = rows()
    method = text.pairs(load(str(tiny)), data)
    method.modules.eval()
    freeze(method.modules["encoder"], 1)
    batch = data.take(np.arange(12))
    views = method.views(batch, torch.Generator().manual_seed(0))
    method.objective(method.modules, method.encode(method.modules, views)).loss.backward()
    plain = {n: p.grad for n, p in method.modules.named_parameters()}
    method.modules.zero_grad(set_to_none=True)
    cached(method.modules, views, encode=method.encode, objective=method.objective, micro=5, autocast=FP32)
    for name, p in method.modules.named_parameters():
        assert (p.grad is None) == (plain[name] is None), name
        if p.grad is not None:
            assert torch.allclose(p.grad, plain[name], atol=1e-6), name


def test_the_estimate_counts_optimizer_and_activations_of_what_trains(tiny: Path) -> None:
    encoder = load(str(tiny))
    encoder.set_dropout(0.0)
    total = sum(p.numel() for p in encoder.parameters())
    assert memory_bytes(encoder, 100) == PROCESS + PER_WEIGHT * total + 2 * 100 * 32 * PER_TOKEN
    assert (alive(encoder), rates.passes(encoder)) == (1.0, 3.0)
    freeze(encoder, 1)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert 0 < trained < total / 2
    expected = PROCESS + PER_WEIGHT * trained + PER_FROZEN * (total - trained) + 100 * 32 * PER_TOKEN
    assert memory_bytes(encoder, 100) == expected
    assert alive(encoder) == 0.5
    assert 1.5 < rates.passes(encoder) < 2.2
    assert alive(encoder.requires_grad_(False)) == 0


def test_two_groups_step_as_two_optimizers_would() -> None:
    """The scale is a rate, not a scale of the gradient: a group alone, at its own rate, ends at the same weights."""
    torch.manual_seed(0)
    one, two = hand_made(), hand_made()
    two.load_state_dict(one.state_dict())
    method = Method(
        nn.ModuleDict({"encoder": one}), lambda b, g: {}, lambda m, v: {}, lambda m, s: Outcome({}, {}, {}), lambda m: m
    )
    together = optimizer_for(method, Schedule(9, 0.1, layer_decay=0.5, weight_decay=0.1))
    apart = [
        torch.optim.AdamW([p], lr=0.1 * rates.factors(two, 0.5)[n], weight_decay=0.1 if p.ndim > 1 else 0.0)
        for n, p in two.named_parameters()
    ]
    for _ in range(3):
        for model in (one, two):
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 0.3 + i) * p.detach()
        together.step()
        for adam in apart:
            adam.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
