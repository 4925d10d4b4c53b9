"""The demo from end to end, on the functions of two packages of the standard library and a tiny model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from counterpoint.data.python_code import default_roots, mine_functions, split_by_package
from counterpoint.verbs import demo as module


def test_the_demo_trains_measures_and_repeats_its_searches(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "MINILM", str(tiny))
    monkeypatch.setattr(module, "mine_functions", partial(mine_functions, roots=default_roots()[:1], most=600))
    monkeypatch.setattr(module, "split_by_package", partial(split_by_package, test=100, dev=40))
    run = module.demo(out=str(tmp_path / "d"), seconds=None, steps=3)
    record = json.loads((run.path / "run.json").read_text())
    assert record["split"]["unit"] == "groups of 'package'"
    assert "groups of 'package'" in run.metrics["resampled"]
    assert run.metrics["candidates"] == run.metrics["queries"] <= 100
    shown = capsys.readouterr().err
    assert shown.count("in the words of held-out docstrings") == 2
    assert "counterpoint search" in shown
    report = (run.path / "report.html").read_text()
    assert "earch" in report


def test_the_line_that_names_a_function_is_found() -> None:
    assert module.signature("@a\n@b\nasync def f():\n    pass") == "async def f():"
    assert module.signature("x = 1") == "x = 1"
