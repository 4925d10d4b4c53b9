"""Mining between epochs: the model as it is now chooses the negatives of the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint.data.batches import Rows
from counterpoint.data.mined import digest, with_negatives
from counterpoint.errors import Refusal
from counterpoint.pairs.limits import Mining
from counterpoint.pairs.mining import Judge, mine_negatives
from counterpoint.types import Embeddings

# Texts and their role -> unit vectors.
Embed = Callable[[Sequence[str], str], Float[Tensor, "n d"]]


def remine(
    embed: Embed, rows: Rows, pool: Sequence[str], *, how: Mining, epoch: int = 0, judge: Judge | None = None
) -> dict[str, Tensor]:
    """New negatives for all rows, as tensors that a checkpoint keeps and `mined_rows` reads.

    Every process that is given the same vectors gets the same table.

    Args:
        embed: the model as it is now; each distinct anchor and each text of the pool is asked for once.
        rows: as they were read.
        pool: distinct texts, such as `data.mined.pool_of(rows)`.
        how: which neighbours to take.
        epoch: changes what "random" draws.
        judge: a filter over places of the distinct anchors (in the order of their first row) and of the pool.

    Returns:
        "candidate" [n, count], places in the pool (-1: nobody); "score" [n, count]; "pool", a digest of the texts.

    References:
        Xiong et al. 2020, Approximate Nearest Neighbor Negative Contrastive Learning (ANCE), arXiv:2007.00808.
    """
    distinct = dict.fromkeys(rows.anchors)
    place = {text: i for i, text in enumerate(distinct)}
    ids = [torch.tensor(rows.items.ids(keys), dtype=torch.int64) for keys in (distinct, pool)]
    queries = Embeddings.of(embed(list(distinct), "anchor"), id=ids[0])
    candidates = Embeddings.of(embed(pool, "positive"), id=ids[1])
    found = mine_negatives(queries, candidates, rows.relation, how=replace(how, seed=how.seed + epoch), judge=judge)
    table = found.table(how.count)
    at = torch.tensor([place[text] for text in rows.anchors], dtype=torch.int64)
    return {name: column[at] for name, column in table.items()} | {"pool": digest(pool)}


def mined_rows(rows: Rows, state: dict[str, Tensor], pool: Sequence[str]) -> Rows:
    """The rows with the negatives of a `remine`, also one that a checkpoint kept.

    Raises:
        Refusal: for another pool than was mined.
    """
    if not torch.equal(state["pool"].cpu(), digest(pool)):
        remedy = "the data changed since the checkpoint was written; start a new run"
        raise Refusal("the texts that negatives were mined from", "other texts", remedy=remedy)
    return with_negatives(rows, state["candidate"].cpu(), pool)
