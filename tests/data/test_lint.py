"""Every code of `check` is shown by some data, and clean data show none."""

from __future__ import annotations

import polars as pl
import pytest

from counterpoint.data.lint import CODES, LONGEST, accept, clean, explain, lint
from counterpoint.data.roles import assign
from counterpoint.errors import Refusal


def good(count: int = 40) -> dict[str, list]:
    return {"query": [f"question {i}" for i in range(count)], "doc": [f"answer {i}" for i in range(count)]}


def broken(code: str) -> pl.DataFrame:
    """Data that show exactly this finding (and what follows from it)."""
    data = good()
    match code:
        case "empty-column":
            data["negative"] = [""] * 40
        case "too-few-rows":
            data = good(5)
        case "no-negatives":
            data["doc"] = ["always"] * 40
        case "missing-label" | "one-class" | "class-per-row":
            data = {"text": data["query"], "label": [["a", "b"][i % 2] for i in range(40)]}
            if code == "missing-label":
                data["label"][3] = "nan"
            elif code == "one-class":
                data["label"] = ["a"] * 40
            else:
                data["label"] = [str(i) for i in range(40)]
        case "missing-number":
            data["clicks"] = [1.0] * 39 + [float("nan")]
        case "negative-weight":
            data["clicks"] = [1.0] * 39 + [-2.0]
        case "leak":
            data["split"] = ["train"] * 30 + ["test"] * 10
            data["query"][35], data["doc"][35] = data["query"][2], data["doc"][2]
        case "shared-across-splits":
            data["split"] = ["train"] * 30 + ["test"] * 10
            data["query"][35] = data["query"][2]
        case "huge-text":
            data["doc"][7] = "x" * (LONGEST + 1)
        case "empty-text":
            data["query"][4] = " "
        case "empty-negative":
            data["neg"] = [["n", ""]] + [["n"]] * 39
        case "positive-is-anchor":
            data["doc"][9] = data["query"][9]
        case "negative-is-positive":
            data["negative"] = [f"no {i}" for i in range(39)] + [data["doc"][39]]
        case "duplicate-rows":
            data["query"][1], data["doc"][1] = data["query"][0], data["doc"][0]
        case "swapped-columns":
            data["query"] = [f"a very long text that is a document {i // 2} " * 5 for i in range(40)]
        case "damaged-text":
            data["doc"][2] = "caf\ufffd"
        case "not-finite" | "constant-numbers":
            data = {"x": [[float(i), i % 7, 2.5 if code == "constant-numbers" else i % 3] for i in range(40)]}
            if code == "not-finite":
                data["x"][6][1] = float("inf")
    return pl.DataFrame(data)


@pytest.mark.parametrize("code", CODES)
def test_each_code_is_found_in_the_row_that_shows_it(code: str) -> None:
    found = {f.code: f for f in lint(assign(broken(code)))}
    assert code in found
    assert set(found) <= {code}, "another finding than the one that was planted"
    row = {"empty-text": 5, "leak": 3, "huge-text": 8, "duplicate-rows": 2, "damaged-text": 3, "missing-label": 4,
           "missing-number": 40, "negative-weight": 40, "positive-is-anchor": 10, "negative-is-positive": 40,
           "empty-negative": 1, "shared-across-splits": 3, "not-finite": 7}  # fmt: skip
    assert found[code].rows == ((row[code],) if code in row else ())


def test_clean_data_show_nothing() -> None:
    assert lint(assign(pl.DataFrame(good()))) == ()


@pytest.mark.parametrize("code", [c for c, (level, _) in CODES.items() if level == "refuse"])
def test_the_hopeless_is_refused_unless_allowed(code: str) -> None:
    findings = lint(assign(broken(code)))
    with pytest.raises(Refusal, match=code):
        accept(findings)
    accept(findings, [code])


def test_warnings_are_not_refused() -> None:
    findings = lint(assign(broken("empty-text")))
    assert [f.level for f in findings] == ["warn"]
    accept(findings)  # raises nothing


def test_unknown_codes_suggest_the_nearest() -> None:
    with pytest.raises(Refusal, match="did you mean 'leak'"):
        explain("leek")


@pytest.mark.parametrize("code", ["empty-text", "positive-is-anchor", "duplicate-rows", "missing-number", "leak"])
def test_cleaning_leaves_out_the_row_and_nothing_else(code: str) -> None:
    samples = assign(broken(code))
    (finding,) = lint(samples)
    left = clean(samples).frame["row"].to_list()
    assert [r + 1 for r in range(40) if r not in left] == list(finding.rows)


def test_cleaning_takes_false_and_empty_negatives_away() -> None:
    frame = clean(assign(broken("negative-is-positive"))).frame
    assert frame["negative"].to_list()[39] == []
    assert clean(assign(broken("empty-negative"))).frame["negative"].to_list()[0] == ["n"]
