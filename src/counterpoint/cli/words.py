"""Words of the command line: options that several commands share, and what is typed as plain values."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from counterpoint.errors import Refusal


def _column(role: str, words: str) -> Any:
    return typer.Option(f"--{role}", metavar="COLUMN", help=words)


Anchor = Annotated[str | None, _column("anchor", "Queries, questions, texts.")]
Positive = Annotated[str | None, _column("positive", "What belongs to the anchor.")]
Negative = Annotated[str | None, _column("negative", "What does not, though it looks so.")]
Label = Annotated[str | None, _column("label", "Class of the anchor, or match of the pair.")]
Value = Annotated[str | None, _column("value", "How similar the pair is.")]
Weight = Annotated[str | None, _column("weight", "How often the pair was seen.")]
Group = Annotated[str | None, _column("group", "Rows that stay in one split.")]
SplitColumn = Annotated[str | None, _column("split", "train, dev or test.")]
Time = Annotated[str | None, _column("time", "Test on the latest rows.")]
Source = Annotated[str | None, _column("source", "Where a row comes from.")]
Ignore = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Give a column no role.")]
Match = Annotated[str | None, typer.Option(metavar="LABEL", help="The label of pairs that belong together.")]
Evals = Annotated[
    list[str] | None,
    typer.Option(
        "--eval", metavar="NAME=DATA", help="Other data to measure on too, such as what must not be forgotten."
    ),
]
Delimiter = Annotated[str | None, typer.Option(help="Of csv and tsv.")]
Model = Annotated[str, typer.Argument(help="A folder, a run or a name.", show_default=False)]
Prompt = Annotated[list[str] | None, typer.Option(metavar="ROLE=TEXT", help="Put before texts.")]
Length = Annotated[list[str] | None, typer.Option(metavar="ROLE=TOKENS", help="Where texts are cut.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")]
Allow = Annotated[list[str] | None, typer.Option(metavar="CODE", help="Go on in spite of a finding of 'check'.")]


def shorten(text: str, width: int = 100) -> str:
    """One line of at most `width` characters.

    >>> shorten("a  b", 3)
    'a b'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def roles_of(options: dict[str, Any]) -> dict[str, str]:
    """The columns that were named; ignored ones are listed under a role of their own."""
    names = ("anchor", "positive", "negative", "label", "value", "weight", "group", "split", "time", "source")
    roles = {name: options[name] for name in names if options.get(name) is not None}
    return roles | {f"ignore:{column}": column for column in options["ignore"] or ()}


def named(options: list[str] | None, flag: str) -> dict[str, str]:
    """NAME=VALUE words as a mapping."""
    pairs = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise Refusal("NAME=VALUE", f"'{option}'", where=flag)
        pairs[name] = value
    return pairs


def choices(words: dict[str, str], flag: str) -> dict[str, list[int | float | str | None]]:
    """Words with commas as lists of values.

    >>> choices({"lr": "1e-5,2e-5", "simcse:pooling": "mean"}, "--tune")
    {'lr': [1e-05, 2e-05], 'simcse:pooling': ['mean']}
    """
    split = {name: [word.strip() for word in text.split(",")] for name, text in words.items()}
    empty = next((name for name, parts in split.items() if "" in parts), None)
    if empty is not None:
        raise Refusal("values with commas between them", f"'{words[empty]}'", where=f"{flag} {empty}")
    return {
        name: list(values({str(i): word for i, word in enumerate(parts)}).values()) for name, parts in split.items()
    }


def values(words: dict[str, str]) -> dict[str, int | float | str | None]:
    """Words as whole numbers, numbers, None or words.

    >>> values({"count": "2", "margin": "0.1", "relative_margin": "none", "pick": "top"})
    {'count': 2, 'margin': 0.1, 'relative_margin': None, 'pick': 'top'}
    """

    def value(word: str) -> int | float | str | None:
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(word)
        return None if word == "none" else word

    return {name: value(word) for name, word in words.items()}


def whole_numbers(values: dict[str, str]) -> dict[str, int]:
    """Lengths in tokens.

    >>> whole_numbers({"anchor": "32"})
    {'anchor': 32}
    """
    for name, value in values.items():
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise Refusal("a whole number of tokens", f"'{value}'", where=f"--length {name}")
    return {name: int(value) for name, value in values.items()}


def numbers(values: dict[str, str], flag: str) -> dict[str, float]:
    """Values as numbers.

    >>> numbers({"a": "2"}, "--source-weight")
    {'a': 2.0}
    """
    try:
        return {name: float(value) for name, value in values.items()}
    except ValueError as error:
        raise Refusal("NAME=NUMBER", f"'{next(iter(values.values()))}'", where=flag) from error
