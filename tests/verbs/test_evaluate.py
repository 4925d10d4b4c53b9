"""`evaluate`: the numbers are those of scikit-learn and scipy, the questions those of the roles, and bad input one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ndcg_score
from sklearn.neighbors import KNeighborsClassifier

import counterpoint
from counterpoint import cli
from counterpoint.data.sources import read
from counterpoint.errors import Refusal

from ..conftest import toy_rows

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
MINILM = "all-MiniLM-L6-v2"


def evaluate(model: object, data: object, **options: object) -> counterpoint.verbs.evaluate.Evaluation:
    return counterpoint.evaluate(model, data, quiet=True, precision="fp32", **options)


def test_pairs_are_ranked_as_by_hand(tiny: Path) -> None:
    data = toy_rows(60)
    found = evaluate(tiny, data)["retrieval"]
    model = counterpoint.load(str(tiny))
    docs = list(dict.fromkeys(row["doc"] for row in data))
    known: dict[str, set[int]] = {}
    for row in data:
        known.setdefault(row["query"], set()).add(docs.index(row["doc"]))
    scores = model.encode(list(known)) @ model.encode(docs, role="positive").T
    relevant = np.array([[float(at in here) for at in range(len(docs))] for here in known.values()])
    values = found.results[str(tiny)]
    assert values["ndcg@10"]["value"] == pytest.approx(ndcg_score(relevant, scores, k=10), abs=1e-6)
    order = np.argsort(-scores, axis=1)
    hits = np.take_along_axis(relevant, order, 1)
    precision = hits.cumsum(1) / np.arange(1, len(docs) + 1)
    deep = slice(None, 100)
    assert values["map@100"]["value"] == pytest.approx(
        ((precision * hits)[:, deep].sum(1) / relevant.sum(1)).mean(), abs=1e-6
    )
    assert values["recall@10"]["value"] == pytest.approx((hits[:, :10].sum(1) / relevant.sum(1)).mean(), abs=1e-6)
    first = hits.argmax(1) + 1
    assert values["mrr@10"]["value"] == pytest.approx(np.where(first <= 10, 1 / first, 0).mean(), abs=1e-6)
    assert (found.task, found.questions, found.candidates) == ("retrieval", len(known), len(docs))
    assert list(found.results) == [str(tiny), "BM25", "BM25 + model"]


def test_graded_judgements_count(tiny: Path, tmp_path: Path) -> None:
    texts = [f"d{i} w{i}" for i in range(30)]
    gains = {("q1", i): g for i, g in ((3, 1), (7, 3), (9, 2))} | {("q2", i): g for i, g in ((1, 2), (7, 1))}
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "{i}", "text": "{t}"}}\n' for i, t in enumerate(texts)))
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "{q}", "text": "{q} w7"}}\n' for q in ("q1", "q2")))
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{i}\t{g}\n" for (q, i), g in gains.items())
    )
    found = evaluate(tiny, tmp_path)["retrieval"].results[str(tiny)]
    model = counterpoint.load(str(tiny))
    scores = model.encode(["q1 w7", "q2 w7"]) @ model.encode(texts, role="positive").T
    worth = np.array([[gains.get((q, i), 0) for i in range(30)] for q in ("q1", "q2")])
    assert found["ndcg@10"]["value"] == pytest.approx(ndcg_score(worth, scores, k=10), abs=1e-6)
    assert found["ndcg@10"]["value"] != pytest.approx(ndcg_score(worth > 0, scores, k=10), abs=1e-3)


def test_values_are_correlated(tiny: Path) -> None:
    draw = np.random.default_rng(0)
    data = [{"a": f"q{i} w{i}", "b": f"d{i} w{i % 7}", "score": float(draw.normal())} for i in range(60)]
    roles = {"anchor": "a", "positive": "b", "value": "score"}
    found = evaluate(tiny, data, roles=roles)["similarity"].results[str(tiny)]
    model = counterpoint.load(str(tiny))
    cosine = (model.encode([r["a"] for r in data]) * model.encode([r["b"] for r in data])).sum(1)
    value = [r["score"] for r in data]
    assert found["spearman"]["value"] == pytest.approx(spearmanr(cosine, value).statistic, abs=1e-6)
    assert found["pearson"]["value"] == pytest.approx(pearsonr(cosine, value).statistic, abs=1e-6)
    assert found["pearson"]["low"] < found["pearson"]["value"] < found["pearson"]["high"]


def test_labels_are_read_by_neighbours_and_a_probe(tiny: Path) -> None:
    names = ("train", "train", "dev", "test", "test")
    data = [
        {"text": f"q{i} w{i % 3} d{i % 4}", "label": f"c{i * i % 7 % 3}", "split": names[i % 5]} for i in range(100)
    ]
    found = evaluate(tiny, data)["classification"]
    values, model = found.results[str(tiny)], counterpoint.load(str(tiny))
    sides = [[r for r in data if r["split"] == part] for part in ("train", "test")]
    (x, y), (z, wanted) = ((model.encode([r["text"] for r in s]), [r["label"] for r in s]) for s in sides)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(x, y).score(z, wanted)
    assert values["accuracy@1"]["value"] == pytest.approx(nearest, abs=1e-6)
    five = KNeighborsClassifier(5, metric="cosine", weights="distance").fit(x, y).score(z, wanted)
    assert values["accuracy"]["value"] == pytest.approx(five, abs=1e-6)
    assert five != nearest
    assert values["probe"]["value"] == pytest.approx(
        LogisticRegression(max_iter=1000).fit(x, y).score(z, wanted), abs=1e-6
    )
    assert (found.task, found.questions) == ("classification", 40)


def test_only_test_rows_are_asked(tiny: Path) -> None:
    data = [row | {"split": "test" if i % 2 else "train"} for i, row in enumerate(toy_rows(80))]
    queries = {row["query"] for row in data if row["split"] == "test"}
    found = evaluate(tiny, data, allow=("leak", "shared-across-splits"))["retrieval"]
    assert found.questions <= len(queries)
    assert found.candidates == len({row["doc"] for row in data})  # those of train stand among the candidates
    assert found.questions < evaluate(tiny, toy_rows(80))["retrieval"].questions


def test_rows_of_a_group_are_resampled_together(tiny: Path) -> None:
    """Two groups leave one degree of freedom, and an interval that says so."""
    data = [row | {"team": f"t{i % 2}"} for i, row in enumerate(toy_rows(60))]
    spans = []
    for group in ({"group": "team"}, {"ignore:team": "team"}):
        value = evaluate(tiny, data, roles=group)["retrieval"].results[str(tiny)]["recall@10"]
        spans.append(value["high"] - value["low"])
    assert spans[0] != pytest.approx(spans[1], rel=0.1)


def test_differences_are_paired_and_of_the_model_less_the_other(tiny: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "copy"
    shutil.copytree(tiny, other)
    found = evaluate(tiny, toy_rows(60), against=[other])["retrieval"]
    for change in found.differences[str(other)].values():
        assert (change["value"], change["low"], change["high"]) == (0, 0, 0)
    for metric, change in found.differences["BM25"].items():
        ours, theirs = (found.results[name][metric]["value"] for name in (str(tiny), "BM25"))
        assert change["value"] == pytest.approx(ours - theirs, abs=2e-6)


def test_the_command_writes_what_it_shows(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pl.DataFrame(toy_rows(60)).write_csv(tmp_path / "toy.csv")
    out = tmp_path / "scores.json"
    words = ["counterpoint", "evaluate", str(tiny), str(tmp_path / "toy.csv"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    written = json.loads(out.read_text())
    assert (written["schema"], written["model"]) == (2, str(tiny))
    assert [task["task"] for task in written["tasks"]] == ["retrieval"]
    value = written["tasks"][0]["results"][str(tiny)]["mrr@10"]
    shown = capsys.readouterr().err
    assert f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"toy.csv", "scores.json"}
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "wanted a file that does not exist yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"against": ["BM25"]}, "wanted different models to compare, got 'BM25' twice (--against)"),
        ({"out": "x.csv"}, "wanted a file that ends in .json, got the ending .csv (--out x.csv)"),
        ({"out": "no/such/x.json"}, "wanted a folder to write the file in, got no folder no/such"),
        ({"steps": 3}, "wanted a setting of evaluate, got 'steps'"),
        ({"against": ["no-such-model"]}, "no-such-model"),
    ],
)
def test_what_cannot_be_done_is_one_line(options: dict, said: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        evaluate(tiny, toy_rows(30), **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@real
def test_frozen_minilm_on_sts_benchmark() -> None:
    roles = {"anchor": "sentence1", "positive": "sentence2", "value": "score"}
    found = evaluate(MINILM, SHARED / "text_sts" / "stsb_dev.tsv.gz", roles=roles)
    assert found["similarity"].results[MINILM]["spearman"]["value"] == pytest.approx(0.867, abs=0.001)


@real
def test_frozen_minilm_on_cranfield(tmp_path: Path) -> None:
    folder = SHARED / "ir_cranfield"
    corpus, queries, judged = (read(folder / f"{name}.tsv.gz") for name in ("corpus", "queries", "qrels"))
    (tmp_path / "qrels").mkdir()
    corpus.select(pl.col("doc_id").alias("_id"), "text").write_ndjson(tmp_path / "corpus.jsonl")
    queries.select(pl.col("query_no").alias("_id"), "text").write_ndjson(tmp_path / "queries.jsonl")
    relevant = (pl.col("code").cast(int) > 0).cast(int).alias("score")  # the codes run from 1, best, to 4
    named = judged.select(pl.col("query_no").alias("query-id"), pl.col("doc_id").alias("corpus-id"), relevant)
    named.write_csv(tmp_path / "qrels" / "test.tsv", separator="\t")
    found = evaluate(MINILM, tmp_path)
    assert found["retrieval"].results[MINILM]["ndcg@10"]["value"] == pytest.approx(0.393, abs=0.005)
