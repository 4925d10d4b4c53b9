"""Comparisons: every run is the one that fit would make, all were given the same, and what is said follows from the runs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel
from typer.testing import CliRunner

import counterpoint
from counterpoint.cli import app
from counterpoint.evaluation.intervals import of_mean
from counterpoint.evaluation.ranking import holm
from counterpoint.training.loop import Stopped
from counterpoint.verbs.answers import read_answers
from counterpoint.verbs.compare import Compared
from counterpoint.verbs.comparison.entries import entries_of, settings_of
from counterpoint.verbs.comparison.protocol import over_of
from tests.conftest import toy_rows

QUICK: dict[str, Any] = {"steps": 6, "precision": "fp32", "evaluations": 2, "lr": 3e-3, "batch": 32}
OWN = """from counterpoint.recipes.text import pairs


def recipe(encoder, train, *, temperature: float = 0.2):
    return pairs(encoder, train, temperature=temperature)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compare")
    lines = ["query,doc", *(f"{row['query']},{row['doc']}" for row in toy_rows(250))]
    (place / "toy.csv").write_text("\n".join(lines) + "\n")
    (place / "mine.py").write_text(OWN)
    return place


@pytest.fixture(scope="module")
def methods(here: Path) -> list[str]:
    return ["pairs", "simcse", f"{here / 'mine.py'}:recipe"]


@pytest.fixture(scope="module")
def done(here: Path, tiny: Path, methods: list[str]) -> Compared:
    found = counterpoint.compare(
        here / "toy.csv", methods, out=here / "out", seeds=3, model=str(tiny), quiet=True, **QUICK
    )
    assert found is not None
    return found


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs and trials that are trained from now on."""
    from counterpoint.verbs.job import Job

    whole, called = Job.train, []

    def train(job: Any, scratch: Path, **settings: Any) -> Any:
        called.append(job.out.name)
        return whole(job, scratch, **settings)

    monkeypatch.setattr(Job, "train", train)
    return called


def rows_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


def test_each_run_is_the_one_that_fit_would_make(done: Compared, here: Path, tiny: Path, tmp_path: Path) -> None:
    alone = counterpoint.fit(
        here / "toy.csv",
        recipe="pairs",
        seed=2,
        split_seed=0,
        model=str(tiny),
        out=str(tmp_path / "x"),
        quiet=True,
        **QUICK,
    )
    assert alone is not None
    own = done.path / "runs" / "pairs-seed2"
    assert (own / "metrics.json").read_bytes() == (alone.path / "metrics.json").read_bytes()
    assert (own / "model" / "model.safetensors").read_bytes() == (
        alone.path / "model" / "model.safetensors"
    ).read_bytes()


def test_all_runs_are_asked_the_same_and_trained_by_other_seeds(done: Compared) -> None:
    runs = sorted((done.path / "runs").iterdir())
    assert [p.name for p in runs] == [f"{m}-seed{k}" for m in ("mine-recipe", "pairs", "simcse") for k in range(3)]
    answers = [read_answers(p / "answers.parquet") for p in runs]
    noted = [json.loads((p / "run.json").read_text()) for p in runs]
    for one in answers[1:]:
        assert np.array_equal(one.question, answers[0].question)
        assert np.array_equal(one.values["before"]["mrr@10"], answers[0].values["before"]["mrr@10"])
    assert len({(p / "model" / "model.safetensors").read_bytes() for p in runs}) == 9
    assert len({run["begun"]["rows"] for run in noted}) == 1
    assert {run["settings"]["split_seed"] for run in noted} == {0}
    assert [run["seed"] for run in noted] == [0, 1, 2] * 3


def test_answers_are_those_of_the_metrics(done: Compared) -> None:
    for run in (done.path / "runs").iterdir():
        metrics = json.loads((run / "metrics.json").read_text())
        answers = read_answers(run / "answers.parquet")
        assert set(answers.values) == {"before", "after", "bm25"}
        for system, values in answers.values.items():
            for metric, rows in values.items():
                assert rows.mean() == pytest.approx(metrics[system][metric]["value"], abs=1e-6)
        assert len(answers.unit) == metrics["queries"]


def test_the_record_follows_from_the_runs(done: Compared) -> None:
    record = json.loads((done.path / "compare.json").read_text())
    assert record["schema"] == 1
    assert record["over"] == "seeds"
    assert record["systems"].keys() == {"pairs", "simcse", "mine.recipe", "before", "bm25"} == set(record["order"])
    each = {}
    for name in ("pairs", "simcse", "mine.recipe"):
        places = [done.path / "runs" / f"{name.replace('.', '-')}-seed{k}" / "answers.parquet" for k in range(3)]
        each[name] = np.array([read_answers(place).values["after"]["mrr@10"].mean() for place in places])
    for name, values in each.items():
        own = record["systems"][name]
        assert own["metrics"]["mrr@10"]["each"] == pytest.approx(values, abs=1e-6)
        assert own["value"] == pytest.approx(values.mean(), abs=1e-6)
        assert own["low"] < own["value"] < own["high"]
    assert record["systems"]["before"]["low"] is None
    assert record["order"] == sorted(record["order"], key=lambda name: -record["systems"][name]["value"])
    pairs = {(p["first"], p["second"]): p for p in record["pairs"]}
    pair = pairs.get(("pairs", "simcse")) or pairs[("simcse", "pairs")]
    theirs = ttest_rel(each[pair["first"]], each[pair["second"]])
    assert pair["p"] == pytest.approx(theirs.pvalue, abs=1e-9)
    assert pair["low"] == pytest.approx(theirs.confidence_interval(0.95).low, abs=1e-6)
    tested = [p for p in record["pairs"] if p["p"] is not None]
    assert len(tested) == 9
    assert [p["p_holm"] for p in tested] == holm([p["p"] for p in tested])
    assert record["protocol"]["name"] == "fixed-steps, untuned, 3 seeds, one split, intervals over seeds"
    assert done.ranks[record["order"][0]][0] == 1
    assert done.sentence == record["sentence"]


def test_tables_have_a_row_for_each_run_and_each_system(done: Compared) -> None:
    rows = rows_of(done.path)
    assert [(r["system"], r["seed"]) for r in rows if r["trained"] == "yes"] == [
        (m, str(k)) for m in ("pairs", "simcse", "mine.recipe") for k in range(3)
    ]
    assert sum(r["trained"] == "no" for r in rows) == 6
    for row in (r for r in rows if r["trained"] == "yes"):
        metrics = json.loads((done.path / row["path"] / "metrics.json").read_text())
        cost = json.loads((done.path / row["path"] / "cost.json").read_text())
        assert float(row["ndcg@10"]) == pytest.approx(metrics["after"]["ndcg@10"]["value"], abs=1e-6)
        assert float(row["training_seconds"]) == cost["training_seconds"]
        assert float(row["dev"]) == pytest.approx(max(x for _, x in metrics["dev"]), abs=1e-6)
    text = (done.path / "table.tex").read_text()
    body = re.findall(r"^    (.*) \\\\$", text, re.M)
    assert len(body) == 6
    assert len({line.count("&") for line in body}) == 1
    assert text.count("{tabular}") == 2
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    assert text.count("{") == text.count("}")
    record = json.loads((done.path / "compare.json").read_text())
    for line, name in zip(body[1:], record["order"], strict=True):
        own = record["systems"][name]
        value, ties = re.findall(r"([\d.]+)\\textsuperscript\{(\w+)\}", line)[0]
        assert float(value) == pytest.approx(own["value"], abs=6e-4)
        assert ties == own["ties"]


def test_the_report_shows_all_of_it(done: Compared) -> None:
    page = (done.path / "report.html").read_text()
    for words in (
        "mine.recipe",
        "Holm",
        "fixed-steps, untuned, 3 seeds",
        "figure-curves",
        "figure-cost",
        "figure-pairs",
    ):
        assert words in page
    assert "default-src 'none'" in page
    figures = [json.loads(x) for x in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    assert len(figures) == 4
    curves = figures[2]["data"]
    assert sum(trace["opacity"] is not None if "opacity" in trace else False for trace in curves) == 9
    metrics = json.loads((done.path / "runs" / "pairs-seed1" / "metrics.json").read_text())
    assert [x for _, x in metrics["dev"]] in [trace["y"] for trace in curves]


def test_again_over_items_nothing_is_trained(
    done: Compared, here: Path, tiny: Path, methods: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done.path, tmp_path / "moved")
    called = trained(monkeypatch)
    found = counterpoint.compare(here / "toy.csv", methods, out=tmp_path / "moved", seeds=3, over="items", model=str(tiny),
        quiet=True, **QUICK)  # fmt: skip
    assert called == []
    assert found is not None
    assert found.record["over"] == "items"
    answers = [read_answers(done.path / "runs" / f"pairs-seed{k}" / "answers.parquet") for k in range(3)]
    mean = np.mean([one.values["after"]["mrr@10"] for one in answers], axis=0)
    assert found.record["systems"]["pairs"]["low"] == pytest.approx(
        of_mean(mean, answers[0].unit, seed=0).low, abs=1e-6
    )
    assert found.record["systems"]["before"]["low"] is not None
    assert "would other questions end alike" in (tmp_path / "moved" / "report.html").read_text()


def test_more_seeds_and_methods_are_added_and_changes_refused(
    done: Compared, here: Path, tiny: Path, methods: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.path, out)
    data, settings = here / "toy.csv", {"out": out, "model": str(tiny), "quiet": True, **QUICK}
    called = trained(monkeypatch)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"lr": 1e-3}, "the lr that this comparison began with: 0.003, got 0.001"),
        ({"steps": 13}, "the steps that this comparison began with: 6, got 13"),
        ({"seeds": 2}, "at least the 3 seeds it has, got 2"),
        ({"recipes": methods[:2]}, "the recipe 'mine.recipe' that this comparison has"),
        ({"settings": {"pairs:temperature": 0.1}}, "the arguments of pairs that this comparison began with"),
        ({"tune": {"temperature": [0.1, 0.2]}}, "the trials of "),
        ({"seed": 1}, "the first_seed that this comparison began with: 0, got 1"),
    ]
    for change, words in bad:
        with pytest.raises(counterpoint.Refusal, match=re.escape(words)):
            counterpoint.compare(data, **{"recipes": methods, "seeds": 3, **settings, **change})
    (tmp_path / "other.csv").write_text((here / "toy.csv").read_text().replace("q1 ", "q2 "))
    with pytest.raises(counterpoint.Refusal, match="the data that this comparison began with"):
        counterpoint.compare(tmp_path / "other.csv", methods, seeds=3, **settings)
    assert called == []
    found = counterpoint.compare(data, [*methods, "moco"], seeds=4, **settings)
    assert found is not None
    assert sorted(called) == sorted(
        ["pairs-seed3", "simcse-seed3", "mine-recipe-seed3", *(f"moco-seed{k}" for k in range(4))]
    )
    assert len(found.record["systems"]["pairs"]["metrics"]["mrr@10"]["each"]) == 4
    (here / "mine.py").write_text(OWN.replace("0.2", "0.3"))
    try:
        with pytest.raises(counterpoint.Refusal, match=r"the code of mine\.recipe that this comparison began with"):
            counterpoint.compare(data, [*methods, "moco"], seeds=4, **settings)
    finally:
        (here / "mine.py").write_text(OWN)


@pytest.mark.parametrize("at", [4, 8])
def test_killed_it_goes_on_to_the_same_results(
    at: int, done: Compared, here: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in the first run; or a signal asks the second to end."""
    from counterpoint.training import loop

    class Died(BaseException):
        pass

    def step(*args: Any, **kwargs: Any) -> Any:
        found = whole(*args, **kwargs)
        steps.append(found)
        if len(steps) > at:
            raise Died if at < 6 else Stopped("step 2")
        return found

    def go_on() -> Compared | None:
        return counterpoint.compare(here / "toy.csv", ["pairs", "simcse"], out=tmp_path / "out", seeds=1, model=str(tiny),
            quiet=True, save_steps=2, **QUICK)  # fmt: skip

    whole, steps = loop.step, []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", step)
        with pytest.raises((Died, Stopped)):
            go_on()
    assert len(list((tmp_path / "out" / "runs").glob("*/run.json"))) == at // 6
    assert not (tmp_path / "out" / "compare.json").exists()
    called = trained(monkeypatch)
    found = go_on()
    runs = ["pairs-seed0", "simcse-seed0"]
    assert called == runs[at // 6 :]
    assert found is not None
    assert json.loads((tmp_path / "out" / "runs" / called[0] / "run.json").read_text())["resumed_after"] == [
        at % 6 // 2 * 2
    ]
    for run in runs:
        one, other = (p / "runs" / run / "metrics.json" for p in (found.path, done.path))
        assert one.read_bytes() == other.read_bytes(), run


def test_tuning_asks_dev_and_never_the_test(
    here: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from counterpoint.verbs.job import Job

    whole, asked = Job.measure, []

    def measure(job: Any, stage: str) -> Any:
        asked.append(job.out.name)
        return whole(job, stage)

    monkeypatch.setattr(Job, "measure", measure)
    called = trained(monkeypatch)
    tune = {"lr": [1e-9, 3e-3], "simcse:temperature": [0.05], "pairs:temperature": [0.1]}
    settings = {k: v for k, v in QUICK.items() if k != "lr"}
    found = counterpoint.compare(here / "toy.csv", ["pairs", "simcse"], out=tmp_path / "out", seeds=1, tune=tune,
        model=str(tiny), quiet=True, **settings)  # fmt: skip
    assert found is not None
    assert called == ["pairs-1", "pairs-2", "simcse-1", "simcse-2", "pairs-seed0", "simcse-seed0"]
    assert set(asked) == {"pairs-seed0", "simcse-seed0"}
    trials = [json.loads((tmp_path / "out" / "trials" / f"pairs-{n}" / "trial.json").read_text()) for n in (1, 2)]
    assert [t["begun"]["settings"]["seed"] for t in trials] == [1_000_000, 1_000_000]
    assert trials[1]["dev"] > trials[0]["dev"]
    assert trials[1]["dev"] == max(x for _, x in trials[1]["curve"])
    assert found.record["systems"]["pairs"]["chosen"] == "lr=0.003, temperature=0.1"
    noted = json.loads((tmp_path / "out" / "runs" / "pairs-seed0" / "run.json").read_text())
    assert noted["lr"] == 3e-3
    assert noted["arguments"]["temperature"] == 0.1
    assert found.record["over"] == "items"
    assert "2 trials each" in found.record["protocol"]["name"]
    assert not (tmp_path / "out" / "trials" / "pairs-1" / "model").exists()
    called.clear()
    counterpoint.compare(here / "toy.csv", ["pairs", "simcse"], out=tmp_path / "out", seeds=1, tune=tune,
        model=str(tiny), quiet=True, **settings)  # fmt: skip
    assert called == []


def test_a_trial_that_fails_has_lost(here: Path, tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from dataclasses import replace\nfrom counterpoint.errors import Refusal\n"
        "from counterpoint.recipes.text import pairs\n\n\n"
        "def recipe(encoder, train, *, good: int = 1):\n"
        "    method = pairs(encoder, train)\n\n"
        "    def objective(modules, sets):\n"
        "        raise Refusal('a finite loss', 'nan')\n\n"
        "    return method if good > 0 else replace(method, objective=objective)\n"
    )
    settings = {"model": str(tiny), "seeds": 1, "quiet": True, **QUICK}
    found = counterpoint.compare(here / "toy.csv", [f"{broken}:recipe"], out=tmp_path / "out", tune={"good": [0, 1]},
        **settings)  # fmt: skip
    assert found is not None
    assert found.record["systems"]["broken.recipe"]["chosen"] == "good=1"
    assert found.record["trials"]["broken.recipe"][0]["failed"] == "wanted a finite loss, got nan"
    with pytest.raises(counterpoint.Refusal, match=r"a trial of broken\.recipe that ends well, got none"):
        counterpoint.compare(here / "toy.csv", [f"{broken}:recipe"], out=tmp_path / "other",
            tune={"good": [0, -1]}, **settings)  # fmt: skip


def test_arrays_and_labels_too(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    label = draw.integers(0, 4, 300)
    x = draw.normal(size=(4, 16))[label] + draw.normal(size=(300, 16))
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32), y=label)
    found = counterpoint.compare(tmp_path / "x.npz", ["supcon", "scarf"], out=tmp_path / "out", seeds=2, steps=5, batch=32,
        over="seeds", quiet=True, precision="fp32", model="mlp:depth=1,hidden=16,width=8")  # fmt: skip
    assert found is not None
    assert found.record["metric"] == "accuracy"
    assert {"before", "random"} <= set(found.record["systems"])
    random = found.record["systems"]["random"]["metrics"]["accuracy"]["each"]
    assert len(random) == 2


def test_a_correlation_over_items(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterpoint.evaluation.intervals.OTHERS", 199)
    draw = np.random.default_rng(1)
    rows = [row | {"score": float(draw.uniform())} for row in toy_rows(300)]
    found = counterpoint.compare(rows, ["simcse", "pairs"], out=tmp_path / "out", seeds=1, model=str(tiny), quiet=True,
        **(QUICK | {"steps": 3}))  # fmt: skip
    assert found is not None
    assert found.record["metric"] == "spearman"
    answers = read_answers(tmp_path / "out" / "runs" / "pairs-seed0" / "answers.parquet")
    assert answers.values["after"]["spearman"].shape == (len(answers.unit), 2)
    metrics = json.loads((tmp_path / "out" / "runs" / "pairs-seed0" / "metrics.json").read_text())
    assert found.record["systems"]["pairs"]["value"] == pytest.approx(metrics["after"]["spearman"]["value"], abs=1e-6)
    assert found.record["systems"]["before"]["low"] == pytest.approx(metrics["before"]["spearman"]["low"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--recipes pairs,pairz", "a recipe, got 'pairz' (pairz, --recipe): did you mean 'pairs'?"),
        ("--recipes pairs,pairs", "recipes of different names, got 'pairs' twice"),
        ("--recipes pairs,auto", "recipes of different names, got 'pairs' twice (--recipes): auto is one of them"),
        ("--recipes ,", "at least one recipe, got none"),
        ("--recipes pairs,supcon", "data with a label for --recipe supcon"),
        ("--recipes pairs,nowhere.py:recipe", "a Python file with a recipe, got no such file"),
        ("--recipes pairs,cross_encoder", "methods that are asked the same, got cross_encoder"),
        ("--recipes pairs,simcse --dropout 0", "(simcse"),
        ("--recipes pairs --seeds 0", "at least one seed, got 0 (--seeds)"),
        ("--recipes pairs --seeds 1 --over seeds", "at least 2 seeds for --over seeds, got 1"),
        ("--recipes pairs --over queries", "seeds or items, got 'queries' (--over)"),
        ("--recipes pairs,simcse --tune pairs:temperature=0.1,0.2", "the same number of trials for every recipe, got pairs 2,"),
        ("--recipes pairs,simcse --tune moco:queue=1", "a recipe of this comparison, got 'moco' (--tune)"),
        ("--recipes pairs --tune lr", "NAME=VALUE, got 'lr' (--tune)"),
        ("--recipes pairs --tune lr=", "values with commas between them, got '' (--tune lr)"),
        ("--recipes pairs --tune lr=1e-3,", "values with commas between them"),
        ("--recipes pairs --tune lr=1e-3,0.001", "different values to try, got 0.001, 0.001"),
        ("--recipes pairs --tune lr=-1,1e-3", "a number above 0, got -1 (pairs, --lr)"),
        ("--recipes pairs --tune steps=1,2", "the same steps for every run, got one to tune"),
        ("--recipes pairs --tune pairs:minutes=1,2", "the same minutes for every run, got one to tune"),
        ("--recipes pairs --steps 5 --tune batch=16,32", "the same budget for every run, got batches to tune"),
        ("--recipes pairs --lr 1e-3 --tune lr=1e-3,1e-4", "--lr once, got --lr 0.001 too"),
        ("--recipes pairs --tune warmth=1,2", "an argument of pairs, got 'warmth'"),
        ("--recipes pairs --tune temperature=0,1", "a temperature above 0"),
        ("--recipes pairs --tune lr=1e-3,1e-4 --select last", "--select dev for --tune, got 'last'"),
        ("--recipes pairs --set simcse:temperature=1", "a recipe of this comparison, got 'simcse' (--set)"),
        ("--recipes pairs --set pairs:=1", "RECIPE:NAME=VALUE, got 'pairs:' (--set)"),
        ("--recipes pairs --out full", "a new folder, or one of this comparison, got other files"),
        ("--recipes pairs --out toy.csv", "a run folder that does not exist yet"),
        ("--recipes pairs --batch 1", "a batch of at least 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line_and_trains_nothing(
    words: str, said: str, here: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(here / "toy.csv", tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    called = trained(monkeypatch)
    line = f"compare toy.csv --model {tiny} {words}" + ("" if "--out" in words else " --out out")
    result = CliRunner().invoke(app, line.split())
    assert isinstance(result.exception, counterpoint.Refusal), result.output
    assert said in str(result.exception)
    assert called == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "toy.csv"]
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_launcher_with_several_processes_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(counterpoint.Refusal, match="one process, got 2"):
        counterpoint.compare(here / "toy.csv", ["pairs"], out=tmp_path / "out", quiet=True)


def test_the_protocol_comes_first_and_a_dry_run_stops_there(
    here: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    called = trained(monkeypatch)
    words = (
        f"compare {here / 'toy.csv'} --model {tiny} --recipes pairs,simcse --seeds 2 --over seeds --steps 7 --dry-run"
    )
    result = CliRunner().invoke(app, [*words.split(), "--tune", "lr=1e-3,2e-3"], catch_exceptions=False)
    said = " ".join((result.output + capsys.readouterr().err).split())
    assert result.exit_code == 0
    for part in (
        "fixed-steps, 2 trials each, 2 seeds, one split, intervals over seeds", "7 steps; batches of 64",
        "on seed 1000000; the best on dev is taken, the test is not asked: lr=0.001 | lr=0.002", "MRR@10 on the test",
        "Holm's", "2 seeds give very wide intervals", "for 8 runs to train", "runs/toy-compare-1",
    ):  # fmt: skip
        assert part in said, part
    assert called == []
    assert list(tmp_path.iterdir()) == []


def test_what_intervals_are_over() -> None:
    assert [over_of(None, n) for n in (1, 2, 3)] == ["items", "items", "seeds"]
    assert over_of("items", 9) == "items"
    assert over_of("seeds", 2) == "seeds"


def test_grids_are_products_and_names_of_files_will_do() -> None:
    base, given = settings_of({"settings": {"temperature": 1, "a/x.py:f:temperature": 2}}, 3)
    tune = {"lr": [1, 2], "x.f:width": [3, 4], "pairs:width": [5, 6]}
    one, other = entries_of(["pairs", "a/x.py:f"], tune=tune, given=given, base=base)
    assert (one.label, other.label) == ("pairs", "x.f")
    assert [str(t) for t in one.trials] == ["lr=1, width=5", "lr=1, width=6", "lr=2, width=5", "lr=2, width=6"]
    assert [str(t) for t in other.trials] == ["lr=1, width=3", "lr=1, width=4", "lr=2, width=3", "lr=2, width=4"]
    assert one.given == {"temperature": 1}
    assert other.given == {"temperature": 2}
    assert base.split_seed == 0
