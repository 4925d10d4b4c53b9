"""Rules of clusters, each in a small matrix; and that rows of unequal keys are no special pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.pairs.clusters import beside_made, cluster_mates, siblings
from counterpoint.pairs.filters import equal, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.remembered import against_queue, beside_queue
from counterpoint.types import Embeddings, same_sample


def rows(ids: list[int], labels: list[int], clusters: list[int], view: int = 0) -> Embeddings:
    facts = {"label": torch.tensor(labels), "cluster": torch.tensor(clusters), "owner": torch.tensor(ids)}
    return Embeddings.of(torch.zeros(len(ids), 2), id=torch.tensor(ids), view=view, facts=facts)


A = rows([1, 2, 3, 4], [0, 0, 0, 1], [0, 0, 1, -1])
B = rows([1, 2, 5, 6], [0, 0, 0, 1], [0, 0, 1, -1], view=1)


def test_without_equal_takes_repulsion_inside_clusters_away_and_nothing_else() -> None:
    pairs = without(same_sample, equal("cluster"))(A, B)
    assert pairs.attract.tolist() == same_sample(A, B).attract.tolist()
    assert pairs.repel.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]


def test_cluster_mates_are_held_and_own_views_attract() -> None:
    pairs = cluster_mates()(A, B)
    assert pairs.attract.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert pairs.repel.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_siblings_are_of_one_class_and_of_another_cluster() -> None:
    pairs = siblings()(A, B)
    assert pairs.attract.tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]
    assert pairs.repel.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]


def test_made_rows_repel_their_owner_by_its_weight_and_never_attract() -> None:
    made = replace(B, id=torch.tensor([-1, -1, -2, -3]), facts={**B.facts, "owner": torch.tensor([1, 4, 1, 2])})
    made = replace(made, id=torch.tensor([-1, -1, -2, 2]))
    pairs = beside_made(weight=3.0)(A, made)
    assert pairs.repel.tolist() == [[3, 1, 3, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 3, 1, 1]]
    assert pairs.attract.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    twin = replace(A, id=torch.tensor([-1, -1, -2, 2]))
    assert beside_made()(twin, made).attract[0].tolist() == [0, 0, 0, 0]


def test_beside_a_queue_other_rows_of_this_step_are_ignored() -> None:
    old = replace(B, age=torch.tensor([0, 0, 1, 1]))
    pairs = beside_queue(labelled())(A, old)
    assert pairs.attract.tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert pairs.repel.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]]
    for wanted, found in zip(against_queue(A, old), beside_queue(same_sample)(A, old), strict=True):
        assert torch.equal(wanted, found)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_unequal_keys_are_as_elsewhere(data: st.DataObject) -> None:
    sides = []
    for view in (0, 1):
        n = data.draw(st.integers(1, 6))
        ids, labels, clusters = (
            data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))
            for low, high in ((1, 7), (-1, 2), (-1, 3))
        )
        sides.append(rows(ids, labels, clusters, view))
    rule = siblings()
    (key_a, key_c), pairs = rule.keys(*sides), rule(*sides)
    apart = key_a[:, None] != key_c[None, :]
    assert (pairs.attract[apart] == rule.elsewhere[0]).all()
    assert (pairs.repel[apart] == rule.elsewhere[1]).all()
    assert not ((pairs.attract > 0) & (pairs.repel > 0)).any()


def test_a_weight_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        beside_made(weight=-0.1)
