"""The contracts of `types`: embeddings remember, relations are not transitive, rules go by identity."""

from __future__ import annotations

import pytest
import torch

from counterpoint.types import Embeddings, Outcome, Relation, same_sample


def embeddings(ids: list[int], view: int = 0, age: list[int] | None = None) -> Embeddings:
    e = Embeddings.of(torch.randn(len(ids), 4), id=torch.tensor(ids), view=view, facts={"label": torch.tensor(ids)})
    if age is None:
        return e
    return Embeddings(e.z, e.id, e.view, e.part, torch.tensor(age), e.facts)


def test_slicing_and_joining_keep_what_a_row_remembers() -> None:
    e = embeddings([5, 6, 7])
    back = Embeddings.cat([e.rows(slice(2, 3)), e.rows(torch.tensor([0, 1]))])
    assert back.id.tolist() == [7, 5, 6]
    assert back.facts["label"].tolist() == [7, 5, 6]
    assert torch.equal(back.z, e.z[[2, 0, 1]])


def test_a_fact_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted 2 rows of 'w'"):
        Embeddings.of(torch.zeros(2, 3), facts={"w": torch.zeros(3)})


def test_joining_drops_facts_that_one_side_lacks() -> None:
    a, b = embeddings([1]), Embeddings.of(torch.zeros(1, 4))
    assert Embeddings.cat([a, b]).facts == {}


def test_same_sample_goes_by_identity_and_not_by_position() -> None:
    a, c = embeddings([1, 2, 3]), embeddings([3, 1, 1], view=1)
    pairs = same_sample(a, c)
    assert pairs.attract.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert pairs.repel.tolist() == [[1, 0, 0], [1, 1, 1], [0, 1, 1]]


def test_oneself_and_stale_rows_of_ones_own_sample_are_neither() -> None:
    a = embeddings([1, 2])
    queue = embeddings([1, 9], view=1, age=[3, 3])
    assert torch.diagonal(same_sample(a, a).attract).tolist() == [0, 0]
    assert torch.diagonal(same_sample(a, a).repel).tolist() == [0, 0]
    assert same_sample(a, queue).attract.sum() == 0
    assert same_sample(a, queue).repel.tolist() == [[0, 1], [1, 1]]


def test_a_relation_is_not_transitive_and_keeps_the_first_grade() -> None:
    r = Relation.of([1, 2, 2, 1], [10, 10, 20, 10], [1.0, 1.0, 1.0, 0.0])
    assert r.positives(1) == {10: 1.0}
    assert r.positives(2) == {10: 1.0, 20: 1.0}
    assert r.positives(3) == {}


def test_a_relation_refuses_what_is_not_one() -> None:
    with pytest.raises(ValueError, match="as many"):
        Relation.of([1], [2, 3])
    with pytest.raises(ValueError, match="at least 0"):
        Relation.of([1], [2], [-1.0])


def test_the_loss_is_the_weighted_sum_of_the_terms() -> None:
    outcome = Outcome({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": 1.0, "b": 0.5}, {})
    assert outcome.loss.item() == 3.5


def test_a_fact_that_rows_lack_says_which_they_have() -> None:
    rows = Embeddings.of(torch.zeros(1, 1), facts={"label": torch.tensor([1]), "age": torch.tensor([2])})
    with pytest.raises(KeyError, match="fact 'cluster', they have: age, label"):
        rows.rows(slice(0, 1)).facts["cluster"]
    for inner in ({}, {"_cooled": torch.zeros(1)}):  # what an objective keeps with its rows is nobody's business
        with pytest.raises(KeyError, match="they have: none"):
            Embeddings.of(torch.zeros(1, 1), facts=inner).facts["cluster"]


def test_rows_are_told_more_and_keep_all_else() -> None:
    before = embeddings([7, 8], view=1)
    after = before.told(cluster=torch.tensor([2, 3])).told(cluster=torch.tensor([4, 5]))
    assert after.facts["cluster"].tolist() == [4, 5]
    assert after.facts.keys() == before.facts.keys() | {"cluster"}
    assert "cluster" not in before.facts
    assert torch.equal(after.z, before.z)
    assert torch.equal(after.id, before.id)
    assert torch.equal(after.view, before.view)


def test_fresh_rows_may_be_the_same_on_all_processes() -> None:
    memory = Embeddings.of(torch.zeros(1, 1), placement="replicated")
    assert memory.placement == "replicated"
    with pytest.raises(ValueError, match="`joined` of objectives"):
        Embeddings.cat([memory, Embeddings.of(torch.zeros(1, 1))])


def test_notes_of_several_outcomes_are_all_kept_and_stay_together() -> None:
    def one(**notes: float) -> Outcome:
        return Outcome({"x": torch.tensor(1.0)}, {"x": 1.0}, {k: torch.tensor(v) for k, v in notes.items()})

    few, most, same = one(negatives=3.0), one(negatives=4.0, slope=5.0), one(negatives=6.0, slope=7.0)
    found = Outcome.of(a=(1.0, few), b=(1.0, most), c=(1.0, same), d=(1.0, one(other=8.0)), e=(1.0, one())).notes
    assert {name: note.item() for name, note in found.items()} == {
        "negatives": 4.0, "slope": 5.0, "other": 8.0, "a negatives": 3.0,
        "b negatives": 4.0, "b slope": 5.0, "c negatives": 6.0, "c slope": 7.0,
    }  # fmt: skip
