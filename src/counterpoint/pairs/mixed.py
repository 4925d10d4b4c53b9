"""Rows mixed from others: hard negatives between near ones, positives further apart, mixtures of known label."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.join import matches
from counterpoint._ops.layout import Rule
from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.processes import everywhere
from counterpoint._ops.unit import to_unit
from counterpoint.pairs.synthetic import SHARES, SOURCES, by_identity, made, of_sources
from counterpoint.papers import paper
from counterpoint.types import Embeddings, same_sample

Share = float | Float[Tensor, ""] | Float[Tensor, " n"] | Float[Tensor, "n d"]  # of the first in a mixture of two


def beta_shares(
    alpha: float, shape: tuple[int, ...], generator: torch.Generator, *, above: float = 0.0
) -> Float[Tensor, ...]:
    """Numbers above + Beta(alpha, alpha): (n,) draws one for each row, (n, d) one for each dimension, () one for all.

    Args:
        alpha: above 0; 1 is uniform.
        shape: of the result.
        generator: on several processes the numbers of a replicated set are equal where their generators are.
        above: 1 for an extrapolation, as Feature Transformation has it.

    >>> bool((beta_shares(2.0, (100,), torch.Generator().manual_seed(0), above=1.0) > 1).all())
    True
    """
    if not alpha > 0:
        raise ValueError(f"wanted alpha above 0, got {alpha}")
    one, other = (
        torch._standard_gamma(torch.full(shape, alpha, dtype=torch.float64), generator=generator) for _ in range(2)
    )
    return (above + one / (one + other)).float()


def blend(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], share: Share) -> Float[Tensor, "n d"]:
    """share * first + (1 - share) * second, with one share for all, for each row, or for each dimension.

    >>> blend(torch.eye(2), torch.zeros(2, 2), torch.tensor([0.5, 1.0])).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    part = torch.as_tensor(share, dtype=first.dtype, device=first.device)
    if part.ndim == 1:
        part = part.view(-1, *[1] * (first.ndim - 1))
    return part * first + (1 - part) * second


@paper(row=204)
def extrapolated(queries: Embeddings, keys: Embeddings, share: Share) -> tuple[Embeddings, Embeddings]:
    """A query and its key pushed apart along their difference: a harder positive (Feature Transformation).

        q' = m q + (1 - m) k,    k' = m k + (1 - m) q,    q'.k' = s + 2 m (1 - m) (1 - s)    for unit rows of cosine s

    Args:
        queries: n rows of different ids; scaled to length 1.
        keys: at least those of the same ids; scaled to length 1, and taken without gradient.
        share: m, above 1 to extrapolate, from 0 to 1 to interpolate; see `beta_shares`.

    Returns:
        Queries and keys in the order of the queries, each still the sample it was: of its id and view. Both carry the
        gradient of the query. They are not of length 1; `infonce(unit=False)` takes them as they are.

    Raises:
        ValueError: for a query without a key.

    Differs:
        The authors scale queries and keys again or not, by an option; here the objective does.

    Relations:
        m = 1 changes nothing, so it is MoCo. `interpolated` is the paper's other half.

    References:
        Zhu et al. 2021, arXiv:2108.02982; memory/mem_moco.py at
        github.com/DTennant/CL-Visualizing-Feature-Transformation, where m = 1 + Beta(2, 2), one for each dimension.

    >>> q, k = Embeddings.of(torch.tensor([[1.0, 0.0]])), Embeddings.of(torch.tensor([[0.6, 0.8]]), view=1)
    >>> far = extrapolated(q, k, 1.5)
    >>> round(float((far[0].z * far[1].z).sum()), 4)
    0.0
    """
    row, col = matches(queries.id, keys.id)
    place = torch.full((len(queries),), len(keys), dtype=torch.int64, device=row.device)
    place = place.scatter_reduce(0, row, col, "amin")
    missing = int((place == len(keys)).sum())
    if missing:
        raise ValueError(f"wanted a key of the same id for each of {len(queries)} queries, {missing} have none")
    queries, keys = queries.to_unit(), keys.rows(place).to_unit()
    q, k = queries.z, keys.z.detach()
    return replace(queries, z=blend(q, k, share)), replace(keys, z=blend(k, q, share))


@paper(row=204)
def interpolated(rows: Embeddings, order: Int[Tensor, " n"], share: Share) -> Embeddings:
    """Rows of a queue mixed with the same rows in another order: negatives that were not there (Feature Transformation).

        n'_i = m n_i + (1 - m) n_order(i)

    Args:
        rows: n rows; on several processes a replicated set has one order and one share on all.
        order: a permutation of the rows.
        share: m, from 0 to 1; see `beta_shares`.

    Returns:
        Rows in the place of `rows`, each with the identity of its first: a stale row of one's own stays one. Not of
        length 1.

    Differs:
        None in the formula. A row mixed with a stale row of the query's own sample is a negative, as with the authors.

    Relations:
        m = 1 changes nothing, so it is MoCo.

    References:
        Zhu et al. 2021, arXiv:2108.02982; memory/mem_moco.py, where m = Beta(1.6, 1.6).

    >>> interpolated(Embeddings.of(torch.eye(2)), torch.tensor([1, 0]), 0.75).z.tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    return replace(rows, z=blend(rows.z, rows.z[order], share))


@paper(row=207)
def mixed(rows: Embeddings, order: Int[Tensor, " n"], share: float | Float[Tensor, " n"]) -> Embeddings:
    """Each row mixed with another, which it is then to find as well (M3CoL, on embeddings).

        x'_i = b_i x_i + (1 - b_i) x_order(i)

    Args:
        rows: n rows of samples.
        order: the other of each, usually a permutation.
        share: b, from 0 to 1; see `beta_shares`.

    Returns:
        Rows with gradient to both, ids below 0, and the facts `sources` and `shares` that `shared_sources` reads.

    Differs:
        The paper mixes the inputs of one modality; `of_sources` tells rows of mixed inputs what is in them. On several
        processes a row is mixed with one of its own process.

    Relations:
        With `shared_sources`, b = 1 is the loss of the rows as they are.

    References:
        Kumar et al. 2024, arXiv:2409.17777; mixco_nce in model/utils.py at
        github.com/RaghavSinghal10/M3CoL, with b = Beta(0.15, 0.15).

    >>> mixed(Embeddings.of(torch.eye(2)), torch.tensor([1, 0]), 0.75).facts["sources"].tolist()
    [[0, 1], [1, 0]]
    """
    return of_sources(replace(rows, z=blend(rows.z, rows.z[order], share)), rows.id[order], share)


@paper(row=182)
@torch.no_grad()
def mixed_negatives(
    queries: Embeddings,
    memory: Embeddings,
    *,
    nearest: int,
    pairs: int,
    with_query: int,
    generator: torch.Generator,
    most: float = 0.5,
    rule: Rule = same_sample,
) -> Embeddings:
    """Negatives between a query's hardest negatives, and between one of them and the query itself (MoCHi).

    With n_i, n_j drawn from the `nearest` rows that repel the query, a from 0 to 1 and b from 0 to `most`,

        h = unit(a n_i + (1 - a) n_j),    h' = unit(b q + (1 - b) n_i)

    Args:
        queries: n rows of samples; scaled to length 1.
        memory: rows of a queue, or of the batch; scaled to length 1. A sharded set is brought everywhere first.
        nearest: how many hard negatives each query draws from, N of the paper.
        pairs: how many h each query gets, s of the paper.
        with_query: how many h' it gets, s' of the paper.
        generator: one number is drawn from it; what a query draws depends on that, on its identity, and on nothing else.
        most: the largest share of the query, below which the negative dominates.
        rule: which rows of the memory may be negatives: those that it lets repel.

    Returns:
        Rows of length 1 without gradient, private to their query (`private_to`), with the facts `sources` and `shares`. A
        query without a negative gets none.

    Raises:
        ValueError: for sizes below 0, or `nearest` below 1.

    Differs:
        Stale rows of the query's own sample are no negatives. The order of the queries does not matter.

    Relations:
        With pairs = with_query = 0 it is MoCo. `infonce_private` scores the rows.

    References:
        Kalantidis et al. 2020, arXiv:2010.01028; re-implemented in src/moco.py at github.com/davidsvy/hard-negative-mixing.

    >>> q = Embeddings.of(torch.eye(3), id=torch.tensor([7, 8, 9]))
    >>> found = mixed_negatives(q, q, nearest=2, pairs=1, with_query=1, generator=torch.Generator())
    >>> found.id.tolist()
    [-8, -8, -9, -9, -10, -10]
    """
    if min(pairs, with_query) < 0 or nearest < 1:
        raise ValueError(f"wanted numbers of at least 0 of 1 or more nearest, got {pairs}, {with_query} of {nearest}")
    queries, memory = replace(queries, facts={}).to_unit(), replace(everywhere(memory), facts={}).to_unit()
    index = neighbours(queries, memory, nearest, rule=rule).index
    some, each = (index >= 0).sum(1), pairs + with_query
    owner = torch.arange(len(queries), device=index.device).repeat_interleave(each)
    number = torch.arange(each, device=index.device).repeat(len(queries))
    owner, number = owner[some[owner] > 0], number[some[owner] > 0]
    drawn = by_identity(generator, queries.rows(owner), number, 3)
    first, second = (index[owner, (column * some[owner]).long()] for column in (drawn[:, 0], drawn[:, 1]))
    inside = number >= pairs
    own, share = queries.rows(owner), torch.where(inside, drawn[:, 2] * most, drawn[:, 2]).to(queries.z.dtype)
    left = torch.where(inside[:, None], own.z, memory.z[first])
    right = torch.where(inside, first, second)
    ids = torch.stack([torch.where(inside, own.id, memory.id[first]), memory.id[right]], 1)
    facts = {SOURCES: ids, SHARES: torch.stack([share, 1 - share], 1)}
    return made(own, to_unit(blend(left, memory.z[right], share)), attracts=0.0, facts=facts)
