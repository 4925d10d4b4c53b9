"""What items with a label or a number ask beside a vote of the nearest: few labels, clusters, numbers, the odd one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from counterpoint._ops.neighbours import neighbours
from counterpoint.data.identity import content_ids
from counterpoint.evaluation.tasks import Embed, Measured
from counterpoint.types import Embeddings, same_sample

SHOTS, EPISODES = (1, 5, 20), 10  # labelled items a class, and draws of them
READERS = ("linear", "mean", "nearest")
CLUSTERED = 500  # items a step of MiniBatchKMeans; MTEB's own
STARTS = 5  # runs of k-means that a measure is the mean of
PENALTIES = tuple(10.0**power for power in range(-4, 4))  # of the ridge, of which cross-validation takes one


@dataclass(frozen=True)
class FewShot:
    """Classes have to be read from a few labelled items of each.

    Args:
        known, known_label: labelled items that episodes are drawn from.
        asked, asked_label: items to classify.
        unit: for each of them.
        episodes: [e, c, s] places among `known` of the s items of each class that an episode knows at most; -1 where a class
            has no more. An episode of fewer shots takes the first of each.
        shots: how many of a class.
    """

    known: Sequence[str]
    known_label: np.ndarray
    asked: Sequence[str]
    asked_label: np.ndarray
    unit: np.ndarray
    episodes: np.ndarray
    shots: Sequence[int] = SHOTS
    metric: str = "5-shot linear"

    def sizes(self) -> tuple[int, int]:
        """Items to classify, and items that episodes are drawn from."""
        return len(self.asked), len(self.known)

    def texts(self) -> int:
        """Labelled items and questions."""
        return len(self.known) + len(self.asked)

    def measure(self, embed: Embed) -> Measured:
        """For each item the share of episodes in which it is classified right; intervals are over items, not over episodes.

        linear: by a logistic regression on the unit vectors (scikit-learn, C = 1); mean: by the nearest class mean, by cosine;
        nearest: by the nearest known item, by cosine. With one shot mean and nearest are the same, and nearest is left out.
        """
        known, asked = (embed(texts, "anchor").numpy() for texts in (self.known, self.asked))
        right: dict[str, list[np.ndarray]] = {}
        for places in self.episodes:
            for shots in self.shots:
                at = places[:, :shots].ravel()
                at = at[at >= 0]
                for reader in READERS if shots > 1 else READERS[:2]:
                    said = _read(reader, known[at], self.known_label[at], asked)
                    right.setdefault(f"{shots}-shot {reader}", []).append(said == self.asked_label)
        values = {name: np.mean(hits, axis=0) for name, hits in right.items()}
        draws = {name: [float(hit.mean()) for hit in hits] for name, hits in right.items()}
        return Measured(values, self.unit, len(self.known), draws=draws)


def _read(reader: str, known: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    if reader == "linear":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes")  # few of each class are what is asked
            return LogisticRegression(max_iter=1_000).fit(known, label).predict(asked)
    if reader == "nearest":
        return label[np.argmax(asked @ known.T, axis=1)]
    classes = np.unique(label)
    means = np.stack([known[label == one].mean(axis=0) for one in classes])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return classes[np.argmax(asked @ means.T, axis=1)]


def few_shot(
    known: tuple[Sequence[str], np.ndarray], asked: tuple[Sequence[str], np.ndarray], unit: np.ndarray, *, seed: int = 0
) -> FewShot | None:
    """Episodes drawn by a seed from labelled items; None where there are fewer than two classes.

    A number of shots is asked where at least half of the classes have so many items; a class with fewer gives all it has.

    >>> task = few_shot((list("abcd"), np.array([0, 0, 1, 1])), (["e"], np.array([0])), np.arange(1))
    >>> task.shots, task.episodes.shape
    ((1,), (10, 2, 1))
    """
    items, label = known
    places = [np.flatnonzero(label == one) for one in np.unique(label)]
    if len(places) < 2:
        return None
    shots = tuple(s for s in SHOTS if s <= np.median([len(p) for p in places]))
    episodes = np.full((EPISODES, len(places), shots[-1]), -1)
    for number in range(EPISODES):
        draw = np.random.default_rng([seed, number])
        for c, own in enumerate(places):
            picked = draw.permutation(own)[: shots[-1]]
            episodes[number, c, : len(picked)] = picked
    used = np.unique(episodes[episodes >= 0])
    place = np.full(len(items) + 1, -1)
    place[used] = np.arange(len(used))  # the last place stands for -1
    task = FewShot([items[i] for i in used], label[used], *asked, unit, place[episodes], shots)
    return task if 5 in shots else replace(task, metric="1-shot linear")


@dataclass(frozen=True)
class Clustering:
    """Clusters of items have to be their classes.

    Args:
        items, label: what is clustered, and the class of each.
        unit: for each item.
        seed: of the starts of k-means.
    """

    items: Sequence[str]
    label: np.ndarray
    unit: np.ndarray
    seed: int = 0
    metric: str = "v_measure"
    measures: Sequence[str] = ("v_measure", "ari")

    def sizes(self) -> tuple[int, int]:
        """Items, and their classes."""
        return len(self.items), len(np.unique(self.label))

    def texts(self) -> int:
        """Items."""
        return len(self.items)

    def measure(self, embed: Embed) -> Measured:
        """Class beside the clusters of five runs of k-means with as many clusters as classes; a measure is their mean.

        MiniBatchKMeans of scikit-learn with steps of 500 items, as in MTEB, on the unit vectors. A resample keeps the clusters.
        """
        from sklearn.cluster import MiniBatchKMeans

        vectors, classes = embed(self.items, "anchor").numpy(), np.unique(self.label, return_inverse=True)[1]
        count, start = int(classes.max()) + 1, self.seed % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer distinct vectors than clusters: that is what is measured
            found = [
                MiniBatchKMeans(count, batch_size=CLUSTERED, n_init="auto", random_state=seed).fit(vectors)
                for seed in range(start, start + STARTS)
            ]
        rows = np.stack([classes, *(run.labels_ for run in found)], axis=1)
        return Measured(dict.fromkeys(self.measures, rows), self.unit, count)


@dataclass(frozen=True)
class Regression:
    """A number has to be read from an embedding.

    Args:
        known, known_value: items with their numbers that a reader is fitted to.
        asked, asked_value: items whose numbers have to be read.
        unit: for each of them.
    """

    known: Sequence[str]
    known_value: np.ndarray
    asked: Sequence[str]
    asked_value: np.ndarray
    unit: np.ndarray
    metric: str = "r2"
    measures: Sequence[str] = ("r2", "spearman")

    def sizes(self) -> tuple[int, int]:
        """Items to read, and items that the reader is fitted to."""
        return len(self.asked), len(self.known)

    def texts(self) -> int:
        """All items."""
        return len(self.known) + len(self.asked)

    def measure(self, embed: Embed) -> Measured:
        """What a ridge regression on the unit vectors predicts, beside the value.

        RidgeCV of scikit-learn, whose penalty is chosen by leave-one-out among 0.0001 to 1000 on the known items alone.
        """
        from sklearn.linear_model import RidgeCV

        known, asked = (embed(texts, "anchor").double().numpy() for texts in (self.known, self.asked))
        predicted = RidgeCV(alphas=PENALTIES).fit(known, self.known_value).predict(asked)
        rows = np.stack([predicted, self.asked_value], axis=1)
        return Measured(dict.fromkeys(self.measures, rows), self.unit, len(self.known))


@dataclass(frozen=True)
class Anomaly:
    """What is not like the known items has to lie further from them.

    Args:
        known: normal items.
        asked: items of both kinds.
        abnormal: [n] which of those asked are not normal.
        unit: for each of them.
        votes: how many of the nearest known items tell how far an item lies.
    """

    known: Sequence[str]
    asked: Sequence[str]
    abnormal: np.ndarray
    unit: np.ndarray
    votes: int = 5
    metric: str = "auroc"
    measures: Sequence[str] = ("auroc", "ap")

    def sizes(self) -> tuple[int, int]:
        """Items to judge, and known normal ones."""
        return len(self.asked), len(self.known)

    def texts(self) -> int:
        """All items."""
        return len(self.known) + len(self.asked)

    def measure(self, embed: Embed) -> Measured:
        """The mean cosine distance to the five nearest known items, beside whether the item is abnormal.

        An item that is itself among the known ones does not count as its own neighbour.
        """
        asked, known = (Embeddings.of(embed(keys, "anchor"), id=content_ids(keys)) for keys in (self.asked, self.known))
        found = neighbours(asked, known, min(self.votes, len(self.known)), rule=same_sample)
        there = found.index >= 0
        near = torch.where(there, found.score, 0.0).sum(1) / there.sum(1).clamp(min=1)
        rows = np.stack([1 - near.double().numpy(), self.abnormal.astype(float)], axis=1)
        return Measured(dict.fromkeys(self.measures, rows), self.unit, len(self.known))
