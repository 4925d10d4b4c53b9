"""Orders from the command line to the batches: names, arguments, needs, several files, tables between epochs."""

from __future__ import annotations

import csv
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import counterpoint
from counterpoint import cli
from counterpoint.data import orders
from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_id
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.verbs.orders import contents_of, make_order, needs_of, needs_tables, order_arguments, tables_of
from counterpoint.verbs.prepare import inspect as look
from counterpoint.verbs.prepare import prepare
from counterpoint.verbs.settings import Run

from ..conftest import toy_rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """The toy table in two files, 400 rows and 100, with other names of columns in the second."""
    rows = toy_rows(500)
    other = [{"answer": row["doc"], "question": row["query"]} for row in rows[400:]]
    return [write(tmp_path / "big.csv", rows[:400]), write(tmp_path / "small.csv", other)]


def test_help_names_every_order_and_every_order_needs_what_rows_bring() -> None:
    words = inspect.signature(cli.fit).parameters["order"].annotation
    named = re.findall(r"[a-z_]+", str(words).partition("together: ")[2].partition(".")[0])
    assert sorted(set(named) - {"or"}) == sorted(orders.__all__)
    assert {needs_of(getattr(orders, name)) for name in orders.__all__} == {"n", "ids", "sources", "labels", "table"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"order": "shufled"}, "an order of batches, got 'shufled' .*did you mean 'shuffled'"),
        ({"order": "used"}, "an order of batches"),
        ({"order_settings": {"batch": 3}}, "got 'batch' .*that is --batch"),
        ({"order": "hard", "order_settings": {"skp": "1"}}, r"an argument of hard, got 'skp' \(--order-set skp=1\): did you"),
        ({"order": "hard", "order_settings": {"skip": "x"}}, "a value of type int, got 'x'"),
        ({"order": "mixed", "order_settings": {"temperature": "0"}}, "a temperature above 0"),
        ({"source_weights": {"a": 2.0}}, "several sources for --source-weight, got 'shuffled'"),
        ({"source_weights": {"a": -2.0}}, "a weight above 0"),
        ({"source_weights": {"a": float("nan")}}, "a weight above 0"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_line(settings: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        order_arguments(Run(**settings))


def test_arguments_come_from_defaults_flags_and_the_run() -> None:
    run = Run(order="mixed", seed=3, order_settings={"temperature": "2"}, source_weights={"a": 2})
    assert order_arguments(run) == {"seed": 3, "temperature": 2.0, "weights": {"a": 2}}
    assert order_arguments(Run(order="balanced")) == {"seed": 0, "per_class": 4}


def test_contents_are_those_of_all_sides() -> None:
    rows = [{"query": "a", "doc": json.dumps(["b", "c"]), "negative": "d"}, {"query": "b", "doc": "a", "negative": ""}]
    samples, _ = look(rows, Run())
    found = contents_of(Rows.of(samples.frame))
    assert found == [[content_id(t) for t in "abcd"], [content_id(t) for t in "ba"]]


def test_several_files_are_one_table_with_sources(two: list[Path]) -> None:
    prepared = prepare(two, Run())
    frame = prepared.samples.frame
    assert set(frame["source"]) == {"big", "small"}
    assert frame.filter(frame["source"] == "small")["row"].min() >= 400
    rows = Rows.of(prepared.split.part("train"))
    order = make_order(Run(order="by_source"), rows, batch=16)
    assert all(len({rows.sources[i] for i in at}) == 1 for at in order(0))
    weighted = make_order(Run(order="mixed", source_weights={"small": 4}), rows, batch=20)
    assert {sum(rows.sources[i] == "small" for i in at) for at in weighted(0)} <= {8, 9, 10, 11, 12}  # 4 x 100 : 400


def test_what_two_files_share_is_kept_in_one_split(tmp_path: Path) -> None:
    rows = toy_rows(300)
    again = [{"query": row["query"], "doc": f"other {i}"} for i, row in enumerate(rows)]  # the same queries
    split = prepare([write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", again)], Run()).split
    parts = [set(split.part(name)["anchor"]) for name in ("train", "dev", "test")]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_leaks_and_repeated_rows_are_found_across_files(tmp_path: Path) -> None:
    rows = toy_rows(60)
    a = write(tmp_path / "a.csv", [{**row, "split": "train"} for row in rows])
    b = write(tmp_path / "b.csv", [{**row, "split": "test"} for row in [*rows[:5], *toy_rows(40, seed=1)]])
    codes = {f.code for f in look([a, b], Run())[1]}
    assert "leak" in codes
    c = write(tmp_path / "c.csv", rows[:7])
    d = write(tmp_path / "d.csv", rows)
    (repeated,) = [f for f in look([d, c], Run())[1] if f.code == "duplicate-rows"]
    assert (repeated.count, repeated.rows[0]) == (7, 61)  # numbered through


def test_check_shows_rows_per_source(two: list[Path]) -> None:
    done = CliRunner().invoke(cli.app, ["check", *map(str, two)])
    assert done.exit_code == 0
    assert re.search(r"big +400 +1 to 400", done.output)
    assert re.search(r"small +100 +401 to 500", done.output)


def test_ignored_columns_may_be_in_one_file_only(two: list[Path]) -> None:
    write(two[1], [{"question": row["query"], "answer": row["doc"], "label": "x"} for row in toy_rows(100, seed=1)])
    assert look(two, Run(roles={"ignore:label": "label"}))[0].has("source")
    with pytest.raises(Refusal, match="a column for --ignore, got 'labl'"):
        look(two, Run(roles={"ignore:labl": "labl"}))


@pytest.mark.parametrize(
    ("order", "words"), [("balanced", "a label for --order balanced"), ("by_source", "a source for")]
)
def test_an_order_without_its_role_is_refused_before_the_model_is_loaded(order: str, words: str, toy_csv: Path) -> None:
    with pytest.raises(Refusal, match=words):
        counterpoint.fit(toy_csv, order=order, model="no/such/model", quiet=True)


def test_classes_are_named_in_refusals() -> None:
    rows = [{"text": f"w{i} x{i}", "label": "rare" if i == 0 else f"kind{i % 3}"} for i in range(40)]
    with pytest.raises(Refusal, match="got 1 of 'rare'"):
        make_order(Run(order="balanced"), Rows.of(look(rows, Run())[0].frame), batch=8)


def test_hard_batches_follow_the_current_model(tiny: Path) -> None:
    rows = Rows.of(prepare(toy_rows(200), Run()).split.part("train"))
    encoder, run = load(str(tiny), device="cpu"), Run(order="hard")
    assert needs_tables(run)
    assert not needs_tables(Run())
    tables = tables_of(encoder, rows)
    assert tables["table"].shape == (len(rows), 64)
    first = [at.tolist() for at in make_order(run, rows, batch=16, tables=tables)(0)]
    assert first == [at.tolist() for at in make_order(run, rows, batch=16, tables=tables_of(encoder, rows))(0)]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert first != [at.tolist() for at in make_order(run, rows, batch=16, tables=tables_of(encoder, rows))(0)]


def test_an_order_without_any_batch_is_refused_with_the_plan(tiny: Path) -> None:
    rows = [{"query": f"q{i} w{i}", "doc": f"d{i % 8}", "group": str(i % 10)} for i in range(40)]
    with pytest.raises(Refusal, match=r"rows that fill a batch of 16, got none in an epoch \(--order distinct\)"):
        counterpoint.fit(rows, model=str(tiny), order="distinct", batch=16, dry_run=True, quiet=True)


@pytest.mark.parametrize("order", ["distinct", "by_source", "mixed", "hard"])
def test_a_run_repeats_with_every_order(order: str, tiny: Path, two: list[Path], tmp_path: Path) -> None:
    def run(name: str, **more: object) -> dict:
        settings = {
            "model": str(tiny),
            "steps": 4,
            "batch": 32,
            "seed": 1,
            "evaluations": 1,
            "quiet": True,
            "precision": "fp32",
            **more,
        }
        trained = counterpoint.fit(two, order=order, out=str(tmp_path / name), **settings)
        assert json.loads((trained.path / "run.json").read_text())["settings"]["order"] == order
        return trained.metrics

    one = run("a")
    assert one == run("b")
    assert one["loss"] != run("c", order_settings={}, seed=2)["loss"]


@pytest.mark.parametrize("order", ["balanced", "grouped"])
def test_labelled_texts_train_in_batches_of_classes(order: str, tiny: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{row['query']} w{i % 100}", "label": row["query"][:3]} for i, row in enumerate(toy_rows(300))]
    settings = {"per_class": 2} if order == "balanced" else {}
    trained = counterpoint.fit(
        rows,
        order=order,
        order_settings=settings,
        model=str(tiny),
        steps=2,
        batch=8,
        out=str(tmp_path / "r"),
        quiet=True,
    )
    assert np.isfinite(trained.metrics["loss"]).all()
