"""Other data beside the training data: measured before and after, and what was forgotten is said."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import counterpoint
from counterpoint.data.items import TEXTS
from counterpoint.errors import Refusal
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.verbs.console import Screen
from counterpoint.verbs.others import Other, in_words, judge_others, lines_of, others_of
from counterpoint.verbs.questions import Question
from counterpoint.verbs.settings import Run
from tests.conftest import toy_rows

QUICK = {"steps": 4, "batch": 32, "precision": "fp32", "quiet": True}
RUINS = {**QUICK, "steps": 12, "lr": 1.0, "select": "last"}


def general_in(folder: Path) -> Path:
    """Pairs that the tiny model ranks well at first: both sides are nearly the same words."""
    path = folder / "general.csv"
    rows = [{"question": f"w{i} w{(7 * i) % 100} q{i % 40}", "answer": f"w{i} w{(7 * i) % 100}"} for i in range(90)]
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.fixture
def general(tmp_path: Path) -> Path:
    return general_in(tmp_path)


def test_fit_measures_it_before_and_after(tiny: Path, toy_csv: Path, general: Path, tmp_path: Path) -> None:
    prompts = {"anchor": "w3 w4 "}
    run = counterpoint.fit(toy_csv, model=str(tiny), out=str(tmp_path / "run"), evals={"general": general},
        prompts=prompts, **RUINS)  # fmt: skip
    assert run is not None
    found = run.metrics["others"]["general"]
    assert (found["task"], found["metric"], found["questions"]) == ("retrieval", "mrr@10", 90)
    again = counterpoint.evaluate(run.path, general, against=[tiny], precision="fp32", quiet=True, prompts=prompts)[
        "retrieval"
    ]
    own, other = again.results[str(run.path)], again.results[str(tiny)]
    assert found["after"]["mrr@10"]["value"] == pytest.approx(own["mrr@10"]["value"], abs=1e-6)
    assert found["before"]["mrr@10"]["value"] == pytest.approx(other["mrr@10"]["value"], abs=1e-6)
    assert found["before"]["mrr@10"]["value"] > found["after"]["mrr@10"]["value"] + 0.1
    assert found["difference"]["mrr@10"] == again.differences[str(tiny)]["mrr@10"]
    assert json.loads((run.path / "run.json").read_text())["settings"]["evals"] == {"general": str(general)}
    page = (run.path / "report.html").read_text()
    assert "On other data" in page
    assert ">general<" in page


@pytest.fixture(scope="module")
def ruined(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[counterpoint.verbs.fit.Trained, str]:
    """A run that forgot, and what was said meanwhile."""
    place, said = tmp_path_factory.mktemp("ruined"), io.StringIO()
    settings = {**RUINS, "quiet": False, "evals": {"general": general_in(place)}}
    with contextlib.redirect_stderr(said):
        run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(place / "run"), **settings)
    assert run is not None
    return run, said.getvalue()


def test_training_that_ruins_a_model_is_said_to_forget(ruined: tuple[counterpoint.verbs.fit.Trained, str]) -> None:
    run, said = ruined
    assert run.metrics["others"]["general"]["verdict"] == "forgotten"
    line = next(line for line in said.splitlines() if line.strip().startswith("also"))
    assert "general" in line
    assert line.rstrip().endswith("forgotten")
    assert "It got worse on other data: general" in (run.path / "report.html").read_text()


def test_numbers_are_judged_by_their_interval() -> None:
    values = np.linspace(0, 1, 200)
    old, new = (Measured({"mrr@10": v}, np.arange(200), 9) for v in (values, values - 0.1))

    task = Retrieval(["q"] * 200, [[0]] * 200, ["d"] * 9, np.arange(200))
    other = Other("x", Question("retrieval", task), TEXTS)
    found = judge_others((other,), {"x": old}, {"x": new}, seed=0)
    assert found["x"]["verdict"] == "forgotten"
    assert found["x"]["difference"]["mrr@10"]["value"] == pytest.approx(-0.1)
    assert judge_others((other,), {"x": new}, {"x": old}, seed=0)["x"]["verdict"] == "better"
    assert lines_of({"others": found})[0].startswith("x  mrr@10 0.500 to 0.400: -0.100")
    assert in_words(Interval(-0.01, -0.03, 0.01)) == "no difference shown"


def test_arrays_have_other_arrays(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    label = draw.integers(0, 4, 240)
    x = (draw.normal(size=(4, 12))[label] * 2 + draw.normal(size=(240, 12))).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x[:160], y=label[:160])
    np.savez(tmp_path / "other.npz", x=x[80:], y=label[80:])
    run = counterpoint.fit(tmp_path / "x.npz", model="mlp:depth=1,hidden=16,width=8", out=str(tmp_path / "run"),
        evals={"late": tmp_path / "other.npz"}, **QUICK)  # fmt: skip
    assert run is not None
    before = run.metrics["others"]["late"]["before"]["accuracy"]["value"]
    numbers = counterpoint.evaluate(run.path, tmp_path / "other.npz", quiet=True)["classification"].results["numbers"]
    assert before == pytest.approx(numbers["accuracy"]["value"]), "before are the numbers themselves"


def test_evaluate_shows_both_side_by_side(
    ruined: tuple[counterpoint.verbs.fit.Trained, str],
    tiny: Path,
    toy_csv: Path,
    general: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    place = ruined[0].path
    found = counterpoint.evaluate(place, toy_csv, against=[tiny], evals={"general": general})
    assert "forgotten" in capsys.readouterr().err
    one = found.others["general"]
    assert one.results[str(tiny)] == counterpoint.evaluate(tiny, general, quiet=True)["retrieval"].results[str(tiny)]
    assert one.differences[str(tiny)]["mrr@10"]["high"] < 0
    twin = shutil.copytree(tiny, tmp_path / "twin")
    found = counterpoint.evaluate(tiny, toy_csv, against=[place, twin], evals={"general": general})
    changes = found.others["general"].differences
    assert changes[str(place)]["mrr@10"]["low"] > 0
    assert changes[str(twin)]["mrr@10"]["low"] < 0 == changes[str(twin)]["mrr@10"]["value"]
    said = capsys.readouterr().err
    assert "on other data" in said
    assert "forgotten" not in said


def test_compare_says_what_each_method_forgot(tiny: Path, toy_csv: Path, general: Path, tmp_path: Path) -> None:
    found = counterpoint.compare(toy_csv, ["pairs", "simcse"], seeds=2, over="seeds", model=str(tiny), out=tmp_path / "cmp",
        evals={"general": str(general)}, **(RUINS | {"steps": 8}))  # fmt: skip
    assert found is not None
    told = found.record["others"]["general"]
    runs = [json.loads((tmp_path / "cmp" / "runs" / f"pairs-seed{n}" / "metrics.json").read_text()) for n in range(2)]
    values = np.array([run["others"]["general"]["difference"]["mrr@10"]["value"] for run in runs])
    change = told["changes"]["pairs"]
    assert values.mean() < 0
    assert change["value"] == pytest.approx(values.mean(), abs=1e-6)
    reach = 12.706205 * values.std(ddof=1) / 2**0.5
    assert (change["low"], change["high"]) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=1e-5)
    assert "On other data" in (tmp_path / "cmp" / "report.html").read_text()


def test_what_cannot_be_measured_is_one_line(tiny: Path, toy_csv: Path, general: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    with pytest.raises(Refusal, match=r"--eval mine=.*x\.npz"):
        counterpoint.fit(toy_csv, model=str(tiny), evals={"mine": str(tmp_path / "x.npz")}, quiet=True)
    with pytest.raises(Refusal, match="--eval mine"):
        counterpoint.fit(toy_csv, model=str(tiny), evals={"mine": str(tmp_path / "nothing.csv")}, quiet=True)
    with pytest.raises(Refusal, match="a cross-encoder"):
        counterpoint.fit(toy_csv, model=str(tiny), recipe="cross_encoder", evals={"mine": str(general)}, quiet=True)
    with pytest.raises(Refusal, match="--eval mine"):
        Run(evals={"mine": 3})
    assert others_of(Run(), "text", Screen(quiet=True)) == ()
    assert not list(tmp_path.glob("runs"))


def test_roles_of_the_training_data_are_not_those_of_others(tmp_path: Path, general: Path) -> None:
    run = Run(evals={"general": str(general)}, roles={"anchor": "a", "positive": "b"}, match="yes", corpus="x.csv")
    assert others_of(run, "text", Screen(quiet=True))[0].question.task.sizes() == (90, 90)
    pl.DataFrame(toy_rows(50)).write_parquet(tmp_path / "toy.parquet")
    both = Run(evals={"general": str(general), "toy": str(tmp_path / "toy.parquet")})
    assert [other.name for other in others_of(both, "text", Screen(quiet=True))] == ["general", "toy"]
