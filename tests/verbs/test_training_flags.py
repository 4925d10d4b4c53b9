"""What is trained and how fast, from the command's side: each flag does what it says, and says so when it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import counterpoint
from counterpoint import cli
from counterpoint.encoders.layers import depths
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.verbs.job import adapt
from counterpoint.verbs.settings import Run, layers_to_freeze

from ..conftest import toy_rows

FAST = {"steps": 6, "lr": 3e-3, "batch": 16, "quiet": True, "precision": "fp32"}


def fit(tiny: Path, out: Path, **options: object) -> tuple[dict, Path]:
    run = counterpoint.fit(toy_rows(200), model=str(tiny), out=str(out), **(FAST | options))
    return json.loads((run.path / "run.json").read_text()), run.path


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {n: p.detach().numpy() for n, p in load(str(folder)).named_parameters()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"freeze": "2"}, "at most 1 of 2 layers to freeze, got 2 (--freeze)"),
        ({"freeze": "heads"}, "wanted 'embeddings' or a number of layers, got 'heads' (--freeze)"),
        ({"freeze": 0}, "(--freeze)"),
        ({"freeze": True}, "(--freeze)"),
        ({"lora": 33}, "a rank from 1 to 32"),
        ({"lora": 0}, "(--lora)"),
        ({"head_lr": 1e-3}, "got none (--head-lr): this training method trains the model alone"),
        ({"head_lr": 2.0}, "(--head-lr)"),
        ({"layer_decay": 1.5}, "(--layer-decay)"),
        ({"layer_decay": 0}, "(--layer-decay)"),
        ({"schedule": "cosin"}, "linear, cosine, constant, got 'cosin' (--schedule)"),
        ({"patience": 4}, "below the 4 measurements of dev, got 4 (--patience)"),
        ({"patience": 0}, "(--patience)"),
        ({"evaluations": 0}, "(--evaluations)"),
        ({"accumulate": 0}, "(--accumulate)"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: dict, said: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        fit(tiny, tmp_path / "r", **words)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_patience_needs_a_dev_split(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.verbs import job

    real = job.tasks
    monkeypatch.setattr(job, "tasks", lambda *args, **kwargs: (real(*args, **kwargs)[0], None, None))
    with pytest.raises(Refusal, match=r"a dev split for --patience"):
        fit(tiny, tmp_path / "r", patience=2)


def test_tensorboard_is_asked_for_before_any_work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.training import journal

    real = journal.util.find_spec
    monkeypatch.setattr(journal.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    with pytest.raises(Refusal, match=r"counterpoint\[tensorboard\]"):
        fit(tiny, tmp_path / "r", tensorboard=True)


def test_adapters_leave_an_ordinary_model_with_the_numbers_of_the_report(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run, path = fit(tiny, tmp_path / "r", lora=4, lr=0.02, steps=20, seed=3)
    old, new = weights(tiny), weights(path / "model")
    assert set(old) == set(new)
    changed = {n for n in old if not np.array_equal(old[n], new[n])}
    assert changed == {n for n in old if n.endswith(("query.weight", "value.weight"))}
    for name in changed:
        assert np.linalg.matrix_rank(new[name] - old[name], tol=1e-5) <= 4
    corpus = pl.read_parquet(path / "corpus.parquet")
    again = counterpoint.load(path).encode(corpus["text"].to_list(), role="positive")
    assert np.abs(again - corpus["vector"].to_numpy()).max() < 2e-3  # half precision on disk
    assert "adapters of rank 4" in run["trained"]
    assert run["settings"]["lora"] == 4
    other, again = fit(tiny, tmp_path / "s", lora=4, lr=0.02, steps=20, seed=3)
    assert (path / "metrics.json").read_bytes() == (again / "metrics.json").read_bytes()
    assert other["trained"] == run["trained"]


def test_the_trained_model_is_measured_as_it_is_saved(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from counterpoint.encoders.adapt import adapters
    from counterpoint.verbs.job import Job

    real, left = Job.measure, []
    monkeypatch.setattr(
        Job, "measure", lambda job, stage: left.append(len(dict(adapters(job.encoder)))) or real(job, stage)
    )
    fit(tiny, tmp_path / "r", lora=2)
    assert left == [4, 0]  # before: adapters that do nothing yet; after: none


@pytest.mark.parametrize(("words", "still"), [("embeddings", 0), ("1", 1)])
def test_frozen_layers_are_those_of_the_base(words: str, still: int, tiny: Path, tmp_path: Path) -> None:
    run, path = fit(tiny, tmp_path / "r", freeze=words, lr=0.01, steps=30)
    if json.loads((path / "metrics.json").read_text())["best_step"] == 0:
        pytest.fail("nothing was learned, so nothing is shown")
    old, new, at = weights(tiny), weights(path / "model"), depths(load(str(tiny)))
    for name in old:
        assert np.array_equal(old[name], new[name]) == (at[name] <= still or "pooler" in name), name
    assert "frozen" in run["trained"]


def test_frozen_layers_freeze_their_adapters_too(tiny: Path) -> None:
    pytest.importorskip("peft")
    encoder = load(str(tiny))
    adapt(encoder, Run(freeze=1, lora=2, dropout=0.0))
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in encoder.named_parameters() if "layer.1" in n and "lora_" in n}
    assert encoder.dropout == 0


def test_steps_are_noted_and_the_plan_says_what_accumulation_is_not(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {"accumulate": 3, "schedule": "constant", "quiet": False, "layer_decay": 0.5}
    run, path = fit(tiny, tmp_path / "r", **options)
    read = [json.loads(line) for line in (path / "steps.jsonl").read_text().splitlines()]
    noted = [line for line in read if "loss" in line]
    assert [line["step"] for line in noted] == [1, 2, 3, 4, 5, 6]
    assert [line["rate"] for line in noted[1:]] == pytest.approx([3e-3] * 5)
    assert [line["loss"] for line in noted] == pytest.approx(
        json.loads((path / "metrics.json").read_text())["loss"], abs=2e-6
    )
    assert "seconds" not in (path / "metrics.json").read_text()
    shown = " ".join(capsys.readouterr().err.split())
    assert "mean gradient of 3 batches; negatives come from one batch only (--batch 48 --micro 16" in shown
    assert "negatives per anchor up to 15" in shown
    assert (run["accumulate"], run["schedule"]) == (3, "constant")


def test_an_epoch_is_as_many_rows_with_accumulation(tiny: Path, tmp_path: Path) -> None:
    plain, _ = fit(tiny, tmp_path / "a", steps=None)
    three, _ = fit(tiny, tmp_path / "b", steps=None, accumulate=3)
    assert three["steps"] == plain["steps"] // 3
    assert plain["steps"] > 3


def test_patience_ends_a_run_that_does_not_improve(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = {"lr": 1e-9, "steps": 20, "evaluations": 10, "patience": 2, "quiet": False}
    run, path = fit(tiny, tmp_path / "r", **options)
    dev = json.loads((path / "metrics.json").read_text())["dev"]
    best = max(range(len(dev)), key=lambda i: dev[i][1])
    assert run["steps"] < 20
    assert len(dev) - 1 - best == 2
    assert "not improved 2 times in a row" in capsys.readouterr().err


def test_the_command_line_hands_every_flag_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.verbs import fit as module

    seen: dict[str, object] = {}
    monkeypatch.setattr(module, "fit", lambda data, **words: seen.update(words))
    line = "fit x.csv --schedule cosine --layer-decay 0.9 --head-lr 0.001 --freeze 3 --lora 8 --accumulate 2"
    line += " --evaluations 9 --patience 3 --tensorboard"
    monkeypatch.setattr(sys, "argv", ["counterpoint", *line.split()])
    with pytest.raises(SystemExit):
        cli.main()
    expected = {"schedule": "cosine", "layer_decay": 0.9, "head_lr": 0.001, "freeze": "3", "lora": 8, "accumulate": 2}
    expected |= {"evaluations": 9, "patience": 3, "tensorboard": True}
    assert {name: seen[name] for name in expected} == expected
    assert layers_to_freeze(Run(freeze=3).freeze) == 3
