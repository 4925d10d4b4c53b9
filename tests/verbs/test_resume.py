"""A run that was killed, stopped or unlucky goes on to the same end, or says in one line why it cannot."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import counterpoint
from counterpoint.training import checkpoint
from counterpoint.verbs import folder
from counterpoint.verbs.resume import resume
from tests.conftest import toy_rows

STEPS = 12
SETTINGS: dict[str, Any] = {"recipe": "moco", "batch": 32, "steps": STEPS, "save_steps": 2, "precision": "fp32", "evaluations": 2,
    "settings": {"queue": 64, "momentum": 0.9}, "lr": 1e-3}  # fmt: skip
WORDS = ["--recipe", "moco", "--batch", "32", "--steps", str(STEPS), "--save-steps", "2", "--precision", "fp32", "--lr", "1e-3",
    "--set", "queue=64", "--set", "momentum=0.9", "--evaluations", "2"]  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "counterpoint", *words]


def started(folder: Path, *words: str, **env: str) -> subprocess.Popen:
    whole = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | env
    return subprocess.Popen(command(*words), cwd=folder, stderr=subprocess.PIPE, text=True, env=whole)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 90) -> None:
    """Until a file is there."""
    until = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert path.exists(), process.communicate()[1] if process.poll() is not None else "still running"


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def results(run: Path) -> tuple[bytes, bytes]:
    return weights(run), (run / "metrics.json").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A run that nothing disturbed."""
    return counterpoint.fit(toy_rows(), model=str(tiny), out=str(tmp_path_factory.mktemp("s") / "r"), **SETTINGS).path


def broken(
    tmp_path: Path, tiny: Path, at: int, monkeypatch: pytest.MonkeyPatch, data: Any = None, **changes: Any
) -> Path:
    """The folder of a run whose process died after a step."""
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
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", step)
        with pytest.raises(Died):
            counterpoint.fit(data or toy_rows(), model=str(tiny), out=str(tmp_path / "r"), **(SETTINGS | changes))
    return tmp_path / "r"


@pytest.mark.parametrize("at", [2, 5, 11])
def test_a_run_that_died_goes_on_to_the_same_bytes(
    at: int, straight: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = broken(tmp_path, tiny, at, monkeypatch)
    assert not out.exists()
    torch.manual_seed(99)  # what was drawn before does not matter
    run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
    assert results(run.path) == results(straight)
    assert json.loads((run.path / "run.json").read_text())["resumed_after"] == [at // 2 * 2]
    assert sorted(p.name for p in out.parent.iterdir()) == ["r"]
    assert not (out / "checkpoints").exists()


def test_killed_by_the_system_again_and_again(straight: Path, tiny: Path, tmp_path: Path) -> None:
    """kill -9 at random moments after the first checkpoint; the command itself goes on."""
    rows = toy_rows()
    table = tmp_path / "toy.csv"
    table.write_text("\n".join(["query,doc", *(f"{row['query']},{row['doc']}" for row in rows)]) + "\n")
    words = ["fit", "toy.csv", "--model", str(tiny), "--out", "r", *WORDS]
    draw = random.Random(0)
    for step in (2, 6):
        process = started(tmp_path, *words)
        place = tmp_path / "r.unfinished" / "checkpoints" / f"step-{step:09d}"
        wait_for(place, process)
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.communicate()
        assert not (tmp_path / "r").exists()
    done = started(tmp_path, "resume", "r")
    said = done.communicate(timeout=120)[1]
    assert done.returncode == 0, said
    assert "going on after step" in said
    assert results(tmp_path / "r") == results(straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])  # SIGUSR1: of two processes, below
def test_a_signal_while_training_saves_and_says_how_to_go_on(number: int, toy_csv: Path, tiny: Path) -> None:
    process = started(
        toy_csv.parent,
        "fit",
        toy_csv.name,
        "--model",
        str(tiny),
        "--steps",
        "100000",
        "--save-steps",
        "1",
        "--out",
        "runs/x",
    )
    wait_for(toy_csv.parent / "runs/x.unfinished/checkpoints/step-000000003", process)
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "go on with: counterpoint resume runs/x" in rest
    kept = checkpoint.steps(toy_csv.parent / "runs/x.unfinished/checkpoints")
    step = int(rest.split("after step ")[1].split(":")[0])
    assert kept[-1].name == f"step-{step:09d}"
    assert len(kept) == checkpoint.KEPT


def test_a_signal_before_training_leaves_nothing(toy_csv: Path, tiny: Path) -> None:
    process = started(toy_csv.parent, "fit", toy_csv.name, "--model", str(tiny), "--steps", "100000", "--out", "runs/x")
    assert process.stderr is not None
    for line in process.stderr:
        if "loading the model" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    if "resume" not in rest:
        assert not (toy_csv.parent / "runs").exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    straight: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = broken(tmp_path, tiny, 8, monkeypatch)
    last = checkpoint.steps(tmp_path / "r.unfinished" / "checkpoints")[-1]
    whole = (last / checkpoint.TENSORS).read_bytes()
    (last / checkpoint.TENSORS).write_bytes(whole[:-7] + b"xxxxxxx")
    run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
    assert "whose bytes changed" in capsys.readouterr().err
    assert json.loads((run.path / "run.json").read_text())["resumed_after"] == [6]
    assert results(run.path) == results(straight)


@pytest.mark.parametrize("damage", ["cut", "numbers", "missing"])
def test_damage_of_every_kind_is_seen(damage: str, tmp_path: Path) -> None:
    place = checkpoint.write(tmp_path, 3, checkpoint.Checkpoint({"w": torch.arange(5)}, {"x": 1}))
    assert checkpoint.read(place).tensors["w"].tolist() == list(range(5))
    if damage == "cut":
        (place / checkpoint.TENSORS).write_bytes((place / checkpoint.TENSORS).read_bytes()[:20])
    elif damage == "numbers":
        (place / checkpoint.NUMBERS).write_text("{")
    else:
        (place / checkpoint.TENSORS).unlink()
    with pytest.raises(counterpoint.Refusal, match="a whole checkpoint"):
        checkpoint.read(place)
    said: list[str] = []
    with pytest.raises(counterpoint.Refusal, match="1 damaged"):
        checkpoint.latest(tmp_path, said.append)
    assert len(said) == 1


def small(number: int = 1) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint({"w": torch.arange(5)}, {"x": number})


def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path) -> None:
    place = checkpoint.write(tmp_path, 3, small())
    numbers = json.loads((place / checkpoint.NUMBERS).read_text())
    (place / checkpoint.NUMBERS).write_text(json.dumps(numbers | {"schema": checkpoint.SCHEMA + 1}))
    with pytest.raises(counterpoint.Refusal, match="a checkpoint of schema 1, got 2"):
        checkpoint.read(place)


def test_a_checkpoint_is_there_when_it_is_whole_and_a_failed_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, seen = checkpoint.save_file, []

    def save(tensors: Any, path: Path) -> None:
        written(tensors, path)
        seen.append([p.name for p in checkpoint.steps(tmp_path)])
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", save)
    checkpoint.write(tmp_path, 1, small())
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(tmp_path, 2, small())
    assert seen == [[], ["step-000000001"]]
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


def test_what_a_killed_process_left_and_damaged_checkpoints_make_room(tmp_path: Path) -> None:
    for step in (2, 9):
        checkpoint.write(tmp_path, step, small())
    (tmp_path / "step-000000009" / checkpoint.TENSORS).write_bytes(b"")  # so the run goes on from 2
    (tmp_path / ".step-000000011.unfinished").mkdir()
    checkpoint.write(tmp_path, 4, small())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000004"]
    checkpoint.write(tmp_path, 4, small(7))
    assert checkpoint.read(tmp_path / "step-000000004").numbers["x"] == 7
    checkpoint.write(tmp_path, 6, small())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000004", "step-000000006"]


def test_a_run_is_in_its_place_before_its_checkpoints_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def remove(path: Path) -> None:
        if path.name == folder.CHECKPOINTS:
            raise Killed

    def run() -> None:
        with folder.writing(tmp_path / "r", needed=0) as scratch:
            checkpoint.write(scratch / folder.CHECKPOINTS, 1, small())
            (scratch / "run.json").write_text("{}")

    monkeypatch.setattr(folder, "_remove", remove)
    with pytest.raises(Killed):
        run()
    assert (tmp_path / "r" / "run.json").exists()


def test_a_run_that_was_finished_while_one_waited_for_its_lock_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def locked(scratch: Path, out: Path) -> Iterator[None]:
        out.mkdir()
        (out / "run.json").write_text("{}")
        yield

    monkeypatch.setattr(folder, "_locked", locked)
    with pytest.raises(counterpoint.Refusal, match="one that does"), folder.writing(tmp_path / "r", needed=0):
        raise AssertionError("not reached")
    assert (tmp_path / "r" / "run.json").exists()


def test_without_a_checkpoint_nobody_is_told_to_resume(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("counterpoint.training.loop.step", gone)
    with pytest.raises(counterpoint.Refusal, match=r"its own message says why; no checkpoint was kept: begin anew"):
        counterpoint.fit(toy_rows(), model=str(tiny), out=str(tmp_path / "r"), **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_run(
    straight: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    written = checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        if "000000006" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(tmp_path / "r"), **SETTINGS)
    said = capsys.readouterr().err
    assert "the checkpoint of step 6 could not be written" in said
    assert "the last one is step-000000004; training goes on" in said
    assert results(run.path) == results(straight)


def test_the_number_of_processes_may_change(
    straight: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = broken(tmp_path, tiny, 6, monkeypatch)
    for place in checkpoint.steps(tmp_path / "r.unfinished" / "checkpoints"):
        numbers = json.loads((place / checkpoint.NUMBERS).read_text())
        (place / checkpoint.NUMBERS).write_text(json.dumps(numbers | {"processes": 2}))
    run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
    assert "began on 2 processes and goes on with 1: the same batches" in capsys.readouterr().err
    assert results(run.path) == results(straight)


def test_a_checkpoint_that_nobody_began_is_not_gone_on_with(
    straight: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a folder was removed while a process that is about to end still saved into it."""
    out = broken(tmp_path, tiny, 5, monkeypatch, lr=1e-2)
    (tmp_path / "r.unfinished" / "begun.json").unlink()
    run = counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
    assert results(run.path) == results(straight)
    assert json.loads((run.path / "run.json").read_text())["resumed_after"] == []


@pytest.mark.parametrize("died", ["moving", "removing"])
def test_a_run_that_died_while_it_was_put_in_place_is_not_lost(
    died: str, straight: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints go when the result stands where it belongs, not before."""
    from counterpoint.verbs import folder

    class Died(BaseException):
        pass

    def dies(*_: Any, **__: Any) -> None:
        raise Died

    def remove(path: Path) -> None:
        if path.name == folder.CHECKPOINTS:
            shutil.rmtree(checkpoint.steps(path)[-1])
            raise Died
        removed(path)

    removed, out = folder._remove, tmp_path / "r"
    with monkeypatch.context() as patch:
        if died == "moving":
            patch.setattr(Path, "replace", lambda path, to: dies() if path.name == "r.unfinished" else moved(path, to))
        else:
            patch.setattr(folder, "_remove", remove)
        moved = os.replace
        with pytest.raises(Died):
            counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
    if died == "moving":
        counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
        assert json.loads((out / "run.json").read_text())["resumed_after"] == [STEPS]
    assert results(out) == results(straight)


def test_other_data_or_settings_are_refused_and_nothing_is_lost(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = broken(tmp_path, tiny, 6, monkeypatch)
    changed = toy_rows()
    changed[0] = {"query": "q1 q2 w3", "doc": "d7 d8 w9"}
    with pytest.raises(counterpoint.Refusal, match="the data file was changed"):
        counterpoint.fit(changed, model=str(tiny), out=str(out), **SETTINGS)
    with pytest.raises(counterpoint.Refusal, match=r"the lr that .* began with: 0.001, got 0.002"):
        counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **(SETTINGS | {"lr": 2e-3}))
    assert len(checkpoint.steps(tmp_path / "r.unfinished" / "checkpoints")) == checkpoint.KEPT
    with pytest.raises(counterpoint.Refusal, match="data in memory"):
        resume(out)


def test_what_cannot_be_resumed_is_said(straight: Path, tmp_path: Path) -> None:
    with pytest.raises(counterpoint.Refusal, match="got a finished run"):
        resume(straight)
    with pytest.raises(counterpoint.Refusal, match=r"got no checkpoint .*counterpoint fit DATA starts a run"):
        resume(tmp_path / "nothing")


def test_the_same_command_without_a_name_goes_on_too(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_csv: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    died = broken(tmp_path, tiny, 6, monkeypatch, data=toy_csv)
    (tmp_path / "runs").mkdir()
    shutil.move(tmp_path / "r.unfinished", tmp_path / "runs" / "toy-moco-1.unfinished")
    run = counterpoint.fit(toy_csv, model=str(tiny), **SETTINGS)
    assert run.path == Path("runs/toy-moco-1")
    assert json.loads((run.path / "run.json").read_text())["resumed_after"] == [6]
    other = counterpoint.fit(toy_csv, model=str(tiny), **(SETTINGS | {"seed": 5}))
    assert other.path == Path("runs/toy-moco-2")
    assert died.name == "r"


def test_a_run_under_way_is_not_touched_by_another(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    out = broken(tmp_path, tiny, 6, monkeypatch)
    with (tmp_path / "r.unfinished" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(counterpoint.Refusal, match="one under way"):
            counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **SETTINGS)
    assert len(checkpoint.steps(tmp_path / "r.unfinished" / "checkpoints")) == checkpoint.KEPT


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def together(folder: Path, count: int, *words: str) -> list[subprocess.Popen]:
    """What a launcher does."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [started(folder, *words, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(count)]


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The metrics of the run that two processes shall make together."""
    settings = {"batch": 32, "steps": 6, "dropout": 0.0, "precision": "fp32", "quiet": True}
    out = tmp_path_factory.mktemp("alone") / "one"
    path = counterpoint.fit(toy_rows(), model=str(tiny), out=str(out), **settings).path
    return json.loads((path / "metrics.json").read_text())


@pytest.mark.parametrize("how", [[], ["--shard", "--micro", "4"]], ids=["each has all weights", "divided"])
def test_two_processes_make_one_run(how: list[str], toy_csv: Path, tiny: Path, alone: dict[str, Any]) -> None:
    words = [
        "fit",
        toy_csv.name,
        "--model",
        str(tiny),
        "--batch",
        "32",
        "--steps",
        "6",
        "--dropout",
        "0",
        "--precision",
        "fp32",
    ]
    both = together(toy_csv.parent, 2, *words, *how, "--out", "two")
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert ("32 = 2 processes x 4 micro x 4" if how else "32 = 2 processes x 16 rows") in said[0]
    assert said[1] == ""
    two = json.loads((toy_csv.parent / "two" / "metrics.json").read_text())
    assert two["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert two["before"] == alone["before"]


def test_a_refusal_is_said_once_and_ends_all(toy_csv: Path, tiny: Path) -> None:
    (toy_csv.parent / "there").mkdir()
    (toy_csv.parent / "there" / "x").write_text("")
    both = together(toy_csv.parent, 2, "fit", toy_csv.name, "--model", str(tiny), "--out", "there")
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert "wanted a run folder that does not exist yet" in said[0]
    assert said[1] == ""
    odd = together(toy_csv.parent, 2, "fit", toy_csv.name, "--model", str(tiny), "--batch", "33")
    said = [process.communicate(timeout=120)[1] for process in odd]
    assert [process.returncode for process in odd] == [2, 2]
    assert "--batch 32 would do" in said[0]
    assert said[1] == ""
    wrong = together(toy_csv.parent, 2, "fit", toy_csv.name, "--no-such")
    said = [process.communicate(timeout=120)[1] for process in wrong]
    assert [process.returncode for process in wrong] == [2, 2]
    assert "No such option" in said[0]
    assert said[1] == ""


@pytest.mark.parametrize("how", ["signal", "death"])
def test_what_befalls_one_process_ends_all(how: str, toy_csv: Path, tiny: Path) -> None:
    words = [
        "fit",
        toy_csv.name,
        "--model",
        str(tiny),
        "--batch",
        "32",
        "--steps",
        "100000",
        "--save-steps",
        "1",
        "--out",
        "x",
    ]
    both = together(toy_csv.parent, 2, *words)
    wait_for(toy_csv.parent / "x.unfinished/checkpoints/step-000000002", both[0])
    both[1].send_signal(signal.SIGUSR1 if how == "signal" else signal.SIGKILL)
    said = [process.communicate(timeout=120)[1] for process in both]
    if how == "signal":
        assert [process.returncode for process in both] == [130, 130]
        assert "go on with: counterpoint resume x" in said[0]
    else:
        assert both[0].returncode == 2
        assert "wanted all processes at work, got one that is gone" in said[0]
        assert "counterpoint resume x" in said[0]
    assert checkpoint.steps(toy_csv.parent / "x.unfinished/checkpoints")
