"""Batches for labelled rows: so many rows of so many classes, or whole groups."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from counterpoint.data.deal import Order, dealer, generator_of, places_of, refuse_too_few
from counterpoint.errors import Refusal

SMALLEST = 4  # rows of a batch of groups: two labels with two rows each
Part = tuple[int, np.ndarray]  # a label and some of its rows, at least two


def balanced(labels: Sequence[str] | np.ndarray, *, batch: int, seed: int, per_class: int = 4) -> Order:
    """Batches of `per_class` rows of each of batch / per_class classes ("PK" batches), all classes equally often.

    An epoch has n // batch batches. Classes come in one shuffled pass after another, and so do the rows of each class:
    a row of a small class is used several times an epoch, of a large class some rows are used, others each epoch.

    Args:
        labels: the class of each row.
        batch: rows a batch, a multiple of per_class.
        seed: decides all shuffles.
        per_class: K, rows of each class in a batch, at least 2, so that every row has a positive; 4 as in the paper.

    Raises:
        Refusal: a batch that is not a multiple of per_class or holds one class only; a class with fewer rows than
            per_class; fewer classes than a batch takes.

    Differs:
        From the paper: no class comes a second time before all others have come, and rows of a class likewise.

    References:
        Hermans, Beyer, Leibe 2017, arXiv:1703.07737.

    >>> [b.tolist() for b in balanced(["a", "b", "a", "b"], batch=4, seed=0, per_class=2)(0)]
    [[3, 1, 0, 2]]
    """
    names, rows = places_of(labels)
    n, where = sum(map(len, rows)), f"--order-set per_class={per_class}"
    refuse_too_few(n, batch)
    if per_class < 2:
        raise Refusal("at least 2 rows of a class, so that each has a positive", per_class, where=where)
    if batch % per_class or batch == per_class:
        near = max(2, round(batch / per_class)) * per_class
        remedy = f"--batch {near}, or another per_class"
        raise Refusal(f"a batch of two or more times {per_class} rows of a class", batch, where=where, remedy=remedy)
    classes = batch // per_class
    small = min(range(len(names)), key=lambda c: len(rows[c]))
    if (fewest := len(rows[small])) < per_class:
        other = f"--order-set per_class={fewest}, or " if fewest > 1 and batch % fewest == 0 else ""
        raise Refusal(
            f"at least {per_class} rows of every class",
            f"{fewest} of '{names[small]}'",
            where=where,
            remedy=f"{other}--order grouped, which takes what there is",
        )
    if len(names) < classes:
        remedy = f"--order-set per_class={-(-batch // len(names))} or more, or a smaller --batch"
        raise Refusal(f"{classes} classes for a batch", len(names), where=where, remedy=remedy)

    def order(epoch: int) -> Iterator[np.ndarray]:
        generator = generator_of(seed, epoch)
        deal_classes = dealer(np.arange(len(names)), generator)
        deals = [dealer(r, generator) for r in rows]
        for _ in range(n // batch):
            yield np.concatenate([deals[c](per_class) for c in deal_classes(classes).tolist()])

    return order


def grouped(labels: Sequence[str] | np.ndarray, *, batch: int, seed: int) -> Order:
    """Batches of whole groups as far as they fit: at least two labels, at least two rows of each, no row twice an epoch.

    A group of more than half a batch is cut into parts of that size, which come at even distances in the epoch and in
    one batch only where nothing else is left. Where no whole group fills the rest of a batch, one is cut. Left out are
    rows whose label has no other row, the odd row that a cut may leave, those of the last short batch, and the tail of
    a label that holds most rows.

    Args:
        labels: the group of each row.
        batch: rows a batch, even, at least 4.
        seed: decides all shuffles.

    Raises:
        Refusal: a batch that is odd or less than 4, fewer than two labels with two rows.

    Differs:
        From the sampler GROUP_BY_LABEL of sentence-transformers, which gives the same promise: that one deals pairs of
        rows of all labels in turn, so a batch holds two rows of each of many labels and no group is together, and an odd
        group always loses a row.

    >>> [sorted(b.tolist()) for b in grouped(["a", "b", "a", "b", "c"], batch=4, seed=0)(0)]
    [[0, 1, 2, 3]]
    """
    where = f"--batch {batch} --order grouped"
    if batch < SMALLEST or batch % 2:
        raise Refusal(
            f"an even batch of at least {SMALLEST}", batch, where=where, remedy=f"--batch {max(4, batch + 1)}"
        )
    names, rows = places_of(labels)
    groups = [r for r in rows if len(r) > 1]
    if len(groups) < 2:
        raise Refusal(
            "at least two labels with two rows or more", f"{len(groups)} of {len(names)}", where="--order grouped"
        )
    refuse_too_few(sum(map(len, groups)), batch)

    def order(epoch: int) -> Iterator[np.ndarray]:
        generator = generator_of(seed, epoch)
        parts = deque(_parts(groups, batch // 2, generator))
        waiting: OrderedDict[int, deque[Part]] = OrderedDict()
        while True:
            chosen = _whole(parts, waiting, batch)
            _cut(chosen, parts, waiting, batch=batch)
            if sum(len(rows) for rows in chosen.values()) < batch:
                return
            yield np.concatenate(list(chosen.values()))

    return order


def _parts(groups: Sequence[np.ndarray], most: int, generator: np.random.Generator) -> list[Part]:
    """The groups with their rows shuffled, large ones in parts, in an order that keeps such parts apart."""
    found: list[tuple[float, int, np.ndarray]] = []
    for label, rows in enumerate(groups):
        pieces = np.split(generator.permutation(rows), range(most, len(rows), most))
        first = generator.random()
        found += [((i + first) / len(pieces), label, piece) for i, piece in enumerate(pieces) if len(piece) > 1]
    return [(label, piece) for _, label, piece in sorted(found, key=lambda part: part[:2])]


def _whole(parts: deque[Part], waiting: OrderedDict[int, deque[Part]], batch: int) -> dict[int, np.ndarray]:
    """Whole parts, at most one of a label, that leave no single place free; what does not fit waits its turn."""
    chosen: dict[int, np.ndarray] = {}
    free, misfits = batch, 0

    def fits(part: Part) -> bool:
        return part[0] not in chosen and len(part[1]) <= free and free - len(part[1]) != 1

    for _ in range(min(len(waiting), batch)):  # so many at most, or an epoch would not take time in proportion to n
        label, queue = waiting.popitem(last=False)
        if fits(queue[0]):
            chosen[label] = queue.popleft()[1]
            free -= len(chosen[label])
        if queue:
            waiting[label] = queue
    while free and parts and misfits < batch:
        part = parts.popleft()
        if fits(part):
            chosen[part[0]] = part[1]
            free -= len(part[1])
        else:
            misfits += part[0] not in chosen
            waiting.setdefault(part[0], deque()).append(part)
    for label in [label for label in chosen if label in waiting]:  # large labels take part in every batch
        waiting.move_to_end(label, last=False)
    return chosen


def _cut(
    chosen: dict[int, np.ndarray], parts: deque[Part], waiting: OrderedDict[int, deque[Part]], *, batch: int
) -> None:
    """Fill what is free with even numbers of rows of parts that do not fit whole, of other labels as long as there are any;
    the rest of them waits on."""
    free = batch - sum(len(rows) for rows in chosen.values())
    if free % 2:  # an odd number of places is taken, so some part is odd: it gives one row back
        odd = next(label for label, rows in chosen.items() if len(rows) % 2)
        chosen[odd], free = chosen[odd][:-1], free + 1
    others = list(islice((label for label in waiting if label not in chosen), free // 2))
    while free:
        if others:
            label, rows = _next(waiting, others.pop(0))
        elif parts:
            label, rows = parts.popleft()
            if label in chosen:
                waiting.setdefault(label, deque()).append((label, rows))
                continue
        elif len(chosen) > 1 and (known := next((label for label in chosen if label in waiting), None)) is not None:
            label, rows = _next(waiting, known)
        else:
            return
        take = min(free, len(rows) - len(rows) % 2)
        chosen[label] = np.concatenate([chosen.get(label, rows[:0]), rows[:take]])
        free -= take
        if len(rows) - take > 1:
            waiting.setdefault(label, deque()).appendleft((label, rows[take:]))


def _next(waiting: OrderedDict[int, deque[Part]], label: int) -> Part:
    """The part of a label that waits longest."""
    part = waiting[label].popleft()
    if not waiting[label]:
        del waiting[label]
    return part
