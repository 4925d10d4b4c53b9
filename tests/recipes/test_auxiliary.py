"""What DiffCSE and miCSE add to SimCSE, and that nothing is left of it at weight 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from counterpoint.data.batches import Rows
from counterpoint.encoders import detected
from counterpoint.encoders.attended import agreement, attending, eager
from counterpoint.encoders.detected import BatchNorm, filled, judged, projector
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.recipes.auxiliary import diffcse, micse
from counterpoint.recipes.embedded import encoded
from counterpoint.recipes.text import simcse
from counterpoint.training.method import Method
from counterpoint.types import Embeddings

from ..conftest import make_tiny_model, toy_rows

DATA = Rows.of(pl.DataFrame({"anchor": [*("q1 d2", "q3"), *(f"{row['query']} {row['doc']}" for row in toy_rows(14))]}))


def made(recipe, folder: Path, **numbers: object) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), DATA, **numbers)


def sets_of(method: Method, at: range = range(12), *, dropout: bool = True) -> dict[str, Embeddings]:
    """Each view with the same dropout whatever the method does beside it."""
    method.modules.train(dropout)
    views = method.views(DATA.take(np.array(at)), torch.Generator().manual_seed(2))
    found = {}
    for seed, name in enumerate(views):
        torch.manual_seed(seed)
        found |= method.encode(method.modules, {name: views[name]})
    return found


def loss_and_gradient(method: Method) -> tuple[Tensor, list[Tensor]]:
    loss = method.objective(method.modules, sets_of(method)).loss
    used = {n: p for n, p in method.modules["encoder"].named_parameters() if "pooler" not in n}
    return loss, list(torch.autograd.grad(loss, list(used.values())))


@pytest.mark.proves(row=100, fact="closed-form")
@pytest.mark.proves(row=103, fact="closed-form")
@pytest.mark.parametrize("recipe", [diffcse, micse])
def test_at_weight_0_it_is_simcse(recipe, tiny: Path) -> None:
    loss, gradient = loss_and_gradient(made(recipe, tiny, weight=0.0, head=False))
    plain = made(simcse, tiny, head=False)
    if recipe is micse:
        eager(plain.modules["encoder"])
    wanted, theirs = loss_and_gradient(plain)
    assert torch.allclose(loss, wanted, rtol=1e-6)
    for ours, other in zip(gradient, theirs, strict=True):
        assert torch.allclose(ours, other, atol=1e-6)
    assert not torch.allclose(loss_and_gradient(made(recipe, tiny, weight=1.0, head=False))[0], wanted, atol=1e-3)


@pytest.mark.proves(row=100, fact="reference")
def test_the_judge_costs_what_the_authors_say(tiny: Path) -> None:
    """voidism/DiffCSE, diffcse/models.py: argmax filling, the vector at the first place of the embedding output of a second
    BERT, cross entropy of two classes; padding left out."""
    method = made(diffcse, tiny, rate=0.5)
    with torch.no_grad():
        for weight in method.modules["judge"].parameters():
            weight.add_(0.05 * torch.randn_like(weight))  # it has learned; the generator has not
    sets = sets_of(method, dropout=False)
    views = method.views(DATA.take(np.arange(12)), torch.Generator().manual_seed(2))
    modules, costs, replaced = method.modules, [], 0
    for text, draws, z in zip(views["first"]["text"], views["first"]["draws"], sets["first"].z, strict=True):
        features = dict(modules["encoder"].model.preprocess([text]))
        edited = filled(modules["generator"], modules["words"], features, draws[None], rate=0.5)
        new = edited != features["input_ids"]
        assert not bool(new[0, [0, -1]].any())  # [CLS] and [SEP] stay
        bert = modules["judge"].model[0].auto_model
        states = bert.embeddings(edited)
        states[:, 0] = z
        for layer in bert.encoder.layer:
            states = layer(states)
            states = states[0] if isinstance(states, tuple) else states
        costs.append(cross_entropy(modules["told"](states)[0], new[0].long(), reduction="none"))
        replaced += int(new.sum())
    assert replaced > 10
    both = torch.cat([sets[name].facts["detected"] * sets[name].facts["tokens"] for name in ("first", "second")])
    assert both[:12].sum().item() == pytest.approx(torch.cat(costs).sum().item(), rel=1e-4)
    tokens = torch.cat([sets[name].facts["tokens"] for name in ("first", "second")])
    assert tokens[:2].tolist() == [4, 3]
    outcome = method.objective(method.modules, sets)
    assert outcome.terms["detected"].item() == pytest.approx((both.sum() / tokens.sum()).item(), rel=1e-5)
    weighed = outcome.terms["contrast"] + 0.005 * outcome.terms["detected"]
    assert outcome.loss.item() == pytest.approx(weighed.item(), rel=1e-6)


def test_only_the_vector_takes_the_judges_gradient_to_the_encoder_and_none_goes_to_the_generator(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(diffcse, tiny)
    weights = list(method.modules["encoder"].parameters())

    def reached(found: dict[str, Embeddings]) -> int:
        slopes = torch.autograd.grad(
            found["first"].facts["detected"].sum(), weights, retain_graph=True, allow_unused=True
        )
        return sum(slope is not None and bool(slope.abs().max() > 0) for slope in slopes)

    sets = sets_of(method)
    assert reached(sets) > 20
    told = detected.judged
    monkeypatch.setattr(detected, "judged", lambda judge, head, features, z: told(judge, head, features, z.detach()))
    assert reached(sets_of(method)) == 0
    method.objective(method.modules, sets).loss.backward()
    for name in ("generator", "words"):
        assert all(p.grad is None for p in method.modules[name].parameters())
    assert method.modules["judge"].model[0].auto_model.embeddings.word_embeddings.weight.grad.abs().max() > 0
    assert method.model(method.modules) is method.modules["encoder"]


def test_a_generator_that_gives_the_text_back_leaves_nothing_to_find(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "counterpoint.encoders.detected.filled", lambda _g, _w, features, _d, rate: features["input_ids"]
    )
    method = made(diffcse, tiny)
    with torch.no_grad():
        method.modules["told"].weight.zero_()
        method.modules["told"].bias.copy_(torch.tensor([40.0, 0.0]))  # "all are the text's own"
    assert sets_of(method)["first"].facts["detected"].max().item() < 1e-6


def test_the_vector_stands_at_the_first_token_also_where_padding_is_on_the_left(tiny: Path) -> None:
    judge, head = load(str(tiny)).eval(), torch.nn.Linear(32, 2)
    ids = torch.tensor([[0, 0, 2, 7, 3], [2, 7, 8, 9, 3]])
    features = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    seen = []
    layer = judge.model[0].auto_model.encoder.layer[0]
    hook = layer.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    z = torch.randn(2, 32)
    judged(judge, head, features, z)
    hook.remove()
    assert torch.equal(seen[0][0, 2], z[0])
    assert torch.equal(seen[0][1, 0], z[1])
    assert not torch.equal(seen[0][0, 0], z[0])


def test_the_head_of_diffcse_is_that_of_torch() -> None:
    z, ours = torch.randn(9, 8), projector(8)
    norms = [torch.nn.BatchNorm1d(16), torch.nn.BatchNorm1d(8, affine=False)]
    with torch.no_grad():
        ours[1].scale.uniform_()
        ours[1].shift.uniform_()
        norms[0].weight.copy_(ours[1].scale)
        norms[0].bias.copy_(ours[1].shift)
    theirs = torch.nn.Sequential(ours[0], norms[0], torch.nn.ReLU(), ours[3], norms[1])
    assert torch.allclose(ours(z), theirs(z), atol=1e-5)
    assert [n for n, p in ours.named_parameters() if p.requires_grad] == ["0.weight", "1.scale", "1.shift", "3.weight"]
    assert isinstance(ours[4], BatchNorm)


def test_the_judge_has_to_take_the_vector(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="diffcse"):
        made(diffcse, make_tiny_model(tmp_path / "dry", dropout=0.0))


def correlated(rho: float, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Attention whose logarithms are jointly Gaussian."""
    draw = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1, 1, count, generator=draw)
    return x.exp(), (rho * x + (1 - rho**2) ** 0.5 * noise).exp()


@pytest.mark.proves(row=103, fact="reference")
def test_gaussian_logarithms_have_the_information_of_their_correlation() -> None:
    for rho in (0.0, 0.5, -0.8):
        first, second = correlated(rho)
        found, counts = agreement(first, second, samples=4000)
        assert found.item() == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.03)
        assert counts.tolist() == [1]
        assert torch.allclose(agreement(3 * first, 0.1 * second, samples=4000)[0], found, atol=1e-4)
        # SAP-samples/acl2023-micse, model/models.py: the cosine of centred logarithms
        x, y = (a.flatten().log() - a.log().sum() / 4000 for a in (first, second))
        wanted = -0.5 * torch.log(1 - torch.cosine_similarity(x, y, dim=0) ** 2)
        assert torch.allclose(found, wanted, atol=1e-5)


def test_only_pairs_that_both_views_have_count_and_equal_ones_have_an_end() -> None:
    a = torch.tensor([[[0.1, 0.2, 0.0, 0.4, 0.3, 0.9]]])
    b = torch.tensor([[[0.3, 0.1, 0.7, 0.0, 0.2, 0.8]]])
    both = [0, 1, 4]
    found = agreement(a, b, samples=3)[0]
    assert torch.allclose(found, agreement(a[..., both], b[..., both], samples=3)[0])
    assert not torch.allclose(found, agreement(a, b, samples=4)[0], atol=1e-3)  # one pair more
    assert agreement(a[..., :2], b[..., :2], samples=9)[1].tolist() == [0]  # two pairs say nothing
    leaf = a[..., both].clone().requires_grad_()
    same = agreement(leaf, leaf.detach(), samples=3)[0]
    same.sum().backward()
    assert same.item() == pytest.approx(-0.5 * np.log(1e-6), rel=0.01)
    assert bool(torch.isfinite(leaf.grad).all())


def test_attention_is_read_at_the_same_pairs_of_both_views(tiny: Path) -> None:
    method = made(micse, tiny, samples=20, layers=2)
    views = method.views(DATA.take(np.arange(4)), torch.Generator())
    assert torch.equal(views["first"]["draws"], views["second"]["draws"])
    sets = sets_of(method, range(4), dropout=False)
    seen = [sets[name].facts["attention"] for name in ("first", "second")]
    assert seen[0].shape == (4, 4 * 2, 40)  # heads, two layers each a part, spare pairs
    assert torch.equal(*seen)
    assert (seen[0][1] > 0).sum(1).tolist() == [9] * 8  # [CLS] q3 [SEP]: all nine pairs
    backbone = method.modules["encoder"].model[0].auto_model
    features = method.modules["encoder"].model.preprocess(["q3"])
    layers = backbone(input_ids=features["input_ids"], output_attentions=True).attentions
    wanted = torch.stack([layers[k][0, h].flatten().sort().values for h in range(4) for k in range(2)])
    assert torch.allclose(seen[0][1][:, :9].sort().values, wanted, atol=1e-6)


def test_views_are_compared_row_with_row_and_more_agreement_costs_less(tiny: Path) -> None:
    method = made(micse, tiny, weight=1.0, samples=20, layers=2)
    sets = sets_of(method)
    outcome = method.objective(method.modules, sets)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = method.objective(method.modules, {**sets, "second": sets["second"].rows(order)})
    assert outcome.terms["attention"].item() == pytest.approx(shuffled.terms["attention"].item(), rel=1e-5)
    assert outcome.terms["attention"].item() < 0
    assert outcome.loss.item() == pytest.approx(sum(term.item() for term in outcome.terms.values()), rel=1e-5)
    found, counts = agreement(*(sets[k].facts["attention"] for k in ("first", "second")), samples=20)
    assert outcome.terms["attention"].item() == pytest.approx(-((found * counts).sum() / counts.sum()).item(), rel=1e-5)


def test_a_model_that_does_not_say_its_attention_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(str(tiny))
    batch = dict(made(micse, tiny).views(DATA.take(np.arange(2)), torch.Generator())["first"])
    backbone = encoder.model[0].auto_model
    backbone.set_attn_implementation("sdpa")
    with pytest.raises((Refusal, ValueError)):
        encoded(encoder, batch, attending(layers=2, samples=4))


def test_the_generator_guesses_without_dropout(tiny: Path) -> None:
    method = made(diffcse, tiny, rate=0.5)
    method.modules.train()
    features = dict(method.modules["encoder"].model.preprocess(DATA.anchors))
    draws = torch.rand(len(DATA), 64, generator=torch.Generator().manual_seed(0))
    one, two = (
        filled(method.modules["generator"], method.modules["words"], features, draws, rate=0.5) for _ in range(2)
    )
    assert torch.equal(one, two)


def test_the_upper_layers_are_read_and_each_text_has_pairs_of_its_own(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    eager(encoder)
    texts = ["q1 d1 w1 w2 w3"] * 2
    draws = {"draws": torch.tensor([[0.1], [0.7]], dtype=torch.float64).float()}
    found = encoder.read(texts, "anchor", one=attending(layers=1, samples=4), beside=draws)["attention"]
    features = encoder.model.preprocess(texts[:1])
    ids = {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}
    upper = encoder.model[0].auto_model(**ids, output_attentions=True).attentions[-1][0].flatten(1)
    assert torch.isin(found[0].mul(1e5).round(), upper.mul(1e5).round()).float().mean() > 0.9
    assert not torch.equal(found[0], found[1])


def test_a_text_with_too_few_pairs_does_not_count(tiny: Path) -> None:
    method = made(micse, tiny, samples=20, layers=2)
    sets = sets_of(method)
    blind = {**sets["first"].facts, "attention": sets["first"].facts["attention"].clone()}
    blind["attention"][0] = 0.0
    found = method.objective(method.modules, {**sets, "first": replace(sets["first"], facts=blind)})
    rest = method.objective(method.modules, {name: rows.rows(slice(1, 12)) for name, rows in sets.items()})
    assert found.terms["attention"].item() == pytest.approx(rest.terms["attention"].item(), rel=1e-5)
