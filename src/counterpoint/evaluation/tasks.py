"""What is measured: one task for what the data's roles allow. A task is asked with any encoder and answers row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.neighbours import Neighbours, neighbours
from counterpoint.data.identity import content_ids
from counterpoint.types import Embeddings, same_sample

DEPTH = 100  # candidates looked at for each query
FUSED = 60  # the constant of reciprocal rank fusion; Cormack et al.'s own
_OTHER_NAMES = re.compile("^(mrr|recall|ndcg|map)")


def _theirs(name: re.Match[str]) -> str:
    """What ir_measures calls a measure."""
    return {"mrr": "RR", "recall": "R", "ndcg": "nDCG", "map": "AP"}[name[0]]


Embed = Callable[[Sequence[str], Literal["anchor", "positive"]], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class Measured:
    """The answers of one encoder to one task.

    Args:
        values: metric -> [n] one number a row whose mean is the metric, or [n, 2] and more of which `statistics` makes one.
        unit: [n] rows of one unit are not independent.
        candidates: how many candidates a query was ranked against, or training texts a class was read from.
        ranks: [n] rank of the first positive, 1-based; DEPTH + 1 when it is further down. Empty where nothing is ranked.
        top: [n] index of the best candidate, likewise.
        vectors: embeddings of the candidates: texts that are ranked, labelled texts, or partners of a pair, row by row.
        anchors: embeddings of the questions.
        found: [n, k] indices of the candidates that were found, the best first; -1 where there are no more. None: not kept.
        draws: metric -> its value in each of several draws, where `values` are their mean.
    """

    values: Mapping[str, np.ndarray]
    unit: np.ndarray
    candidates: int
    ranks: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    top: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    vectors: Tensor | None = None
    anchors: Tensor | None = None
    found: np.ndarray | None = None
    draws: Mapping[str, Sequence[float]] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """Something that an encoder can be good or bad at; `metric` is the number that decides."""

    @property
    def metric(self) -> str:
        """The number that decides."""

    def sizes(self) -> tuple[int, int]:
        """How many questions there are, and among how many candidates each is answered."""

    def measure(self, embed: Embed) -> Measured:
        """Ask one encoder."""

    def texts(self) -> int:
        """How many texts it has to encode."""


@dataclass(frozen=True)
class Retrieval:
    """Each query has to rank its positives before all other candidates.

    Args:
        queries: distinct texts.
        positives: for each query, the indices of its positives among the candidates.
        candidates: distinct texts.
        unit: for each query.
        roles: the roles of queries and candidates.
        gains: how relevant each of `positives` is, above 0; None: all alike. Only nDCG, with gains as they are, reads them.
        measures: what is measured: mrr, recall, ndcg or map, each @ a depth of at most 100.

    A candidate that is the query's own text is left out of its ranking.
    """

    queries: Sequence[str]
    positives: Sequence[Sequence[int]]
    candidates: Sequence[str]
    unit: np.ndarray
    roles: tuple[Literal["anchor", "positive"], Literal["anchor", "positive"]] = ("anchor", "positive")
    metric: str = "mrr@10"
    gains: Sequence[Sequence[int]] | None = None
    measures: Sequence[str] = ("mrr@10", "recall@1", "recall@10", "ndcg@10")

    def sizes(self) -> tuple[int, int]:
        """Queries, and all candidates."""
        return len(self.queries), len(self.candidates)

    def texts(self) -> int:
        """Queries and candidates."""
        return len(self.queries) + len(self.candidates)

    def measure(self, embed: Embed) -> Measured:
        """The measures of each query, by cosine."""
        vectors = embed(self.candidates, self.roles[1])
        anchors = Embeddings.of(embed(self.queries, self.roles[0]), id=content_ids(self.queries))
        candidates = Embeddings.of(vectors, id=content_ids(self.candidates))
        found = neighbours(anchors, candidates, DEPTH, rule=same_sample)
        return self._score(found, vectors, anchors.z)

    def lexical(self) -> Measured:
        """The same by BM25 over words, with identifiers taken apart at case changes and underscores."""
        import bm25s

        index = bm25s.BM25()
        index.index([words(t) for t in self.candidates], show_progress=False)
        k = min(DEPTH + 1, len(self.candidates))
        place, score = index.retrieve(
            [words(t) for t in self.queries], k=k, show_progress=False, n_threads=1, sorted=True
        )
        itself = (
            content_ids(self.queries)[:, None] == content_ids(self.candidates)[torch.from_numpy(place.astype(np.int64))]
        )
        nothing = itself.numpy() | (score <= 0)
        index_ = torch.from_numpy(np.where(nothing, -1, place.astype(np.int64)))
        return self._score(Neighbours(index_, torch.from_numpy(np.asarray(score, dtype=np.float32))))

    def fused(self, *parts: Measured) -> Measured:
        """The rankings of several systems as one, by reciprocal rank fusion; equal sums keep the order of the first system.

            score(d) = sum over systems of 1 / (60 + rank of d)    where the system found it, else 0

        References:
            Cormack, Clarke, Buettcher 2009, Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods.
        """
        rankings = [part.found for part in parts if part.found is not None]
        rows = [_fuse([ranking[q] for ranking in rankings]) for q in range(len(self.queries))]
        index = torch.full((len(rows), DEPTH), -1, dtype=torch.int64)
        for q, row in enumerate(rows):
            index[q, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return self._score(Neighbours(index, torch.zeros(index.shape)))

    def _score(self, found: Neighbours, vectors: Tensor | None = None, anchors: Tensor | None = None) -> Measured:
        import ir_measures
        from ir_measures import Qrel, ScoredDoc

        index = found.index.tolist()
        gains = self.gains or [[1] * len(known) for known in self.positives]
        qrels = [
            Qrel(str(q), str(c), gain)
            for q, (known, worth) in enumerate(zip(self.positives, gains, strict=True))
            for c, gain in zip(known, worth, strict=True)
        ]
        run = [
            ScoredDoc(str(q), str(c), float(-at)) for q, row in enumerate(index) for at, c in enumerate(row) if c >= 0
        ]
        names = {ir_measures.parse_measure(_OTHER_NAMES.sub(_theirs, name)): name for name in self.measures}
        values = {name: np.zeros(len(self.queries)) for name in names.values()}
        for result in ir_measures.iter_calc(list(names), qrels, run):
            values[names[result.measure]][int(result.query_id)] = result.value
        ranks, top = [], []
        for row, known in zip(index, self.positives, strict=True):
            seen, wanted = [c for c in row if c >= 0], set(known)
            ranks.append(next((at for at, c in enumerate(seen, start=1) if c in wanted), DEPTH + 1))
            top.append(seen[0] if seen else -1)
        places = (np.array(ranks), np.array(top))
        return Measured(
            values,
            self.unit,
            len(self.candidates),
            *places,
            vectors,
            anchors,
            found=found.index.numpy().astype(np.int32),
        )


def _fuse(rankings: Sequence[np.ndarray]) -> list[int]:
    """The candidates of one query, the best first, at most `DEPTH`."""
    score: dict[int, float] = {}
    for ranking in rankings:
        for rank, candidate in enumerate(ranking[ranking >= 0].tolist(), start=1):
            score[candidate] = score.get(candidate, 0.0) + 1 / (FUSED + rank)
    return sorted(score, key=lambda candidate: -score[candidate])[:DEPTH]


def words(text: str) -> list[str]:
    """The words of a text in lower case; identifiers are taken apart.

    >>> words("readCsv_file(PATH)")
    ['read', 'csv', 'file', 'path']
    """
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower())


def halves(texts: Sequence[str], unit: np.ndarray, shortest: int = 8) -> Retrieval:
    """A task for texts without any label: the first half of a text has to find its second half.

    It is a stand-in for meaning, not meaning itself, and says nothing of texts with fewer than `shortest` words.
    """
    split = [(i, t.split()) for i, t in enumerate(texts)]
    kept = [(i, w) for i, w in split if len(w) >= shortest]
    first = [" ".join(w[: len(w) // 2]) for _, w in kept]
    second = [" ".join(w[len(w) // 2 :]) for _, w in kept]
    place = {t: n for n, t in enumerate(dict.fromkeys(second))}
    unit = unit[[i for i, _ in kept]] if kept else unit[:0]
    return Retrieval(first, [[place[s]] for s in second], list(place), unit, roles=("anchor", "anchor"))


@dataclass(frozen=True)
class Similarity:
    """The cosine of a pair has to rise with the value that people gave it."""

    left: Sequence[str]
    right: Sequence[str]
    value: np.ndarray
    unit: np.ndarray
    metric: str = "spearman"
    measures: Sequence[str] = ("spearman",)

    def sizes(self) -> tuple[int, int]:
        """Pairs; each has one partner."""
        return len(self.left), 1

    def texts(self) -> int:
        """Both sides."""
        return len(self.left) + len(self.right)

    def measure(self, embed: Embed) -> Measured:
        """Cosine beside value, row by row; the metrics are their correlations. Both sides are read in one role."""
        left, right = (embed(texts, "anchor") for texts in (self.left, self.right))
        both = np.stack([(left * right).sum(1).numpy(), self.value], axis=1)
        return Measured(dict.fromkeys(self.measures, both), self.unit, len(self.left), vectors=right, anchors=left)


@dataclass(frozen=True)
class Classification:
    """The nearest labelled texts have to vote for the right class."""

    known: Sequence[str]
    known_label: np.ndarray
    asked: Sequence[str]
    asked_label: np.ndarray
    unit: np.ndarray
    votes: int = 5
    metric: str = "accuracy"
    measures: Sequence[str] = ("accuracy",)

    def sizes(self) -> tuple[int, int]:
        """Texts to classify, and labelled texts that vote."""
        return len(self.asked), len(self.known)

    def texts(self) -> int:
        """Labelled texts and questions."""
        return len(self.known) + len(self.asked)

    def measure(self, embed: Embed) -> Measured:
        """1 for each text that is classified right, else 0.

        accuracy: by the 5 nearest training texts, which vote by cosine; accuracy@1: by the nearest; probe: by a logistic
        regression on the unit vectors (scikit-learn, C = 1).
        """
        known, asked = (embed(texts, "anchor") for texts in (self.known, self.asked))
        right = {
            name: self._reader(name).fit(known.numpy(), self.known_label).predict(asked.numpy()) == self.asked_label
            for name in self.measures
        }
        return Measured(
            {n: r.astype(float) for n, r in right.items()}, self.unit, len(self.known), vectors=known, anchors=asked
        )

    def _reader(self, name: str) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        if name == "probe":
            return LogisticRegression(max_iter=1_000)
        votes = 1 if name == "accuracy@1" else min(self.votes, len(self.known))
        return KNeighborsClassifier(votes, metric="cosine", weights="distance")
