"""Runs in stages: each goes on with the model of the one before, whatever happens in between; bad plans train nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import counterpoint
from counterpoint.cli import app
from counterpoint.verbs.stages import Stages
from tests.conftest import toy_rows

QUICK: dict[str, Any] = {"steps": 6, "save_steps": 2, "precision": "fp32", "evaluations": 2, "lr": 1e-3, "batch": 32,
    "select": "last"}  # fmt: skip


@pytest.fixture(scope="module")
def plan(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Three stages on two files."""
    tmp_path = tmp_path_factory.mktemp("data")
    for name, seed in (("one", 0), ("two", 1)):
        rows = toy_rows(seed=seed)
        lines = ["query,doc", *(f"{row['query']},{row['doc']}" for row in rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    one, two = (str(tmp_path / f"{name}.csv") for name in ("one", "two"))
    moco = {"recipe": "moco", "settings": {"queue": 64, "momentum": 0.9}}
    return [
        {"data": one, "model": str(tiny), **moco, **QUICK},
        {"data": two, **QUICK},
        {"data": one, "name": "last", "recipe": "pairs", "settings": {"temperature": 0.1}, **QUICK},
    ]


@pytest.fixture(scope="module")
def straight(plan: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """All stages, undisturbed."""
    return counterpoint.stages(tmp_path_factory.mktemp("straight") / "out", plan, quiet=True)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def results(out: Path) -> list[tuple[bytes, bytes]]:
    return [(weights(p), (p / "metrics.json").read_bytes()) for p in sorted(out.iterdir()) if p.is_dir()]


def dies(monkeypatch: pytest.MonkeyPatch, at: int) -> type[BaseException]:
    """From now on the process dies after so many steps, over all stages."""
    from counterpoint.training import loop

    class Died(BaseException):
        pass

    def step(*args: Any, **kwargs: Any) -> Any:
        done = whole(*args, **kwargs)
        steps.append(done)
        if len(steps) > at:
            raise Died
        return done

    whole, steps = loop.step, []
    monkeypatch.setattr(loop, "step", step)
    return Died


def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from counterpoint.verbs import fit

    whole, called = fit.fit, []

    def counted(data: Any, **settings: Any) -> Any:
        called.append(Path(settings["out"]).name)
        return whole(data, **settings)

    monkeypatch.setattr(fit, "fit", counted)
    return called


def test_each_stage_is_the_run_that_fit_would_make(
    plan: list[dict[str, Any]], straight: Stages, tmp_path: Path
) -> None:
    found = straight
    assert [path.name for path in found.paths] == ["1-one-moco", "2-two", "3-last"]
    for k, entry in enumerate(plan):
        settings = {name: value for name, value in entry.items() if name not in ("data", "name")}
        settings = {"model": str(found.paths[k - 1])} | settings
        alone = counterpoint.fit(entry["data"], out=str(tmp_path / f"alone{k}"), quiet=True, **settings)
        assert weights(alone.path) == weights(found.paths[k]), k
        assert alone.metrics == found.metrics[k], k


def test_all_stages_together_are_the_last_model_against_the_first(
    plan: list[dict[str, Any]], tiny: Path, straight: Stages, tmp_path: Path
) -> None:
    found, out = straight, straight.paths[0].parent
    assert found.whole is not None
    assert found.whole["after"] == found.metrics[2]["after"]
    settings = {k: v for k, v in plan[2].items() if k not in ("data", "name")} | {"model": str(tiny), "steps": 1}
    first = counterpoint.fit(plan[2]["data"], out=str(tmp_path / "x"), quiet=True, **settings)
    assert first is not None
    assert found.whole["before"] == first.metrics["before"]
    assert found.whole["before"] != found.metrics[2]["before"]
    assert found.verdict == found.whole["verdict"]
    kept = json.loads((out / "stages.json").read_text())
    assert kept["whole"] == json.loads(json.dumps(found.whole))
    assert sorted(p.name for p in out.iterdir()) == ["1-one-moco", "2-two", "3-last", "stages.json"]


def test_the_first_model_is_the_one_before_the_first_stage(
    plan: list[dict[str, Any]], tiny: Path, tmp_path: Path
) -> None:
    """Two stages on one file, the first of which learns: together they begin where the first began."""
    learns = {"data": plan[0]["data"], "model": str(tiny), **QUICK, "steps": 40, "lr": 3e-3, "name": "learns"}
    found = counterpoint.stages(tmp_path / "out", [learns, {"data": learns["data"], **QUICK, "steps": 1}], quiet=True)
    assert found.whole is not None
    assert found.whole["before"] == found.metrics[0]["before"] != found.metrics[1]["before"]
    assert found.whole["after"] == found.metrics[1]["after"]


@pytest.mark.parametrize("at", [3, 6, 17])
def test_killed_inside_or_between_stages_it_goes_on_to_the_same_bytes(
    at: int, plan: list[dict[str, Any]], straight: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(dies(patch, at)):
        counterpoint.stages(tmp_path / "out", plan, quiet=True)
    finished = at // 6
    there = sorted(p.name for p in (tmp_path / "out").iterdir() if (p / "run.json").exists())
    assert len(there) == finished
    called = count_fits(monkeypatch)
    counterpoint.stages(tmp_path / "out", plan, quiet=True)
    assert called == ["1-one-moco", "2-two", "3-last"][finished:]
    assert results(tmp_path / "out") == results(straight.paths[0].parent)
    resumed = [
        json.loads((p / "run.json").read_text())["resumed_after"] for p in sorted((tmp_path / "out").glob("?-*"))
    ]
    assert resumed[finished] == ([at % 6 // 2 * 2] if at % 6 >= 2 else [])


def test_killed_after_a_stage_was_written(
    plan: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two stages, and after the last one before the table."""
    from counterpoint.verbs import fit

    whole = fit.fit

    class Died(BaseException):
        pass

    for name in ("1-one-moco", "3-last"):

        def dying(data: Any, name: str = name, **settings: Any) -> Any:
            done = whole(data, **settings)
            if Path(settings["out"]).name == name:
                raise Died
            return done

        with monkeypatch.context() as patch:
            patch.setattr(fit, "fit", dying)
            with pytest.raises(Died):
                counterpoint.stages(tmp_path / "out", plan, quiet=True)
    assert not (tmp_path / "out" / "stages.json").exists()
    called = count_fits(monkeypatch)
    found = counterpoint.stages(tmp_path / "out", plan, quiet=True)
    assert called == []
    assert found.whole is not None


def test_repeated_it_only_shows_the_table_also_elsewhere(
    plan: list[dict[str, Any]], straight: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = straight
    shutil.copytree(straight.paths[0].parent, tmp_path / "moved")
    called = count_fits(monkeypatch)
    monkeypatch.setattr("counterpoint.evaluation.verdict.judge", None)  # nothing is measured again
    again = counterpoint.stages(tmp_path / "moved", plan)
    assert called == []
    assert again.metrics == found.metrics
    said = capsys.readouterr().err
    assert "stage 2 of 3: 2-two, finished" in said
    assert [line.split()[0] for line in said.splitlines() if "mrr@10" in line] == [
        "1-one-moco",
        "2-two",
        "3-last",
        "all",
    ]
    assert "from the first model to the last: MRR@10" in said


def test_a_longer_plan_goes_on_and_a_changed_one_is_refused(
    plan: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plan = [plan[0], plan[1] | {"data": str(shutil.copy(plan[1]["data"], tmp_path))}, plan[2]]
    counterpoint.stages(out, plan[:2], quiet=True)
    before = results(out)
    bad: list[tuple[list[dict[str, Any]], str]] = [
        ([plan[0] | {"lr": 2e-3}, plan[1]], r"the lr that the finished stage began with: 0.001, got 0.002 \(stage 1,"),
        ([plan[0], plan[1] | {"settings": {"temperature": 1.0}}], r"the settings that the finished .*\(stage 2,"),
        ([plan[0], plan[1] | {"model": plan[0]["model"]}], "the model that the finished stage began with"),
        ([plan[0], plan[1] | {"recipe": "pairs"}], "the stage '2-two-pairs', got '2-two'"),
        ([plan[0] | {"name": "x"}, plan[1]], "the stage '1-x', got '1-one-moco'"),
        ([plan[0], plan[1] | {"data": plan[0]["data"], "name": "two"}], "the data that the finished stage began with"),
    ]
    for changed, words in bad:
        with pytest.raises(counterpoint.Refusal, match=words):
            counterpoint.stages(out, changed, quiet=True)
    called = count_fits(monkeypatch)
    counterpoint.stages(out, plan, quiet=True)
    assert called == ["3-last"]
    assert results(out)[:2] == before
    Path(plan[1]["data"]).write_text(Path(plan[0]["data"]).read_text())
    with pytest.raises(counterpoint.Refusal, match=r"others: the data were changed \(stage 2"):
        counterpoint.stages(out, plan, quiet=True)
    shutil.rmtree(out / "1-one-moco")
    with pytest.raises(counterpoint.Refusal, match=r"stage 1 before it, got none \(stage 2"):
        counterpoint.stages(out, plan, quiet=True)


def test_one_stage_and_a_cross_encoder_at_the_end_have_no_whole(plan: list[dict[str, Any]], tmp_path: Path) -> None:
    assert counterpoint.stages(tmp_path / "a", plan[:1], quiet=True).whole is None
    judge = {"data": plan[1]["data"], "recipe": "cross_encoder", "name": "judge", "steps": 2, "precision": "fp32"}
    found = counterpoint.stages(tmp_path / "b", [plan[0], judge], quiet=True)
    assert found.whole is None
    assert found.verdict == found.metrics[1]["verdict"]
    back = [judge | {"model": plan[0]["model"]}, plan[1]]
    with pytest.raises(counterpoint.Refusal, match="the cross-encoder of stage 1"):
        counterpoint.stages(tmp_path / "c", back, quiet=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: [], "at least one stage, got none"),
        (lambda p: [p[0], p[1] | {"batsh": 3}], "a setting of a stage, got 'batsh' (stage 2): did you mean 'batch'?"),
        (lambda p: [p[0], p[1] | {"out": "x"}], "stages are written below --out"),
        (lambda p: [p[0], {"steps": 3}], "data for every stage, got none (stage 2)"),
        (lambda p: [p[0], p[1] | {"data": "nowhere.csv"}], "a data file, got no file 'nowhere.csv' (stage 2)"),
        (lambda p: [p[0], p[1] | {"lr": -1.0}], "a number above 0, got -1.0 (stage 2, --lr)"),
        (lambda p: [p[0], p[1] | {"recipe": "pairz"}], "(stage 2, --recipe): did you mean 'pairs'?"),
        (lambda p: [p[0], p[1] | {"recipe": "supcon"}], "data with a label for --recipe supcon"),
        (lambda p: [p[0], p[1] | {"settings": {"warmth": 1}}], "an argument of pairs, got 'warmth' (stage 2"),
        (lambda p: [p[0], p[1] | {"roles": {"anchor": "nothing"}}], "(stage 2, "),
    ],
)
def test_a_bad_plan_trains_nothing(
    change: Callable[[list], list],
    said: str,
    plan: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = count_fits(monkeypatch)
    with pytest.raises(counterpoint.Refusal) as refused:
        counterpoint.stages(tmp_path / "out", change(plan), quiet=True)
    assert said in str(refused.value)
    assert called == []
    assert not (tmp_path / "out").exists()


def test_the_command_finds_files_beside_the_plan(
    plan: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    (tmp_path / "mine.py").write_text(
        "from counterpoint.recipes.text import pairs\n\n\ndef own(encoder, train):\n    return pairs(encoder, train)\n"
    )
    for entry in plan:
        shutil.copy(entry["data"], tmp_path)
    entries = [
        plan[0] | {"data": ["one.csv", "two.csv"], "model": "base", "steps": 2},
        plan[1] | {"data": "two.csv", "recipe": "mine.py:own", "corpus": "one.csv", "steps": 2},
    ]
    (tmp_path / "plan.json").write_text(json.dumps(entries))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = CliRunner().invoke
    done = run(app, ["stages", "../plan.json", "--out", "out"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "elsewhere" / "out").iterdir()) == [
        "1-one-moco",
        "2-two-own",
        "stages.json",
    ]
    better = run(app, ["stages", "../plan.json", "--out", "out", "--require-better"], catch_exceptions=False)
    whole = json.loads((tmp_path / "elsewhere" / "out" / "stages.json").read_text())["whole"]
    assert better.exit_code == (0 if whole["verdict"] == "better" else 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "a json file with a list of stages, got No such file or directory"),
        ("[{", "a json file with a list of stages"),
        ('{"data": "x.csv"}', "a list of objects, one a stage, got dict"),
        ('["x.csv"]', "got a list of other things"),
        ("[]", "at least one stage"),
    ],
)
def test_a_bad_file_is_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(app, ["stages", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, counterpoint.Refusal)
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()
