"""`evaluate`: the numbers are those of scikit-learn and scipy, the questions those of the roles, and bad input one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr, spearmanr
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import counterpoint
from counterpoint import cli
from counterpoint.data.sources import read
from counterpoint.encoders import mlp
from counterpoint.encoders.cross import judge_pairs, load_cross, save_cross
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.evaluation import intervals
from counterpoint.evaluation.shift import score_shift
from counterpoint.verbs.systems import forget

from ..conftest import make_tiny_model, toy_rows

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
MINILM = "all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals have tests of their own."""
    monkeypatch.setattr(intervals, "MEANS", 400)
    monkeypatch.setattr(intervals, "OTHERS", 200)


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
    other = tmp_path / "copy"
    shutil.copytree(tiny, other)
    found = evaluate(tiny, toy_rows(60), against=[other])["retrieval"]
    for change in found.differences[str(other)].values():
        assert change["low"] < 0 == change["value"] < change["high"]
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


def judged_rows(count: int = 40) -> list[dict]:
    """Each query with its document and two others that were judged not to belong to it."""
    rows = toy_rows(count)
    return [row | {"neg": [rows[(i + k) % count]["doc"] for k in (3, 7)]} for i, row in enumerate(rows)]


def test_judged_pairs_are_scored_and_ranked_as_by_hand(tiny: Path) -> None:
    found, model = evaluate(tiny, judged_rows()), counterpoint.load(str(tiny))
    assert [task.task for task in found.tasks] == ["retrieval", "reranking", "pair classification"]
    pairs = {(row["query"], row["doc"]): 1 for row in judged_rows()}
    pairs = {(row["query"], neg): 0 for row in judged_rows() for neg in row["neg"]} | pairs
    score = (model.encode([q for q, _ in pairs]) * model.encode([d for _, d in pairs], role="positive")).sum(1)
    together = list(pairs.values())
    values = found["pair classification"].results[str(tiny)]
    assert values["ap"]["value"] == pytest.approx(average_precision_score(together, score), abs=1e-5)
    assert values["auroc"]["value"] == pytest.approx(roc_auc_score(together, score), abs=1e-5)
    assert values["ap"]["low"] < values["ap"]["value"] < values["ap"]["high"]
    own: dict[str, list[tuple[float, int]]] = {}
    for (query, _), one, here in zip(pairs, score, together, strict=True):
        own.setdefault(query, []).append((one, here))
    by_query = [average_precision_score([h for _, h in cells], [s for s, _ in cells]) for cells in own.values()]
    reranked = found["reranking"]
    assert reranked.results[str(tiny)]["map"]["value"] == pytest.approx(np.mean(by_query), abs=1e-6)
    assert list(reranked.results) == [str(tiny), "BM25"]
    with pytest.raises(KeyError, match="clustering; asked were retrieval, reranking"):
        found["clustering"]


def test_a_cross_encoder_is_asked_what_it_can_answer(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = load_cross(tiny)
    save_cross(encoder, tmp_path / "cross")
    name = str(tmp_path / "cross")
    found = evaluate(name, judged_rows(), against=[tiny])
    assert [task.task for task in found.tasks] == ["reranking", "pair classification"]
    assert list(found["reranking"].results) == [name, str(tiny), "BM25"]
    rows = judged_rows()
    pairs = {(row["query"], row["doc"]): 1 for row in rows}
    pairs = {(row["query"], neg): 0 for row in rows for neg in row["neg"]} | pairs
    score = judge_pairs(load_cross(name), [q for q, _ in pairs], [d for _, d in pairs])
    ap = average_precision_score(list(pairs.values()), score)
    assert found["pair classification"].results[name]["ap"]["value"] == pytest.approx(ap, abs=1e-5)
    beside = evaluate(tiny, judged_rows(), against=[name])
    assert name not in beside["retrieval"].results
    assert name in beside["reranking"].differences
    with pytest.raises(Refusal, match="wanted pairs with judged negatives for a cross-encoder, got retrieval"):
        evaluate(name, toy_rows(40))
    with pytest.raises(Refusal, match="no --prompt"):
        evaluate(name, judged_rows(), prompts={"anchor": "q: "})


def test_random_weights_stand_beside_a_model_of_texts(tiny: Path) -> None:
    found = evaluate(tiny, judged_rows(), against=["random"], seed=3)  # the tiny model is what seed 0 draws
    again = evaluate(tiny, judged_rows(), against=["random"], seed=3)
    values = found["pair classification"].results
    assert values["random"] != values[str(tiny)]
    assert values["random"] == again["pair classification"].results["random"]
    assert found.shifts == {}
    encoder, before = load(str(tiny)), load(str(tiny)).state_dict()
    torch.manual_seed(3)
    forget(encoder)
    after = encoder.state_dict()
    matrices = [name for name, weight in before.items() if weight.ndim > 1]
    assert matrices
    assert all(not torch.equal(before[name], after[name]) for name in matrices)
    assert all(torch.isfinite(weight).all() for weight in after.values())


def test_cut_offs_move_with_the_model(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = toy_rows(60)
    found = counterpoint.evaluate(tiny, data, against=[shutil.copytree(tiny, tmp_path / "old")], precision="fp32")
    told = found.shifts[str(tmp_path / "old")]
    assert [line["threshold"] for line in told["cut_offs"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(line["false_positives"] == line["kept"] for line in told["cut_offs"]), "the same model"
    docs = {row["doc"] for row in data}
    queries = {row["query"] for row in data}
    assert told["pairs"]["positive"] == len({(row["query"], row["doc"]) for row in data})
    assert told["pairs"]["negative"] == len(queries) * len(docs) - told["pairs"]["positive"], "all of so few"
    assert not told["judged"]
    assert len(told["edges"]) == 41
    for name, counts in told["counts"].items():
        assert len(counts) == 40
        assert sum(counts) == told["pairs"][name.split("_")[0]]
    assert told["counts"]["negative_before"] == told["counts"]["negative_after"]
    shown = capsys.readouterr().err
    assert "wrong pass" in shown
    assert f"{told['cut_offs'][0]['moved']:.3f}" in shown


def test_judged_negatives_move_cut_offs(tiny: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other")  # with other weights, or order would not show
    torch.manual_seed(0)
    weights = load_file(other / "model.safetensors")
    moved = {name: w + w.std() * torch.randn(w.shape) if w.ndim > 1 else w for name, w in weights.items()}
    save_file(moved, other / "model.safetensors", metadata={"format": "pt"})
    found = evaluate(tiny, judged_rows(), against=[other], seed=3)
    told = found.shifts[str(other)]
    assert told["judged"]
    rows = judged_rows()
    positive = {(row["query"], row["doc"]) for row in rows}
    negative = {(row["query"], neg) for row in rows for neg in row["neg"]} - positive
    assert told["pairs"] == {"positive": len(positive), "negative": len(negative)}
    scores = []
    for model in (counterpoint.load(str(other)), counterpoint.load(str(tiny))):
        sides = [
            (model.encode([q for q, _ in kind]) * model.encode([d for _, d in kind], role="positive")).sum(1)
            for kind in (sorted(positive), sorted(negative))
        ]
        scores.append(tuple(sides))
    for line, wanted in zip(told["cut_offs"], score_shift(*scores), strict=True):
        assert line == pytest.approx(asdict(wanted), abs=1e-4)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """An untrained encoder of digits, and some of them."""
    data = load_digits()
    x, y = data.data[:400].astype(np.float32), data.target[:400]
    split = np.where(np.arange(400) % 4 == 0, "test", np.where(np.arange(400) % 4 == 1, "dev", "train"))
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("arrays") / "mlp"
    mlp.save(
        mlp.MLP((64,), mlp.Sizes(hidden=32, depth=2, width=16)).fitted(torch.from_numpy(x[split == "train"])), folder
    )
    return str(folder), {"x": list(x), "y": y.tolist(), "split": split.tolist()}


def test_what_you_had_stands_beside_a_model_of_arrays(arrays: tuple[str, dict]) -> None:
    name, data = arrays
    found = evaluate(name, data)
    assert [task.task for task in found.tasks] == ["classification", "few-shot", "clustering"]
    results = found["classification"].results
    assert list(results) == [name, "numbers", "PCA", "random weights"]
    x, y, split = np.array(data["x"]), np.array(data["y"]), np.array(data["split"])
    encoder = mlp.load(Path(name))
    train, test = split == "train", split == "test"
    numbers = encoder.standardised(torch.from_numpy(x)).numpy()
    parts = PCA(16, random_state=0).fit(numbers[train]).transform(numbers)
    with torch.no_grad():
        vectors = encoder(torch.from_numpy(x)).numpy()
    for system, features in ((name, vectors), ("numbers", numbers), ("PCA", parts)):
        fitted = KNeighborsClassifier(5, metric="cosine", weights="distance").fit(features[train], y[train])
        score = fitted.score(features[test], y[test])
        assert results[system]["accuracy"]["value"] == pytest.approx(score, abs=0.011), system  # one of 100 may tie
    assert results["random weights"]["accuracy"] != results[name]["accuracy"]
    change = found["classification"].differences["numbers"]["accuracy"]
    assert change["value"] == pytest.approx(
        results[name]["accuracy"]["value"] - results["numbers"]["accuracy"]["value"], abs=2e-6
    )
    assert list(found["few-shot"].draws[name]) == list(found["few-shot"].results[name])


def test_raw_takes_arrays_as_they_are(arrays: tuple[str, dict]) -> None:
    name, data = arrays
    found = evaluate("raw", data, against=[name])["classification"]
    assert list(found.results) == ["raw", name]
    x, y, split = np.array(data["x"]), np.array(data["y"]), np.array(data["split"])
    train, test = split == "train", split == "test"
    score = KNeighborsClassifier(1, metric="cosine").fit(x[train], y[train]).score(x[test], y[test])
    assert found.results["raw"]["accuracy@1"]["value"] == pytest.approx(score, abs=0.011)


def test_arrays_of_every_kind_are_asked(arrays: tuple[str, dict]) -> None:
    name, data = arrays
    x = np.array(data["x"])
    pairs = evaluate("raw", {"query": list(x), "doc": list(x + 1)}, against=[name])
    assert pairs["retrieval"].results["raw"]["mrr@10"]["value"] > 0.9
    assert list(pairs.shifts) == [name]
    alone = evaluate(name, {"x": list(x)})["hidden numbers"]
    assert alone.questions == alone.candidates == 40
    value = evaluate("raw", {"x": list(x), "value": x[:, 20].tolist()})["regression"]
    assert value.results["raw"]["r2"]["value"] > 0.3
    odd = evaluate("raw", {"x": list(x), "label": [f"d{y}" for y in data["y"]]}, anomaly="d0")["anomaly"]
    assert odd.results["raw"]["auroc"]["value"] > 0.9


def test_a_model_reads_one_kind_of_data(arrays: tuple[str, dict], tiny: Path) -> None:
    name, data = arrays
    with pytest.raises(Refusal, match="wanted a model of text, got one of arrays"):
        evaluate(name, toy_rows(40))
    with pytest.raises(Refusal, match=r"wanted a model of arrays.*'raw' takes the arrays as they are"):
        evaluate(tiny, data)
    with pytest.raises(Refusal, match=r"wanted arrays of shape \(64,\), got the shape \(5,\)"):
        evaluate(name, {"x": list(np.random.default_rng(0).normal(size=(40, 5))), "y": [i % 2 for i in range(40)]})


def test_few_labels_tell_their_draws(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    data = [{"text": f"q{i} w{i % 3}", "label": f"c{i % 3}"} for i in range(90)]
    found = counterpoint.evaluate(tiny, data, precision="fp32")["few-shot"]
    draws = found.draws[str(tiny)]["5-shot linear"]
    assert len(draws) == 10
    assert found.results[str(tiny)]["5-shot linear"]["value"] == pytest.approx(np.mean(draws), abs=1e-6)
    assert f"5-shot linear {min(draws):.3f} to {max(draws):.3f}" in capsys.readouterr().err


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
