"""What all tests share: shape checks, a tiny model, a toy table."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches a network
os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny: threads would only wait for each other
os.environ.setdefault("COLUMNS", "200")

from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401 - the hook looks it up by name

install_import_hook("counterpoint", "tests.shapes.checked")

import pytest  # noqa: E402

with warnings.catch_warnings():  # what other libraries warn of while they are imported is theirs
    warnings.simplefilter("ignore")
    import sentence_transformers  # noqa: F401

TOPICS = 40
WORDS = [f"{side}{i}" for side in ("q", "d") for i in range(TOPICS)] + [f"w{i}" for i in range(100)]


def make_tiny_model(folder: Path, *, dropout: float = 0.1) -> Path:
    """A transformers backbone with 2 layers of width 32 and a token for each word of the toy table."""
    from counterpoint.encoders.tiny import write_tiny

    return write_tiny(folder, WORDS, dropout=dropout)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def toy_rows(count: int = 600, seed: int = 0) -> list[dict[str, str]]:
    """Query topics i and j belong to documents with topics i and j; queries and documents share no word, so only
    training can tell."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        i, j = draw.sample(range(TOPICS), 2)
        noise = [f"w{draw.randrange(100)}" for _ in range(2)]
        rows.append({"query": f"q{i} q{j} {noise[0]}", "doc": f"d{i} d{j} {noise[1]}"})
    return rows


@pytest.fixture
def toy_csv(tmp_path: Path) -> Path:
    path = tmp_path / "toy.csv"
    lines = ["query,doc", *(f"{row['query']},{row['doc']}" for row in toy_rows())]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.hookimpl(tryfirst=True)  # the workers' own hook reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something made once for their file stay on one worker, or each worker would make it."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo", None)
        made = [d for defs in getattr(fixtures, "name2fixturedefs", {}).values() for d in defs if d.scope == "module"]
        if made:
            item.add_marker(pytest.mark.xdist_group(made[0].baseid))
