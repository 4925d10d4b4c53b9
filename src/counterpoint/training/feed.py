"""Where batches come from: an order of rows for each epoch, and the batch of some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch import Tensor

from counterpoint.data.deal import Order
from counterpoint.errors import Refusal
from counterpoint.training.state import Place
from counterpoint.types import Batch

Tables = Mapping[str, Tensor]


@dataclass(frozen=True)
class Feed:
    """Where batches come from.

    Args:
        batches: epoch, tables -> row numbers of one batch after another, the same on every process.
        take: row numbers, tables -> batch.
        between: epoch, tables before -> tables: what the model of now says of the data, such as each row's nearest; called
            before an epoch, kept in checkpoints. None: nothing.
    """

    batches: Callable[[int, Tables], Iterator[np.ndarray]]
    take: Callable[[np.ndarray, Tables], Batch]
    between: Callable[[int, Tables], dict[str, Tensor]] | None = None


def plain(take: Callable[[np.ndarray], Batch], order: Order) -> Feed:
    """Batches in an order that no table changes."""
    return Feed(lambda epoch, _tables: order(epoch), lambda at, _tables: take(at))


def stream(feed: Feed, place: Place, accumulate: int) -> Iterator[list[np.ndarray]]:
    """The batches of one update after another, for ever, from where the run is; the place moves along.

    Raises:
        Refusal: an epoch with too few batches for one update.
    """
    fresh = place.batch == 0
    while True:
        if fresh and feed.between is not None:
            place.tables = feed.between(place.epoch, place.tables)
        update: list[np.ndarray] = []
        for at in islice(feed.batches(place.epoch, place.tables), place.batch, None):
            update.append(at)
            place.batch += 1
            if len(update) == accumulate:
                yield update
                update = []
        if place.batch < accumulate:
            raise Refusal(
                "an update in every epoch",
                f"{place.batch} batches of {accumulate}",
                where="--batch",
                remedy="take a smaller one",
            )
        place.epoch, place.batch, fresh = place.epoch + 1, 0, True
