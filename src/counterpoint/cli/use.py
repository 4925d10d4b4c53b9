"""Commands that use a run, or say what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterpoint.cli.app import app
from counterpoint.cli.words import shorten


@app.command()
def search(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    words: Annotated[str, typer.Argument(help="What to look for; of arrays a row number.", show_default=False)],
    k: Annotated[int, typer.Option("-k", help="How many.")] = 5,
) -> None:
    """Search the corpus of a run: the texts, or rows, that its test ranked against.

    Example:

      counterpoint search runs/demo-1 "read a csv file line by line"

      counterpoint search runs/digits-supcon-1 17
    """
    from counterpoint.verbs.model import search as run_search

    for hit in run_search(run, words, k):
        typer.echo(f"{hit.score:6.3f}  {shorten(hit.text)}")


@app.command()
def papers(
    words: Annotated[str, typer.Argument(help="Words to look for in names and titles.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="All rows, for programs.")] = False,
) -> None:
    """Which published systems work here, in which function, and how that was proven.

    Examples:

      counterpoint papers simcse

      counterpoint papers --json
    """
    import json

    from counterpoint.papers import index
    from counterpoint.verbs.lists import paper_lines

    typer.echo(json.dumps(index(), indent=1, ensure_ascii=False) if as_json else "\n".join(paper_lines(words)))


@app.command()
def kinds() -> None:
    """What works today, for each kind of data."""
    from counterpoint.verbs.lists import kind_lines

    typer.echo("\n".join(kind_lines()))


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a name.", show_default=False)],
    text: Annotated[str, typer.Argument(help="A text.", show_default=False)],
    other: Annotated[str, typer.Argument(help="Another.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Draw the matching as a page, one html file.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a text that are read.", min=1)] = 64,
) -> None:
    """Say why a model finds two texts alike: which token matches which. Best with a model of --recipe clrcmd.

    Example:

      counterpoint explain runs/sts-clrcmd-1 "a man plays a guitar" "someone makes music" --out heat.html
    """
    from counterpoint.verbs.explain import explain as run_explain

    for line in run_explain(model, text, other, out=out, tokens=tokens):
        typer.echo(shorten(line))
