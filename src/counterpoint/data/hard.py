"""Batches whose rows are hard negatives of each other, by the current model's nearest neighbours."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data.deal import Order, in_turn, refuse_too_few
from counterpoint.errors import Refusal

if TYPE_CHECKING:
    from torch import Tensor

    from counterpoint.types import Embeddings


def hard(table: np.ndarray, *, batch: int, seed: int, skip: int = 0) -> Order:
    """Batches grown from near neighbour to near neighbour, so that the rows of each are hard negatives of each other.

    A batch begins with a row drawn at random; the neighbours of its rows join, those of its first row first, the nearest
    first; when all neighbours are used, another row is drawn. Every row is used at most once an epoch, so batches late
    in an epoch are less hard than early ones; which ones are late differs between epochs. The n % batch rows that fill
    no batch are left out as in `shuffled`.

    Args:
        table: [n, k] the nearest rows of each row, best first, -1 for none; of the current model, as `table_of` makes it.
        batch: rows a batch.
        seed: decides where batches begin.
        skip: how many of the nearest neighbours do not count, since they may be positives that nobody listed.

    Raises:
        Refusal: fewer rows than a batch; skip that leaves no neighbour.

    Differs:
        From the paper, which orders all rows by a Cuthill-McKee permutation of the graph of all scores above a quantile
        and cuts the permutation into batches: here each batch grows greedily over k neighbours of each row, in time n k.

    References:
        The idea of global batches: Sachidananda, Yang, Zhu 2023, arXiv:2210.12874.

    >>> near = np.array([[1], [0], [3], [2]])
    >>> sorted(sorted(b.tolist()) for b in hard(near, batch=2, seed=0)(0))
    [[0, 1], [2, 3]]
    """
    table = np.asarray(table)
    n, k = table.shape
    refuse_too_few(n, batch)
    if not 0 <= skip < k:
        raise Refusal(f"to skip less than the {k} neighbours in the table", skip, where="--order-set skip")

    def order(epoch: int) -> Iterator[np.ndarray]:
        rows = in_turn(np.arange(n), batch=batch, seed=seed, epoch=epoch)
        starts, fresh = iter(rows), np.ones(n, dtype=bool)
        fresh[rows[n - n % batch :]] = False
        for _ in range(n // batch):
            found: list[int] = []
            frontier: deque[int] = deque()
            while len(found) < batch:
                if frontier:
                    near = table[frontier.popleft(), skip:]
                    near = near[near >= 0]
                    joining = list(dict.fromkeys(near[fresh[near]].tolist()))[: batch - len(found)]
                else:
                    joining = [next(int(row) for row in starts if fresh[row])]
                fresh[joining] = False
                found += joining
                frontier += joining
            yield np.array(found, dtype=np.int64)

    return order


def table_of(anchors: Embeddings, candidates: Embeddings | None = None, *, k: int, rule: Any = None) -> Tensor:
    """The table of nearest rows that `hard` takes: [n, k] row numbers as int32, best first, -1 where there are fewer.

    Args:
        anchors: one row for each row of the data, in its order.
        candidates: likewise; None: the anchors, which finds rows whose anchors look alike.
        k: neighbours of each row, at least 1.
        rule: pairs that it lets repel count; None: all but those of equal content, the row itself among them.

    >>> import torch
    >>> from counterpoint.types import Embeddings
    >>> z = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> table_of(Embeddings.of(z), k=2).tolist()
    [[1, 2], [0, 2], [1, 0]]
    """
    import torch

    from counterpoint._ops.neighbours import neighbours
    from counterpoint.types import same_sample

    others = anchors if candidates is None else candidates
    found = neighbours(anchors, others, k, rule=same_sample if rule is None else rule)
    return found.index.to(device="cpu", dtype=torch.int32)
