"""Several batches an update: the mean gradient by autograd, and no negatives across batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.text import autocast, load
from counterpoint.recipes import text
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import step
from counterpoint.training.processes import Split
from tests.conftest import toy_rows

FP32 = autocast("cpu", "fp32")


def rows(count: int = 24) -> Rows:
    data = toy_rows(count)
    return Rows.of(pl.DataFrame({"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}))


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_gradient_is_that_of_the_mean_of_the_losses(count: int, micro: int | None, tiny: Path) -> None:
    data = rows()
    method = text.pairs(load(str(tiny)), data)
    method.modules.eval()
    batches = [data.take(np.arange(6 * i, 6 * i + 6)) for i in range(count)]
    losses = []
    for batch in batches:
        sets = method.encode(method.modules, method.views(batch, torch.Generator().manual_seed(0)))
        losses.append(method.objective(method.modules, sets).loss)
    names = [n for n, _ in method.modules.named_parameters() if "pooler" not in n]
    weights = [p for n, p in method.modules.named_parameters() if "pooler" not in n]
    expected = torch.autograd.grad(torch.stack(losses).mean(), weights)
    still = torch.optim.SGD(method.modules.parameters(), lr=0.0)
    done = step(
        method, batches, still, generator=torch.Generator().manual_seed(0), autocast=FP32, clip=1e9, micro=micro
    )
    for name, p, gradient in zip(names, weights, expected, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-5, rtol=1e-4), name
    assert done.loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert done.norm == pytest.approx(torch.cat([g.flatten() for g in expected]).norm().item(), rel=1e-4)
    assert done.outcome.notes["negatives"].max() == 5  # of one batch, not of all rows


def test_after_sees_every_batch_once_and_after_the_update(tiny: Path) -> None:
    data, seen = rows(), []
    method = text.pairs(load(str(tiny)), data)
    start = next(method.modules.parameters()).detach().clone()

    def after(modules: torch.nn.ModuleDict, sets: dict, outcome: object) -> None:
        seen.append((sets["anchor"].id.tolist(), torch.equal(next(modules.parameters()), start)))

    method = replace(method, after=after)
    batches = [data.take(np.arange(4)), data.take(np.arange(4, 8))]
    adam = torch.optim.AdamW(method.modules.parameters(), lr=0.1)
    step(method, batches, adam, generator=torch.Generator(), autocast=FP32, clip=1.0)
    assert seen == [(b["id"].tolist() if "id" in b else seen[i][0], False) for i, b in enumerate(batches)]
    assert seen[0][0] != seen[1][0]


def test_an_update_takes_its_batches_from_the_order_one_after_another(tiny: Path) -> None:
    data, taken = rows(), []

    def take(at: np.ndarray) -> dict:
        taken.append(at.tolist())
        return data.take(at)

    def run(accumulate: int) -> list[float]:
        method, feed = text.pairs(load(str(tiny)), data), plain(take, shuffled(24, batch=4, seed=0))
        return train(
            method, feed, Schedule(2, 1e-3, accumulate=accumulate), split=Split(4, 1), seed=0, autocast=FP32
        ).loss

    run(1)
    alone, taken[:] = list(taken), []
    losses = run(3)
    assert len(losses) == 2
    assert len(taken) == 6
    assert taken[:2] == alone
    assert sorted(i for at in taken for i in at) == list(range(24))
