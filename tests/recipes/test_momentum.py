"""What recipes with a memory promise beyond the contracts that `prove` keeps for all."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.recipes.momentum import isogclr
from counterpoint.training.method import Method
from counterpoint.types import Embeddings

from ..conftest import make_tiny_model, toy_rows

DATA = Rows.of(pl.DataFrame({"anchor": [row["query"] for row in toy_rows(40)]}))


def made(folder: Path, **numbers: float) -> Method:
    torch.manual_seed(0)
    return isogclr(load(str(folder)), DATA, **numbers)  # type: ignore[arg-type]


def encoded(method: Method, at: range) -> dict[str, Embeddings]:
    torch.manual_seed(1)
    method.modules.train()
    batch = DATA.take(np.array(at))
    return method.encode(method.modules, method.views(batch, torch.Generator().manual_seed(0)))


@pytest.mark.proves(row=187, fact="closed-form")
def test_without_memory_its_gradient_is_that_of_a_decoupled_softmax(tiny: Path) -> None:
    method = made(tiny, temperature=0.2, gamma=1.0, eta=0.0)
    sets = encoded(method, range(12))
    z = [rows.z for rows in sets.values()]
    both = Embeddings.cat(list(sets.values()))
    decoupled = partial(infonce, temperature=0.2, positives_compete=False)
    found = torch.autograd.grad(method.objective(method.modules, sets).loss, z, retain_graph=True)
    wanted = torch.autograd.grad(0.2 * decoupled(both).loss, z)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_only_rows_that_were_seen_have_a_denominator_and_temperatures_move_within_their_bounds(tiny: Path) -> None:
    method = made(tiny, temperature=0.2, eta=0.5, least=0.15, most=0.25)
    before = method.modules["estimates"].temperature.clone()
    sets = encoded(method, range(5, 17))
    method.after(method.modules, sets, method.objective(method.modules, sets))
    state = method.modules["estimates"]
    seen = torch.zeros(len(DATA), dtype=torch.bool)
    seen[5:17] = True
    assert torch.equal(state.log_u > -1e8, seen)
    assert bool((state.temperature[seen] != before[seen]).any())
    assert torch.equal(state.temperature[~seen], before[~seen])
    assert 0.15 <= float(state.temperature.min()) <= float(state.temperature.max()) <= 0.25 + 1e-6


def test_an_encoder_without_dropout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="isogclr"):
        made(make_tiny_model(tmp_path / "dry", dropout=0.0))
