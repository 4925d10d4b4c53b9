"""The loop: order, schedule, the best step kept, refusal of a broken loss."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from counterpoint.data.orders import shuffled
from counterpoint.encoders.text import autocast
from counterpoint.errors import Refusal
from counterpoint.training.feed import plain
from counterpoint.training.health import Health
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.training.state import History
from counterpoint.training.symptoms import Finding, Limits, finding
from counterpoint.types import Batch, Embeddings, Outcome


def method(target: float = 1.0) -> Method:
    """One weight that is pulled to a target by a squared loss."""
    modules = nn.ModuleDict({"encoder": nn.Linear(1, 1, bias=False)})
    nn.init.zeros_(modules["encoder"].weight)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {"x": Embeddings.of(modules["encoder"](views["x"]["value"]))}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return Outcome({"square": ((sets["x"].z - target) ** 2).sum() / len(sets["x"])}, {"square": 1.0}, {})

    return Method(modules, lambda batch, _: {"x": batch}, encode, objective, lambda m: m["encoder"])


def ones(at: np.ndarray) -> Batch:
    return {"value": torch.ones(len(at), 1)}


def run(m: Method, **kwargs: Any) -> History:
    defaults = {"split": Split(4, 1), "seed": 0, "autocast": autocast("cpu", "fp32")}
    feed = kwargs.pop("feed", plain(ones, shuffled(8, batch=4, seed=0)))
    return train(m, feed, kwargs.pop("schedule", Schedule(steps=20, lr=0.1)), **(defaults | kwargs))


def test_epochs_differ_and_a_short_batch_is_left_out() -> None:
    first, second = ([at.tolist() for at in shuffled(50, batch=20, seed=3)(epoch)] for epoch in (0, 1))
    assert [len(at) for at in first] == [20, 20]
    assert first != second


def test_the_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(steps=10, lr=2.0, warmup=0.2)
    assert [schedule.rate(p) for p in (0.0, 0.1, 0.2, 0.6)] == [0, 1, 2, pytest.approx(1)]
    assert schedule.rate(1.0) == 0


def test_training_reaches_its_target_in_the_steps_it_was_given() -> None:
    m = method()
    history = run(m, schedule=Schedule(steps=60, lr=0.1))
    assert len(history.loss) == 60
    assert m.modules["encoder"].weight.item() == pytest.approx(1.0, abs=0.05)
    assert history.loss[-1] < 0.01 < history.loss[0]


def test_a_time_budget_ends_the_run() -> None:
    history = run(method(), schedule=Schedule(steps=10**9, lr=0.01, seconds=0.2))
    assert 0.2 <= history.seconds < 2
    assert len(history.loss) > 1


def test_the_best_step_on_dev_is_kept_and_dev_is_asked_in_evaluation_mode_too() -> None:
    m = method(target=1.0)
    weight = m.modules["encoder"].weight
    history = run(m, schedule=Schedule(steps=40, lr=0.2, evaluations=8), dev=lambda: -abs(weight.item() - 0.5))
    best = max(score for _, score in history.dev)
    assert history.dev[0][0] == 0
    assert history.dev[-1][0] == 40
    assert -abs(weight.item() - 0.5) == pytest.approx(best)
    assert 0 < history.best_step < 40


def test_where_nothing_is_better_the_start_is_kept() -> None:
    m = method()
    history = run(m, dev=lambda: -abs(m.modules["encoder"].weight.item()))
    assert history.best_step == 0
    assert m.modules["encoder"].weight.item() == 0


def test_a_loss_that_is_not_finite_is_refused_after_a_few_steps() -> None:
    with pytest.raises(Refusal, match="finite loss"):
        run(method(target=math.nan))


def test_single_steps_without_a_finite_loss_are_left_out_and_counted() -> None:
    def take(at: np.ndarray) -> Batch:
        taken.append(len(taken))
        return {"value": torch.full((len(at), 1), math.nan if taken[-1] % 2 else 1.0)}

    taken: list[int] = []
    history = run(
        method(), feed=plain(take, shuffled(8, batch=4, seed=0)), schedule=Schedule(steps=4 * Limits.bad, lr=0.1)
    )
    assert history.skipped == 2 * Limits.bad
    assert len(history.loss) == 4 * Limits.bad


def test_what_health_cannot_accept_ends_the_run_a_step_later() -> None:
    class Sick(Health):
        def observe(self, *, step: int, **_: Any) -> list[Finding]:
            return [finding("collapse", step, 0.0, stops=step == 3)] if step >= 2 else []

    said, steps = [], []
    m = method()
    with pytest.raises(Refusal, match="wanted a run that can recover, got embeddings have collapsed"):
        run(m, health=Sick(m), say=said.append, tick=lambda n, *_: steps.append(n))
    assert steps == [1, 2, 3, 4]
    assert len(said) == 2


def test_the_same_seed_gives_the_same_weights_and_losses() -> None:
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        m = method()
        m.modules["encoder"] = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        torch.manual_seed(1)
        results.append(run(m, seed=seed).loss)
    assert results[0] == results[1] != results[2]


def test_the_rate_of_a_step_is_that_of_its_middle() -> None:
    rates: list[float] = []
    run(
        method(),
        schedule=Schedule(steps=4, lr=1.0, warmup=0.0),
        note=lambda _, numbers: rates.append(numbers["rate"]),
    )
    assert rates == pytest.approx([0.875, 0.625, 0.375, 0.125])


def test_measuring_dev_takes_no_time_of_the_run() -> None:
    def dev() -> float:
        time.sleep(0.3)
        return 0.0

    assert run(method(), schedule=Schedule(steps=4, lr=0.1, evaluations=4), dev=dev).seconds < 1.0


@pytest.mark.parametrize("first", [math.nan, -math.inf])
def test_a_score_that_is_no_number_is_beaten_by_one_that_is(first: float) -> None:
    scores = iter([first, math.nan, 0.1, 0.3, math.nan])
    history = run(method(), schedule=Schedule(steps=4, lr=0.1, evaluations=4), dev=lambda: next(scores))
    assert history.best_step == 3
