"""`fit` for cross-encoders from end to end: it learns to rank, says so with an interval, and leaves a filter."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import counterpoint
from counterpoint.encoders.cross import judge_pairs, load_cross
from counterpoint.verbs.settings import Run

FAST = {"seed": 1, "steps": 400, "lr": 2e-3, "batch": 16, "quiet": True, "precision": "fp32", "dropout": 0.0}


def rows(count: int = 300, topics: int = 6) -> list[dict]:
    """Query and document of a topic share no word; negatives are of other topics; the other words say nothing."""
    draw = random.Random(0)

    def text(topic: str) -> str:
        return f"{topic} w{draw.randrange(90)} w{draw.randrange(90)}"

    return [
        {
            "query": text(f"q{i % topics}"),
            "doc": text(f"d{i % topics}"),
            "neg": [text(f"d{(i + k) % topics}") for k in range(1, topics)],
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> counterpoint.verbs.fit.Trained:
    out = tmp_path_factory.mktemp("runs") / "cross"
    settings = {"negatives": 5}
    return counterpoint.fit(
        rows(), recipe="cross_encoder_listwise", model=str(tiny), out=str(out), settings=settings, **FAST
    )


def test_it_ranks_better_than_what_you_had(trained: counterpoint.verbs.fit.Trained) -> None:
    metrics = trained.metrics
    assert trained.verdict == "better"
    assert metrics["difference"]["mrr@10"]["low"] > 0
    # a list holds about five more documents of the query's topic than it knows of; among six in any order the known
    # one has a reciprocal rank of (1 + 1/2 + ... + 1/6) / 6 = 0.41, among thirty of 0.13
    assert metrics["after"]["mrr@10"]["value"] > 0.35
    assert metrics["candidates"] == 30
    assert set(metrics) >= {"before", "after", "bm25", "sentence", "dev", "loss", "steps"}


def test_the_folder_holds_a_filter(trained: counterpoint.verbs.fit.Trained) -> None:
    assert {p.name for p in trained.path.iterdir()} == {
        "run.json", "metrics.json", "cost.json", "answers.parquet", "report.html", "model", "steps.jsonl", "health.json",
    }  # fmt: skip
    run = json.loads((trained.path / "run.json").read_text())
    assert run["recipe"] == "cross_encoder_listwise"
    assert run["arguments"] == {"negatives": 5}
    assert "--filter" in run["next"][0]
    encoder = load_cross(trained.path)
    learned = rows()[:100]
    scores = judge_pairs(
        encoder,
        [row["query"] for row in learned for _ in range(6)],
        [text for row in learned for text in (row["doc"], *row["neg"])],
    ).reshape(100, 6)
    assert (scores[:, :1] > scores[:, 1:]).float().mean() > 0.8  # most of these rows were trained on


def test_it_filters_what_is_not_listed_but_belongs(trained: counterpoint.verbs.fit.Trained, tiny: Path) -> None:
    """Each query's topic has documents that it does not list: the filter takes most of them out."""
    data = [{"query": f"q{i % 6} w{i} w{i + 3}", "doc": f"d{i % 6} w{i + 1} w{i + 5}"} for i in range(60)]

    def false(**more: object) -> float:
        frame = counterpoint.mine(
            str(tiny), data, count=25, depth=59, relative_margin=None, quiet=True, precision="fp32", **more
        ).frame
        pairs = [(a, n) for a, ns in zip(frame["anchor"], frame["negative"].to_list(), strict=True) for n in ns]
        return sum(a.split()[0][1:] == n.split()[0][1:] for a, n in pairs) / len(pairs)

    plain, filtered = false(), false(filter=trained.path, filter_margin=1.0)
    assert plain > 0.05
    assert filtered < plain / 3


def test_a_cross_encoder_goes_on_from_itself(trained: counterpoint.verbs.fit.Trained, tmp_path: Path) -> None:
    again = counterpoint.fit(
        rows(),
        recipe="cross_encoder",
        model=str(trained.path),
        out=str(tmp_path / "r"),
        **(FAST | {"steps": 2, "lr": 1e-9}),
    )
    assert again.verdict == "no difference shown"
    assert again.metrics["before"]["mrr@10"] == trained.metrics["after"]["mrr@10"]


def test_the_same_seed_gives_the_same_metrics(tiny: Path, tmp_path: Path) -> None:
    options = FAST | {"steps": 4, "dropout": None, "recipe": "cross_encoder", "model": str(tiny)}
    runs = [counterpoint.fit(rows(120), out=str(tmp_path / name), **options) for name in "ab"]
    assert (runs[0].path / "metrics.json").read_bytes() == (runs[1].path / "metrics.json").read_bytes()


def test_pairs_without_negatives_train_on_random_ones(tiny: Path, tmp_path: Path) -> None:
    data = [{"query": r["query"], "doc": r["doc"]} for r in rows(120)]
    run = counterpoint.fit(
        data, recipe="cross_encoder", model=str(tiny), out=str(tmp_path / "r"), **(FAST | {"steps": 2})
    )
    assert run.metrics["steps"] == 2


def test_a_dry_run_writes_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert counterpoint.fit(rows(120), recipe="cross_encoder", model=str(tiny), dry_run=True, quiet=True) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompts": {"anchor": "query: "}}, "no prompts"),
        ({"lengths": {"anchor": 32}}, "--length pair=256"),
        ({"corpus": "x.csv"}, "no corpus"),
        ({"settings": {"negatives": "0"}}, "negatives above 0"),
        ({"settings": {"temperature": 1}}, "an argument of cross_encoder"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict, words: str, tiny: Path) -> None:
    with pytest.raises(counterpoint.Refusal, match=words):
        counterpoint.fit(rows(120), recipe="cross_encoder", model=str(tiny), quiet=True, **settings)


def test_a_cross_encoder_is_not_taken_for_a_bi_encoder(trained: counterpoint.verbs.fit.Trained) -> None:
    with pytest.raises(counterpoint.Refusal, match="scores pairs"):
        counterpoint.load(trained.path)


def test_mining_between_epochs_is_a_setting() -> None:
    assert Run().negatives_between_epochs() is None
    how = Run(mine_every=2, mining={"count": 7}, seed=3).negatives_between_epochs()
    assert (how.count, how.seed) == (7, 3)
    for settings, words in (
        ({"mine_every": 0}, "above 0"),
        ({"mining": {"count": 2}}, "--mine-every"),
        ({"mine_every": 1, "mining": {"cuont": 2}}, "did you mean 'count'"),
        ({"mine_every": 1, "mining": {"count": 0}}, "at least 1"),
    ):
        with pytest.raises(counterpoint.Refusal, match=words):
            Run(**settings)
