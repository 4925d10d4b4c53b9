"""`fit`, `check`, `search` and `load` on arrays, on scikit-learn's own digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_digits

import counterpoint
from counterpoint.encoders.mlp import MLP
from counterpoint.verbs.fit import Trained

SMALL = "mlp:hidden=64,depth=2,width=32"
FAST = {"model": SMALL, "quiet": True, "precision": "fp32", "batch": 64}


def digits(tmp: Path, count: int = 1797) -> Path:
    data = load_digits()
    path = tmp / "digits.npz"
    np.savez(path, data=data.images[:count].astype(np.uint8), target=data.target[:count])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    tmp = tmp_path_factory.mktemp("digits")
    run = counterpoint.fit(digits(tmp), steps=225, out=str(tmp / "run"), **FAST)
    assert run is not None
    return run


def test_labels_train_supcon_beside_the_numbers_themselves(trained: Trained) -> None:
    record, metrics = json.loads((trained.path / "run.json").read_text()), trained.metrics
    assert (record["recipe"], record["metric"], record["model"], record["lr"]) == ("supcon", "accuracy", SMALL, 1e-3)
    assert record["roles"] == {"anchor": "data", "label": "target"}
    assert metrics["had"] == "the numbers themselves, standardised"
    assert metrics["random"]["accuracy"]["value"] < metrics["after"]["accuracy"]["value"]
    assert metrics["before"]["accuracy"]["value"] > 0.8  # raw digits are an opponent
    assert metrics["pca"]["accuracy"]["value"] > 0.8
    report = (trained.path / "report.html").read_text()
    assert "Before means the numbers themselves" in report
    assert "texts, told" not in report
    assert {p.name for p in (trained.path / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert not [p for p in trained.path.rglob("*") if p.suffix in (".pkl", ".pt", ".bin", ".npy")]


def test_the_saved_model_gives_the_vectors_of_the_run(trained: Trained) -> None:
    model = counterpoint.load(trained.path)
    assert isinstance(model.encoder, MLP)
    images = load_digits().images.astype(np.float32)
    corpus = pl.read_parquet(trained.path / "corpus.parquet")
    at = np.array(corpus["rows"].to_list()) - 1
    assert np.abs(model.encode(images[at]) - corpus["vector"].to_numpy()).max() < 2e-3
    assert model.encode(images[0]).shape == (1, 32)
    assert np.allclose(np.linalg.norm(model.encode(images[:5]), axis=1), 1, atol=1e-5)
    for wrong, words in ((np.zeros((2, 7)), "8, 8"), (["words"], "reads arrays"), (np.full((8, 8), np.nan), "finite")):
        with pytest.raises(counterpoint.Refusal, match=words):
            model.encode(wrong)


def test_search_by_row_and_by_array(trained: Trained) -> None:
    corpus = pl.read_parquet(trained.path / "corpus.parquet")
    row = corpus["rows"][7]
    hits = counterpoint.search(trained.path, row, k=3)
    assert len(hits) == 3
    assert all(not hit.text.startswith(f"row {row}:") for hit in hits), "not itself"
    vectors = corpus["vector"].to_numpy()
    best = np.argsort(-(vectors @ vectors[7]))[1]
    assert hits[0].text == corpus["text"][int(best)]
    itself = counterpoint.search(trained.path, load_digits().images[row - 1], k=1)[0]
    assert itself.text.startswith(f"row {row}: ")
    with pytest.raises(counterpoint.Refusal, match="words cannot search"):
        counterpoint.search(trained.path, "seven")
    with pytest.raises(counterpoint.Refusal, match="such as"):
        counterpoint.search(trained.path, 10**6)


def test_a_trained_model_is_the_start_of_the_next(trained: Trained, tmp_path: Path) -> None:
    data = digits(tmp_path)
    run = counterpoint.fit(data, steps=2, out=str(tmp_path / "r"), **(FAST | {"model": str(trained.path), "lr": 1e-6}))
    assert run is not None
    before = run.metrics["before"]["accuracy"]["value"]
    assert before == trained.metrics["after"]["accuracy"]["value"]
    assert {"raw", "pca"} <= set(run.metrics)
    assert "random" not in run.metrics
    with pytest.raises(counterpoint.Refusal, match="8 x 8"):
        counterpoint.fit(np.random.default_rng(0).normal(size=(60, 5)), **(FAST | {"model": str(trained.path)}))
    with pytest.raises(counterpoint.Refusal, match="of arrays"):
        counterpoint.fit([{"q": f"a{i}", "doc": f"b{i}"} for i in range(60)], roles={"anchor": "q"},
                         **(FAST | {"model": str(trained.path)}))  # fmt: skip


def pairs(count: int = 400) -> dict[str, np.ndarray]:
    """The positive is the anchor through a fixed rotation, which only training can tell."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 6))
    rotation = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    return {"query": x, "doc": x @ rotation + 10}


def test_pairs_are_measured_by_retrieval_and_the_run_repeats(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        run = counterpoint.fit(pairs(), steps=200, out=str(tmp_path / name), **FAST)
        assert run is not None
        files.append((run.path / "metrics.json").read_bytes())
    assert files[0] == files[1]
    metrics = run.metrics
    assert metrics["metric"] == "mrr@10"
    assert run.verdict == "better"
    assert metrics["before"]["mrr@10"]["high"] < 0.4
    assert metrics["difference"]["mrr@10"]["low"] > 0.3
    assert "bm25" not in metrics
    assert "pca" not in metrics, "fewer numbers than dimensions: the components keep every angle"
    assert "row " in (run.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("roles", "recipe", "metric"),
    [("value", "scarf", "spearman"), ("negative", "pairs_with_negatives", "mrr@10"), ("none", "scarf", "mrr@10"),
     ("micro", "scarf", "mrr@10")],
)  # fmt: skip
def test_auto_takes_the_recipe_that_the_roles_allow(roles: str, recipe: str, metric: str, tmp_path: Path) -> None:
    data: dict = pairs(120)
    options: dict = FAST | {"steps": 3, "batch": 16}
    match roles:
        case "value":
            data["score"] = np.arange(120) % 6
        case "negative":
            data["neg"] = [[row] for row in (data["doc"] + 1).tolist()]
        case "none":
            data = data["query"]
        case "micro":
            data, options = data["query"], options | {"micro": 5}
    run = counterpoint.fit(data, out=str(tmp_path / "r"), **options)
    assert run is not None
    record = json.loads((run.path / "run.json").read_text())
    assert (record["recipe"], run.metrics["metric"]) == (recipe, metric)


def test_without_labels_every_encoder_is_asked_the_same(tmp_path: Path) -> None:
    """The hidden numbers are drawn once: untrained and trained by 0.0 are the same encoder with the same answers."""
    run = counterpoint.fit(pairs(300)["query"], steps=1, lr=1e-12, out=str(tmp_path / "r"), **FAST)
    assert run is not None
    assert run.metrics["after"] == run.metrics["random"]
    assert 0.3 < run.metrics["before"]["mrr@10"]["value"] < 0.99, "3 of 6 numbers are left to find oneself by"


def test_the_plan_of_arrays_has_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", pairs(200)["query"])
    words = [sys.executable, "-m", "counterpoint", "fit", "x.npy", "--dry-run", "--batch", "32"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "2000 steps" in done.stderr
    assert "learning rate 0.001" in done.stderr
    assert "negatives per anchor up to 31" in done.stderr
    assert "tokens" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]


def test_check_shows_arrays_and_refuses_those_that_are_not_finite(capsys: pytest.CaptureFixture) -> None:
    x = pairs(60)["query"]
    x[4, 2] = np.nan
    findings = counterpoint.check(x)
    assert [(f.code, f.rows) for f in findings] == [("not-finite", (5,))]
    assert "row 1: " in capsys.readouterr().err
    with pytest.raises(counterpoint.Refusal, match="not-finite"):
        counterpoint.fit(x, quiet=True)
    assert counterpoint.fit(x, quiet=True, dry_run=True, allow=("not-finite",)) is None
