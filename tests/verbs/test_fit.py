"""`fit` from end to end on a tiny model: it learns, says so honestly, repeats itself, and leaves nothing behind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import counterpoint
from counterpoint.verbs.settings import Run

from ..conftest import TOPICS, toy_rows

FAST = {"steps": 150, "lr": 3e-3, "batch": 64, "quiet": True, "precision": "fp32"}


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> counterpoint.verbs.fit.Trained:
    out = tmp_path_factory.mktemp("runs") / "one"
    return counterpoint.fit(toy_rows(900), model=str(tiny), out=str(out), **FAST)


def test_it_learns_what_only_training_can_tell(trained: counterpoint.verbs.fit.Trained) -> None:
    metrics = trained.metrics
    assert metrics["before"]["mrr@10"]["high"] < 0.1
    assert metrics["after"]["mrr@10"]["low"] > 0.3
    assert trained.verdict == "better"
    assert metrics["bm25"]["mrr@10"]["value"] < 0.1
    assert metrics["difference"]["mrr@10"]["low"] > 0


def test_the_folder_holds_all_that_was_promised(trained: counterpoint.verbs.fit.Trained) -> None:
    names = {p.name for p in trained.path.iterdir()}
    assert names == {
        "run.json",
        "metrics.json",
        "cost.json",
        "report.html",
        "model",
        "answers.parquet",
        "corpus.parquet",
        "steps.jsonl",
        "health.json",
    }
    for name in ("run.json", "metrics.json", "cost.json"):
        assert json.loads((trained.path / name).read_text())["schema"] == 1
    run = json.loads((trained.path / "run.json").read_text())
    assert run["roles"] == {"anchor": "query", "positive": "doc"}
    assert run["settings"]["steps"] == 150
    assert not [p for p in trained.path.rglob("*") if p.suffix in (".pkl", ".pt", ".bin")]


def test_the_saved_model_gives_the_numbers_of_the_report(trained: counterpoint.verbs.fit.Trained) -> None:
    model = counterpoint.load(trained.path)
    corpus = pl.read_parquet(trained.path / "corpus.parquet")
    again = model.encode(corpus["text"].to_list(), role="positive")
    assert np.abs(again - corpus["vector"].to_numpy()).max() < 2e-3  # half precision on disk
    hit = model.search(corpus["text"][5], k=1)[0]
    assert -1 <= hit.score <= 1.001
    assert len(counterpoint.search(trained.path, "q1 q2", k=4)) == 4


def test_the_same_seed_gives_the_same_metrics_file(tiny: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b", "c"):
        seed = 1 if name == "c" else 0
        run = counterpoint.fit(
            toy_rows(300), model=str(tiny), out=str(tmp_path / name), **(FAST | {"steps": 12, "seed": seed})
        )
        files.append((run.path / "metrics.json").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_training_on_noise_is_not_called_better(tiny: Path, tmp_path: Path) -> None:
    rows, draw = toy_rows(400), random.Random(0)
    documents = [r["doc"] for r in rows]
    draw.shuffle(documents)
    noise = [{"query": r["query"], "doc": d} for r, d in zip(rows, documents, strict=True)]
    assert counterpoint.fit(noise, model=str(tiny), out=str(tmp_path / "n"), **FAST).verdict != "better"


def test_a_dry_run_writes_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert counterpoint.fit(toy_rows(), model=str(tiny), dry_run=True, quiet=True) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "recipe", "metric"),
    [("values", "simcse", "spearman"), ("labels", "supcon", "accuracy"), ("texts", "simcse", "mrr@10"),
     ("negatives", "pairs_with_negatives", "mrr@10")],
)  # fmt: skip
def test_auto_takes_the_recipe_that_the_roles_allow(
    kind: str, recipe: str, metric: str, tiny: Path, tmp_path: Path
) -> None:
    rows = toy_rows(200)
    data: list[dict] = {
        "values": [{"sentence1": r["query"], "sentence2": r["doc"], "score": i % 6} for i, r in enumerate(rows)],
        "labels": [{"text": f"{r['query']} {r['doc']}", "label": str(i % 4)} for i, r in enumerate(rows)],
        "texts": [{"text": f"{r['query']} {r['doc']} {rows[-i]['query']}"} for i, r in enumerate(rows)],
        "negatives": [{**r, "neg": [rows[i - 3]["doc"]]} for i, r in enumerate(rows)],
    }[kind]
    run = counterpoint.fit(data, model=str(tiny), out=str(tmp_path / "r"), **(FAST | {"steps": 3, "batch": 16}))
    record = json.loads((run.path / "run.json").read_text())
    assert (record["recipe"], run.metrics["metric"]) == (recipe, metric)


def test_supcon_lifts_the_accuracy_of_classes(tiny: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        {"text": f"{draw.choice('qd')}{i % TOPICS} w{draw.randrange(100)}", "label": f"c{i % TOPICS % 8}"}
        for i in range(600)
    ]
    run = counterpoint.fit(rows, model=str(tiny), out=str(tmp_path / "r"), **FAST)
    assert run.metrics["after"]["accuracy"]["value"] > run.metrics["before"]["accuracy"]["value"]


def test_a_recipe_of_ones_own(tiny: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from counterpoint.recipes.text import pairs\n"
        "def warm(encoder, train, *, heat: float = 1.0):\n"
        "    return pairs(encoder, train, temperature=heat)\n"
    )
    options = FAST | {"steps": 2, "recipe": f"{mine}:warm", "settings": {"heat": "0.5"}}
    run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(tmp_path / "r"), **options)
    record = json.loads((run.path / "run.json").read_text())
    assert record["arguments"] == {"heat": 0.5}


def test_ranking_against_a_corpus_of_ones_own(tiny: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text\n" + "\n".join(f"d{i} w{i}" for i in range(25)) + "\n")
    rows = toy_rows(300)
    run = counterpoint.fit(rows, model=str(tiny), out=str(tmp_path / "r"), corpus=str(corpus), **(FAST | {"steps": 2}))
    assert run.metrics["candidates"] == 25 + len({*(r["doc"] for r in rows)} & set(_test_positives(rows)))


def _test_positives(rows: list[dict[str, str]]) -> list[str]:
    from counterpoint.verbs.prepare import prepare

    return prepare(rows, Run()).split.part("test")["positive"].explode().to_list()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "counterpoint", *words]


def test_require_better_exits_3_and_keeps_the_run(toy_csv: Path, tiny: Path) -> None:
    words = [
        "fit",
        toy_csv.name,
        "--model",
        str(tiny),
        "--steps",
        "1",
        "--lr",
        "1e-12",
        "--require-better",
        "--out",
        "r",
    ]
    done = subprocess.run(command(*words), cwd=toy_csv.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "no difference shown" in done.stderr
    assert (toy_csv.parent / "r" / "metrics.json").exists()


def test_an_allocation_that_fails_is_one_line(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from counterpoint.verbs import stage as module

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(module, "train", fail)
    with pytest.raises(counterpoint.Refusal, match="--batch 32 takes about half"):
        counterpoint.fit(toy_rows(), model=str(tiny), out=str(tmp_path / "r"), **FAST)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from counterpoint.verbs import plan

    monkeypatch.setattr(plan, "memory_free", lambda _: 800 * 2**20)
    with pytest.raises(counterpoint.Refusal, match=r"--batch \d+ would fit"):
        counterpoint.fit(toy_rows(3000), model=str(tiny), out=str(tmp_path / "r"), **(FAST | {"batch": 2000}))
