"""A portrait of an embedding space before and after training, as plain data: what the report draws of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint.data.identity import content_ids
from counterpoint.evaluation.flat import flat, turned
from counterpoint.evaluation.geometry import spectrum
from counterpoint.evaluation.judged_pairs import Judged, cosines_of, judged_pairs, sides
from counterpoint.evaluation.shift import score_shift
from counterpoint.evaluation.space import unit
from counterpoint.evaluation.tasks import Classification, Measured, Retrieval, Task
from counterpoint.objectives.spread import alignment, uniformity
from counterpoint.types import Embeddings, same_sample

FEW, MOST = 20, 20_000  # points of a map
ROWS = 5_000  # rows that uniformity and the spectrum are taken of
TEXT_BYTES, TEXT_CHARACTERS = 560_000, 120  # of all texts of a map together, and of one of them
CLASSES = 9  # that have a colour of their own
TOLD = 12  # items in the table beside the map
FINE = 40  # bins of scores from -1 to 1
GRID = 2**15 - 1  # a map is a square of so many steps

Both = tuple[Tensor, Tensor]  # [n, d] and [m, d]: unit rows of anchors and of candidates


def portrait(
    task: Task, before: Measured, after: Measured, show: Callable[[str], str] = str, *, seed: int = 0
) -> dict[str, Any]:
    """Map, scores, shift of cut-offs, alignment and uniformity, and spectrum of the test items.

    Args:
        task: what was asked.
        before: answers of the model you had.
        after: answers of the trained one.
        show: an item's key as text.
        seed: decides which pairs and rows are looked at where there are many; the map draws nothing at random.

    Returns:
        "map", "scores", "shift", "plane", "spectrum", as plain numbers and texts; empty for a task without embeddings.
        What there are too few items for is left out.
    """
    keys = sides(task)
    looked = [m for m in (before, after) if m.anchors is not None and m.vectors is not None]
    if len(looked) < 2 or not keys[0] or not keys[1]:
        return {}
    both = [
        (unit(m.anchors.float()), unit(m.vectors.float()))
        for m in looked
        if m.anchors is not None and m.vectors is not None
    ]
    found: dict[str, Any] = {"map": map_of(task, both, looked, show, seed=seed)}
    pairs = judged_pairs(task, seed=seed)
    if len(pairs.positive) and len(pairs.negative):
        found |= _scores(pairs, both)
    ids = content_ids([*keys[0], *keys[1]])
    some = _some(len(ids), ROWS, seed)
    rows = [Embeddings.of(torch.cat(z)[some], id=ids[some]) for z in both]
    if len(pairs.positive):
        found["plane"] = {
            "alignment": [_aligned(z, pairs) for z in both],
            "uniformity": [float(uniformity(z).loss) for z in rows],
            "pairs": len(pairs.positive),
            "rows": len(some),
        }
    found["spectrum"] = [spectrum(z.z).tolist() for z in rows]
    return {name: part for name, part in found.items() if part}


def _some(count: int, most: int, seed: int) -> Tensor:
    """So many places at most, sorted."""
    if count <= most:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.random.default_rng([seed, 1]).choice(count, most, replace=False)))


def _aligned(z: Both, pairs: Judged) -> float:
    left, right = torch.from_numpy(pairs.positive).T
    return float(alignment(z[0][left], z[1][right]).loss)


def _scores(pairs: Judged, both: Sequence[Both]) -> dict[str, Any]:
    """How cosines of both kinds of pairs are spread, and what becomes of fixed cut-offs."""
    cosines = [tuple(cosines_of(z, kind) for kind in (pairs.positive, pairs.negative)) for z in both]
    edges = np.linspace(-1, 1, FINE + 1)
    counts = [[np.histogram(np.clip(x, -1, 1), edges)[0].tolist() for x in of_one] for of_one in cosines]
    shift = score_shift(cosines[0], cosines[1])  # type: ignore[arg-type]
    return {
        "scores": {
            "names": list(pairs.names),
            "edges": edges.round(6).tolist(),
            "counts": counts,
            "medians": [[float(np.median(x)) for x in of_one] for of_one in cosines],
        },
        "shift": [asdict(line) for line in shift],
    }


def map_of(
    task: Task, both: Sequence[Both], looked: Sequence[Measured], show: Callable[[str], str], *, seed: int
) -> dict[str, Any]:
    """The items on a sheet, before and after; the second map starts from the first and is turned to it.

    Returns:
        For each item shown: "group" (a place in "groups"), "x" and "y" before and after, "text", "mate" (the item that a query
        belongs with, or -1), "rank" before and after (0: it has none). Empty for few items.
    """
    anchors, candidates = sides(task)
    keys, n = [*anchors, *candidates], len(anchors)
    at, mate = _shown(task, seed)
    if len(at) < FEW:
        return {}
    first = flat(torch.cat(both[0])[at])
    second = turned(flat(torch.cat(both[1])[at], start=first), onto=first)
    groups, group = _groups(task)
    none = np.zeros(len(candidates), np.int64)
    ranked = [np.concatenate([m.ranks, none])[at].tolist() for m in looked] if isinstance(task, Retrieval) else []
    return {
        "of": len(keys),
        "groups": groups,
        "group": group[at].tolist(),
        "points": [_on_grid(y) for y in (first, second)],
        "texts": short_texts([show(keys[i]) for i in at]),
        "mate": mate.tolist(),
        "ranks": ranked,
        "told": _told(at, n, keys, both, show),
    }


def _shown(task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the items on the map, and of whom each belongs with: queries, what they belong with, then others."""
    anchors, candidates = sides(task)
    n, m = len(anchors), len(candidates)
    with_whom = np.full(n + m, -1)
    if isinstance(task, Retrieval):
        with_whom[:n] = [n + own[0] if len(own) else -1 for own in task.positives]
    elif not isinstance(task, Classification):
        with_whom[:n] = n + np.arange(n)
    order = np.random.default_rng([seed, 2]).permutation(n + m)
    if n + m > MOST:
        asked = order[order < n][: MOST // 2]
        mates = with_whom[asked]
        order = np.array(list(dict.fromkeys([*asked, *mates[mates >= 0], *order[order >= n], *order])))[:MOST]
    at = np.sort(order)
    place = np.full(n + m + 1, -1)  # the last is that of -1, nobody
    place[at] = np.arange(len(at))
    return at, place[with_whom[at]]


def _groups(task: Task) -> tuple[list[str], np.ndarray]:
    """What colours mean, and the colour of each item: its class where there are classes, else its side."""
    if not isinstance(task, Classification):
        anchors, candidates = sides(task)
        names = ["query", "candidate"] if isinstance(task, Retrieval) else ["first of a pair", "second of a pair"]
        return names, np.repeat([0, 1], [len(anchors), len(candidates)])
    labels = [str(x) for x in (*task.asked_label, *task.known_label)]
    sizes = sorted(Counter(labels).items(), key=lambda known: (-known[1], known[0]))
    names = sorted(name for name, _ in (sizes if len(sizes) == CLASSES + 1 else sizes[:CLASSES]))
    rest = len(sizes) - len(names)
    place = {name: i for i, name in enumerate(names)}
    said = [*names, f"{rest} other classes"] if rest else names
    return said, np.array([place.get(x, len(names)) for x in labels])


def _on_grid(y: np.ndarray) -> list[list[int]]:
    """Points as whole numbers on a square that holds them."""
    low, size = y.min(0), max(float(np.ptp(y, axis=0).max()), 1e-12)
    middle = (GRID - (np.ptp(y, axis=0) / size * GRID)) / 2
    return np.rint((y - low) / size * GRID + middle).astype(int).T.tolist()


def short_texts(texts: Sequence[str], budget: int = TEXT_BYTES) -> list[str]:
    """The beginning of each text, in one line: as much as fits into so many bytes of them all.

    >>> short_texts(["a  b", "long " * 99], 100)[0], len(short_texts(["long " * 99] * 20, 1_000)[0])
    ('a b', 44)
    """
    lines = [" ".join(text[: 8 * TEXT_CHARACTERS].split()) for text in texts]
    for most in range(TEXT_CHARACTERS, 3, -4):
        cut = [line if len(line) <= most else line[: most - 1].rstrip() + "…" for line in lines]
        if sum(len(line.encode("utf-8", "replace")) + 5 * line.count("<") + 4 for line in cut) <= budget:
            break
    return cut


def _told(
    at: np.ndarray, n: int, keys: Sequence[str], both: Sequence[Both], show: Callable[[str], str]
) -> list[list[str]]:
    """Some items with the nearest other one before and after: the map in words."""
    asked = at[at < n]
    asked = asked[np.unique(np.linspace(0, len(asked) - 1, min(TOLD, len(asked))).astype(int))]
    ids = content_ids([keys[i] for i in at])
    mine = content_ids([keys[i] for i in asked])
    rows = [[show(keys[i]) for i in asked]]
    for z in both:
        whole = torch.cat(z)
        near = neighbours(Embeddings.of(whole[asked], id=mine), Embeddings.of(whole[at], id=ids), 1, rule=same_sample)
        rows.append([show(keys[at[j]]) if j >= 0 else "-" for j in near.index[:, 0].tolist()])
    return [short_texts(row) for row in zip(*rows, strict=True)]
