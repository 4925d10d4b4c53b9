"""Batches of several sources: all of one source, or every batch a mixture of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from counterpoint.data.deal import Order, dealer, generator_of, in_turn, places_of, refuse_too_few
from counterpoint.errors import Refusal, closest


def shares(
    sizes: Sequence[int] | np.ndarray, *, temperature: float = 1.0, weights: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """How often each source is drawn: q_s = w_s n_s^(1/T) / sum over all sources.

    T = 1 draws in proportion to the sizes, large T all sources alike.

    Args:
        sizes: rows (or batches) of each source, above 0.
        temperature: T > 0.
        weights: w, above 0; None: all 1.

    Raises:
        Refusal: a temperature that is not above 0.

    References:
        With the exponent alpha = 1/T: Conneau and Lample 2019, arXiv:1901.07291 (alpha 0.5); Conneau et al. 2020,
        arXiv:1911.02116 (alpha 0.3). As a temperature: Arivazhagan et al. 2019, arXiv:1907.05019 (T = 5).

    >>> shares([1, 3]).tolist(), shares([1, 16], temperature=2.0).tolist()
    ([0.25, 0.75], [0.2, 0.8])
    """
    if not temperature > 0:
        raise Refusal("a temperature above 0", temperature, where="--order-set temperature")
    logs = np.log(np.asarray(sizes, dtype=np.float64)) / temperature
    drawn = np.exp(logs - logs.max()) * (1.0 if weights is None else np.asarray(weights))
    return drawn / drawn.sum()


def by_source(
    sources: Sequence[str] | np.ndarray,
    *,
    batch: int,
    seed: int,
    temperature: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> Order:
    """Batches of one source each, so that a row's negatives come from where it comes from.

    An epoch has as many batches as all sources can fill, B = sum of n_s // batch. Each source gets its share q_s B of
    them, rounded up or down at random so that the mean is exact, and the batches are shuffled. At temperature 1 and
    without weights every row is used at most once an epoch; else a source that is drawn beyond its last row begins
    anew, with another shuffle, and of one that is drawn less only a part is used, another one each epoch.

    Args:
        sources: the source of each row.
        batch: rows a batch.
        seed: decides everything that is drawn.
        temperature: 1 draws sources in proportion to the batches that they fill; higher draws small ones more often.
        weights: source -> how many times as often its rows are drawn; 1 where none is given.

    Raises:
        Refusal: a source that cannot fill a batch; a weight for a source that is not there, or not above 0.

    Differs:
        From drawing each batch's source anew (as in the papers): the same expectation with less variance.

    References:
        As `shares`.

    >>> [b.tolist() for b in by_source(["a", "b", "a", "b"], batch=2, seed=0)(0)]
    [[3, 1], [2, 0]]
    """
    names, rows = places_of(sources)
    refuse_too_few(sum(map(len, rows)), batch)
    small = min(range(len(names)), key=lambda s: len(rows[s]))
    if len(rows[small]) < batch:
        raise Refusal(
            f"at least {batch} rows of every source for batches of one source",
            f"{len(rows[small])} of '{names[small]}'",
            where="--order by_source",
            remedy=(f"--batch {len(rows[small])} or less, or " if len(rows[small]) > 1 else "") + "--order mixed",
        )
    full = np.array([len(r) // batch for r in rows])
    expected = full.sum() * shares(full, temperature=temperature, weights=_weights(names, weights))

    def order(epoch: int) -> Iterator[np.ndarray]:
        generator = generator_of(seed, epoch)
        counts = whole_counts(expected, generator)
        deals = [dealer(r, generator, in_turn(r, batch=batch, seed=seed, epoch=epoch)) for r in rows]
        for source in generator.permutation(np.repeat(np.arange(len(names)), counts)):
            yield deals[source](batch)

    return order


def mixed(
    sources: Sequence[str] | np.ndarray,
    *,
    batch: int,
    seed: int,
    temperature: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> Order:
    """Batches that all hold every source in the same shares.

    An epoch has n // batch batches. Each source gets its share q_s of their places, spread evenly over the epoch. At
    temperature 1 and without weights every row is used at most once an epoch; else as in `by_source`.

    Args:
        sources: the source of each row.
        batch: rows a batch.
        seed: decides everything that is drawn.
        temperature: 1 takes sources in proportion to their rows; higher takes more of small ones.
        weights: source -> how many times as often its rows are drawn; 1 where none is given.

    Raises:
        Refusal: a source with fewer rows than its share of one batch; weights as in `by_source`.

    References:
        As `shares`.

    >>> [sorted(b.tolist()) for b in mixed(["a", "a", "b", "b"], batch=2, seed=0)(0)]
    [[0, 3], [1, 2]]
    """
    names, rows = places_of(sources)
    n = sum(map(len, rows))
    refuse_too_few(n, batch)
    share, batches = (
        shares([len(r) for r in rows], temperature=temperature, weights=_weights(names, weights)),
        n // batch,
    )
    for name, own, part in zip(names, rows, share, strict=True):
        most = min(math.ceil(batches * batch * part), math.ceil(batch * part + 1 + len(names) * part))
        if most > len(own):
            raise Refusal(
                f"at least {most} rows of '{name}', its share of a batch",
                f"{len(own)}",
                where="--order mixed",
                remedy="a smaller --batch, a lower temperature or a lower weight",
            )

    def order(epoch: int) -> Iterator[np.ndarray]:
        generator = generator_of(seed, epoch)
        totals = whole_counts(batches * batch * share, generator)
        keys = [(np.arange(total) + generator.random()) / total for total in totals if total]
        drawn = np.repeat(np.arange(len(names)), totals)[np.argsort(np.concatenate(keys), kind="stable")]
        deals = [dealer(r, generator) for r in rows]
        for start in range(0, len(drawn), batch):
            counts = np.bincount(drawn[start : start + batch], minlength=len(names))
            dealt = [deal(count) for deal, count in zip(deals, counts.tolist(), strict=True)]
            yield generator.permutation(np.concatenate(dealt))

    return order


def whole_counts(expected: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Whole numbers with these means, each rounded up or down, that keep the sum; the mean over draws is exact.

    This is systematic sampling: one number u in [0, 1), count_s = floor(C_s + u) - floor(C_(s-1) + u) with C the
    running sum. The sum of `expected` must be whole.

    >>> whole_counts(np.array([1.5, 2.0, 0.5]), np.random.default_rng(0)).sum()
    np.int64(4)
    """
    edges = np.floor(np.cumsum(expected) + generator.random())
    edges[-1] = round(float(expected.sum()))
    return np.diff(np.minimum(edges, edges[-1]), prepend=0).astype(np.int64)


def _weights(names: Sequence[str], given: Mapping[str, float] | None) -> np.ndarray:
    given = given or {}
    for name, weight in given.items():
        if name not in names:
            raise Refusal("a source of the data", f"'{name}'", where="--source-weight", remedy=closest(name, names))
        if not (weight > 0 and math.isfinite(weight)):
            raise Refusal("a weight above 0", weight, where=f"--source-weight {name}")
    return np.array([given.get(name, 1.0) for name in names])
