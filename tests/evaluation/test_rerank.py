"""Reranking tasks whose right answers are known by construction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.evaluation.rerank import Reranking, among_given, bm25_scores, reranking
from counterpoint.evaluation.tasks import Retrieval

SCORES = {("q", "a"): 0.3, ("q", "b"): 0.9, ("q", "c"): 0.5, ("r", "a"): 2.0, ("r", "c"): 1.0}


def score(left: Sequence[str], right: Sequence[str]) -> Tensor:
    return torch.tensor([SCORES[pair] for pair in zip(left, right, strict=True)])


def test_metrics_of_a_hand_sized_ranking() -> None:
    task = Reranking(["q", "r"], [[2], [2]], [[0, 1, 2], [0, 2]], ["a", "b", "c"], np.arange(2))
    found = task.measure(score)
    assert found.values["mrr@10"].tolist() == [0.5, 0.5]
    assert found.values["recall@1"].tolist() == [0, 0]
    assert found.ranks.tolist() == [2, 2]
    assert found.top.tolist() == [1, 0]
    assert found.candidates == 3
    assert task.texts() == 5


def test_candidates_outside_of_a_list_do_not_count() -> None:
    task = Reranking(["r"], [[2]], [[2, 0]], ["a", "b", "c"], np.arange(1))
    assert task.measure(score).ranks.tolist() == [2]


def test_by_cosine_is_retrieval_where_the_list_is_everything() -> None:
    g = torch.Generator().manual_seed(0)
    vectors = {t: torch.nn.functional.normalize(torch.randn(4, generator=g), dim=0) for t in "abcdefqrs"}

    def embed(texts: Sequence[str], _role: str) -> Tensor:
        return torch.stack([vectors[t] for t in texts])

    positives, everything = [[0, 3], [2], [5]], [[5, 4, 3, 2, 1, 0]] * 3
    ours = Reranking("qrs", positives, everything, "abcdef", np.arange(3)).by_cosine(embed)
    theirs = Retrieval("qrs", positives, "abcdef", np.arange(3)).measure(embed)
    for name, values in theirs.values.items():
        assert ours.values[name].tolist() == pytest.approx(values.tolist())


def test_lists_hold_positives_negatives_words_in_common_and_others() -> None:
    texts = [f"text number {i} about {'cats' if i % 10 == 0 else 'dogs'}" for i in range(100)]
    task = reranking(["cats of 7", texts[5]], [[7], [6]], [[8, 9], []], texts, unit=np.arange(2), size=12)
    first = task.lists[0]
    assert len(first) == len(set(first)) == 12
    assert {7, 8, 9} <= set(first)
    assert sum(i % 10 == 0 for i in first) >= 4  # half of the rest by BM25
    assert sum(i % 10 != 0 for i in first) > 3
    assert 5 not in task.lists[1]
    again = reranking(["cats of 7", texts[5]], [[7], [6]], [[8, 9], []], texts, unit=np.arange(2), size=12)
    assert task.lists == again.lists
    other = reranking(["cats of 7", texts[5]], [[7], [6]], [[8, 9], []], texts, unit=np.arange(2), size=12, seed=1)
    assert task.lists != other.lists


def test_ties_are_worth_what_chance_is() -> None:
    """A model that scores all pairs alike ranks positives where the shuffled list has them, not first."""
    texts = [f"t{i}" for i in range(50)]
    queries = [f"x{i}" for i in range(200)]
    task = reranking(
        queries, [[i % 50] for i in range(200)], [[] for _ in queries], texts, unit=np.arange(200), size=10
    )
    found = task.measure(lambda left, right: torch.zeros(len(left)))
    assert abs(found.ranks.mean() - 5.5) < 0.7


def test_bm25_of_a_query_without_known_words_is_zero() -> None:
    found = bm25_scores(["read files", "zzz", ""], ["def readFile(x)", "close the socket"])
    assert found(0)[0] > found(0)[1] == 0
    assert found(1).tolist() == found(2).tolist() == [0, 0]


def test_given_candidates_are_ranked_as_in_mteb() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    draw = np.random.default_rng(0)
    queries, texts = [f"q{i}" for i in range(40)], [f"d{i}" for i in range(300)]
    positives = [draw.choice(150, draw.integers(0, 4), replace=False).tolist() for _ in queries]
    negatives = [(150 + draw.choice(150, draw.integers(0, 30), replace=False)).tolist() for _ in queries]
    task = among_given(queries, positives, negatives, texts, unit=np.arange(40), seed=3)
    kept = [q for q in range(40) if positives[q] and negatives[q]]
    assert task.queries == [queries[q] for q in kept]
    assert task.unit.tolist() == kept
    assert 0 < len(kept) < 40
    scores = {(q, c): float(draw.normal()) for q in range(40) for c in range(300)}
    found = task.measure(
        lambda a, b: torch.tensor([scores[queries.index(q), texts.index(c)] for q, c in zip(a, b, strict=True)])
    )
    run = {queries[q]: {texts[c]: scores[q, c] for c in [*positives[q], *negatives[q]]} for q in kept}
    known = {queries[q]: {texts[c]: int(c in positives[q]) for c in [*positives[q], *negatives[q]]} for q in kept}
    theirs = calculate_retrieval_scores(run, known, [10, 1000])
    assert found.values["map"].mean() == pytest.approx(
        theirs.map["MAP@1000"], abs=1e-5
    )  # theirs is rounded to 5 digits
    assert found.values["mrr@10"].mean() == pytest.approx(theirs.mrr["MRR@10"], abs=1e-6)
    assert task.sizes() == (len(kept), max(len(x) for x in task.lists))


def test_the_order_of_given_candidates_says_nothing() -> None:
    lists = [
        among_given(["q"], [[0]], [list(range(1, 9))], [""] * 9, unit=np.arange(1), seed=s).lists[0] for s in range(30)
    ]
    assert {sorted(own) == list(range(9)) for own in lists} == {True}
    assert 1 < sum(own[0] == 0 for own in lists) + 2 < 14, "the positive is not always first"
