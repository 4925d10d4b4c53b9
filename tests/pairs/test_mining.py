"""Mining: every filter beside plain loops, what is known is never mined, and nothing is dropped without being counted."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import product

import pytest
import torch
from torch import Tensor

from counterpoint._ops.hashed import hashed_uniform
from counterpoint.errors import Refusal
from counterpoint.pairs import mining as module
from counterpoint.pairs.limits import Mining
from counterpoint.pairs.mining import REASONS, mine_negatives
from counterpoint.types import Embeddings, Relation

NVRETRIEVER = (
    "Moreira et al.: NV-Retriever: Improving text embedding models with effective hard-negative mining, "
    "arXiv:2407.15831, 2024"
)
OPEN = {"relative_margin": None}


def world(seed: int, n: int = 23, m: int = 61) -> tuple[Embeddings, Embeddings, Relation]:
    """Random unit rows; some queries have several positives, some none, some given negatives; some texts are queries too."""
    g = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(n + m, 5, generator=g, dtype=torch.float64), dim=1).float()
    query, candidate = torch.randperm(n, generator=g) + 1000, torch.randperm(m, generator=g) + 1010
    edges = [(q, c, float(kind)) for q in query.tolist() for c in candidate.tolist()
             for kind in [int(torch.randint(12, (1,), generator=g))] if kind < 2 and q % 5]  # fmt: skip
    relation = Relation.of([e[0] for e in edges], [e[1] for e in edges], [e[2] for e in edges])
    return Embeddings.of(z[:n], id=query), Embeddings.of(z[n:], id=candidate), relation


def judge_of(a: Embeddings, c: Embeddings, seed: int = 9) -> Tensor:
    """A filter that knows something else than the model: [n, m]."""
    noise = torch.randn(len(a), len(c), generator=torch.Generator().manual_seed(seed))
    return a.z @ c.z.T + 0.5 * noise


def by_loops(
    a: Embeddings, c: Embeddings, relation: Relation, how: Mining, judge: Tensor | None
) -> tuple[list[list[int]], dict[str, int]]:
    """What mining means, one query and one candidate after the other."""
    edges = (x.tolist() for x in (relation.anchor_id, relation.candidate_id, relation.grade))
    grade = {(q, d): g for q, d, g in zip(*edges, strict=True)}
    worst = {"weakest": min, "strongest": max}[how.against]
    kept, dropped = [], dict.fromkeys(("known", *REASONS), 0)
    for i, q in enumerate(a.id.tolist()):
        score = {j: float(a.z[i] @ c.z[j]) for j in range(len(c))}
        known = {j for j, d in enumerate(c.id.tolist()) if d == q or (q, d) in grade}
        good = [j for j, d in enumerate(c.id.tolist()) if d != q and grade.get((q, d), 0) > 0]
        dropped["known"] += len(known)
        bar = worst(score[j] for j in good) if good else math.nan
        limit = worst(float(judge[i, j]) for j in good) if good and judge is not None else math.nan
        ranked = sorted(set(score) - known, key=lambda j: -score[j])[: how.depth]
        left = []
        for rank, j in enumerate(ranked):
            s = score[j]
            reasons = {
                "rank": rank < how.skip,
                "no positive": not good and (how.compares or judge is not None),
                "highest": how.highest is not None and s > how.highest,
                "lowest": how.lowest is not None and s < how.lowest,
                "margin": how.margin is not None and s > bar - how.margin,
                "relative margin": how.relative_margin is not None and s > bar - how.relative_margin * abs(bar),
            }
            first = next((name for name, hit in reasons.items() if hit), None)
            if first is None:
                left.append(j)
            else:
                dropped[first] += 1
        if how.pick == "random":
            left.sort(key=lambda j: float(hashed_uniform(how.seed, a.id[i], c.id[j])))
        taken: list[int] = []
        while left and len(taken) < how.count:
            j = left.pop(0)
            if judge is not None and float(judge[i, j]) > limit - how.filter_margin:
                dropped["filter"] += 1
            else:
                taken.append(j)
        dropped["spare"] += len(left)
        kept.append(sorted(taken, key=lambda j: -score[j]))
    return kept, dropped


SETTINGS = [
    Mining(count=3, depth=61),
    Mining(count=3, depth=61, **OPEN),
    Mining(count=3, depth=20, relative_margin=0.3),
    Mining(count=3, depth=20, relative_margin=0.3, against="strongest"),
    Mining(count=2, depth=30, margin=0.25, **OPEN),
    Mining(count=2, depth=30, margin=0.25, against="strongest", **OPEN),
    Mining(count=4, depth=15, skip=5, **OPEN),
    Mining(count=4, depth=61, highest=0.4, **OPEN),
    Mining(count=9, depth=61, lowest=0.2, **OPEN),
    Mining(count=5, depth=40, skip=3, highest=0.8, lowest=-0.2, margin=0.1, relative_margin=0.1),
    Mining(count=3, depth=40, pick="random", seed=4, **OPEN),
    Mining(count=3, depth=40, skip=2, pick="random", seed=5, relative_margin=0.1),
    Mining(count=3, depth=61, filter_margin=0.2, relative_margin=0.02),
]


@pytest.mark.proves(reference=NVRETRIEVER, fact="closed-form")
@pytest.mark.parametrize("how", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("judged", [False, True])
def test_it_does_what_plain_loops_do(how: Mining, judged: bool) -> None:
    for seed in range(3):
        a, c, relation = world(seed)
        judge = judge_of(a, c) if judged else None
        found = mine_negatives(
            a, c, relation, how=how, judge=None if judge is None else lambda i, j, judge=judge: judge[i, j]
        )
        kept, dropped = by_loops(a, c, relation, how, judge)
        assert [found.candidate[found.query == i].tolist() for i in range(len(a))] == kept
        assert found.dropped == dropped
        assert found.kept.tolist() == [len(k) for k in kept]
        assert torch.allclose(found.score, (a.z[found.query] * c.z[found.candidate]).sum(1), atol=1e-6)
        assert (found.judged is None) == (judge is None)
        if judge is not None and found.judged is not None:
            assert torch.equal(found.judged, judge[found.query, found.candidate])


def test_every_candidate_that_was_seen_is_counted_once() -> None:
    a, c, relation = world(1)
    for how, depth in product(SETTINGS, (7, 61)):
        how = replace(how, depth=max(depth, how.skip + how.count))
        judge = judge_of(a, c)
        found = mine_negatives(a, c, relation, how=how, judge=lambda i, j, judge=judge: judge[i, j])
        known = found.dropped["known"]
        seen = sum(found.dropped.values()) - known + len(found.query)
        reach = [min(how.depth, len(c) - k) for k in _known(a, c, relation)]
        assert seen == sum(reach)


def _known(a: Embeddings, c: Embeddings, relation: Relation) -> list[int]:
    pairs = set(zip(relation.anchor_id.tolist(), relation.candidate_id.tolist(), strict=True))
    return [sum(q == d or (q, d) in pairs for d in c.id.tolist()) for q in a.id.tolist()]


def test_what_is_known_is_never_mined() -> None:
    for seed in range(5):
        a, c, relation = world(seed)
        found = mine_negatives(a, c, relation, how=Mining(count=40, depth=61, **OPEN))
        mined = set(zip(found.query_id.tolist(), found.candidate_id.tolist(), strict=True))
        known = set(zip(relation.anchor_id.tolist(), relation.candidate_id.tolist(), strict=True))
        assert mined
        assert not mined & known
        assert not any(q == d for q, d in mined)
        assert found.relation().grade.max() == 0
        assert len(found.relation().grade) == len(mined)


def test_no_closure_is_taken() -> None:
    """Two queries that share a positive may have each other's other positives as negatives."""
    z = torch.eye(3)
    a = Embeddings.of(z[:2], id=torch.tensor([1, 2]))
    c = Embeddings.of(torch.ones(3, 3) - z / 9, id=torch.tensor([5, 6, 7]))
    found = mine_negatives(a, c, Relation.of([1, 1, 2, 2], [5, 6, 6, 7]), how=Mining(count=3, depth=3, **OPEN))
    assert found.candidate_id.tolist() == [7, 5]


def test_of_several_positives_the_weakest_counts_unless_the_strongest_is_asked_for() -> None:
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]), id=torch.tensor([1]))
    c = Embeddings.of(torch.tensor([[0.9, 0], [0.5, 0], [0.7, 0], [0.4, 0]]), id=torch.tensor([5, 6, 7, 8]))
    relation = Relation.of([1, 1], [5, 6])
    for against, expected in (("weakest", [8]), ("strongest", [7, 8])):
        assert mine_negatives(a, c, relation, how=Mining(against=against)).candidate_id.tolist() == expected  # type: ignore[arg-type]


def test_a_positive_below_zero_is_no_easier_to_beat() -> None:
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]), id=torch.tensor([1]))
    c = Embeddings.of(torch.tensor([[-0.5, 0], [-0.49, 0], [-0.51, 0], [-0.6, 0]]), id=torch.tensor([5, 6, 7, 8]))
    assert mine_negatives(a, c, Relation.of([1], [5])).candidate_id.tolist() == [8]


def test_a_margin_of_zero_keeps_whatever_the_positive_outscores() -> None:
    a, c, relation = world(3)
    found = mine_negatives(a, c, relation, how=Mining(count=61 - 6, depth=61, relative_margin=0.0))
    assert (found.score <= found.bar[found.query]).all()
    exact = mine_negatives(a, c, relation, how=Mining(count=61 - 6, depth=61, margin=0.0, **OPEN))
    assert torch.equal(found.candidate, exact.candidate)


@pytest.mark.parametrize("pick", ["top", "random"])
@pytest.mark.parametrize("block", [1, 5, 4096])
def test_neither_order_nor_blocks_change_what_is_mined(pick: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, c, relation = world(2)
    judge = judge_of(a, c)
    how = Mining(count=3, depth=40, pick=pick, relative_margin=0.05)  # type: ignore[arg-type]
    first = mine_negatives(a, c, relation, how=how, judge=lambda i, j: judge[i, j])
    monkeypatch.setattr(module, "BLOCK", block)
    left, right = torch.randperm(len(a)), torch.randperm(len(c))
    again = mine_negatives(a.rows(left), c.rows(right), relation, how=how, judge=lambda i, j: judge[left[i], right[j]])

    def edges(m: module.Mined) -> list[tuple[int, int]]:
        return sorted(zip(m.query_id.tolist(), m.candidate_id.tolist(), strict=True))

    assert edges(first) == edges(again)
    assert first.dropped == again.dropped
    assert torch.allclose(first.bar[left], again.bar, equal_nan=True)
    assert first.judged_bar is not None
    assert again.judged_bar is not None
    assert torch.allclose(first.judged_bar[left], again.judged_bar, equal_nan=True)


def test_the_seed_changes_random_draws_and_nothing_else() -> None:
    a, c, relation = world(0)
    draws = [
        mine_negatives(a, c, relation, how=Mining(count=3, depth=40, pick="random", seed=s, **OPEN)).candidate.tolist()
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    tops = [mine_negatives(a, c, relation, how=Mining(seed=s)).candidate.tolist() for s in (0, 1)]
    assert tops[0] == tops[1]


def test_random_draws_are_even_over_the_window() -> None:
    a = Embeddings.of(torch.ones(2000, 1), id=torch.arange(2000))
    c = Embeddings.of(torch.linspace(1, 0.1, 10)[:, None], id=torch.arange(10) + 5000)
    found = mine_negatives(a, c, Relation.of([], []), how=Mining(count=2, depth=8, skip=2, pick="random", **OPEN))
    count = torch.bincount(found.candidate, minlength=10)
    assert count[:2].sum() == count[8:].sum() == 0
    assert (count[2:8] - 4000 / 6).abs().max() < 5 * math.sqrt(2000 * (1 / 3) * (2 / 3))  # binomial, five deviations


def test_a_false_negative_is_removed_by_the_filter() -> None:
    """A text that belongs to the query without being listed: the model ranks it just below, the filter knows it."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]), id=torch.tensor([1]))
    c = Embeddings.of(torch.tensor([[0.9, 0], [0.8, 0], [0.7, 0], [0.6, 0]]), id=torch.tensor([5, 6, 7, 8]))
    relation, truth = Relation.of([1], [5]), torch.tensor([[4.0, 4.1, -3.0, -5.0]])
    how = Mining(count=2)
    assert mine_negatives(a, c, relation, how=how).candidate_id.tolist() == [6, 7]
    found = mine_negatives(a, c, relation, how=how, judge=lambda i, j: truth[i, j])
    assert (found.candidate_id.tolist(), found.dropped["filter"]) == ([7, 8], 1)
    strict = mine_negatives(a, c, relation, how=replace(how, filter_margin=8.0), judge=lambda i, j: truth[i, j])
    assert (strict.candidate_id.tolist(), strict.dropped["filter"]) == ([8], 2)


def test_the_filter_is_asked_no_more_than_needed() -> None:
    a, c, relation = world(0)
    asked: list[tuple[int, int]] = []

    def judge(i: Tensor, j: Tensor) -> Tensor:
        asked.extend(zip(i.tolist(), j.tolist(), strict=True))
        return torch.zeros(len(i))

    found = mine_negatives(a, c, relation, how=Mining(count=3, relative_margin=0.0), judge=judge)
    assert len(asked) == len(set(asked))
    positives = int((relation.grade > 0).sum())
    assert len(asked) <= positives + len(found.query)


def test_the_table_has_a_row_for_each_query() -> None:
    a, c, relation = world(4)
    found = mine_negatives(a, c, relation, how=Mining(count=5, relative_margin=0.4))
    table = found.table(5)
    for i in range(len(a)):
        own = found.candidate[found.query == i].tolist()
        assert table["candidate"][i].tolist() == own + [-1] * (5 - len(own))
    assert table["score"].shape == table["candidate"].shape == (len(a), 5)


def test_texts_that_stand_twice_are_refused() -> None:
    e = Embeddings.of(torch.ones(2, 1), id=torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="twice"):
        mine_negatives(e, e, Relation.of([], []))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"skip": -1}, "at least 0"),
        ({"skip": 100}, "below --depth 100"),
        ({"skip": 98}, "no more negatives"),
        ({"margin": -0.1}, "at least 0"),
        ({"relative_margin": math.nan}, "finite"),
        ({"highest": "0.5"}, "finite number"),
        ({"count": True}, "whole number"),
        ({"count": 2.5}, "whole number"),
        ({"lowest": 0.5, "highest": 0.4}, "at most --highest"),
        ({"pick": "best"}, "top or random"),
        ({"against": "all"}, "weakest or strongest"),
    ],
)
def test_numbers_out_of_range_are_one_line(settings: dict, words: str) -> None:
    mining = object.__new__(Mining)  # past the checks of types that run under pytest only
    for field in fields(Mining):
        object.__setattr__(mining, field.name, settings.get(field.name, field.default))
    with pytest.raises(Refusal, match=words):
        mining.__post_init__()
