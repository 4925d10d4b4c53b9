"""The portrait: pairs are what the task says, numbers are those of closed forms, texts fit, the same seed the same page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.evaluation import portrait as module
from counterpoint.evaluation.figures_space import axes_for, effective_dimensions
from counterpoint.evaluation.judged_pairs import judged_pairs, sides
from counterpoint.evaluation.portrait import portrait, short_texts
from counterpoint.evaluation.rerank import Reranking
from counterpoint.evaluation.tasks import Classification, Measured, Retrieval, Similarity, Task


def retrieval(n: int = 40, m: int = 60) -> Retrieval:
    return Retrieval(
        [f"query {i}" for i in range(n)],
        [[i, (i + 1) % m] for i in range(n)],
        [f"candidate {i}" for i in range(m)],
        np.arange(n),
    )


def classification(n: int = 30, m: int = 50, classes: int = 3) -> Classification:
    return Classification(
        [f"known {i}" for i in range(m)],
        np.array([f"class {i % classes}" for i in range(m)]),
        [f"asked {i}" for i in range(n)],
        np.array([f"class {i % classes}" for i in range(n)]),
        np.arange(n),
    )


def similarity(n: int = 31) -> Similarity:
    left, right = [f"left {i}" for i in range(n)], [f"right {i}" for i in range(n)]
    return Similarity(left, right, np.arange(n) / n, np.arange(n))


def rows(task: Task, seed: int = 0, width: int = 8) -> Measured:
    generator = torch.Generator().manual_seed(seed)
    a, c = (torch.randn(len(side), width, generator=generator) for side in sides(task))
    ranks = np.arange(1, len(a) + 1)
    return Measured({}, np.arange(len(a)), len(c), ranks=ranks, vectors=c, anchors=a)


def cosines(x: Tensor, y: Tensor) -> np.ndarray:
    return torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2).numpy()


def test_pairs_of_a_ranking_are_all_pairs_once() -> None:
    task = retrieval()
    found = judged_pairs(task)
    positive, negative = (set(map(tuple, pairs.tolist())) for pairs in found[:2])
    assert positive == {(q, c) for q, own in enumerate(task.positives) for c in own}
    assert not positive & negative
    assert len(positive | negative) == 40 * 60 == len(found.positive) + len(found.negative)


def test_equal_texts_are_no_pair() -> None:
    task = Retrieval(["same", "other"], [[1], [0]], ["same", "x"], np.arange(2))
    found = judged_pairs(task)
    assert found.positive.tolist() == [[0, 1], [1, 0]]
    assert found.negative.tolist() == [[1, 1]]


def test_drawn_pairs_are_distinct_and_spread() -> None:
    task = retrieval(300, 400)
    found = judged_pairs(task, most=(50, 2_000), seed=3)
    assert (len(found.positive), len(found.negative)) == (50, 2_000)
    for pairs in found[:2]:
        assert len(set(map(tuple, pairs.tolist()))) == len(pairs)
    barred = {(q, c) for q, own in enumerate(task.positives) for c in own}
    assert not barred & set(map(tuple, found.negative.tolist()))
    assert barred >= set(map(tuple, found.positive.tolist()))
    assert found.negative[:, 0].mean() == pytest.approx(149.5, abs=10)
    assert found.negative[:, 1].mean() == pytest.approx(199.5, abs=12)
    again, other = (judged_pairs(task, most=(50, 2_000), seed=seed) for seed in (3, 4))
    assert (again.negative == found.negative).all()
    assert again.negative.tolist() != other.negative.tolist()


@pytest.mark.parametrize("most", [(20_000, 200_000), (200, 300)])
def test_pairs_of_classes(most: tuple[int, int]) -> None:
    task = classification()
    found = judged_pairs(task, most=most)
    for pairs, same in zip(found[:2], (True, False), strict=True):
        assert len(pairs) > 90
        assert ((task.asked_label[pairs[:, 0]] == task.known_label[pairs[:, 1]]) == same).all()
    assert len(np.unique(found.positive[:, 0])) == 30  # every asked item takes part
    alone = replace(task, asked_label=np.array(["new"] * 30))
    assert len(judged_pairs(alone).positive) == 0
    assert len(judged_pairs(alone).negative) == 30 * 50


def test_pairs_with_a_value_are_parted_at_the_median() -> None:
    task = similarity()
    found = judged_pairs(task)
    assert found.positive.tolist() == [[i, i] for i in range(16, 31)]
    assert found.negative.tolist() == [[i, i] for i in range(16)]
    constant = judged_pairs(replace(task, value=np.ones(31)))
    assert len(constant.positive) == 0


def test_scores_are_cosines_of_the_pairs() -> None:
    task = retrieval()
    before, after = rows(task), rows(task, seed=1)
    found = portrait(task, before, after)["scores"]
    for measured, counts, medians in zip((before, after), found["counts"], found["medians"], strict=True):
        s = cosines(measured.anchors, measured.vectors)
        known = np.zeros(s.shape, bool)
        for q, own in enumerate(task.positives):
            known[q, own] = True
        for kind, of_kind, median in zip((s[known], s[~known]), counts, medians, strict=True):
            assert of_kind == np.histogram(kind, np.linspace(-1, 1, 41))[0].tolist()
            assert median == pytest.approx(np.median(kind), abs=1e-6)


def test_shift_is_of_all_negatives() -> None:
    task = retrieval()
    before, after = rows(task), rows(task, seed=1)
    line = portrait(task, before, after)["shift"][0]
    old, new = (cosines(m.anchors, m.vectors) for m in (before, after))
    known = np.zeros(old.shape, bool)
    for q, own in enumerate(task.positives):
        known[q, own] = True
    assert line["threshold"] == 0.5
    assert line["false_positives"] == pytest.approx((old[~known] >= 0.5).mean(), abs=1e-9)
    assert (new[~known] >= line["moved"]).sum() == (old[~known] >= 0.5).sum()


def test_plane_is_alignment_and_uniformity_of_the_test_items() -> None:
    task = retrieval()
    before = rows(task)
    plane = portrait(task, before, rows(task, seed=1))["plane"]
    s = cosines(before.anchors, before.vectors)
    pairs = [s[q, c] for q, own in enumerate(task.positives) for c in own]
    assert plane["alignment"][0] == pytest.approx(2 - 2 * np.mean(pairs), abs=1e-5)
    every = torch.cat([before.anchors, before.vectors])
    apart = 2 - 2 * cosines(every, every)
    off = apart[~np.eye(len(every), dtype=bool)]
    assert plane["uniformity"][0] == pytest.approx(np.log(np.exp(-2 * off).mean()), abs=1e-5)
    assert (plane["pairs"], plane["rows"]) == (80, 100)


def test_spectrum_is_of_unit_rows() -> None:
    task = retrieval()
    before = rows(task)
    found = portrait(task, before, rows(task, seed=1))["spectrum"][0]
    u = torch.nn.functional.normalize(torch.cat([before.anchors, before.vectors])).double().numpy()
    assert found == pytest.approx(np.sort(np.linalg.eigvalsh(np.cov(u.T, bias=True)))[::-1], abs=1e-6)
    assert effective_dimensions([3.0] * 7) == pytest.approx(7)
    assert effective_dimensions([1.0, 0.0]) == 1
    assert effective_dimensions([0.0]) == 0
    assert axes_for([4.0, 3.0, 2.0, 1.0], 0.75) == 3


def test_map_says_of_each_point_what_it_is() -> None:
    task = retrieval()
    found = portrait(task, rows(task), rows(task, seed=1), lambda key: f"shown {key}")["map"]
    assert found["texts"] == [f"shown {key}" for key in (*task.queries, *task.candidates)]
    assert found["group"] == [0] * 40 + [1] * 60
    assert found["mate"] == [40 + i for i in range(40)] + [-1] * 60
    assert found["ranks"][0] == [*range(1, 41), *[0] * 60]
    for points in found["points"]:
        assert min(map(min, points)) >= 0
        assert max(map(max, points)) <= module.GRID
        assert max(max(side) - min(side) for side in points) == module.GRID  # one side is filled
        assert all(abs(max(side) + min(side) - module.GRID) <= 2 for side in points)  # the other is in the middle
        assert len(points[0]) == len(points[1]) == 100
    told = {row[0]: row[1:] for row in found["told"]}
    assert len(told) == module.TOLD
    every = torch.cat([(m := rows(task)).anchors, m.vectors])
    s = cosines(every, every) - 3 * np.eye(100)
    assert told["shown query 0"][0] == found["texts"][int(s[0].argmax())]
    json.dumps(found, allow_nan=False)


def test_map_of_many_items_keeps_queries_with_what_they_belong_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    task = retrieval(100, 200)
    found = portrait(task, rows(task), rows(task, seed=1))["map"]
    assert (len(found["texts"]), found["of"]) == (50, 300)
    queries = [i for i, text in enumerate(found["texts"]) if text.startswith("query")]
    assert len(queries) == 25
    for i in queries:
        number = found["texts"][i].split()[1]
        assert found["texts"][found["mate"][i]] == f"candidate {number}"


def test_classes_have_colours_and_the_rest_shares_one() -> None:
    task = classification(classes=12)
    found = portrait(task, rows(task), rows(task, seed=1))["map"]
    assert found["groups"][-1] == "3 other classes"
    assert len(found["groups"]) == module.CLASSES + 1
    labels = [*task.asked_label, *task.known_label]
    sizes = Counter(labels)
    for name, place in zip(labels, found["group"], strict=True):
        assert found["groups"][place] == (name if name in found["groups"] else "3 other classes")
    assert min(sizes[x] for x in found["groups"][:-1]) >= max(sizes[x] for x in sizes if x not in found["groups"])
    assert found["ranks"] == []
    assert set(found["mate"]) == {-1}
    assert portrait(classification(), rows(classification()), rows(classification()))["map"]["groups"] == [
        *("class 0", "class 1", "class 2")
    ]


@pytest.mark.parametrize("classes", [2, 9, 10])
def test_as_many_classes_as_colours_have_one_each(classes: int) -> None:
    task = classification(classes=classes)
    found = portrait(task, rows(task), rows(task))["map"]
    assert found["groups"] == [f"class {i}" for i in range(classes)]
    assert found["group"] == [i % classes for n in (30, 50) for i in range(n)]


def test_pairs_with_a_value_are_each_others_mates() -> None:
    task = similarity()
    found = portrait(task, rows(task), rows(task, seed=1))
    assert found["map"]["mate"] == [*range(31, 62), *[-1] * 31]
    assert found["plane"]["pairs"] == 15


def test_what_there_are_too_few_items_for_is_left_out() -> None:
    few = retrieval(4, 6)
    assert set(portrait(few, rows(few), rows(few, seed=1))) == {"scores", "shift", "plane", "spectrum"}
    task = similarity()
    constant = replace(task, value=np.ones(31))
    assert set(portrait(constant, rows(task), rows(task))) == {"map", "spectrum"}
    assert portrait(task, replace(rows(task), anchors=None), rows(task)) == {}
    lists = Reranking(["a"], [[0]], [[0, 1]], ["x", "y"], np.zeros(1))
    bare = Measured({}, np.zeros(1), 2)
    assert portrait(lists, bare, bare) == {}


def test_widths_before_and_after_may_differ() -> None:
    task = retrieval()
    found = portrait(task, rows(task, width=5), rows(task, width=16))
    assert [len(values) for values in found["spectrum"]] == [5, 16]


def test_same_seed_same_portrait() -> None:
    task = retrieval()
    one, other = (json.dumps(portrait(task, rows(task), rows(task, seed=1), seed=5)) for _ in range(2))
    assert one == other


def test_texts_fit_their_bytes() -> None:
    texts = ["é<" * 500, "short", "word " * 100, "\n a \t b ", "half \ud83d", ""]
    for budget in (100_000, 300, 150):
        cut = short_texts(texts, budget)
        assert cut[1] == "short"
        assert cut[3] == "a b"
        assert cut[5] == ""
        written = json.dumps(cut, ensure_ascii=False).replace("<", "\\u003c").encode("utf-8", "replace")
        assert len(written) <= budget + 2
    assert max(map(len, short_texts(texts, 100_000))) == module.TEXT_CHARACTERS
    assert short_texts(["x" * 10_000], 10_000)[0].endswith("x…")
