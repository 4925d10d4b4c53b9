"""What every recipe that reads texts has to pass beside `prove`, which tests/verbs/test_prove.py runs on all of them.

That is: several processes, caching, rows by themselves, finite with a gradient for every parameter, checkpoints.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.text import autocast, load
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.verbs.recipes import CROSS, arguments_of, function_of, only, reader, recipes

from ..conftest import make_tiny_model, toy_rows

# Where first weights are judged against what is remembered, a queue of the trained encoder's rows would flatter them.
SETTINGS = {"cocosoda": {"queue": 0}}
NAMES = [name for name in recipes() if only(name) in (None, "text") and name not in CROSS]


def rows(count: int = 64) -> Rows:
    data = toy_rows(count)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}
    frame["negative"] = [[data[(i + 7) % count]["doc"]] for i in range(count)]
    frame["label"] = [r["query"].split()[0] for r in data]
    return Rows.of(pl.DataFrame(frame))


def method(name: str, folder: Path, train_rows: Rows) -> Method:
    torch.manual_seed(0)
    return function_of(name)(load(str(folder)), train_rows, **SETTINGS.get(name, {}))


def loss_and_gradients(m: Method, batch: dict, precision: str = "fp32") -> tuple[float, dict[str, torch.Tensor]]:
    m.modules.zero_grad()
    with autocast("cpu", precision):
        sets = m.encode(m.modules, m.views(batch, torch.Generator().manual_seed(0)))
    outcome = m.objective(m.modules, sets)
    outcome.loss.backward()
    m.after(m.modules, sets, outcome)
    return float(outcome.loss.detach()), {n: p.grad for n, p in m.modules.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_batch_does_not_matter(name: str, tmp_path: Path) -> None:
    folder = make_tiny_model(
        tmp_path / "dry", dropout=1e-7
    )  # dropout that never strikes: the views must still differ in id
    data, order = rows(), np.random.default_rng(0).permutation(12)
    m = method(name, folder, data)
    loss_and_gradients(m, data.take(np.arange(12, 24)))
    straight, shuffled = (loss_of(m, data.take(at)) for at in (np.arange(12), order))
    assert straight == pytest.approx(shuffled, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, tiny: Path) -> None:
    """What has been learned lowers the loss: with its first weights and all that it remembers it would be higher."""
    data = rows(48)
    m = method(name, tiny, data)
    first = {n: p.detach().clone() for n, p in m.modules.named_parameters() if p.requires_grad}
    schedule = Schedule(steps=24, lr=3e-3)
    feed = plain(data.take, shuffled(len(data), batch=24, seed=0))
    train(m, feed, schedule, split=Split(24, 1), seed=0, autocast=autocast("cpu", "fp32"))
    batch = data.take(np.arange(48))
    trained = loss_of(m, batch)
    m.modules.load_state_dict(first, strict=False)
    assert trained < 0.98 * loss_of(m, batch)


def loss_of(m: Method, batch: dict) -> float:
    """In training mode, with the same dropout each time: without it both views of a text are equal and cost nothing."""
    m.modules.train()
    torch.manual_seed(1)
    with torch.no_grad():
        sets = m.encode(m.modules, m.views(batch, torch.Generator().manual_seed(0)))
        return float(m.objective(m.modules, sets).loss)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_survive_a_round_trip_through_text(name: str) -> None:
    defaults = arguments_of(function_of(name), {})
    assert arguments_of(function_of(name), {k: str(v) for k, v in defaults.items()}) == defaults


@pytest.mark.parametrize("name", [name for name in NAMES if reader(name) is not None])
def test_what_reads_its_vectors_is_there(name: str) -> None:
    module, _, function = str(reader(name)).rpartition(".")
    assert callable(getattr(importlib.import_module(f"counterpoint.{module}"), function))
