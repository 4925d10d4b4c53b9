"""Which tasks data ask: the roles decide, nothing leaks, and judged pairs count whichever way they were judged."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterpoint.errors import Refusal
from counterpoint.evaluation.labelled import Anomaly
from counterpoint.verbs.questions import Questions, questions
from counterpoint.verbs.settings import Run

COUNT = 60
TEXT = [f"q{i % 40} w{i}" for i in range(COUNT)]
DOC = [f"d{i % 40} w{i}" for i in range(COUNT)]
VALUE = [float(i * 7 % 11) for i in range(COUNT)]
LABEL = [f"c{i % 3}" for i in range(COUNT)]
SPLIT = [("train", "train", "dev", "test", "test")[i % 5] for i in range(COUNT)]
LONG = [f"q{i % 40} w{i} one two three four five six seven" for i in range(COUNT)]
ARRAY = list(np.random.default_rng(0).normal(size=(COUNT, 5)))
LABELLED = ["classification", "few-shot", "clustering"]


def asked(data: object, anomaly: str | None = None, **settings: object) -> Questions:
    return questions(pl.DataFrame(data), Run(**settings), anomaly=anomaly)


def names(found: Questions) -> list[str]:
    return [question.name for question in found.asked]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({"query": TEXT, "doc": DOC}, ["retrieval"]),
        ({"query": TEXT, "doc": DOC, "neg": DOC[::-1]}, ["retrieval", "reranking", "pair classification"]),
        ({"query": TEXT, "doc": DOC, "score": VALUE}, ["similarity"]),
        ({"text": TEXT, "label": LABEL}, LABELLED),
        ({"text": TEXT, "score": VALUE}, ["regression"]),
        ({"text": TEXT, "score": VALUE, "label": LABEL}, [*LABELLED, "regression"]),
        ({"text": LONG}, ["second half"]),
        ({"x": ARRAY}, ["hidden numbers"]),
        ({"x": ARRAY, "y": LABEL}, LABELLED),
        ({"x": ARRAY, "value": VALUE}, ["regression"]),
        ({"x": ARRAY, "doc": ARRAY[::-1]}, ["retrieval"]),
    ],
)
def test_the_roles_decide(data: dict, wanted: list[str]) -> None:
    assert names(asked(data)) == wanted


def test_a_label_beside_a_pair_asks_every_judged_pair() -> None:
    """Half of the anchors have a positive and a negative answer; the others have been judged once, and not to match."""
    rows = [{"q": TEXT[i], "a": DOC[i], "match": 1} for i in range(40)]
    rows += [{"q": TEXT[i], "a": DOC[i + 1], "match": 0} for i in range(20)]
    rows += [{"q": f"alone {i}", "a": DOC[i], "match": 0} for i in range(30)]
    found = questions(rows, Run(roles={"anchor": "q", "positive": "a", "label": "match"}))
    assert names(found) == ["retrieval", "reranking", "pair classification"]
    reranked, judged = (question.task for question in found.asked[1:])
    assert len(judged.left) == 90
    assert sorted(zip(judged.left, judged.right, judged.together.tolist(), strict=True)) == sorted(
        (row["q"], row["a"], bool(row["match"])) for row in rows
    )
    assert reranked.sizes() == (20, 2)
    both = {judged.left[i]: judged.unit[i] for i in range(90)}
    assert all(judged.unit[i] == both[judged.left[i]] for i in range(90)), "pairs of an anchor are one unit"
    assert len(np.unique(judged.unit)) == 70


def test_only_judged_test_pairs_are_asked() -> None:
    rows = [{"q": f"q {i}", "a": f"a {i}", "match": i % 2, "split": SPLIT[i]} for i in range(COUNT)]
    found = questions(rows, Run(roles={"anchor": "q", "positive": "a", "label": "match"}))
    task = found.asked[-1].task
    assert names(found) == ["retrieval", "pair classification"]
    assert set(task.left) == {row["q"] for row in rows if row["split"] == "test"}


def test_a_group_holds_pairs_of_both_judgements() -> None:
    rows = [{"q": f"q {i}", "a": f"a {i}", "match": i % 2, "team": f"t{i // 6}"} for i in range(COUNT)]
    roles = {"anchor": "q", "positive": "a", "label": "match", "group": "team"}
    task = questions(rows, Run(roles=roles)).asked[-1].task
    team = {row["q"]: row["team"] for row in rows}
    units = {(team[q], int(unit)) for q, unit in zip(task.left, task.unit, strict=True)}
    assert len(units) == len({unit for _, unit in units}) == 10


@pytest.mark.parametrize("split", [True, False])
def test_what_is_asked_was_not_known(split: bool) -> None:
    data = {"text": TEXT, "score": VALUE, "label": LABEL} | ({"split": SPLIT} if split else {})
    for question in asked(data).asked:
        task = question.task
        if question.name == "clustering":
            continue
        assert not set(task.known) & set(task.asked), question.name
        if split:
            assert set(task.asked) == {t for t, s in zip(TEXT, SPLIT, strict=True) if s == "test"}
            assert set(task.known) <= {t for t, s in zip(TEXT, SPLIT, strict=True) if s == "train"}


def test_one_label_in_train_asks_for_what_is_not_normal() -> None:
    label = ["fine" if s == "train" else one for s, one in zip(SPLIT, LABEL, strict=True)]
    label = ["fine" if one == "c0" else one for one in label]
    found = asked({"text": TEXT, "label": label, "split": SPLIT})
    assert names(found) == ["anomaly"]
    task = found.asked[0].task
    assert isinstance(task, Anomaly)
    assert set(task.known) == {t for t, s in zip(TEXT, SPLIT, strict=True) if s == "train"}
    assert task.abnormal.tolist() == [one != "fine" for one, s in zip(label, SPLIT, strict=True) if s == "test"]


def test_a_named_label_is_left_out_of_what_is_known() -> None:
    found = asked({"text": TEXT, "label": LABEL, "split": SPLIT}, anomaly="c1")
    assert names(found) == [*LABELLED, "anomaly"]
    task = found.asked[-1].task
    label = dict(zip(TEXT, LABEL, strict=True))
    assert "c1" not in {label[key] for key in task.known}
    assert task.abnormal.tolist() == [label[key] == "c1" for key in task.asked]


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (
            {"text": TEXT, "label": LABEL},
            {"anomaly": "c7"},
            "wanted a label for --anomaly, got 'c7' (data): known: c0, c1, c2",
        ),
        (
            {"query": TEXT, "doc": DOC},
            {"anomaly": "c1"},
            "wanted items with a label for --anomaly, got roles anchor, positive",
        ),
        (
            {"x": ARRAY, "doc": ARRAY[::-1]},
            {"corpus": "c.csv"},
            "wanted pairs of texts to rank for --corpus, got arrays",
        ),
        (
            {"text": TEXT, "label": LABEL},
            {"corpus": "c.csv"},
            "wanted pairs of texts to rank for --corpus, got roles anchor",
        ),
        ({"text": TEXT}, {}, "wanted at least two questions, got fewer"),
        (
            {
                "text": TEXT,
                "label": [one if s != "test" else "c0" for one, s in zip(LABEL, SPLIT, strict=True)],
                "split": SPLIT,
            },
            {"anomaly": "c1"},
            "wanted normal and other items among the test rows, got normal ones only",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(data: dict, options: dict, said: str) -> None:
    with pytest.raises(Refusal) as caught:
        asked(data, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_connected_group_of_everything_is_resampled_by_anchor() -> None:
    """All queries share a document: as one unit they would leave nothing to resample."""
    data = {"query": [t for t in TEXT for _ in range(2)], "doc": [x for d in DOC for x in (d, "d0 everywhere")]}
    task = asked(data).asked[0].task
    assert len(np.unique(task.unit)) == len(task.queries)


def test_what_components_are_taken_from_was_not_asked() -> None:
    found = asked({"x": ARRAY, "y": LABEL, "split": SPLIT})
    assert found.known is not None
    assert not set(found.known.anchors) & set(found.asked[0].task.asked)
    assert asked({"text": TEXT, "label": LABEL}).known is None
