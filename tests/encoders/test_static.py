"""Static tables: means of token vectors, the same each time, which every sentence-transformers loads; Model2Vec's formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import counterpoint
from counterpoint.encoders.folder import save
from counterpoint.encoders.static import Sizes, components, distil, fresh_static, shares, sif, zipf
from counterpoint.encoders.text import embed, load
from counterpoint.errors import Refusal
from counterpoint.verbs.reshape import distil as distil_folder

from ..conftest import toy_rows
from .test_text import TEXTS


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def table() -> torch.nn.Module:
    return fresh_static(TEXTS, Sizes(width=16, vocabulary=300))


def test_a_text_is_the_mean_of_its_tokens(table: torch.nn.Module) -> None:
    weights, tokenizer = table.model[0].embedding.weight, table.model.tokenizer
    for text in ("q1 d1", "Q1 d1 unseen é"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert torch.allclose(table([text])[0], weights[ids].mean(0), atol=1e-6)
    assert torch.equal(table(["q1", "q2"])[1], table(["q2"])[0])


def test_sentence_transformers_loads_a_table(table: torch.nn.Module, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    with torch.no_grad():
        table.model[0].embedding.weight.mul_(2).add_(0.5)
    save(table, tmp_path / "model")
    vectors = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.abs(vectors - embed(table, TEXTS).numpy()).max() < 1e-6


def test_texts_and_seed_decide_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(fresh_static(TEXTS, Sizes(width=8), seed=seed), tmp_path / name)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"0_StaticEmbedding/model.safetensors"}


def test_fit_starts_from_nothing(tmp_path: Path) -> None:
    settings = {"steps": 60, "batch": 64, "quiet": True, "precision": "fp32"}
    run = counterpoint.fit(toy_rows(500), model="static:width=32", out=str(tmp_path / "run"), **settings)
    assert run.metrics["after"]["mrr@10"]["value"] > run.metrics["before"]["mrr@10"]["value"] + 0.1
    assert counterpoint.verbs.folder.read_json(run.path / "run.json")["settings"]["lr"] == 2e-2
    assert counterpoint.load(run.path).encode(["q1 d1"]).shape == (1, 32)


def test_a_distilled_row_is_the_token_alone_between_special_ones(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    tokenizer = encoder.model.tokenizer
    made = distil(encoder, common=1e9)  # all weights are 1; the components keep all distances
    words = [f"w{i}" for i in range(5)]
    with torch.no_grad():
        own, theirs = made(words), encoder(words)
    assert torch.allclose(torch.cdist(own, own), torch.cdist(theirs, theirs), atol=1e-4)
    assert torch.equal(made.model[0].embedding.weight[tokenizer.all_special_ids], torch.zeros(5, 32))
    narrow = distil(encoder, width=4, common=1e9).model[0].embedding.weight
    assert torch.allclose(narrow, made.model[0].embedding.weight[:, :4], atol=1e-5)


def test_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    theirs = PCA(3, svd_solver="full").fit_transform(rows.numpy())
    assert np.allclose(np.abs(components(rows, 3).numpy()), np.abs(theirs), atol=1e-4)


def test_weights_are_those_of_model2vec_and_of_sif(tiny: Path) -> None:
    """The formula of model2vec/distill/distillation.py: inverse ranks from 2 on, as shares; a / (a + p)."""
    inverse = 1 / np.arange(2, 12)
    assert np.allclose(sif(zipf(10)).numpy(), 1e-4 / (1e-4 + inverse / inverse.sum()))
    encoder = load(str(tiny)).eval()
    tokenizer = encoder.model.tokenizer
    plain, ranked, counted = (
        distil(encoder, texts, **given).model[0].embedding.weight
        for texts, given in ((None, {"common": 1e9}), (None, {}), (["w1 w1 w2 q1"], {}))
    )
    ids = tokenizer.convert_tokens_to_ids(["w1", "w2", "w3"])
    share = shares(tokenizer._tokenizer, ["w1 w1 w2 q1"])[ids]
    assert share.tolist() == [0.5, 0.25, 0.0]
    factor = (counted[ids] / plain[ids]).mean(1)
    assert torch.allclose(factor, 1e-3 / (1e-3 + share), rtol=1e-3)
    first = min(i for i in range(180) if i not in tokenizer.all_special_ids)
    assert torch.allclose((ranked[first] / plain[first]).mean(), sif(zipf(len(plain) - 5))[0], rtol=1e-3)


def test_distil_writes_a_folder_or_nothing(tiny: Path, tmp_path: Path, toy_csv: Path) -> None:
    out = distil_folder(tiny, tmp_path / "out", width=8, texts=toy_csv, quiet=True)
    assert {p.name for p in out.iterdir()} == {"0_StaticEmbedding", "modules.json"}
    assert load(str(out)).width == 8
    assert not [p for p in tmp_path.iterdir() if "unfinished" in p.name]
    for wrong, words in (
        ({"width": 0}, "a width of at least 1"),
        ({"out": out}, "a new folder"),
        ({"model": out, "width": 4}, "a transformer with a fast tokenizer"),
        ({"model": tmp_path / "none"}, "a model folder"),
    ):
        given = {"model": tiny, "out": tmp_path / "other", **wrong}
        with pytest.raises(Refusal, match=words):
            distil_folder(given.pop("model"), given.pop("out"), quiet=True, **given)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "other.unfinished").exists()


def test_shares_are_of_all_texts_and_a_distilled_model_has_no_dropout(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(str(tiny)).train()
    tokenizer = encoder.model.tokenizer
    with monkeypatch.context() as patch:
        patch.setattr("counterpoint.encoders.static.CHUNK", 2)
        found = shares(tokenizer._tokenizer, ["w1 w1", "w2", "w1"])
    assert found[tokenizer.convert_tokens_to_ids(["w1", "w2"])].tolist() == [0.75, 0.25]
    one, two = (distil(encoder, width=4).model[0].embedding.weight for _ in range(2))
    assert torch.equal(one, two)
    assert encoder.training
