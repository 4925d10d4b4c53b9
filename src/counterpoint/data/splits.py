"""Train, dev and test so that nothing leaks, and the units that an interval may resample."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from counterpoint.data.roles import Samples
from counterpoint.errors import Refusal

DEV, TEST = 0.1, 0.1
MOST_DEV, MOST_TEST = 500, 2000  # anchors; more would cost time and narrow no interval that matters
GIANT = 0.5  # share of the rows in one connected group from which on groups cannot be kept apart


@dataclass(frozen=True)
class Split:
    """Rows with "split" (train, dev, test) and "unit": rows of one unit are not independent and are resampled together."""

    frame: pl.DataFrame
    how: str
    unit: str

    def part(self, name: str) -> pl.DataFrame:
        """The rows of one split."""
        return self.frame.filter(pl.col("split") == name)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: len(self.part(name)) for name in ("train", "dev", "test")}


def connected_groups(frame: pl.DataFrame) -> np.ndarray:
    """The connected group of each row: rows that share an anchor or a positive, directly or through others.

    >>> connected_groups(pl.DataFrame({"anchor": ["a", "b", "c"], "positive": [["x"], ["x", "y"], ["z"]]})).tolist()
    [0, 0, 1]
    """
    anchors = frame["anchor"].rank("dense").to_numpy().astype(np.int64) - 1
    nodes = int(anchors.max()) + 1
    if "positive" not in frame.columns:
        left, right = anchors, anchors
    else:
        flat = frame.select(pl.Series("at", anchors), "positive").explode("positive")
        texts = flat["positive"].unique(maintain_order=True)
        place = dict(zip(texts, range(nodes, nodes + len(texts)), strict=True))
        left, right = flat["at"].to_numpy(), np.array([place[t] for t in flat["positive"]])
        nodes += len(texts)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    _, dense = np.unique(component[anchors], return_inverse=True)
    return dense


def split(samples: Samples, *, seed: int = 0) -> Split:
    """Split rows into train, dev and test.

    In this order: the split column; the latest tenth by the time column for test and the tenth before it for dev; whole
    groups of the group column; whole connected groups of equal anchors or positives; and, where one connected group
    holds most rows, by anchor.

    Raises:
        Refusal: a split column without train or test rows, or data that leave one of the three empty.
    """
    frame = samples.frame
    if not len(frame):
        raise Refusal("rows to split", "none that can be used", where=samples.source)
    connected = connected_groups(frame)
    if samples.has("group"):
        unit, named = frame["group"].fill_null("").to_numpy(), f"groups of '{samples.columns['group']}'"
    elif _largest(connected) > GIANT:
        unit, named = frame["anchor"].to_numpy(), "anchors"
    else:
        named = (
            "connected groups of equal anchors or positives"
            if samples.has("positive")
            else "texts"
            if samples.items.kind == "text"
            else "rows"
        )
        unit = connected
    _, unit = np.unique(unit, return_inverse=True)
    frame = frame.with_columns(pl.Series("unit", unit))
    if samples.has("split"):
        where = f"{samples.source}, column '{samples.columns['split']}'"
        frame, how = _with_dev(frame, seed, where), f"the column '{samples.columns['split']}'"
    elif samples.has("time"):
        where = f"{samples.source}, column '{samples.columns['time']}'"
        frame, how = _by_time(frame, where), f"time: the latest tenth by '{samples.columns['time']}' is the test"
    else:
        frame, how = _by_unit(frame, seed), named
        if named == "anchors":
            how += " (one connected group holds most rows, so test positives may be known from training)"
    result = Split(frame, how, named)
    for name, rows in result.sizes.items():
        if not rows:
            given = next((samples.columns[role] for role in ("split", "time", "group") if samples.has(role)), None)
            remedy = "add data" + (f", or leave its split to us with --ignore {shlex.quote(given)}" if given else "")
            raise Refusal(f"rows for {name}", "none", where=f"{samples.source}, split by {how}", remedy=remedy)
    return result


def _largest(groups: np.ndarray) -> float:
    return float(np.bincount(groups).max() / len(groups))


def _assign(frame: pl.DataFrame, test: np.ndarray, dev: np.ndarray) -> pl.DataFrame:
    return frame.with_columns(split=pl.Series(np.where(test, "test", np.where(dev, "dev", "train"))))


def _by_time(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    if frame["time"].null_count():
        row = frame["row"].filter(frame["time"].is_null())[0]
        raise Refusal("a time in every row", "an empty cell", where=f"{where}, row {row + 1}")
    rank = frame["time"].rank("min").to_numpy() / len(frame)
    return _assign(frame, rank > 1 - TEST, (rank <= 1 - TEST) & (rank > 1 - TEST - DEV))


def _fill(unit: np.ndarray, order: np.ndarray, rows: float) -> np.ndarray:
    """Whole units in a random order until there are `rows` rows; a unit too large for that is passed over."""
    size = np.bincount(unit, minlength=int(unit.max()) + 1)
    taken, total = np.zeros(len(size), dtype=bool), 0
    for u in order:
        if size[u] and total < rows and total + size[u] <= max(2 * rows, 1):
            taken[u], total = True, total + size[u]
    return taken


def _by_unit(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    unit = frame["unit"].to_numpy()
    order = np.random.default_rng(seed).permutation(int(unit.max()) + 1)
    test = _fill(unit, order, min(TEST * len(frame), MOST_TEST))
    dev = _fill(unit, order[~test[order]], min(DEV * len(frame), MOST_DEV))
    return _assign(frame, test[unit], dev[unit])


def _with_dev(frame: pl.DataFrame, seed: int, where: str) -> pl.DataFrame:
    """The user's split; where it has no dev, a tenth of train's units."""
    train = (frame["split"] == "train").to_numpy()
    if train.all() or not train.any() or not (frame["split"] == "test").any():
        came = " and ".join(sorted(frame["split"].unique())) + " only"
        remedy = "leave it out with --ignore to have the split made"
        raise Refusal("a split column with train and test", came, where=where, remedy=remedy)
    if (frame["split"] == "dev").any():
        return frame
    unit = frame["unit"].to_numpy()
    order = np.random.default_rng(seed).permutation(np.unique(unit[train]))
    rows = np.where(train, unit, unit.max() + 1)
    dev = _fill(rows, order, min(DEV * train.sum(), MOST_DEV))[rows]
    return _assign(frame, (frame["split"] == "test").to_numpy(), dev)
