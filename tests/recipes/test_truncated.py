"""Recipes of models that are cut off: what each trains beside its parent, and that a cut model gives what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, mse_loss, normalize

from counterpoint.data.batches import Rows
from counterpoint.data.roles import assign
from counterpoint.encoders.folder import save
from counterpoint.encoders.reshaped import truncated
from counterpoint.encoders.sparse import codes_of, embed_sparse, scaled
from counterpoint.encoders.text import embed, load
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.recipes import truncated as recipes
from counterpoint.recipes.text import pairs
from counterpoint.training.method import Method
from counterpoint.types import Embeddings

from ..conftest import toy_rows
from ..encoders.test_reshaped import decoder  # noqa: F401 - a fixture

SAMPLES = assign(pl.DataFrame(toy_rows(40)), {"anchor": "query", "positive": "doc"})
DATA = Rows.of(SAMPLES.frame, SAMPLES.items)


def made(recipe: str, folder: Path, **numbers: object) -> Method:
    torch.manual_seed(0)
    encoder = load(str(folder))
    encoder.set_dropout(0.0)
    return (pairs if recipe == "pairs" else getattr(recipes, recipe))(encoder, DATA, **numbers)


def encoded(method: Method, seed: int = 0) -> dict[str, Embeddings]:
    batch = DATA.take(np.arange(12))
    return method.encode(method.modules, method.views(batch, torch.Generator().manual_seed(seed)))


def loss_of(method: Method, seed: int = 0) -> torch.Tensor:
    return method.objective(method.modules, encoded(method, seed)).loss


def test_the_widest_alone_is_pairs(tiny: Path) -> None:
    assert torch.equal(loss_of(made("matryoshka", tiny, widths=(32,))), loss_of(made("pairs", tiny)))


def test_each_width_is_pairs_of_a_model_cut_to_it(tiny: Path) -> None:
    method = made("matryoshka", tiny)
    outcome = method.objective(method.modules, encoded(method))
    for width in (32, 16, 8):
        cut = pairs(truncated(method.modules["encoder"], width=width).eval(), DATA)
        assert torch.allclose(outcome.terms[f"width {width}"], loss_of(cut), atol=1e-5)
    assert set(outcome.terms) == {"width 32", "width 16", "width 8"}


@pytest.mark.proves(row=284, fact="closed-form")
def test_two_dimensions_add_a_cut_model_in_each_of_both_and_their_divergence(tiny: Path) -> None:
    method = made("two_dimensional", tiny, widths=(32, 8))
    outcome = method.objective(method.modules, encoded(method))
    encoder = method.modules["encoder"]
    rows = {}
    for layers in (1, 2):
        for width in (32, 8):
            cut = pairs(truncated(encoder, layers=layers, width=width).eval(), DATA)
            rows[layers, width] = loss_of(cut)
    assert torch.allclose(outcome.terms["last"], rows[2, 32] + rows[2, 8], atol=1e-5)
    assert torch.allclose(outcome.terms["layer 1"], rows[1, 32] + rows[1, 8], atol=1e-5)
    apart = 0.0
    sets, short = encoded(method), truncated(encoder, layers=1).eval()
    batch = DATA.take(np.arange(12))
    views = method.views(batch, torch.Generator().manual_seed(0))
    whole, early = (torch.cat([m(view["text"], view["role"]) for view in views.values()]) for m in (encoder, short))
    assert len(whole) == sum(len(s.z) for s in sets.values())
    # AdaptiveLayerLoss of sentence-transformers: kl_div(log_softmax(early / t), softmax(last / t), "batchmean") t
    apart = 0.3 * kl_div(log_softmax(early / 0.3, -1), (whole / 0.3).softmax(-1), reduction="batchmean")
    assert torch.allclose(outcome.terms["distil"], apart, atol=1e-5)
    assert torch.allclose(outcome.loss, sum(outcome.terms.values()), atol=1e-5)


def test_without_weight_for_early_layers_it_is_matryoshka(tiny: Path) -> None:
    two = loss_of(made("two_dimensional", tiny, early=0.0, distil=0.0))
    assert torch.equal(two, loss_of(made("matryoshka", tiny)))


def test_a_step_draws_one_layer_for_all_rows_and_every_layer_has_its_turn(decoder: Path) -> None:  # noqa: F811
    method = made("two_dimensional", decoder)
    batch = DATA.take(np.arange(4))
    drawn = [
        {view["layer"] for view in method.views(batch, torch.Generator().manual_seed(seed)).values()}
        for seed in range(12)
    ]
    assert all(len(one) == 1 for one in drawn)
    assert set.union(*drawn) == {1, 2}
    texts, encoder = ["q1 d1", "q2 w1 w1"], method.modules["encoder"].eval()
    views = {"anchor": {"text": texts, "role": "anchor", "id": torch.arange(2), "layer": 2}}
    found = method.encode(method.modules, views)["anchor"]
    assert torch.allclose(found.facts["layer 2"], truncated(encoder, layers=2).eval()(texts), atol=1e-5)
    assert torch.allclose(found.z, encoder(texts), atol=1e-6)


def test_widths_that_do_not_fit_are_refused(tiny: Path) -> None:
    for widths in ((33,), (8, 8), (0,)):
        with pytest.raises(Refusal, match="different widths from 1 to 32"):
            made("matryoshka", tiny, widths=widths)


@pytest.mark.proves(row=132, fact="closed-form")
def test_sparse_codes_train_the_head_alone_by_the_four_terms(tiny: Path) -> None:
    method = made("csr", tiny, k=4, dead_k=4)
    sets = encoded(method)
    outcome = method.objective(method.modules, sets)
    head, encoder = method.modules["code"], method.modules["encoder"]
    views = method.views(DATA.take(np.arange(12)), torch.Generator().manual_seed(0))
    x = [32**0.5 * normalize(encoder(view["text"], view["role"]), dim=1) for view in views.values()]
    whole = torch.cat(x)
    codes = [head(rows) for rows in x]
    assert int((torch.cat(codes) > 0).sum(1).max()) <= 4
    assert len(head.bias) == 4 * 32
    assert torch.allclose(outcome.terms["decoded"], mse_loss(head.decode(head(whole)), whole), atol=1e-5)
    assert torch.allclose(outcome.terms["wide"], mse_loss(head.decode(head(whole, 16)), whole), atol=1e-5)
    a, c = (Embeddings.of(z, id=rows.id) for z, rows in zip(codes, sets.values(), strict=True))
    wanted = infonce(a, c, rule=listed(DATA.relation), temperature=0.2).loss
    assert torch.allclose(outcome.terms["contrast"], wanted, atol=1e-5)
    outcome.loss.backward()
    assert {name.split(".")[0] for name, p in method.modules.named_parameters() if p.grad is not None} == {"code"}
    method.after(method.modules, sets, outcome)
    used = (torch.cat(codes) > 1e-5).any(0)
    assert torch.equal(head.idle == 0, used)


def test_the_saved_head_gives_the_codes_that_were_trained(tiny: Path, tmp_path: Path) -> None:
    method = made("csr", tiny, k=4)
    with torch.no_grad():
        method.modules["code"].bias.add_(0.1)
    encoder = method.modules["encoder"]
    save(encoder, tmp_path / "model")
    again, texts = load(tmp_path / "model"), ["q1 d1", "q2"]
    with torch.no_grad():
        wanted = normalize(method.modules["code"](scaled(embed(encoder, texts))), dim=1)
    found = embed_sparse(again, texts)
    assert found.is_sparse
    assert torch.allclose(found.to_dense(), wanted, atol=1e-6)
    assert int((embed_sparse(again, texts, k=2).to_dense() > 0).sum(1).max()) <= 2
    assert codes_of(again).k == 4
    assert torch.allclose(embed(again, texts), embed(load(str(tiny)), texts), atol=1e-6)
    with pytest.raises(Refusal, match="a head for sparse codes"):
        embed_sparse(load(str(tiny)), texts)


def test_numbers_that_make_no_code_are_refused(tiny: Path) -> None:
    for numbers in ({"units": 0}, {"k": 0}, {"dead_k": 0}):
        with pytest.raises(Refusal, match="at least 1"):
            made("csr", tiny, **numbers)


def test_the_early_layer_and_the_divergence_have_weights_of_their_own(tiny: Path) -> None:
    method = made("two_dimensional", tiny, early=0.5, distil=2.0)
    outcome = method.objective(method.modules, encoded(method))
    last, early, apart = (outcome.terms[name] for name in ("last", "layer 1", "distil"))
    assert outcome.loss.item() == pytest.approx((last + 0.5 * early + 2.0 * apart).item(), rel=1e-5)


def test_the_frozen_model_of_sparse_codes_has_no_dropout(tiny: Path) -> None:
    method = recipes.csr(load(str(tiny)), DATA, dead=7)
    method.modules.train()
    assert torch.equal(encoded(method)["anchor"].z, encoded(method)["anchor"].z)
    assert method.modules["code"].dead == 7
