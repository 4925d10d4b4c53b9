"""`mine` from end to end: what it writes is data that `fit` takes, and what it says adds up."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

import counterpoint
from counterpoint import cli
from counterpoint.encoders.cross import CrossEncoder, load_cross, save_cross
from counterpoint.verbs import mine as module

from ..conftest import toy_rows

LOOSE = {"relative_margin": None, "depth": 20, "count": 3, "quiet": True, "precision": "fp32"}


def pairs(count: int = 60) -> list[dict]:
    return [{"query": r["query"], "doc": r["doc"]} for r in toy_rows(count)]


def positives_of(data: list[dict], key: str = "doc") -> set[tuple[str, str]]:
    return {(r["query"], r[key]) for r in data}


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv"])
def test_what_is_written_goes_through_fit(ending: str, tiny: Path, tmp_path: Path) -> None:
    data, out = pairs(), tmp_path / f"mined{ending}"
    found = counterpoint.mine(str(tiny), data, out=out, **LOOSE)
    assert found.path == out
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    assert counterpoint.check(out, quiet=True) == ()
    assert counterpoint.fit(out, model=str(tiny), recipe="pairs_with_negatives", dry_run=True, quiet=True) is None
    from counterpoint.verbs.prepare import inspect
    from counterpoint.verbs.settings import Run

    samples, _ = inspect(out, Run())
    assert dict(samples.columns) == {"anchor": "anchor", "positive": "positive", "negative": "negative"}
    assert samples.frame["negative"].to_list() == found.frame["negative"].to_list()
    assert samples.frame["anchor"].to_list() == [r["query"] for r in data]


def test_scores_are_cosines_and_known_positives_are_never_mined(tiny: Path) -> None:
    data = [*pairs(), *({"query": r["query"], "doc": f"d{i % 40} w{i}"} for i, r in enumerate(pairs()))]
    frame = counterpoint.mine(str(tiny), data, **LOOSE).frame
    mined = {(a, n) for a, texts in zip(frame["anchor"], frame["negative"].to_list(), strict=True) for n in texts}
    assert len(mined) > 100
    assert not mined & positives_of(data)
    model = counterpoint.load(str(tiny))
    row = frame.row(7, named=True)
    z, c = model.encode(row["anchor"])[0], model.encode(row["negative"], role="positive")
    assert row["negative_cosine"] == pytest.approx((c @ z).tolist(), abs=2e-4)
    assert row["positive_cosine"] == pytest.approx(
        (model.encode(row["positive"], role="positive") @ z).tolist(), abs=2e-4
    )
    assert all(len(r["negative"]) == len(r["negative_cosine"]) for r in frame.to_dicts())


def test_the_report_adds_up(tiny: Path) -> None:
    found = counterpoint.mine(str(tiny), pairs(), count=3, depth=20, relative_margin=0.01, quiet=True)
    report = found.report
    queries = found.frame["anchor"].n_unique()
    assert sum(report["per_query"].values()) == report["queries"] == queries
    assert sum(k * n for k, n in report["per_query"].items()) == report["kept"]
    looked = report["kept"] + sum(n for reason, n in report["dropped"].items() if reason != "known")
    assert looked == 20 * queries
    assert report["dropped"]["relative margin"] > 0


def test_given_negatives_and_other_roles_stay(tiny: Path) -> None:
    data = [{**r, "neg": [f"w{i}", "w99"], "clicks": i % 3 + 1, "group": f"g{i % 7}"} for i, r in enumerate(pairs())]
    frame = counterpoint.mine(str(tiny), data, **LOOSE).frame
    assert all(r["negative"][:2] == sorted(d["neg"]) for r, d in zip(frame.to_dicts(), data, strict=True))
    assert max(len(n) for n in frame["negative"].to_list()) == 5
    assert frame["weight"].to_list() == [float(r["clicks"]) for r in data]
    assert frame["group"].to_list() == [r["group"] for r in data]


def test_splits_are_mined_apart(tiny: Path) -> None:
    parts = ["train", "test", "train"] * 20
    data = [{**r, "split": part} for r, part in zip(pairs(), parts, strict=True)]
    frame = counterpoint.mine(str(tiny), data, **LOOSE).frame
    for part in ("train", "test"):
        own = {r["doc"] for r in data if r["split"] == part}
        mined = set(frame.filter(pl.col("split") == part)["negative"].explode())
        assert mined
        assert mined <= own
    assert frame["anchor"].to_list() == [r["query"] for r in data]


def test_a_corpus_adds_candidates(tiny: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text\n" + "\n".join(f"d{i} d{i + 1} w{i}" for i in range(30)) + "\n")
    found = counterpoint.mine(str(tiny), pairs(), corpus=str(corpus), **LOOSE)
    assert found.report["candidates"] == len({*(r["doc"] for r in pairs())}) + 30
    extra = {f"d{i} d{i + 1} w{i}" for i in range(30)}
    assert set(found.frame["negative"].explode()) & extra


def test_a_second_model_as_a_filter_is_asked_and_obeyed(tiny: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    from ..conftest import make_tiny_model

    other = make_tiny_model(tmp_path / "guide")
    torch.manual_seed(5)
    model = BertModel.from_pretrained(other)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(other)
    found = counterpoint.mine(str(tiny), pairs(), filter=str(other), **LOOSE)
    assert found.report["dropped"]["filter"] > 0
    guide = counterpoint.load(str(other))
    for row in found.frame.to_dicts():
        if row["negative"]:
            z = guide.encode(row["anchor"])[0]
            bar = (guide.encode(row["positive"], role="positive") @ z).min()
            scores = guide.encode(row["negative"], role="positive") @ z
            assert (scores <= bar + 1e-5).all()
            assert row["negative_filter"] == pytest.approx(scores.tolist(), abs=2e-4)


def test_a_planted_false_negative_is_removed_by_a_cross_encoder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One document of each topic is not listed though it belongs; a filter that knows the topics drops exactly those."""
    data = [{"query": f"q{i}", "doc": f"d{i} w1"} for i in range(40)]
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text\n" + "\n".join(f"d{i} w2" for i in range(40)) + "\n")
    torch.manual_seed(0)
    save_cross(load_cross(str(tiny)), tmp_path / "cross")

    def knows(_: CrossEncoder, left: list[str], right: list[str], **__: object) -> torch.Tensor:
        return torch.tensor(
            [5.0 if b.split()[0] == a.replace("q", "d") else -5.0 for a, b in zip(left, right, strict=True)]
        )

    settings = {**LOOSE, "count": 79, "depth": 79, "corpus": str(corpus)}
    planted = {(f"q{i}", f"d{i} w2") for i in range(40)}

    def mined(**more: object) -> set[tuple[str, str]]:
        frame = counterpoint.mine(str(tiny), data, **settings, **more).frame  # type: ignore[arg-type]
        return {(a, n) for a, texts in zip(frame["anchor"], frame["negative"].to_list(), strict=True) for n in texts}

    monkeypatch.setattr(module, "judge_pairs", knows)
    assert planted <= mined()
    filtered = mined(filter=str(tmp_path / "cross"), filter_margin=1.0)
    assert not planted & filtered
    assert filtered == mined() - planted


def test_the_same_twice(tiny: Path) -> None:
    frames = [counterpoint.mine(str(tiny), pairs(), pick="random", seed=s, **LOOSE).frame for s in (0, 0, 1)]
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])


@pytest.fixture
def typed(
    toy_csv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Types a command beside toy.csv: its exit code and what it printed."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.chdir(toy_csv.parent)
        monkeypatch.setattr(sys, "argv", ["counterpoint", "mine", *words])
        monkeypatch.setattr("counterpoint.interrupts.ended_by_signals", contextlib.nullcontext)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def test_the_command_says_what_was_kept_and_why(typed: Callable[..., tuple[int, str]], tiny: Path) -> None:
    code, printed = typed(str(tiny), "toy.csv", "--out", "mined.csv", "--relative-margin", "0.02")
    assert code == 0, printed
    for words in ("negatives for", "queries with all 4", "queries with none", "--relative-margin", "are they really wrong",
                  "query     q", "counterpoint fit mined.csv"):  # fmt: skip
        assert words in printed
    code, printed = typed(str(tiny), "toy.csv", "--out", "mined.csv")
    assert code == 2
    assert printed.strip() == (
        "counterpoint: wanted a file that does not exist yet, got one that does (--out mined.csv): nothing is written "
        "over; name another file"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["toy.csv", "--out", "mined.txt"], "endings .parquet, .jsonl, .csv, got the ending .txt (--out mined.txt)"),
        (["toy.csv", "--out", "no/mined.csv"], "wanted a folder to write the file in, got no folder no"),
        (["nothing.csv", "--out", "m.csv"], "no such file"),
        (["toy.csv", "--out", "m.csv", "--skip", "200"], "wanted a --skip below --depth 100, got 200"),
        (["toy.csv", "--out", "m.csv", "--pick", "best"], "wanted top or random, got 'best'"),
        (["toy.csv", "--out", "m.csv", "--margin", "-1"], "a margin of at least 0"),
        (["toy.csv", "--out", "m.csv", "--filter", "./gone"], "no such folder"),
        (["toy.csv", "--out", "m.csv", "--highest", "-2"], "wanted at least one negative, got none; most candidates were "
            "dropped as: highest"),
        (["toy.csv", "--out", "m.csv", "--ignore", "doc"], "wanted pairs to mine negatives for, got roles anchor"),
        (["scored.csv", "--out", "m.csv"], "wanted pairs that belong together, got pairs with a value ('score')"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], expected: str, toy_csv: Path, tiny: Path, typed: Callable[..., tuple[int, str]]
) -> None:
    folder = toy_csv.parent
    lines = toy_csv.read_text().splitlines()
    (folder / "scored.csv").write_text(
        "\n".join(["query,doc,score", *(f"{x},{i % 5}" for i, x in enumerate(lines[1:]))])
    )
    before = {p.name for p in folder.iterdir()}
    code, printed = typed(str(tiny), *words)
    assert code == 2, printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("counterpoint: wanted")
    assert expected in last
    assert {p.name for p in folder.iterdir()} == before


def test_an_unknown_setting_is_one_line(tiny: Path) -> None:
    with pytest.raises(counterpoint.Refusal, match="did you mean 'depth'"):
        counterpoint.mine(str(tiny), pairs(), dept=3)


def test_a_full_disk_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.verbs import table_file

    def full(_frame: pl.DataFrame, path: Path, _ending: str) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_file, "_write", full)
    with pytest.raises(counterpoint.Refusal, match="No space left"):
        counterpoint.mine(str(tiny), pairs(), out=tmp_path / "m.csv", **LOOSE)
    assert list(tmp_path.iterdir()) == []
