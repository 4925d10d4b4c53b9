"""The report: one file that loads nothing, escapes everything and never says more than its intervals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest

from counterpoint.evaluation.markup import MOST_CHARACTERS, excerpt
from counterpoint.evaluation.report import Story, judged, render

VOID = {"meta", "br", "img", "hr", "input", "link"}
ATTACK = "\"'><script>alert(1)</script><img src=http://x.invalid onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser makes of the page: elements with their attributes, the text of each, and what was not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for at in self.open:
            self.texts[at] += data

    def all(self, tag: str, **attributes: str) -> list[str]:
        """The texts of the elements with this name and these attributes."""
        return [
            text
            for (name, found), text in zip(self.elements, self.texts, strict=True)
            if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]

    @property
    def seen(self) -> str:
        """What a person can read, in one line."""
        said = "".join(self.all("header") + self.all("main"))
        for script in self.all("script"):
            said = said.replace(script, " ")
        return " ".join(said.split())


def interval(value: float, width: float) -> dict[str, float]:
    return {"value": value, "low": round(value - width, 6), "high": round(value + width, 6)}


METRICS = {
    "metric": "mrr@10",
    "verdict": "better",
    "sentence": "MRR@10 rose from 0.747 to 0.793: +0.046 (95 % interval +0.031 to +0.061, 26 packages resampled)",
    "queries": 1234,
    "candidates": 2345,
    "resampled": "26 groups of 'package'",
    "before": {"mrr@10": interval(0.747, 0.021), "recall@1": interval(0.68, 0.03)},
    "after": {"mrr@10": interval(0.793, 0.022), "recall@1": interval(0.71, 0.03)},
    "difference": {"mrr@10": interval(0.046, 0.015), "recall@1": interval(0.03, 0.01)},
    "bm25": {"mrr@10": interval(0.612, 0.024), "recall@1": interval(0.5, 0.03)},
}
RUN = {
    "command": "counterpoint fit pairs.parquet --out runs/x",
    "recipe": "pairs",
    "recipe_why": "the data has positives and no labels",
    "model": "some-model",
    "device": "cpu",
    "precision": "bf16",
    "seed": 7,
    "batch": 96,
    "steps": 40,
    "lr": 8e-5,
    "settings": {"temperature": 0.05},
    "roles": {"anchor": "docstring", "positive": "code"},
    "unused": ["path"],
    "rows": 11350,
    "split": {"how": "by us", "unit": "groups of 'package'", "sizes": {"train": 10000, "dev": 350, "test": 1000}},
    "findings": [{"code": "duplicate-rows", "level": "warn", "message": "37 rows repeat an earlier one", "count": 37}],
    "lengths": {"anchor": {"tokens": 48, "cut": 0.12}, "positive": {"tokens": 96, "cut": 0.61}},
    "best_step": 30,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "next": ['counterpoint search runs/x "words"'],
}
COST = {
    "seconds": {"read": 1.2, "before": 20.1, "train": 125.0, "after": 19.8},
    "peak_memory_bytes": 2.1e9,
    "machine": {"processor": "a processor", "memory_bytes": 16_000_000_000, "accelerator": None},
    "steps_per_second": 0.34,
}


def example(
    kind: str, query: str, positive: str, ranks: tuple[int, int], before: list[str], after: list[str]
) -> dict[str, object]:
    found = {
        f"found_{time}": [{"text": text, "positive": text == positive} for text in texts]
        for time, texts in (("before", before), ("after", after))
    }
    return {"kind": kind, "query": query, "positive": positive, "before": ranks[0], "after": ranks[1], **found}


CODE = "\n".join(f"line_{i} = {i}" for i in range(40))
SPACE = {
    "map": {
        "of": 50,
        "groups": ["query", "candidate"],
        "group": [0, 0, 1],
        "points": [[[0, 32767, 9000], [9, 10, 30000]], [[0, 20000, 3], [4, 5, 32767]]],
        "texts": ["one dot", "two", "three"],
        "mate": [2, -1, -1],
        "ranks": [[101, 3, 0], [2, 1, 0]],
        "told": [["one dot", "two", "three"]],
    },
    "scores": {
        "names": ["pairs that belong", "pairs that do not"],
        "edges": [-1.0, -0.5, 0.0, 0.5, 1.0],
        "counts": [[[0, 0, 1, 3], [0, 1500, 450, 50]], [[0, 0, 0, 4], [0, 1990, 10, 0]]],
        "medians": [[0.6, -0.1], [0.8, -0.2]],
    },
    "shift": [
        {
            "threshold": 0.5,
            "moved": 0.31,
            "false_positives": 0.025,
            "kept": 0.0005,
            "recall_before": 0.75,
            "recall_after": 1.0,
        },
        {
            "threshold": 0.7,
            "moved": 0.44,
            "false_positives": 0.002,
            "kept": 0.0,
            "recall_before": 0.5,
            "recall_after": 1.0,
        },
    ],
    "plane": {"alignment": [1.2, 0.9], "uniformity": [-2.5, -3.0], "pairs": 4, "rows": 5},
    "spectrum": [[0.5, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]],
}
STORY = Story(
    run=RUN,
    metrics=METRICS,
    cost=COST,
    loss=[3.0 - 0.05 * i for i in range(40)],
    dev=[(0, 0.71), (10, 0.74), (20, 0.76), (30, 0.78), (40, 0.77)],
    ranks=([1, 1, 5, 20, 101, 1, 2, 101], [1, 1, 1, 3, 40, 2, 2, 101]),
    examples=[
        example("up", "climber", CODE, (101, 1), ["wrong one"], [CODE, "close one"]),
        example("down", "faller", "p", (2, 9), ["q", "p"], ["other one"]),
        example("low", "sitter " * 30, "p", (101, 101), [], ["far one"]),
    ],
    searches=[{"query": "read a file", "before": ["first old", "shared"], "after": ["shared", "first new"]}],
    token_lengths={"anchor": [5, 20, 47, 48, 49, 60], "positive": [10, 95, 96, 97, 300, 900]},
    space=SPACE,
)
NOTHING = Story({}, {}, {}, [], [], None, [], [], {})


def shown(story: Story = STORY) -> Page:
    return Page(render(story))


def with_metrics(**changes: object) -> Story:
    return replace(STORY, metrics={**METRICS, **changes})


@pytest.fixture(scope="module")
def page() -> Page:
    return shown()


def test_page_is_sound_html(page: Page) -> None:
    assert page.open == []
    assert len(page.all("h1")) == 1
    assert page.all("html", lang="en")
    ids = Counter(found["id"] for _, found in page.elements if "id" in found)
    assert max(ids.values()) == 1
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    targets = [found["href"] for name, found in page.elements if name == "a"]
    assert targets
    assert all(target.startswith("#") and target[1:] in ids for target in targets)


def test_page_loads_nothing(page: Page) -> None:
    for name, found in page.elements:
        assert name not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "srcset", "data", "action", "background"} & set(found), name
        assert not any(key.startswith("on") for key in found), name
    assert not re.search(r"url\(|@import", "".join(page.all("style")))
    scripts = [s for s in page.all("script") if s not in page.all("script", type="application/json")]
    assert sum("plotly.js v" in s for s in scripts) == 1
    law = next(found["content"] for name, found in page.elements if found.get("http-equiv"))
    assert "default-src 'none'" in law
    hashes = {b64encode(sha256(s.encode()).digest()).decode() for s in scripts}
    assert hashes == set(re.findall(r"'sha256-([^']+)'", law))


def test_everything_is_escaped() -> None:
    run = {
        **RUN,
        **dict.fromkeys(("command", "recipe", "recipe_why", "model", "device", "precision"), ATTACK),
        "settings": {ATTACK: ATTACK},
        "roles": {ATTACK: ATTACK},
        "unused": [ATTACK],
        "split": {"how": ATTACK, "unit": ATTACK, "sizes": {ATTACK: 3}},
        "findings": [{"code": ATTACK, "level": ATTACK, "message": ATTACK, "count": 1}],
        "lengths": {ATTACK: {"tokens": 4, "cut": 0.9}},
        "versions": {ATTACK: ATTACK},
        "next": [ATTACK],
    }
    metrics = {**METRICS, "metric": ATTACK, "sentence": ATTACK, "resampled": ATTACK, "verdict": "better"}
    metrics |= {system: {ATTACK: interval(0.5, 0.1)} for system in ("before", "after", "difference", "bm25")}
    moved = example("up", ATTACK, ATTACK, (3, 1), [ATTACK], [ATTACK * 99])
    cost = {"seconds": {ATTACK: 1.0}, "machine": {ATTACK: ATTACK}}
    search = {"query": ATTACK, "before": [ATTACK], "after": [f"x\n{ATTACK}"]}
    story = Story(run, metrics, cost, [1.0], [(1, 0.5)], ([1], [2]), [moved], [search], {ATTACK: [3, 9]})
    space = {**SPACE, "map": {**SPACE["map"], "texts": [ATTACK] * 3, "groups": [ATTACK] * 2, "told": [[ATTACK] * 3]}}
    story = replace(story, space={**space, "scores": {**SPACE["scores"], "names": [ATTACK] * 2}})
    attacked = shown(story)
    assert attacked.open == []
    assert not attacked.all("img")
    kinds = Counter(found.get("type", "code") for name, found in attacked.elements if name == "script")
    plots = [found for _, found in attacked.elements if found.get("class") in ("plot", "map")]
    assert kinds == {"code": 2, "application/json": len(plots)}
    assert attacked.seen.count("<script>alert(1)</script>") > 25
    for drawing in attacked.all("script", type="application/json"):
        assert "<" not in drawing
        if '"layout"' in drawing:
            assert "<script" not in json.dumps(json.loads(drawing))  # plotly reads tags in its labels


def test_numbers_of_the_story_appear(page: Page) -> None:
    assert METRICS["sentence"] in page.seen
    for number in (
        *("0.747 (0.726 to 0.768)", "0.793 (0.771 to 0.815)", "0.612 (0.588 to 0.636)", "+0.046 (+0.031 to +0.061)"),
        *("1,234 queries, each among 2,345 candidates", "26 groups of 'package'", "11,350 rows", "10,000", "350"),
        *("37 rows repeat an earlier one", "duplicate-rows", "cut after 96 tokens: 61 % lose their end"),
        *("2 min 5 s", "2 min 46 s", "2.1 GB", "16.0 GB", "0.34", "8e-05", "0.05", "2.13.0", "3.11.7"),
        *("30 (kept)", "0.780", RUN["command"], RUN["next"][0], "docstring", "path", RUN["recipe_why"]),
    ):
        assert number in page.seen, number
    assert not re.search(r"None|nan\b", page.seen)


def test_same_story_same_page() -> None:
    assert render(STORY) == render(replace(STORY))
    ids = [found["id"] for name, found in shown().elements if found.get("class") == "plot"]
    names = [
        "metrics",
        "difference",
        "ranks",
        "scores",
        "plane",
        "spectrum",
        "training",
        "lengths-anchor",
        "lengths-positive",
    ]
    assert ids == [f"figure-{name}" for name in names]


@pytest.mark.parametrize(
    ("stated", "low", "high", "headline"),
    [
        ("better", 0.01, 0.05, "Better than what you had"),
        ("better", -0.01, 0.05, "No difference shown"),
        ("better", 0.0, 0.05, "No difference shown"),
        ("better", None, None, "No difference shown"),
        ("better", float("nan"), float("nan"), "No difference shown"),
        ("better", -0.05, -0.01, "Worse: keep what you had"),
        ("no difference shown", 0.01, 0.05, "No difference shown"),
        ("no difference shown", -0.01, 0.05, "No difference shown"),
        ("worse, keep what you had", -0.05, -0.01, "Worse: keep what you had"),
        ("something new", 0.01, 0.05, "No difference shown"),
    ],
)
def test_verdict_never_says_more_than_the_interval(
    stated: str, low: float | None, high: float | None, headline: str
) -> None:
    change = {"value": 0.02, "low": low, "high": high}
    story = with_metrics(verdict=stated, difference={"mrr@10": change})
    found = shown(story)
    assert found.all("h1") == [headline]
    verdict, sentence = judged(story.metrics)
    assert (sentence == METRICS["sentence"]) == stated.startswith(verdict)
    assert any(name == "svg" for name, _ in found.elements)
    if headline != "Better than what you had":
        assert "better" not in " ".join(found.all("header")).lower()


def test_notes_beside_the_verdict(page: Page) -> None:
    quiet = page.all("header")[0]
    assert "BM25" not in quiet
    assert "61 % of" not in quiet
    assert "Most texts of the positive (61\xa0%) are longer than 96 tokens" in quiet
    assert "of the anchor" not in quiet
    assert "1 finding to" in quiet
    loud = {
        "bm25": {"mrr@10": interval(0.9, 0.01)},
        "difference": {"mrr@10": {"value": 0.1, "low": 0.1, "high": 0.1}, "recall@1": interval(-0.03, 0.01)},
    }
    story = replace(with_metrics(**loud), run={**RUN, "best_step": 0})
    said = shown(story).all("header")[0]
    assert "BM25, word search without a model, scores 0.900, the trained model 0.793." in said
    assert "Recall@1 got worse: -0.030 (-0.040 to -0.020)." in said
    assert "The interval has no width" in said
    assert "No step beat the start" in said


HEADINGS = {
    "metrics": ["Before and after"],
    "ranks": ["Where ranks moved"],
    "examples": ["Queries that moved most, and those still lowest"],
    "searches": ["Searches, before and after"],
    "space": ["Scores and cut-offs", "Map of the test items", "The shape of the space"],
    "loss": ["Training"],
    "cost": ["What it cost"],
}
TITLES = [
    *("Before and after", "Where ranks moved", "Scores and cut-offs", *HEADINGS["examples"], *HEADINGS["searches"]),
    *("Map of the test items", "The shape of the space"),
    *("Training", "The data", "What it cost", "How to go on", "How to repeat it"),
]


@pytest.mark.parametrize("part", HEADINGS)
def test_missing_part_leaves_no_heading(page: Page, part: str) -> None:
    parts = {part: getattr(NOTHING, part)} | ({"dev": []} if part == "loss" else {})
    found = shown(replace(STORY, **parts))
    assert page.all("h2") == TITLES
    assert found.all("h2") == [title for title in TITLES if title not in HEADINGS[part]]
    assert len(found.all("a")) == len(TITLES) - len(HEADINGS[part])


@pytest.mark.parametrize(
    ("part", "heading"),
    [("map", "Map of the test items"), ("scores", "Scores and cut-offs"), ("plane", None), ("spectrum", None)],
)
def test_missing_part_of_the_space(part: str, heading: str | None) -> None:
    found = shown(replace(STORY, space={key: value for key, value in SPACE.items() if key != part}))
    assert found.all("h2") == [title for title in TITLES if title != heading]
    ids = {element.get("id") for _, element in found.elements}
    assert f"figure-{part}" not in ids
    assert ("figure-map-before" in ids) == (part != "map")
    assert len([s for s in found.all("script") if "stamps" in s]) == (
        part != "map"
    )  # the map's script comes with a map


def test_nothing_known_is_still_a_page() -> None:
    found = shown(NOTHING)
    assert found.all("h1") == ["No difference shown"]
    assert not found.all("h2") + found.all("table") + found.all("li") + found.all("dl") + found.all("p", class_="about")


def test_smaller_gaps() -> None:
    no_dev = shown(replace(STORY, dev=[])).seen
    assert ("Loss, step by step" in no_dev, "on dev" in no_dev) == (True, False)
    no_bm25 = shown(replace(STORY, metrics={k: v for k, v in METRICS.items() if k != "bm25"}))
    assert "BM25" not in no_bm25.seen
    one_way = shown(replace(STORY, examples=STORY.examples[:1]))
    assert "Moved up" in one_way.all("h3")
    assert "Moved down" not in one_way.all("h3")
    assert "Still lowest" not in one_way.all("h3")
    alike = {"how": "texts", "unit": "texts", "sizes": {"train": 9}}
    assert "How the rows were split: texts" in shown(replace(STORY, run={**RUN, "split": alike})).all("caption")
    ids = [found.get("id") for _, found in shown(replace(STORY, token_lengths={"anchor": []})).elements]
    assert not [name for name in ids if name and "lengths" in name]


@pytest.mark.parametrize(
    ("metric", "name", "meaning", "asked"),
    [
        ("spearman", "Spearman correlation", "order of the similarities", "1,234 pairs of texts"),
        ("accuracy", "kNN accuracy", "nearest labelled texts", "1,234 texts, told from 2,345 labelled ones"),
        ("mrr@10", "MRR@10", "first positive", "1,234 queries"),
        ("ndcg@10", "nDCG@10", "counts the more", "1,234 queries"),
        ("recall@5", "Recall@5", "share of a query's positives", "1,234 queries"),
    ],
)
def test_each_metric_is_explained(metric: str, name: str, meaning: str, asked: str) -> None:
    only = {system: {metric: interval(0.5, 0.1)} for system in ("before", "after", "difference")}
    found = shown(with_metrics(metric=metric, bm25={}, **only))
    assert name in found.all("dt")
    [explained] = found.all("dl", **{"class": "plain"})
    assert explained.startswith(name)
    assert meaning in explained
    assert asked in found.seen


def test_ranks_are_counted() -> None:
    found = shown()
    assert "Of 8 queries 38 % improved" in found.seen
    assert "50 % are unchanged, 12 % worsened" in found.seen
    label = next(element["aria-label"] for _, element in found.elements if element.get("id") == "figure-ranks")
    assert "rank 1: 3 before, 3 after" in label
    assert "rank >100: 2 before, 1 after" in label


def test_examples_by_direction(page: Page) -> None:
    up, down, low = page.all("details", **{"class": "example"})
    assert "rank beyond 100 → 1 climber" in up
    old, new = up.split("first results after training")
    assert ("wrong one" in old, "✓ positive" in old) == (True, False)
    assert new.startswith("✓ positive line_0 = 0")
    assert new.count("✓ positive") == 1
    assert "close one" in new
    assert "rank 2 → 9 faller" in down
    assert "✓ positive p" in down.split("first results after training")[0]
    assert "nothing found" in low
    assert low.startswith("rank beyond 100 → beyond 100 sitter")
    assert "…" in low
    assert ("sitter " * 30).strip() in low  # whole, below its heading
    assert [h for h in page.all("h3") if "“" not in h] == ["Moved up", "Moved down", "Still lowest"]


def test_cut_offs_in_words(page: Page) -> None:
    assert "If you accepted pairs from 0.5 on, accept from 0.31 on now:" in page.seen
    assert "100\xa0% of the positives instead of 75\xa0%".replace("\xa0", " ") in page.seen
    [moved] = [t for t in page.all("table") if "accept now from" in t]
    assert "50 of 2,000" in moved
    assert "1 others pass" in moved
    assert "0.44" not in moved
    assert "75\xa0% → 100\xa0%" in moved
    assert "From 0.7 on fewer than 5 of the other pairs passed" in page.seen
    same = shown(replace(STORY, space={**SPACE, "shift": [{**SPACE["shift"][0], "kept": 0.025}]}))
    assert "Fixed cut-offs may stay where they are" in same.seen
    assert "accept from" not in same.seen
    few = {**SPACE, "shift": [SPACE["shift"][1]]}
    assert "Hardly any of the other pairs" in shown(replace(STORY, space=few)).seen


def test_shape_in_words(page: Page) -> None:
    assert "about 2.8 of 3 directions before and 4.0 of 4 after" in page.seen
    labels = {found.get("id"): found.get("aria-label") for _, found in page.elements}
    assert "Alignment from 1.200 to 0.900" in labels["figure-plane"]
    assert "uniformity from -2.500 to -3.000" in labels["figure-plane"]
    assert "along 1 before and 2 after training" in labels["figure-spectrum"]
    drawings = [json.loads(s) for s in page.all("script", type="application/json") if '"layout"' in s]
    [plane] = [d for d in drawings if "alignment" in str(d["layout"]["xaxis"].get("title"))]
    assert [(t["x"], t["y"]) for t in plane["data"]] == [([1.2], [-2.5]), ([0.9], [-3.0])]
    [arrow] = plane["layout"]["annotations"]
    assert [arrow[key] for key in ("ax", "ay", "x", "y")] == [1.2, -2.5, 0.9, -3.0]
    assert "pairs that do not have a median score of -0.100 before and -0.200 after" in labels["figure-scores"]


def test_map_holds_each_text_once(page: Page) -> None:
    labels = {found.get("id"): found.get("aria-label") for _, found in page.elements}
    assert labels["figure-map-after"] == "Map of 3 of 50 items, drawn at random after training: 2 query, 1 candidate."
    [packed] = [json.loads(s) for s in page.all("script", type="application/json") if '"mate"' in s]
    assert packed["texts"] == ["one dot", "two", "three"]
    assert np.frombuffer(b64decode(packed["points"][0][0]), "<i2").tolist() == [0, 32767, 9000]
    assert np.frombuffer(b64decode(packed["mate"]), "<i2").tolist() == [2, -1, -1]
    assert np.frombuffer(b64decode(packed["ranks"][0]), "<u1").tolist() == [101, 3, 0]


def test_links_stand_in_groups(page: Page) -> None:
    [nav] = page.all("nav")
    places = [
        nav.index(name) for name in ("The result", "Before and after", "Queries", "Searches", "The space", "The run")
    ]
    assert places == sorted(places)
    assert "Queries" not in shown(replace(STORY, examples=[], searches=[])).all("nav")[0]


def test_long_text_is_whole_behind_its_expander() -> None:
    found = Page(excerpt(CODE))
    first, rest = found.all("pre")
    assert f"{first}\n{rest}" == CODE
    assert first.count("\n") == 5
    assert found.all("summary") == ["34 more lines"]
    assert not Page(excerpt("short\ntext")).all("summary")
    assert len("".join(Page(excerpt("word " * 100)).all("p")).split()) == 100
    endless = Page(excerpt("x" * (MOST_CHARACTERS + 7)))
    assert "7 more characters are left out here" in "".join(endless.texts)
    assert sum(map(len, endless.all("p"))) == MOST_CHARACTERS


def test_searches_name_what_is_new(page: Page) -> None:
    assert "“read a file”" in page.all("h3")
    items = page.all("li")
    assert "new first new" in items
    assert items.count("shared") == 2


def test_figures_can_be_read_without_seeing(page: Page) -> None:
    plots = [at for at, (_, found) in enumerate(page.elements) if found.get("class") == "plot"]
    assert len(plots) == 9
    for at in plots:
        assert page.elements[at][1]["role"] == "img"
        assert len(page.elements[at][1]["aria-label"]) > 30
        assert [name for name, _ in page.elements[at + 1 : at + 5]] == ["script", "details", "summary", "table"]
    heads = [found for name, found in page.elements if name == "th"]
    assert {found.get("scope") for found in heads} == {"row", "col"}
    assert len(page.all("caption")) == len(page.all("table"))


def test_colours_and_classes_have_a_home(page: Page) -> None:
    [css] = page.all("style")
    assert css == resources.files("counterpoint.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    named = set(re.findall(r"var\((--[a-z0-9-]+)\)", css + "".join(page.all("script", type="application/json"))))
    assert named <= set(re.findall(r"(--[a-z0-9-]+): #", css))
    for verdict in ("better", "no difference shown", "worse, keep what you had"):
        low = {"b": 0.1, "n": -0.1, "w": -0.3}[verdict[0]]
        change = {"mrr@10": {"value": 0.0, "low": low, "high": low + 0.1 + 0.05}}
        found = shown(with_metrics(verdict=verdict, difference=change))
        box = next(e["class"] for _, e in found.elements if (e.get("class") or "").startswith("verdict"))
        assert f".{box.replace(' ', '.')} {{" in css


def test_page_can_be_written() -> None:
    story = replace(STORY, run={**RUN, "command": "half \ud83d a pair"})
    assert b"half ? a pair" in render(story).encode("utf-8")


def test_import_leaves_plotly_alone() -> None:
    code = "import sys, counterpoint.evaluation.report; sys.exit(bool({'plotly', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
