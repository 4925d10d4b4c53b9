"""Pairs for a cross-encoder: what a row draws is its own affair, and known positives are never negatives."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_id
from counterpoint.data.mined import pool_of
from counterpoint.types import Relation
from counterpoint.views.cross import query_and_candidates

ROWS = Rows.of(
    pl.DataFrame(
        {
            "anchor": [f"q{i % 10}" for i in range(30)],
            "positive": [[f"p{i}", f"p{i + 1}"] for i in range(30)],
            "negative": [[f"n{i}", f"n{i + 1}", f"n{i + 2}"][: i % 4] for i in range(30)],
        }
    )
)


def lists(at: list[int], seed: int = 0, negatives: int = 2) -> dict[int, tuple[str, list[str], list[str]]]:
    """Row -> query, its positives, its negatives."""
    views = query_and_candidates(ROWS.relation, pool_of(ROWS), negatives=negatives)
    pair = views(ROWS.take(np.array(at)), torch.Generator().manual_seed(seed))["pair"]
    out: dict[int, tuple[str, list[str], list[str]]] = {}
    for left, right, row, good, i in zip(
        pair["text"], pair["other"], pair["row"].tolist(), pair["positive"].tolist(), pair["id"].tolist(), strict=True
    ):
        assert i == content_id(left)
        out.setdefault(row, (left, [], []))[1 if good else 2].append(right)
    return out


def test_each_row_has_one_positive_and_as_many_negatives_as_asked() -> None:
    for seed in range(20):
        for row, (query, good, bad) in lists(list(range(30)), seed).items():
            assert query == f"q{row % 10}"
            assert len(good) == 1
            assert good[0] in ROWS.positives[row]
            assert len(bad) == len(set(bad)) == 2
            assert sum(text in ROWS.negatives[row] for text in bad) >= min(2, row % 4)


def test_a_known_positive_is_never_a_negative() -> None:
    known = {(a, p) for a, texts in zip(ROWS.anchors, ROWS.positives, strict=True) for p in texts}
    for seed in range(50):
        for query, _, bad in lists(list(range(30)), seed, negatives=6).values():
            assert not {(query, text) for text in bad} & known


def test_what_a_row_draws_does_not_depend_on_the_batch() -> None:
    whole = lists(list(range(30)), 3)
    halves = lists([29, 4, 7], 3) | lists([5], 3)
    assert all(whole[row] == own for row, own in halves.items())


def test_draws_change_with_the_generator_and_reach_everything() -> None:
    found = [lists([3, 7], seed) for seed in range(60)]
    assert {f[3][1][0] for f in found} == {"p3", "p4"}
    assert {text for f in found for text in f[7][2]} == {"n7", "n8", "n9"}


def test_rows_of_equal_texts_draw_apart() -> None:
    texts = {"anchor": ["q"] * 40, "positive": [["p", "r"]] * 40, "negative": [["a", "b", "c", "d"]] * 40}
    batch = {"id": torch.full((40,), content_id("q")), "row": torch.arange(40), **texts}
    pair = query_and_candidates(Relation.of([], []), [], negatives=1)(batch, torch.Generator().manual_seed(0))["pair"]
    assert set(pair["other"]) == {"p", "r", "a", "b", "c", "d"}


def test_a_row_without_anything_to_draw_from_has_fewer() -> None:
    views = query_and_candidates(Relation.of([], []), [], negatives=3)
    row = {"id": torch.tensor([1]), "row": torch.tensor([0]), "anchor": ["q"], "positive": [["p"]], "negative": [[]]}
    assert views(row, torch.Generator())["pair"]["other"] == ["p"]
