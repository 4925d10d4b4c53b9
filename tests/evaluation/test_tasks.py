"""Tasks on embeddings whose right answers are known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.evaluation.tasks import DEPTH, Classification, Measured, Retrieval, Similarity, halves

VECTORS = {"q1": [1.0, 0.0], "q2": [0.0, 1.0], "q3": [0.6, 0.8], "a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0]}


def embed(texts: list[str], _role: str) -> Tensor:
    return torch.tensor([VECTORS[t] for t in texts])


def retrieval(positives: list[list[int]]) -> Retrieval:
    return Retrieval(["q1", "q2", "q3"], positives, ["a", "b", "c"], np.arange(3))


def test_metrics_of_a_hand_sized_ranking() -> None:
    # q1 ranks a b c; q2 ranks c b a; q3 ranks b c a
    found = retrieval([[0], [0], [1, 0]]).measure(embed)
    assert found.ranks.tolist() == [1, 3, 1]
    assert found.values["mrr@10"].tolist() == pytest.approx([1, 1 / 3, 1])
    assert found.values["recall@1"].tolist() == [1, 0, 0.5]
    assert found.values["recall@10"].tolist() == [1, 1, 1]
    ideal = 1 + 1 / np.log2(3)
    assert found.values["ndcg@10"].tolist() == pytest.approx([1, 0.5, (1 + 0.5) / ideal])
    assert found.top.tolist() == [0, 2, 1]
    assert found.candidates == 3


def test_a_query_does_not_find_itself() -> None:
    task = Retrieval(["a"], [[1]], ["a", "b", "c"], np.arange(1))
    assert task.measure(embed).ranks.tolist() == [1]


def test_a_positive_out_of_sight_counts_nothing() -> None:
    texts = [f"x{i}" for i in range(DEPTH + 5)]
    vectors = {t: [1.0, 0.001 * i] for i, t in enumerate(texts)} | {"q": [0.0, 1.0]}
    task = Retrieval(["q"], [[0]], texts, np.arange(1))
    found = task.measure(lambda asked, _: torch.tensor([vectors[t] for t in asked]))
    assert found.ranks.tolist() == [DEPTH + 1]
    assert found.values["mrr@10"].tolist() == [0]


def test_bm25_finds_words_inside_identifiers() -> None:
    texts = ["def readCsvFile(path): ...", "def close_socket(s): ...", "def sort_numbers(xs): ..."]
    task = Retrieval(["read a csv file", "numbers in order", "unrelated"], [[0], [2], [1]], texts, np.arange(3))
    assert task.lexical().ranks.tolist() == [1, 1, DEPTH + 1]


def test_similarity_is_a_rank_correlation_of_cosines() -> None:
    task = Similarity(["q1", "q1", "q1"], ["a", "b", "c"], np.array([5.0, 3.0, 1.0]), np.arange(3))
    assert task.measure(embed).values["spearman"][:, 0].tolist() == pytest.approx([1, 0.8, 0])


def test_classes_are_read_from_the_nearest() -> None:
    task = Classification(
        ["a", "c"], np.array(["x", "y"]), ["q1", "q2", "q3"], np.array(["x", "x", "y"]), np.arange(3), votes=1
    )
    assert task.measure(embed).values["accuracy"].tolist() == [1, 0, 1]


def test_halves_of_long_texts_have_to_meet() -> None:
    texts = ["one two three four five six seven eight", "short", "a b c d e f g h i"]
    task = halves(texts, np.arange(3))
    assert task.queries == ["one two three four", "a b c d"]
    assert [task.candidates[p[0]] for p in task.positives] == ["five six seven eight", "e f g h i"]
    assert task.unit.tolist() == [0, 2]


def test_fusion_adds_reciprocal_ranks() -> None:
    """By hand: a is 1st and 3rd, b 2nd and 1st, c 3rd and found by one system only, d 2nd of the other."""
    task = Retrieval(["q"], [[2]], ["a", "b", "c", "d"], np.arange(1))
    first, second = (Measured({}, np.arange(1), 4, found=np.array([row])) for row in ([0, 1, 2, -1], [1, 3, 0, -1]))
    found = task.fused(first, second)
    score = {0: 1 / 61 + 1 / 63, 1: 1 / 62 + 1 / 61, 2: 1 / 63, 3: 1 / 62}
    assert found.found[0, :5].tolist() == [*sorted(score, key=score.get, reverse=True), -1]
    assert found.found[0, :4].tolist() == [1, 0, 3, 2]
    assert found.values["mrr@10"].tolist() == [0.25]


def test_fusion_of_one_system_is_that_system() -> None:
    task = retrieval([[0], [0], [1, 0]])
    alone = task.measure(embed)
    both = task.fused(alone, alone)
    assert (both.found[:, :3] == alone.found[:, :3]).all()
    assert {name: values.tolist() for name, values in both.values.items()} == {
        name: values.tolist() for name, values in alone.values.items()
    }


def test_equal_sums_keep_the_order_of_the_first_system() -> None:
    task = Retrieval(["q"], [[0]], ["a", "b"], np.arange(1))
    parts = [Measured({}, np.arange(1), 2, found=np.array([row])) for row in ([1, 0], [0, 1])]
    assert task.fused(*parts).found[0, :2].tolist() == [1, 0]
    assert task.fused(*parts[::-1]).found[0, :2].tolist() == [0, 1]


def test_fusion_weighs_ranks_with_sixty() -> None:
    """Twice at rank 61 is more than once at rank 1: 2 / 121 > 1 / 61; with any smaller constant it is not."""
    task = Retrieval(["q"], [[0]], [f"d{i}" for i in range(130)], np.arange(1))
    first = [0, *range(2, 61), 1]
    second = [*range(70, 130), 1]
    parts = [Measured({}, np.arange(1), 130, found=np.array([row])) for row in (first, second)]
    assert first.index(1) == second.index(1) == 60
    assert task.fused(*parts).found[0, :2].tolist() == [1, 0]
