"""What the pages name is there. Their examples are doctests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELF = (ROOT / "docs" / "shelf.md").read_text()
PARTS = re.findall(r"`((?:pairs|objectives|encoders)\.[\w.]+)`", SHELF)


@pytest.mark.parametrize("part", PARTS)
def test_the_shelf_names_parts_that_exist(part: str) -> None:
    module, name = part.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(f"counterpoint.{module}"), name))


def test_the_shelf_names_many() -> None:
    assert len(set(PARTS)) > 50


def test_what_was_measured_stands_on_the_page() -> None:
    import sys

    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from make_methods import page
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "which_method.md").read_text() == page(), "docs/which_method.md is stale: make methods"
