"""Mining between epochs: what a checkpoint keeps, what the rows become, and a loop that does both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from counterpoint.data.batches import Rows
from counterpoint.data.mined import digest, pool_of, with_negatives
from counterpoint.encoders.text import autocast, embed, load
from counterpoint.errors import Refusal
from counterpoint.pairs.limits import Mining
from counterpoint.recipes.text import pairs_with_negatives
from counterpoint.training.loop import Schedule, optimizer_for
from counterpoint.training.method import step
from counterpoint.training.remine import mined_rows, remine

from ..conftest import toy_rows

HOW = Mining(count=2, depth=20, relative_margin=None, skip=1)


def rows(count: int = 64) -> Rows:
    data = toy_rows(count)
    return Rows.of(pl.DataFrame({"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}))


def vectors(texts: Sequence[str], _role: str) -> Tensor:
    g = [torch.Generator().manual_seed(int(digest([t])) % 2**31) for t in texts]
    return torch.nn.functional.normalize(torch.stack([torch.randn(6, generator=x) for x in g]), dim=1)


def test_rows_get_the_negatives_that_brute_force_finds() -> None:
    once = toy_rows(40)
    twice = [*once, *({"query": r["query"], "doc": once[-i]["doc"]} for i, r in enumerate(once[::3]))]
    data = Rows.of(pl.DataFrame({"anchor": [r["query"] for r in twice], "positive": [[r["doc"]] for r in twice]}))
    pool = pool_of(data)
    state = remine(vectors, data, pool, how=HOW)
    new = mined_rows(data, state, pool)
    z, c = vectors(data.anchors, ""), vectors(pool, "")
    for i, anchor in enumerate(data.anchors):
        known = {t for a, ts in zip(data.anchors, data.positives, strict=True) for t in ts if a == anchor}
        order = [pool[j] for j in torch.argsort(z[i] @ c.T, descending=True).tolist() if pool[j] not in known]
        assert new.negatives[i] == order[1:3]
    assert (new.anchors, new.positives) == (data.anchors, data.positives)


def test_the_table_survives_a_file_and_refuses_other_data(tmp_path: Path) -> None:
    data = rows()
    pool = pool_of(data)
    state = remine(vectors, data, pool, how=HOW)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "mined.safetensors")
    again = load_file(tmp_path / "mined.safetensors")
    assert mined_rows(data, again, pool).negatives == mined_rows(data, state, pool).negatives
    for other in (pool[:-1], pool[::-1], [*pool[:-1], "new"]):
        with pytest.raises(Refusal, match="other texts"):
            mined_rows(data, again, other)


def test_given_negatives_stay_and_mined_ones_are_forgotten() -> None:
    frame = pl.DataFrame({"anchor": ["a", "b"], "positive": [["x"], ["y"]], "negative": [["g"], ["g", "h"]]})
    data = Rows.of(frame)
    pool = pool_of(data)
    assert pool == ["x", "y", "g", "h"]
    first = with_negatives(data, torch.tensor([[1, 3], [0, -1]]), pool)
    assert first.negatives == [["g", "y", "h"], ["g", "h", "x"]]
    assert with_negatives(data, torch.tensor([[3], [-1]]), pool).negatives == [["g", "h"], ["g", "h"]]
    with pytest.raises(ValueError, match="2 rows, got 1"):
        with_negatives(data, torch.tensor([[0]]), pool)
    with pytest.raises(ValueError, match="below 4"):
        with_negatives(data, torch.tensor([[4], [0]]), pool)


def test_random_draws_change_from_epoch_to_epoch() -> None:
    data = rows()
    how = Mining(count=2, depth=20, relative_margin=None, pick="random")
    tables = [remine(vectors, data, pool_of(data), how=how, epoch=e)["candidate"] for e in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_a_loop_mines_between_epochs_and_goes_on_from_the_table(tiny: Path) -> None:
    """Two epochs of four steps; the second of two runs starts from the first one's weights and table."""
    data, pool = rows(), pool_of(rows())

    def epoch(method: object, table: dict[str, Tensor], number: int) -> Iterator[float]:
        new = mined_rows(data, table, pool)
        optimizer = optimizer_for(method, Schedule(steps=8, lr=1e-3))  # type: ignore[arg-type]
        order = np.random.default_rng([0, number]).permutation(len(data))
        for at in order.reshape(4, 16):
            generator = torch.Generator().manual_seed(int(at[0]))
            done = step(method, [new.take(at)], optimizer, generator=generator, autocast=autocast("cpu", "fp32"), clip=1.0)  # type: ignore[arg-type]  # fmt: skip
            yield done.loss

    def start() -> object:
        torch.manual_seed(0)
        encoder = load(str(tiny))
        encoder.set_dropout(0.0)
        return pairs_with_negatives(encoder, data, negatives=2)

    def mined(method: object, number: int) -> dict[str, Tensor]:
        encoder = method.modules["encoder"]  # type: ignore[attr-defined]
        return remine(lambda texts, role: embed(encoder, texts, role), data, pool, how=HOW, epoch=number)

    whole = start()
    tables, losses, kept = [], [], {}
    for number in range(2):
        tables.append(mined(whole, number))
        losses.append(list(epoch(whole, tables[-1], number)))
        if number == 0:
            kept = {k: v.clone() for k, v in whole.modules.state_dict().items()}  # type: ignore[attr-defined]
    assert not torch.equal(tables[0]["candidate"], tables[1]["candidate"])  # the model moved, so did its neighbours
    resumed = start()
    resumed.modules.load_state_dict(kept)  # type: ignore[attr-defined]
    assert list(epoch(resumed, tables[1], 1)) == losses[1]
    assert torch.equal(mined(resumed, 2)["candidate"], mined(whole, 2)["candidate"])
