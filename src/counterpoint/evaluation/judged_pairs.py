"""Pairs that belong together by a task, and pairs that do not: what scores are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint.data.identity import content_ids
from counterpoint.evaluation.tasks import Classification, Retrieval, Similarity, Task

AT_ONCE = 10_000  # pairs whose products are held
PAIRS, OTHERS = 20_000, 200_000  # positive and negative ones at most; the latter have to reach far into the tail


class Judged(NamedTuple):
    """Places of anchors and candidates of a task.

    Args:
        positive: pairs that belong together.
        negative: pairs that do not.
        names: what the two are, in words.
    """

    positive: Int[np.ndarray, "p 2"]
    negative: Int[np.ndarray, "q 2"]
    names: tuple[str, str]


def sides(task: Task) -> tuple[Sequence[str], Sequence[str]]:
    """The items of `Measured.anchors` and of `Measured.vectors`, in their order; nothing for another kind of task."""
    if isinstance(task, Retrieval):
        return task.queries, task.candidates
    if isinstance(task, Classification):
        return task.asked, task.known
    return (task.left, task.right) if isinstance(task, Similarity) else ((), ())


def judged_pairs(task: Task, *, most: tuple[int, int] = (PAIRS, OTHERS), seed: int = 0) -> Judged:
    """Positive and negative pairs of a task.

    Args:
        task: ranked: a query with each of its positives, and with any other candidate. Labelled: two items of one class,
            and of two. Pairs with a value: those above the median, and the rest.
        most: positive and negative ones; where there are more, so many are drawn, each once (a few less where draws met).
        seed: of the drawing.

    Returns:
        Pairs sorted by their places; two equal texts are no pair. Either may be empty.

    >>> task = Retrieval(["a", "b"], [[0], [1]], ["x", "b", "z"], np.arange(2))
    >>> judged_pairs(task).positive.tolist(), judged_pairs(task).negative.tolist()
    ([[0, 0]], [[0, 1], [0, 2], [1, 0], [1, 2]])
    """
    generator = np.random.default_rng([seed, 0])
    anchors, candidates = sides(task)
    n, m = len(anchors), len(candidates)
    if isinstance(task, Similarity):
        above = np.asarray(task.value) > np.median(task.value) if n else np.zeros(0, bool)
        flat = np.arange(n) * (n + 1)
        positive, negative = flat[above], flat[~above]
        names = "pairs valued above the median", "pairs valued at it or below"
    elif isinstance(task, Classification):
        positive, negative = _by_label(task, most, generator)
        names = "pairs of one class", "pairs of two classes"
    elif isinstance(task, Retrieval):
        rows = np.repeat(np.arange(n), [len(own) for own in task.positives])
        positive = np.unique(rows * m + np.array([c for own in task.positives for c in own], dtype=np.int64))
        negative = np.setdiff1d(_any(n * m, most[1], generator), positive)
        names = "queries and their positives", "queries and other candidates"
    else:
        return Judged(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), ("", ""))
    ids = [content_ids(list(texts)).numpy() for texts in (anchors, candidates)]
    found = []
    for flat, limit in zip((positive, negative), most, strict=True):
        pairs = np.stack(np.divmod(flat, max(m, 1)), axis=1)
        if not isinstance(task, Similarity):
            pairs = pairs[ids[0][pairs[:, 0]] != ids[1][pairs[:, 1]]]
        if len(pairs) > limit:
            pairs = pairs[np.sort(generator.choice(len(pairs), limit, replace=False))]
        found.append(pairs)
    return Judged(found[0], found[1], names)


def cosines_of(z: tuple[Tensor, Tensor], pairs: Int[np.ndarray, "p 2"]) -> Float[np.ndarray, " p"]:
    """The cosine of each pair of rows of length 1, one of either side.

    >>> cosines_of((torch.eye(2), torch.eye(2)), np.array([[0, 0], [0, 1]])).tolist()
    [1.0, 0.0]
    """
    parts = torch.from_numpy(pairs).split(AT_ONCE)
    return torch.cat([(z[0][part[:, 0]] * z[1][part[:, 1]]).sum(1) for part in parts]).double().numpy()


def _any(count: int, most: int, generator: np.random.Generator) -> np.ndarray:
    """All of 0..count-1, or about so many of them, each once; a few more than asked for, as some will fall out."""
    if count <= 2 * most:
        return np.arange(count)
    return np.unique(generator.integers(count, size=most + most // 10))


def _by_label(
    task: Classification, most: tuple[int, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flat places of pairs of one class, drawn by the asked item, and of two classes."""
    n, m = len(task.asked), len(task.known)
    names, place = np.unique(np.concatenate([task.asked_label, task.known_label]), return_inverse=True)
    asked, known = place[:n], place[n:]
    order, counts = np.argsort(known, kind="stable"), np.bincount(known, minlength=len(names))
    able = np.flatnonzero(counts[asked])
    anchor = np.repeat(able, -(-most[0] // max(len(able), 1)))
    one = (counts.cumsum() - counts)[asked[anchor]] + generator.integers(counts[asked[anchor]])
    positive = np.unique(anchor * m + order[one])
    negative = _any(n * m, most[1], generator)
    return positive, negative[asked[negative // max(m, 1)] != known[negative % max(m, 1)]]
