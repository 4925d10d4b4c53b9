"""Commands that use a run, or say what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterpoint.cli.app import app
from counterpoint.cli.words import (
    Anchor,
    Delimiter,
    Device,
    Group,
    Ignore,
    Label,
    Length,
    Model,
    Positive,
    Precision,
    Prompt,
    Source,
    SplitColumn,
    Time,
    Trust,
    named,
    roles_of,
    shorten,
    whole_numbers,
)
from counterpoint.verbs.settings import Run


@app.command()
def embed(
    model: Model,
    data: Annotated[Path, typer.Argument(help="A csv, tsv, jsonl, parquet, npz or npy file.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="A new .parquet file.", show_default=False)],
    role: Annotated[str, typer.Option(help="anchor, or positive: its column and its prompt.")] = "anchor",
    dtype: Annotated[str, typer.Option(help="float32, float16, int8 or binary.")] = "float32",
    prompt: Prompt = None,
    length: Length = None,
    precision: Precision = Run.precision,
    device: Device = Run.device,
    anchor: Anchor = None,
    positive: Positive = None,
    label: Label = None,
    group: Group = None,
    split: SplitColumn = None,
    time: Time = None,
    source: Source = None,
    ignore: Ignore = None,
    delimiter: Delimiter = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write the vectors of a data file as parquet: row, text, vector, and the id, label, group, split, time and source.

    Equal texts are embedded once. A run that was killed goes on where it was when the same command is typed again.

    Examples:

      counterpoint embed all-MiniLM-L6-v2 clicks.csv vectors.parquet

      counterpoint embed runs/clicks-pairs-1 pages.jsonl pages.parquet --anchor body --role positive --dtype float16
    """
    given = dict(locals())
    settings = {name: given[name] for name in ("precision", "device", "delimiter", "trust_remote_code")}
    settings |= {"prompts": named(prompt, "--prompt"), "lengths": whole_numbers(named(length, "--length"))}
    settings |= {"roles": roles_of(given)}
    Run(**settings)  # a bad setting is refused before torch is loaded
    from counterpoint.verbs.embed import embed as run_embed

    run_embed(model, data, out, role=role, dtype=dtype, **settings)


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
