"""Collections with relevance judgements, in the layout of BEIR: corpus.jsonl, queries.jsonl, qrels/test.tsv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from counterpoint.data.sources import read
from counterpoint.errors import Refusal


@dataclass(frozen=True)
class Judged:
    """Queries, documents, and which belong together how far.

    Args:
        queries: texts that have a relevant document.
        documents: distinct texts: a title and a text joined by a blank.
        positives: for each query, the places of its relevant documents.
        gains: for each of them how relevant it is, above 0.
        left: queries without any relevant document, which are not asked.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    positives: Sequence[Sequence[int]]
    gains: Sequence[Sequence[int]]
    left: int


def is_judged(data: object) -> bool:
    """Whether it is a folder of that layout."""
    return isinstance(data, str | Path) and Path(data).is_dir()


def read_judged(folder: str | Path, part: str = "test") -> Judged:
    """Read a collection.

    Judgements of 0 and below say that a document is not relevant. Documents of equal text count as one, with the highest
    judgement of them.

    Args:
        folder: holds corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/<part>.tsv (query-id, corpus-id,
            score); each may end in .gz.
        part: which judgements.

    Raises:
        Refusal: a file or column that is missing, a judgement that is no whole number, an id that is in no file, or no
            relevant document at all.
    """
    folder = Path(folder)
    documents = _texts(_file(folder, "corpus.jsonl"))
    queries = _texts(_file(folder, "queries.jsonl"))
    place = {text: at for at, text in enumerate(dict.fromkeys(text for text in documents.values() if text))}
    known: dict[str, dict[int, int]] = {}
    path = _file(folder, f"qrels/{part}.tsv")
    for query, document, gain in _judgements(path):
        for name, there, what in ((query, queries, "queries.jsonl"), (document, documents, "corpus.jsonl")):
            if name not in there:
                raise Refusal(f"an id of {what}", f"'{name}'", where=str(path))
        if gain > 0 and documents[document] and queries[query]:
            gains = known.setdefault(query, {})
            at = place[documents[document]]
            gains[at] = max(gain, gains.get(at, 0))
    if not known:
        raise Refusal("a relevant document for at least one query", "none", where=str(path))
    return Judged(
        [queries[q] for q in known],
        list(place),
        [list(gains) for gains in known.values()],
        [list(gains.values()) for gains in known.values()],
        len(queries) - len(known),
    )


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    remedy = "a collection has corpus.jsonl, queries.jsonl and qrels/test.tsv"
    raise Refusal(f"a file {name}", "none", where=str(folder), remedy=remedy)


def _columns(path: Path, *names: str) -> pl.DataFrame:
    frame = read(path)
    missing = next((name for name in names if name not in frame.columns), None)
    if missing is not None:
        raise Refusal(f"a column '{missing}'", f"columns {', '.join(frame.columns)}", where=str(path))
    return frame


def _texts(path: Path) -> dict[str, str]:
    """Id -> title and text."""
    frame = _columns(path, "_id", "text")
    parts = [frame[name].cast(pl.String).fill_null("") for name in ("title", "text") if name in frame.columns]
    texts = [" ".join(cells).strip() for cells in zip(*parts, strict=True)]
    found = dict(zip(frame["_id"].cast(pl.String).to_list(), texts, strict=True))
    if len(found) < len(frame):
        raise Refusal("ids that occur once", f"{len(frame) - len(found)} repeated", where=str(path))
    return found


def _judgements(path: Path) -> list[tuple[str, str, int]]:
    frame = _columns(path, "query-id", "corpus-id", "score")
    score = frame["score"].cast(pl.String).cast(pl.Int64, strict=False)
    if score.null_count():
        came = frame["score"].filter(score.is_null())[0]
        raise Refusal("whole numbers as judgements", f"'{came}'", where=f"{path}, column 'score'")
    names = (frame[name].cast(pl.String).to_list() for name in ("query-id", "corpus-id"))
    return list(zip(*names, score.to_list(), strict=True))
