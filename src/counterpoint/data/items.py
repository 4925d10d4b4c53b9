"""What a cell of a table stands for. Tables hold keys, which are text; equal keys are equal things.

A text is its own key. An array's key is its content identity, and a store holds the numbers. So whatever asks only
whether two things are equal (lint, splits, relations, tasks) works on any kind of data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from counterpoint.data.identity import content_id


@runtime_checkable
class Items(Protocol):
    """The things that the keys of a table stand for."""

    kind: ClassVar[str]

    def take(self, keys: Sequence[str]) -> Any:
        """What an encoder takes: a list of texts, or a tensor of arrays."""

    def ids(self, keys: Iterable[str]) -> list[int]:
        """The content identity of each."""

    def show(self, key: str) -> str:
        """One of them in words."""


class Texts:
    """Texts are their own keys.

    >>> TEXTS.take(["a text"]), TEXTS.show("a text")
    (['a text'], 'a text')
    """

    kind: ClassVar[str] = "text"

    def take(self, keys: Sequence[str]) -> list[str]:
        """The texts."""
        return list(keys)

    def ids(self, keys: Iterable[str]) -> list[int]:
        """The content identity of each."""
        return [content_id(key) for key in keys]

    def show(self, key: str) -> str:
        """The text."""
        return key


TEXTS = Texts()
