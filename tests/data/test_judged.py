"""Collections with judgements: read whole, or refused with the place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from counterpoint.data.judged import is_judged, read_judged
from counterpoint.errors import Refusal

DOCUMENTS = [
    {"_id": "d1", "title": "A title", "text": "and a text"},
    {"_id": "d2", "title": "", "text": "no title"},
    {"_id": "d3", "title": "", "text": "no title"},
    {"_id": "d4", "title": "", "text": ""},
]
QUERIES = [{"_id": "1", "text": "first"}, {"_id": "2", "text": "second"}, {"_id": "3", "text": "third"}]
JUDGED = "query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t1\n1\td3\t3\n2\td1\t0\n3\td4\t1\n"


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(lines(DOCUMENTS))
    (tmp_path / "queries.jsonl").write_text(lines(QUERIES))
    (tmp_path / "qrels" / "test.tsv").write_text(JUDGED)
    return tmp_path


def test_equal_texts_are_one_and_blank_ones_none(folder: Path) -> None:
    assert is_judged(folder)
    found = read_judged(folder)
    assert found.documents == ["A title and a text", "no title"]
    assert (found.queries, found.positives, found.gains, found.left) == (["first"], [[0, 1]], [[2, 3]], 2)


def test_files_may_be_packed(folder: Path) -> None:
    plain = read_judged(folder)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        path = folder / name
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read_judged(folder) == plain


def _replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "corpus.jsonl").unlink(), "wanted a file corpus.jsonl, got none"),
        (_replace("corpus.jsonl", "_id", "id"), "wanted a column '_id', got columns id, title, text"),
        (_replace("corpus.jsonl", "d2", "d1"), "wanted ids that occur once, got 1 repeated"),
        (_replace("qrels/test.tsv", "d2", "d9"), "wanted an id of corpus.jsonl, got 'd9'"),
        (_replace("qrels/test.tsv", "2\td1", "7\td1"), "wanted an id of queries.jsonl, got '7'"),
        (_replace("qrels/test.tsv", "d1\t2", "d1\thigh"), "wanted whole numbers as judgements, got 'high'"),
        (
            lambda f: (f / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t0\n"),
            "wanted a relevant document for at least one query, got none",
        ),
    ],
)
def test_what_is_wrong_is_one_line(spoil: Callable[[Path], object], said: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(Refusal) as caught:
        read_judged(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
