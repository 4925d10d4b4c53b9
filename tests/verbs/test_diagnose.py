"""`diagnose` from data and the command line: what it finds, says, writes and refuses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import counterpoint
from counterpoint import cli
from counterpoint.encoders.tiny import write_tiny
from counterpoint.errors import Refusal
from counterpoint.evaluation.diagnosis import FAULTS
from counterpoint.verbs.diagnosis_report import Report
from counterpoint.verbs.prescriptions import REMEDIES, Patient, commands, systems

from ..conftest import toy_rows


def cloud(n: int = 400, d: int = 16, topics: int = 80, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(topics, d))[np.arange(n) % topics] + 0.6 * draw.normal(size=(n, d))).astype(np.float32)


def diagnose(model: object, data: object, **options: object) -> Report:
    return counterpoint.diagnose(model, data, quiet=True, precision="fp32", **options)


def codes(found: Report) -> list[str]:
    return [finding.fault.code for finding in found.diagnosis.findings]


def typed(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["counterpoint", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_arrays_as_they_are(tmp_path: Path) -> None:
    x = cloud()
    assert codes(diagnose("raw", {"x": list(x), "y": np.arange(400) % 80})) == []
    found = diagnose("raw", {"x": list(x + 4), "y": np.arange(400) % 80})
    assert codes(found)[0] == "cone"
    assert found.diagnosis.readings["cone"] == pytest.approx(_mean_cosine(x + 4), abs=1e-5)
    assert found.diagnosis.served is not None  # labels were read


def _mean_cosine(x: np.ndarray) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float(((unit @ unit.T).sum() - len(x)) / (len(x) * (len(x) - 1)))


def test_texts_of_a_model(tiny: Path) -> None:
    data = toy_rows(300)
    found = diagnose(tiny, data)
    model = counterpoint.load(str(tiny))
    a = model.encode(list(dict.fromkeys(r["query"] for r in data)))
    c = model.encode(list(dict.fromkeys(r["doc"] for r in data)), role="positive")
    assert found.diagnosis.readings["cone"] == pytest.approx(float((a @ c.T).mean()), abs=1e-5)
    assert {"collapse", "gap", "unrelated"} <= set(found.diagnosis.readings)
    assert not {"hubs", "length"} & set(found.diagnosis.readings)  # too few, and all of three words
    assert "hot" not in found.diagnosis.readings  # nothing knows a temperature


def test_a_run_knows_its_temperature(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"temperature": 5.0}
    data = toy_rows(200)
    counterpoint.fit(data, model=str(tiny), recipe="pairs", steps=2, out=str(out), settings=settings, quiet=True)
    found = diagnose(out, data)
    assert "hot" in codes(found)
    assert found.commands["hot"] == []  # rows in memory have no name to type
    cool = diagnose(out, data, temperature=0.2)
    assert cool.diagnosis.readings["hot"] > found.diagnosis.readings["hot"]


def test_a_leak_is_found_where_fit_refuses_it_and_mended(tiny: Path, tmp_path: Path) -> None:
    data = pl.DataFrame(toy_rows(300)).unique("query", maintain_order=True)
    data = data.with_columns(split=pl.Series(["test" if i % 3 == 0 else "train" for i in range(len(data))]))
    leaked = data.filter(pl.col("split") == "test").head(20).with_columns(split=pl.lit("train"))
    table = pl.concat([data, leaked])
    with pytest.raises(Refusal, match="stand in dev or test"):
        counterpoint.fit(table, model=str(tiny), dry_run=True, quiet=True)
    path, out = tmp_path / "leak.parquet", tmp_path / "mended.parquet"
    table.write_parquet(path)
    found = diagnose(tiny, path, mended=out)
    held = data.filter(pl.col("split") == "test").height
    expected = 20 / held
    near = found.diagnosis.readings["duplicates"]
    assert near >= expected - 1e-9
    assert "duplicates" in codes(found)
    assert found.examples["duplicates"]
    mended = pl.read_parquet(out)
    assert found.mended is not None
    assert found.mended.copies >= 20
    assert len(mended) + found.mended.copies == len(table)
    kept = mended.filter(pl.col("split") == "train")["anchor"]
    assert not set(kept) & set(leaked["query"])
    assert mended.filter(pl.col("split") == "test").height == held  # nothing that is asked goes
    assert "duplicates" not in codes(diagnose(tiny, out))
    assert not [f for f in counterpoint.check(out, quiet=True) if f.code == "leak"]


def test_likely_positives_are_listed_in_mended_data(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    topic = draw.normal(size=(40, 32))[np.arange(400) % 40]
    a, c = (topic + 0.3 * draw.normal(size=(400, 32)) for _ in range(2))
    path, out = tmp_path / "pairs.npz", tmp_path / "mended.parquet"
    np.savez(path, x=a.astype(np.float32), positive=c.astype(np.float32))
    found = diagnose("raw", path, mended=out)
    assert codes(found)[0] == "false-negatives"
    assert found.mended is not None
    assert found.mended.added > 400
    again = diagnose("raw", out)
    assert again.diagnosis.readings["false-negatives"] < 0.5 * found.diagnosis.readings["false-negatives"]
    cells = pl.read_parquet(out)
    place = {tuple(np.float32(row)): i for i, row in enumerate(c)}
    same = []
    for row, cell in enumerate(cells["positive"].to_list()):
        same += [place[tuple(np.float32(p))] % 40 == row % 40 for p in cell]
    assert np.mean(same) > 0.95  # what was added is of the same topic


def test_rows_that_contradict_each_other_leave_train(tmp_path: Path) -> None:
    x = cloud()
    x[:40:2] = x[1:41:2] + 1e-4
    label = np.arange(400) % 80
    path, out = tmp_path / "x.npz", tmp_path / "mended.parquet"
    np.savez(path, x=x, y=label)
    found = diagnose("raw", path, mended=out)
    assert found.mended is not None
    assert found.mended.contradicting == 40
    assert diagnose("raw", out).diagnosis.readings["false-negatives"] == 0


def test_finer_classes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(5, 16))[np.arange(400) % 5] + 0.1 * draw.normal(size=(400, 16))
    path = tmp_path / "x.npz"
    np.savez(path, x=x.astype(np.float32), y=np.arange(400) % 5, kind=np.arange(400) % 40)
    assert "subclass-collapse" not in diagnose("raw", path).diagnosis.readings
    found = diagnose("raw", path, fine="kind")
    assert codes(found)[0] == "subclass-collapse"
    twice = tmp_path / "twice.npz"  # a row that stands twice goes, and its finer class with it
    first = [0, *range(400)]
    np.savez(twice, x=x.astype(np.float32)[first], y=(np.arange(400) % 5)[first], kind=(np.arange(400) % 40)[first])
    before = found.diagnosis.readings["subclass-collapse"]
    assert diagnose("raw", twice, fine="kind").diagnosis.readings["subclass-collapse"] == pytest.approx(
        before, abs=1e-6
    )
    assert found.commands["subclass-collapse"] == [f"counterpoint fit {path} --recipe supcon --label kind"]


def test_two_models_beside_each_other(tiny: Path, tmp_path: Path) -> None:
    data, out = toy_rows(120), tmp_path / "found.json"
    counterpoint.fit(data, model=str(tiny), recipe="pairs", steps=4, out=str(tmp_path / "run"), lr=1e-3, quiet=True)
    found = diagnose(tmp_path / "run", data, against=tiny, out=out)
    assert found.other is not None
    assert found.other.readings == pytest.approx(diagnose(tiny, data).diagnosis.readings)
    assert found.overlap is not None
    assert 0 < found.overlap < 1
    written = json.loads(out.read_text())
    assert written["readings"] == pytest.approx(found.diagnosis.readings, abs=1e-6)
    assert written["neighbours_in_common"] == found.overlap
    assert set(written["readings"]) | set(written["not_looked_for"]) == {f.code for f in FAULTS}


def test_pairs_with_a_value_are_one_set(tiny: Path) -> None:
    data = [{**row, "score": float(i % 5)} for i, row in enumerate(toy_rows(120))]
    found = diagnose(tiny, data)
    assert "gap" not in found.diagnosis.readings
    assert len(found.diagnosis.seen.space.anchors) == len({t for r in data for t in (r["query"], r["doc"])})


def test_collections_with_judgements(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    texts = [f"d{i % 40} w{i}" for i in range(90)]
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "{i}", "text": "{t}"}}\n' for i, t in enumerate(texts)))
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "{i}", "text": "q{i % 40} w{i}"}}\n' for i in range(60)))
    rows = "".join(f"{i}\t{i}\t1\n" for i in range(60))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    seen = diagnose(tiny, tmp_path).diagnosis.seen
    assert (len(seen.space.anchors), len(seen.space.others)) == (60, 90)
    assert seen.positive.tolist() == list(range(60))
    with pytest.raises(Refusal, match="wanted a table for --mended"):
        diagnose(tiny, tmp_path, mended=tmp_path / "x.csv")


def test_the_command_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a cone.npz"
    np.savez(path, x=cloud() + 4, y=np.arange(400) % 80)
    assert typed(["diagnose", "raw", str(path)], monkeypatch) == 0
    said = capsys.readouterr().err
    assert "anisotropy: the embeddings lie in a narrow cone" in said.split("looking for faults")[1].splitlines()[2]
    assert f"counterpoint fit '{path}' --recipe supcon" in said
    assert "without it, accuracy of the 5 nearest would be" in said
    assert "not looked for, for want of: length" in said


@pytest.mark.parametrize("code", sorted({f.code for f in FAULTS}))
def test_every_fault_has_a_remedy_that_can_be_typed(
    code: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words parse, and what they name is there: a dry run of each last command passes, of diagnose and of fit."""
    path = tmp_path / "clicks.csv"
    table = pl.DataFrame(toy_rows(120))
    if code == "subclass-collapse":
        table = table.drop("doc").with_columns(kind=pl.Series([f"k{i % 6}" for i in range(120)]))
    table.write_csv(path)
    mended = tmp_path / "mended.parquet"
    patient = Patient(str(tiny), str(path), {"anchor": "query"}, str(mended), "kind", "pairs", trains=True)
    lines = [shlex.split(line) for line in commands(code, patient)]
    assert lines
    assert set(REMEDIES) == {f.code for f in FAULTS}
    assert ("--mended" in lines[0]) == (code in ("duplicates", "false-negatives"))
    for words in lines:
        assert words[0] == "counterpoint"
        assert typed([*words[1:], *(["--dry-run"] if words[1] == "fit" else [])], monkeypatch) == 0
    here, not_yet = systems(code)
    assert not set(here) & set(not_yet)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 3}, "wanted a setting of diagnose, got 'steps'"),
        ({"temperature": 0.0}, "wanted a temperature above 0, got 0.0 (--temperature)"),
        ({"temperature": float("nan")}, "wanted a temperature above 0, got nan (--temperature)"),
        ({"out": "x.csv"}, "wanted a file that ends in .json"),
        ({"mended": "x.txt"}, "wanted a file with one of the endings .parquet, .jsonl, .csv"),
        ({"mended": "no/such/x.csv"}, "wanted a folder to write the file in"),
        ({"fine": "query"}, "wanted items with a label for --fine"),
        ({"allow": ("no-such-code",)}, "no-such-code"),
    ],
)
def test_what_cannot_be_done_is_one_line(options: dict, said: str, tiny: Path) -> None:
    with pytest.raises(Refusal) as caught:
        diagnose(tiny, toy_rows(60), **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_models_and_data_that_do_not_fit(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"wanted a model of text, got one of arrays: 'raw'"):
        diagnose("raw", toy_rows(60))
    with pytest.raises(Refusal, match=r"wanted a model of arrays, got one of text.*'raw' takes the arrays"):
        diagnose(tiny, {"x": list(cloud())})
    with pytest.raises(Refusal, match="wanted another model, got the same"):
        diagnose(tiny, toy_rows(60), against=str(tiny))
    np.savez(tmp_path / "x.npz", x=cloud(), y=np.arange(400) % 80)
    with pytest.raises(Refusal, match="wanted a column for --fine, got 'knd'"):
        diagnose("raw", tmp_path / "x.npz", fine="knd")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def lines(count: int = 60) -> list[dict[str, str]]:
    """Sentences with a verb, two words to exchange and a number, each beside another."""
    return [
        {"query": f"w{i} person {i} is waiting for w{i + 9} things", "doc": f"d{i % 40} w{i} will arrive"}
        for i in range(count)
    ]


def test_contrast_sets_and_further_numbers(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    found = counterpoint.diagnose(str(tiny), lines(), precision="fp32", out=out, against=_other(tmp_path), quiet=False)
    diagnosis = found.diagnosis
    assert set(diagnosis.contrast) == {"order", "negation", "number"}
    assert {"alignment", "uniformity", "frequency"} <= set(diagnosis.statistics)
    written, shown = json.loads(out.read_text()), " ".join(capsys.readouterr().err.split())
    assert written["contrast_sets"]["order"] == diagnosis.contrast["order"].as_dict()
    assert written["statistics"] == pytest.approx(diagnosis.statistics, abs=1e-6)
    assert written["against"]["readings"] == pytest.approx(found.other.readings, abs=1e-6)  # type: ignore[union-attr]
    assert set(written["against"]["contrast_sets"]) == set(written["contrast_sets"])
    assert written["against"]["statistics"]["uniformity"] != written["statistics"]["uniformity"]
    for name in ("number", "negation"):
        share = diagnosis.contrast[name]
        assert f"typo or {name} {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]" in shown
    assert f"uniformity {diagnosis.statistics['uniformity']:.3f}" in shown


def _other(folder: Path) -> Path:
    return write_tiny(folder / "other", [f"w{i}" for i in range(70)], seed=3)


def test_contrast_sets_are_of_the_model_and_of_its_texts(tiny: Path) -> None:
    rows = [row for pair in zip(lines(), toy_rows(60), strict=True) for row in pair]  # every other one has no number
    found = diagnose(tiny, rows)
    space = found.diagnosis.seen.space
    model = counterpoint.load(str(tiny))
    text, typo, changed = (getattr(space.variants["number"], name) for name in ("text", "typo", "changed"))
    assert len(text) == 60
    assert np.allclose(text.numpy(), model.encode([row["query"] for row in lines()]), atol=1e-5)
    assert (
        found.diagnosis.contrast["negation"].value == 1.0
    )  # to this model, a word it does not know is one with a typo
    near, far = ((text * z).sum(1) for z in (typo, changed))
    share = float((near > far).double().mean() + (near == far).double().mean() / 2)
    assert found.diagnosis.contrast["number"].value == pytest.approx(share)


def test_arrays_have_no_contrast_sets_and_no_frequency() -> None:
    found = diagnose("raw", {"x": list(cloud())}).diagnosis
    assert found.contrast == {}
    assert "frequency" not in found.statistics
    assert "uniformity" in found.statistics
