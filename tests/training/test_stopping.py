"""Patience, and what a run notes of each step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from counterpoint.training import journal
from counterpoint.training.loop import Schedule
from counterpoint.training.stopping import stalled
from tests.training.test_loop import method, run

NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "longest"),
    [([], 0), ([0.5], 0), ([0.5, 0.6], 0), ([0.5, 0.4], 1), ([0.5, 0.6, 0.6, 0.6], 2), ([0.1, 0.9, 0.2, 0.3, 0.4], 3),
     ([0.5, 0.4, 0.3, 0.6], 0), ([0.5, NAN, NAN], 2), ([NAN, NAN], 1), ([0.9, 0.1, 0.2, 0.91, 0.9], 1)],
)  # fmt: skip
def test_a_run_has_stalled_for_so_many_measurements(scores: list[float], longest: int) -> None:
    dev = [(10 * i, s) for i, s in enumerate(scores)]
    assert [p for p in range(1, 6) if stalled(dev, p)] == list(range(1, longest + 1))
    assert not stalled(dev, None)


def test_the_loop_ends_when_dev_has_stalled_and_keeps_the_best() -> None:
    m, scores = method(), iter([0.1, 0.5, 0.4, 0.45, 0.9, 0.1])
    history = run(m, schedule=Schedule(steps=50, lr=0.1, evaluations=5, patience=2), dev=lambda: next(scores))
    assert [(n, s) for n, s in history.dev] == [(0, 0.1), (10, 0.5), (20, 0.4), (30, 0.45)]
    assert (len(history.loss), history.best_step) == (30, 10)
    whole = run(method(), schedule=Schedule(steps=50, lr=0.1, evaluations=5), dev=iter([0.1] * 6).__next__)
    assert len(whole.loss) == 50


def test_each_step_is_noted_with_the_rate_it_had() -> None:
    noted: list[tuple[int, dict[str, float]]] = []
    schedule = Schedule(steps=4, lr=0.8, warmup=0.0, evaluations=2)
    history = run(method(), schedule=schedule, dev=lambda: 0.5, note=lambda n, x: noted.append((n, dict(x))))
    steps = [x for _, x in noted if "loss" in x]
    assert [(n, "dev" in x) for n, x in noted] == [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]
    assert [x["rate"] for x in steps] == pytest.approx([0.7, 0.5, 0.3, 0.1])
    assert [x["loss"] for x in steps] == history.loss
    assert [x["gradient"] for x in steps] == history.gradient


def test_lines_can_be_read_while_they_are_written_and_go_on_after_a_step(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    with journal.lines(path) as note:
        note(1, {"loss": 1 / 3})
        assert json.loads(path.read_text()) == {"step": 1, "loss": 0.3333333}
        note(2, {"loss": math.nan})
        note(3, {"loss": 0.0})
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with journal.lines(path) as note:
        note(3, {"loss": 9.0})
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [{"step": 1, "loss": 0.3333333}, {"step": 2, "loss": None}, {"step": 3, "loss": 9.0}]
    with journal.lines(path) as note:
        note(3, {"dev": 0.5})
    assert len(path.read_text().splitlines()) == 4
    with journal.lines(path) as note:
        note(1, {"loss": 2.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1, "loss": 2.0}]


def test_tensorboard_events_hold_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with journal.events(tmp_path) as event, journal.lines(tmp_path / "steps.jsonl") as line:
        both = journal.both(event, line)
        both(1, {"loss": 0.5})
        both(2, {"loss": 0.25, "dev": 0.75})
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    file = next(tmp_path.glob("events.out.tfevents.*"))
    events = [Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load()]
    found = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert found == [(1, "loss", 0.5), (2, "loss", 0.25), (2, "dev", 0.75)]


def test_without_tensorboard_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(journal.util, "find_spec", lambda name: None)
    with pytest.raises(journal.Refusal, match=r"counterpoint\[tensorboard\]"), journal.events(tmp_path):
        pass
