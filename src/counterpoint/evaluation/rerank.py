"""Reranking: each query's positives have to come first among a few candidates that look like them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.neighbours import Neighbours
from counterpoint.evaluation.tasks import Embed, Measured, Retrieval, words

# Two lists of texts -> a score of each pair, higher for pairs that belong together.
Score = Callable[[Sequence[str], Sequence[str]], Float[Tensor, " n"]]


@dataclass(frozen=True)
class Reranking:
    """Each query has to rank its positives before the other candidates of its own list.

    Args:
        queries: distinct texts.
        positives: for each query, the indices of its positives among the candidates.
        lists: for each query, the indices of the candidates to rank, in an order that says nothing: ties keep it.
        candidates: distinct texts.
        unit: for each query.
        measures: as those of `Retrieval`; "map" is over the whole list.
    """

    queries: Sequence[str]
    positives: Sequence[Sequence[int]]
    lists: Sequence[Sequence[int]]
    candidates: Sequence[str]
    unit: np.ndarray
    metric: str = "mrr@10"
    measures: Sequence[str] = ("mrr@10", "recall@1", "recall@10", "ndcg@10")

    def sizes(self) -> tuple[int, int]:
        """Queries, and the candidates of the longest list."""
        return len(self.queries), max(map(len, self.lists))

    def texts(self) -> int:
        """Pairs to score."""
        return sum(map(len, self.lists))

    def measure(self, score: Score) -> Measured:
        """The measures of each query, by the scores of pairs."""
        left = [self.queries[q] for q, own in enumerate(self.lists) for _ in own]
        return self._ranked(score(left, [self.candidates[c] for own in self.lists for c in own]))

    def by_cosine(self, embed: Embed) -> Measured:
        """The same by the cosine of a bi-encoder."""
        query, candidate = embed(self.queries, "anchor"), embed(self.candidates, "positive")
        row = torch.tensor([q for q, own in enumerate(self.lists) for _ in own])
        col = torch.tensor([c for own in self.lists for c in own])
        return self._ranked((query[row] * candidate[col]).sum(1))

    def lexical(self) -> Measured:
        """The same by BM25."""
        found = bm25_scores(self.queries, self.candidates)
        return self._ranked(torch.cat([torch.tensor(found(q))[list(own)] for q, own in enumerate(self.lists)]))

    def _ranked(self, score: Float[Tensor, " n"]) -> Measured:
        longest = self.sizes()[1]
        index = torch.full((len(self.queries), longest), -1, dtype=torch.int64)
        for q, (own, part) in enumerate(zip(self.lists, score.split([len(x) for x in self.lists]), strict=True)):
            index[q, : len(own)] = torch.tensor(own)[torch.argsort(part, descending=True, stable=True)]
        task = Retrieval(self.queries, self.positives, self.candidates, self.unit, measures=self.measures)
        measured = task._score(Neighbours(index, torch.zeros(index.shape)), None)  # one home of the metrics
        return replace(measured, candidates=longest)


def among_given(
    queries: Sequence[str],
    positives: Sequence[Sequence[int]],
    negatives: Sequence[Sequence[int]],
    candidates: Sequence[str],
    *,
    unit: np.ndarray,
    seed: int = 0,
) -> Reranking:
    """A task whose lists hold a query's own positives and negatives and nothing else, in an order drawn by the seed.

    Queries without a positive, or without a negative, have nothing to rank and are left out, as in MTEB.

    >>> task = among_given(["a", "b"], [[0], [0]], [[1], []], ["x", "y"], unit=np.arange(2))
    >>> task.queries, sorted(task.lists[0])
    (['a'], [0, 1])
    """
    kept = [q for q, known in enumerate(positives) if known and negatives[q]]
    lists = [np.random.default_rng([seed, q]).permutation([*positives[q], *negatives[q]]).tolist() for q in kept]
    return Reranking(
        [queries[q] for q in kept],
        [positives[q] for q in kept],
        lists,
        candidates,
        unit[kept],
        metric="map",
        measures=("map", "mrr@10"),
    )


def bm25_scores(queries: Sequence[str], candidates: Sequence[str]) -> Callable[[int], np.ndarray]:
    """Place of a query -> its BM25 scores of all candidates."""
    import bm25s

    index = bm25s.BM25()
    index.index([words(text) for text in candidates], show_progress=False)

    def scores(q: int) -> np.ndarray:
        known = [word for word in words(queries[q]) if word in index.vocab_dict]
        return index.get_scores(known) if known else np.zeros(len(candidates), dtype=np.float32)

    return scores


def reranking(
    queries: Sequence[str],
    positives: Sequence[Sequence[int]],
    negatives: Sequence[Sequence[int]],
    candidates: Sequence[str],
    *,
    unit: np.ndarray,
    size: int,
    seed: int = 0,
) -> Reranking:
    """A task whose lists hold a query's positives and negatives, half of the rest by BM25, the other half at random.

    Args:
        queries: distinct texts.
        positives, negatives: for each query, indices among the candidates.
        candidates: distinct texts; the query's own text is left out.
        unit: for each query.
        size: candidates of a list, where there are as many.
        seed: of the random ones and of the order.

    >>> task = reranking(["a"], [[0]], [[1]], ["x", "y", "z"], unit=np.zeros(1), size=3)
    >>> sorted(task.lists[0])
    [0, 1, 2]
    """
    place, found = {text: i for i, text in enumerate(candidates)}, bm25_scores(queries, candidates)
    lists = []
    for q, text in enumerate(queries):
        generator = np.random.default_rng([seed, q])
        barred = {*positives[q], place.get(text, -1)}
        own = [*positives[q], *(c for c in negatives[q] if c not in barred)][:size]
        half = len(own) + (size - len(own) + 1) // 2
        ranked = np.argsort(-found(q), kind="stable")[: size + len(own) + 1].tolist()
        for source, most in ((ranked, half), (generator.permutation(len(candidates))[: 2 * size + 2].tolist(), size)):
            taken = {*own, *barred}
            own += [c for c in source if c not in taken][: most - len(own)]
        lists.append(generator.permutation(own).tolist())
    return Reranking(queries, positives, lists, candidates, unit)
