"""Examples are short, say how they are run, and have real data in the proof that runs them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST = 60  # lines


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < MOST
    assert f"python examples/{path.name} " in (ast.get_docstring(ast.parse(text)) or "")


def test_every_example_has_its_data() -> None:
    sys.path.insert(0, str(ROOT / "proofs"))
    try:
        from examples import FILES
    finally:
        sys.path.pop(0)
    assert sorted(FILES) == [path.stem for path in EXAMPLES]
