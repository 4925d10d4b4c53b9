"""Positives and negatives of texts by rule, where no language model is asked: small edits that keep or turn the meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from counterpoint.views.text import cut_off, substituted
from counterpoint.views.variants import negated, renumbered, swapped, typo

# A few words and others of their meaning, so that something can be replaced without any file.
SYNONYMS: Mapping[str, Sequence[str]] = {
    "big": ("large",), "large": ("big",), "small": ("little",), "little": ("small",), "fast": ("quick",),
    "quick": ("fast",), "begin": ("start",), "start": ("begin",), "end": ("finish",), "buy": ("purchase",),
    "help": ("assist",), "show": ("display",), "display": ("show",), "error": ("mistake",), "picture": ("image",),
    "image": ("picture",), "car": ("automobile",), "child": ("kid",), "children": ("kids",), "people": ("persons",),
    "create": ("make",), "make": ("create",), "remove": ("delete",), "delete": ("remove",), "get": ("obtain",),
    "many": ("several",), "also": ("too",), "often": ("frequently",), "maybe": ("perhaps",), "near": ("close to",),
}  # fmt: skip
DROPPED = 0.15  # of the words of a text without any synonym; one word at least


def kept_in_meaning(text: str, draw: float, *, synonyms: Mapping[str, Sequence[str]] = SYNONYMS) -> str:
    """A positive: words replaced by others of their meaning; without such words a typo, or a word less.

    Args:
        text: any.
        draw: in [0, 1).
        synonyms: of words in lower case.

    >>> kept_in_meaning("a big house", 0.2), kept_in_meaning("some letters", 0.2)
    ('a large house', 'some lteters')
    """
    made = substituted(1.0, synonyms)(text, [draw])
    if made == text:
        made = typo(text, draw) or cut_off(max(DROPPED, 1 / max(len(text.split()), 1)))(text, [draw])
    return made


def turned_in_meaning(text: str, draw: float) -> str | None:
    """A negative: "not" put in or taken out, else another number, else two words in each other's place.

    Args:
        text: English.
        draw: in [0, 1).

    Returns:
        The text that says something else; None where none of the three can be done.

    >>> turned_in_meaning("it is late", 0.0), turned_in_meaning("dogs chase cats", 0.0), turned_in_meaning("ok", 0.0)
    ('it is not late', 'chase dogs cats', None)
    """
    return negated(text, draw) or renumbered(text, draw) or swapped(text, draw)


def overlap(one: str, other: str) -> float:
    """How alike two texts are by their words: those of both, of those of either; 1 for two without any.

    >>> overlap("a red house", "A house")
    0.6666666666666666
    """
    a, b = (set(text.lower().split()) for text in (one, other))
    return len(a & b) / len(a | b) if a | b else 1.0
