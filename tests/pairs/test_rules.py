"""Pair rules: the listed and the labelled, and the contract that both forms of a rule agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.pairs.filters import above_positive, equal, suspected, unequal, within, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.pairs.soft import alike, complemented, near, overlapping
from counterpoint.pairs.spaced import spaced
from counterpoint.pairs.synthetic import shared_sources
from counterpoint.pairs.valued import disagreeing
from counterpoint.types import Embeddings, PairRule, Relation, same_sample

RELATION = Relation.of([1, 1, 2, 4, 4], [5, 6, 6, 1, 4], [1.0, 2.0, 1.0, 0.0, 1.0])
RULES = {
    "same sample": same_sample,
    "listed": listed(RELATION, negative_weight=3.0),
    "labelled": labelled("label"),
    "listed alone": listed(RELATION, negative_weight=3.0, others=0.0),
    "overlapping": overlapping("labels"),
    "overlapping, jaccard": overlapping("labels", measure="jaccard", least=0.4),
    "near": near("label", width=0.7),
    "near, inverse, at least a third": near("labels", kernel="inverse", least=1 / 3),
    "alike": alike("teacher"),
    "alike, from a bar": alike("teacher", least=0.5, graded=False),
    "complemented same sample": complemented(same_sample),
    "complemented labelled": complemented(labelled("label")),
    "without suspects": without(same_sample, suspected(least=0.5)),
    "without what is above its positive": without(same_sample, above_positive(margin=0.1)),
    "listed alone without": without(
        listed(RELATION, negative_weight=3.0, others=0.0), suspected(least=0.5), equal("label"), above_positive()
    ),
    "labelled without other domains": without(labelled("label"), unequal("domain")),
    "soft without": without(overlapping("labels"), equal("domain")),
    "within": within(same_sample),
    "within, listed": within(listed(RELATION, negative_weight=3.0)),
    "within, labelled": within(labelled("label")),
    "within, soft": within(near("label", least=0.5)),
    "spaced": spaced("label"),
    "spaced, near": spaced("label", heavy="near"),
    "disagreeing": disagreeing(1.0, value="label", predicted="guess", weight="rare"),
    "shared sources": shared_sources(),
}


def rows(ids: list[int], labels: list[int], view: int) -> Embeddings:
    """Rows with facts of all kinds, made of the label; a teacher's vectors lie along the axes, so cosines are exact."""
    label = torch.tensor(labels)
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    facts = {
        "label": label,
        "labels": torch.stack([label == 0, label >= 0, label == 2], 1).long(),
        "teacher": axes[(label + 1) % 4],
        "own positive": (label == 1).float(),
        "domain": (torch.tensor(ids) + label) % 2,
        "guess": label.abs().float(),
        "rare": 0.5 + label.float().square(),
    }
    return Embeddings.of(torch.zeros(len(ids), 2), id=torch.tensor(ids), view=view, facts=facts)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_both_forms_agree_on_any_two_tiles(rule: PairRule, data: st.DataObject) -> None:
    sets = []
    for view in (0, data.draw(st.integers(0, 1))):
        ids = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
        labels = data.draw(st.lists(st.integers(-1, 2), min_size=len(ids), max_size=len(ids)))
        sets.append(rows(ids, labels, view))
    a, c = sets
    whole, edges = rule(a, c), rule.edges(a, c) if hasattr(rule, "edges") else None
    at = [] if edges is None else list(zip(edges.row.tolist(), edges.col.tolist(), strict=True))
    assert len(set(at)) == len(at), "a pair is listed twice"
    if getattr(rule, "elsewhere", None) is not None and hasattr(rule, "keys"):
        left, right = rule.keys(a, c)
        apart = left[:, None] != right[None, :]
        assert (whole.attract[apart] == rule.elsewhere[0]).all()
        assert (whole.repel[apart] == rule.elsewhere[1]).all()
    assert (whole.repel[a.id[:, None] == c.id[None, :]] == 0).all()
    assert ((whole.attract > 0) & (whole.repel > 0)).sum() == 0
    for i in range(len(a)):
        for j in range(len(c)):
            one = rule(a.rows(slice(i, i + 1)), c.rows(slice(j, j + 1)))
            assert (one.attract.item(), one.repel.item()) == (whole.attract[i, j].item(), whole.repel[i, j].item())
            if edges is None:
                continue
            expected = rule.elsewhere
            if (i, j) in at:
                expected = (edges.attract[at.index((i, j))].item(), edges.repel[at.index((i, j))].item())
            assert (whole.attract[i, j].item(), whole.repel[i, j].item()) == expected


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_another_part_is_as_another_view_and_oneself_is_ignored(rule: PairRule) -> None:
    a = rows([1, 2, 3, 4, 4, 5, 6], [0, 0, 1, -1, -1, 2, 2], 0)
    other = rule(a, replace(a, view=a.view + 1))
    for one, two in ((a, replace(a, part=a.part + 1)), (replace(a, part=a.part + 1), a)):
        found = rule(one, two)
        assert torch.equal(found.attract, other.attract)
        assert torch.equal(found.repel, other.repel)
    assert other.attract.sum() > 0
    oneself, same = rule(a, a), a.id[:, None] == a.id[None, :]
    assert (oneself.attract[same] == 0).all()
    assert (oneself.repel[same] == 0).all()
    assert torch.equal(oneself.attract[~same], other.attract[~same])


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_stale_rows_of_ones_own_are_ignored_on_either_side_and_others_are_not(rule: PairRule) -> None:
    a = rows([1, 2, 3, 4, 4, 5, 6], [0, 0, 1, -1, -1, 2, 2], 0)
    c = replace(a, view=a.view + 1)
    fresh, same = rule(a, c), a.id[:, None] == c.id[None, :]
    for one, two in ((a, replace(c, age=c.age + 1)), (replace(a, age=a.age + 2), c), (a, replace(a, age=a.age + 1))):
        stale = rule(one, two)
        assert (stale.attract[same] == 0).all()
        assert (stale.repel[same] == 0).all()
        assert torch.equal(stale.attract[~same], fresh.attract[~same])
        assert torch.equal(stale.repel[~same], fresh.repel[~same])


def test_listed_knows_positives_judged_negatives_and_equal_texts() -> None:
    a, c = rows([1, 2, 4], [0] * 3, 0), rows([5, 6, 1, 4, 9], [0] * 5, 0)
    pairs = listed(RELATION, negative_weight=3.0)(a, c)
    assert pairs.attract.tolist() == [[1, 2, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert pairs.repel.tolist() == [[0, 0, 0, 1, 1], [1, 0, 1, 1, 1], [1, 1, 3, 0, 1]]


def test_listed_takes_no_transitive_closure() -> None:
    chain = Relation.of([1, 2, 2], [10, 10, 20])  # 1 - 10 - 2 - 20
    a, c = rows([1, 2], [0, 0], 0), rows([10, 20], [0, 0], 0)
    assert listed(chain)(a, c).attract.tolist() == [[1, 0], [1, 1]]
    assert listed(chain)(a, c).repel.tolist() == [[0, 1], [0, 0]]


def test_labelled_ignores_oneself_and_never_repels_an_equal_id() -> None:
    a = rows([1, 2, 3, 1], [0, 0, 1, 1], 0)
    pairs = labelled()(a, a)
    assert pairs.attract.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert pairs.repel.tolist() == [[0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]]


def test_unlabelled_rows_attract_nothing() -> None:
    a = rows([1, 2], [-1, -1], 0)
    assert labelled()(a, a).attract.sum() == 0
    assert labelled()(a, a).repel.tolist() == [[0, 1], [1, 0]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pairs_of_unequal_keys_are_elsewhere(data: st.DataObject) -> None:
    sets = []
    for view in (0, data.draw(st.integers(0, 1))):
        ids = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
        sets.append(rows(ids, data.draw(st.lists(st.integers(-1, 2), min_size=len(ids), max_size=len(ids))), view))
    rule = labelled("label")
    (left, right), whole = rule.keys(*sets), rule(*sets)
    apart = left[:, None] != right[None, :]
    assert (whole.attract[apart] == rule.elsewhere[0]).all()
    assert (whole.repel[apart] == rule.elsewhere[1]).all()


def test_keys_of_clean_labels_are_one_for_each_class() -> None:
    a = rows([1, 2, 3, 4, 5], [7, 7, 8, -1, -1], 0)
    left, right = labelled().keys(a, a)
    assert torch.equal(left, right)
    assert len(set(left.tolist())) == 4  # two classes, two unlabelled rows
    assert left[0] == left[1]
