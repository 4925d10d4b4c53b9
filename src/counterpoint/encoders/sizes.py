"""What a model name such as "mlp:depth=2,width=64" says: a kind of encoder that starts from nothing, and its sizes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypeVar

from counterpoint.errors import Refusal, closest

S = TypeVar("S")


def parsed(name: str, defaults: S) -> S:
    """The sizes that a name asks for; those that it leaves out are as in `defaults`.

    Args:
        name: "kind" or "kind:size=value,size=value".
        defaults: a dataclass of whole numbers of at least 1, and a dropout rate.

    Raises:
        Refusal: an unknown size or a value out of range.

    >>> from counterpoint.encoders.mlp import Sizes
    >>> parsed("mlp:depth=2,hidden=32", Sizes())
    Sizes(hidden=32, depth=2, width=256, dropout=0.0)
    """
    kind, _, words = name.partition(":")
    known: dict[str, Any] = asdict(defaults)  # type: ignore[call-overload]
    given: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        if key not in known:
            raise Refusal(f"a size of the {kind}", f"'{key}'", where=f"--model {name}", remedy=closest(key, known))
        try:
            given[key] = type(known[key])(value)
        except ValueError as error:
            raise Refusal(f"a number for {key}", f"'{value}'", where=f"--model {name}") from error
    return checked(type(defaults)(**known | given), f"--model {name}")


def checked(sizes: S, where: str) -> S:
    """The sizes, where all of them are possible.

    Raises:
        Refusal: where one is not.
    """
    for name, value in asdict(sizes).items():  # type: ignore[call-overload]
        if name != "dropout" and not (type(value) is int and value >= 1):
            raise Refusal(f"a {name} of at least 1", repr(value), where=where)
        if name == "dropout" and not (isinstance(value, int | float) and 0 <= value < 1):
            raise Refusal("a dropout rate from 0 up to 1", repr(value), where=where)
    return sizes
