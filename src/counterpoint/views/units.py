"""Texts in parts: sentences, and what is marked within a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s|$)|(?=\n)|$)", re.DOTALL)
MARKED = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


def sentences(text: str, most: int | None = None) -> list[tuple[int, int]]:
    """Where the sentences of a text stand: they end with a full stop, question or exclamation mark, or with a line.

    Args:
        text: any.
        most: sentences; the last of them then goes on to the end. None: all.

    >>> text = "It rains. Take a coat, 2.5 m long!"
    >>> [text[a:b] for a, b in sentences(text)]
    ['It rains.', 'Take a coat, 2.5 m long!']
    """
    found = [(m.start(), m.end()) for m in SENTENCE.finditer(text)]
    if most is not None and len(found) > most:
        found = [*found[: most - 1], (found[most - 1][0], found[-1][1])]
    return found


class Marked(NamedTuple):
    """A text without its marks, and the pieces that were marked; the whole text where nothing was."""

    text: str
    pieces: list[tuple[int, int]]


def unmarked(text: str) -> Marked:
    """The pieces of a text in double square brackets, and the text without the brackets.

    >>> unmarked("[[Dogs]] run and [[bark]].")
    Marked(text='Dogs run and bark.', pieces=[(0, 4), (13, 17)])
    """
    plain, pieces, end = "", [], 0
    for found in MARKED.finditer(text):
        plain += text[end : found.start()]
        pieces.append((len(plain), len(plain) + len(found[1])))
        plain += found[1]
        end = found.end()
    plain += text[end:]
    return Marked(plain, pieces or [(0, len(plain))])


def whole_passages(cell: Sequence[str]) -> list[str]:
    """The texts of a cell that are no sentence of another one there.

    >>> whole_passages(["It rains. Take a coat.", "It rains."])
    ['It rains. Take a coat.']
    """
    inside = {text[a:b] for text in cell for a, b in sentences(text) if (a, b) != (0, len(text))}
    return [text for text in cell if text not in inside]
