"""`explain`: which token of a text matches which of another, as lines and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.evaluation.explained import HeatMap, explained

SHOWN = 8  # matches that are printed


def explain(model: str, text: str, other: str, *, out: Path | None = None, tokens: int = 64) -> Iterator[str]:
    """Why a model finds two texts alike, by relaxed transport of their tokens.

    Args:
        model: a run folder, a model folder or a name.
        text, other: the texts.
        out: where to write a page that draws it; None: nowhere.
        tokens: of a text that are read.

    Returns:
        Lines: the score, and the pairs of tokens that add most to it.

    Raises:
        Refusal: no such model, one whose tokens have no vectors, or no folder for the page.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise Refusal("a file in a folder that exists", f"'{out}'", where="--out")
    found, page = explained(load(model), text, other, tokens=tokens)
    if out is not None:
        out.write_text(page, encoding="utf-8")
    return _lines(found, out)


def _lines(found: HeatMap, out: Path | None) -> Iterator[str]:
    yield f"{found.score:6.3f}  alike"
    values, at = found.matrix.flatten().topk(min(SHOWN, found.matrix.numel()))
    for value, i in zip(values.tolist(), at.tolist(), strict=True):
        if value > 0:
            yield f"{value:6.3f}  {found.left[i // len(found.right)]} matches {found.right[i % len(found.right)]}"
    if out is not None:
        yield f"page    {out}"
