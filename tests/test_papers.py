"""The index of papers is what the code and the tests say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from counterpoint.papers import bibliography, build_index, index, paper, registered, section
from counterpoint.verbs.lists import paper_lines

ROOT = Path(__file__).parents[1]
ATLAS = ROOT.parent / "shared" / "atlas.jsonl"


def test_the_generated_files_are_fresh() -> None:
    import sys

    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from make_index import current, table
    finally:
        sys.path.pop(0)
    fresh = current()
    assert json.loads(json.dumps(fresh)) == index(), "index.json is stale: make index"
    assert (ROOT / "docs" / "papers.md").read_text() == table(fresh), "docs/papers.md is stale: make index"


def test_the_bibliography_has_every_row_once() -> None:
    assert [s.row for s in bibliography()] == list(range(285))


def test_the_bibliography_is_the_atlas() -> None:
    if not ATLAS.exists():
        pytest.skip("the atlas is not here")
    rows = [json.loads(line) for line in ATLAS.read_text().splitlines()]
    assert [(r["id"], r["system"], r["title"], tuple(r["axes"])) for r in rows] == [
        (s.row, s.system, s.title, s.axes) for s in bibliography()
    ]


def test_the_page_of_papers_has_every_row_and_says_how_far_it_is() -> None:
    lines = (ROOT / "docs" / "papers.md").read_text().splitlines()
    rows = {
        int(cells[1]): cells
        for line in lines
        if (cells := [c.strip() for c in line.split("|")])[1:2] and cells[1].isdigit()
    }
    assert sorted(rows) == list(range(285))
    for s in index()["systems"]:
        assert s["system"] in rows[s["row"]][2]
        assert (rows[s["row"]][5] == "not yet") == (not s["functions"])


def test_effects_are_read_from_evidence_of_one_system_and_of_many(tmp_path: Path) -> None:
    import sys

    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from make_index import effects
    finally:
        sys.path.pop(0)
    (tmp_path / "one.json").write_text('{"row": 3, "effect": "shown"}')
    many = [{"row": 4, "effect": "not shown"}, {"reference": "R", "effect": "shown"}, {"row": 3, "effect": "not shown"}]
    (tmp_path / "two.json").write_text(json.dumps({"results": many}))
    (tmp_path / "three.json").write_text('{"results": {"no": "list"}}')
    assert effects(tmp_path) == {3: "shown", 4: "not shown", "R": "shown"}


def test_functions_carry_their_deviations() -> None:
    simcse = index()["systems"][80]
    assert "counterpoint.recipes.text.simcse" in simcse["functions"]
    assert simcse["formula"] in ("closed-form", "reference")
    assert any("pooling is kept" in d for d in simcse["deviations"])


def test_facts_come_from_what_is_passed_in_and_not_from_the_code() -> None:
    import counterpoint.recipes.text  # noqa: F401 - registers its papers

    built = build_index({80: "closed-form"}, {80: "not shown"})["systems"][80]
    assert (built["formula"], built["effect"]) == ("closed-form", "not shown")
    assert build_index({}, {})["systems"][80]["formula"] == "none"


def test_a_mark_needs_a_row_or_a_reference() -> None:
    with pytest.raises(ValueError, match="either"):
        paper()
    with pytest.raises(ValueError, match="either"):
        paper(row=1, reference="x")


def test_search_finds_by_words_and_says_how_much_is_here() -> None:
    lines = paper_lines("simcse")
    assert any("counterpoint.recipes.text.simcse" in line for line in lines)
    assert paper_lines("no such system")[0] == "no system matches"
    assert lines[-1].endswith("systems of the bibliography work here")
    assert section("X.", "Differs") is None
    assert registered() == tuple(sorted(registered(), key=lambda i: (i.function, str(i.row), str(i.reference))))
