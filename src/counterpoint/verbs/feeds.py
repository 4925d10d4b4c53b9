"""Where a job's batches come from: the order that was asked for, and what the current model chooses between epochs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from counterpoint.data.batches import Rows
from counterpoint.data.mined import pool_of
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import embed
from counterpoint.training.feed import Feed
from counterpoint.training.remine import mined_rows, remine
from counterpoint.types import Batch
from counterpoint.verbs.orders import make_order, needs_tables, tables_of
from counterpoint.verbs.settings import Run

MINED = "mined "  # beginning of the names of tables that mining made


def feed_of(run: Run, rows: Rows, encoder: Encoder, *, batch: int, precision: str) -> Feed:
    """Batches of the rows, in the run's order, with the negatives that were mined last.

    Args:
        run: order, mine_every, mining and seed.
        rows: the training rows.
        encoder: the model that is trained.
        batch: rows of a global batch.
        precision: of the encoder's products.
    """
    how, pool = run.negatives_between_epochs(), pool_of(rows)
    plain = None if needs_tables(run) else make_order(run, rows, batch=batch)
    last: list[tuple[Tensor, Rows]] = []  # the rows of the last table, which a batch would otherwise make again

    def between(epoch: int, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tables = {name: table for name, table in before.items() if name.startswith(MINED)}
        if plain is None:
            tables |= tables_of(encoder, rows, precision=precision)
        if how is not None and epoch and epoch % (run.mine_every or 1) == 0:
            found = remine(
                lambda keys, role: embed(encoder, rows.items.take(list(keys)), role, precision=precision),
                rows, pool, how=how, epoch=epoch,
            )  # fmt: skip
            tables |= {MINED + name: table for name, table in found.items()}
        return tables

    def take(at: np.ndarray, tables: Mapping[str, Tensor]) -> Batch:
        mined = {name.removeprefix(MINED): table for name, table in tables.items() if name.startswith(MINED)}
        if not mined:
            return rows.take(at)
        if not last or last[0][0] is not mined["candidate"]:
            last[:] = [(mined["candidate"], mined_rows(rows, mined, pool))]
        return last[0][1].take(at)

    return Feed(
        lambda epoch, tables: (plain or make_order(run, rows, batch=batch, tables=tables))(epoch),
        take,
        between if plain is None or how is not None else None,
    )
