"""The command that says what is wrong with an embedding space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterpoint.cli.app import app
from counterpoint.cli.words import (
    Allow,
    Anchor,
    Delimiter,
    Device,
    Group,
    Ignore,
    Label,
    Length,
    Match,
    Negative,
    Positive,
    Precision,
    Prompt,
    Source,
    SplitColumn,
    Time,
    Trust,
    Value,
    Weight,
    named,
    roles_of,
    whole_numbers,
)
from counterpoint.verbs.settings import Run


@app.command()
def diagnose(
    model: Annotated[
        str, typer.Argument(help="A folder, a run, a name; 'raw': arrays as they are.", show_default=False)
    ],
    data: Annotated[Path, typer.Argument(help="As for evaluate.", show_default=False)],
    against: Annotated[str | None, typer.Option(metavar="MODEL", help="Show another model's readings beside.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the training; a run knows its own.")] = None,
    fine: Annotated[str | None, typer.Option(metavar="COLUMN", help="Classes inside the labels.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="A new .json for the findings.")] = None,
    mended: Annotated[
        str | None, typer.Option(metavar="FILE", help="A new .parquet, .jsonl or .csv: the data, mended.")
    ] = None,
    prompt: Prompt = None,
    length: Length = None,
    precision: Precision = Run.precision,
    device: Device = Run.device,
    seed: Annotated[int, typer.Option(help="Of what is drawn where there is much.")] = Run.seed,
    anchor: Anchor = None,
    positive: Positive = None,
    negative: Negative = None,
    label: Label = None,
    value: Value = None,
    weight: Weight = None,
    group: Group = None,
    split: SplitColumn = None,
    time: Time = None,
    source: Source = None,
    ignore: Ignore = None,
    match: Match = None,
    delimiter: Delimiter = None,
    allow: Allow = None,
    trust_remote_code: Trust = False,
) -> None:
    """Say what is wrong with a model's embeddings of data, how much it hurts, and what to type against it.

    Looks for: a narrow cone, collapsed dimensions, length bias, a gap between two sides, hubs, false negatives, a
    temperature too high or too low, collapsed sub-classes, copies over the split, pairs that the model does not see.

    Examples:

      counterpoint diagnose all-MiniLM-L6-v2 clicks.csv

      counterpoint diagnose runs/clicks-pairs-1 clicks.csv --against all-MiniLM-L6-v2 --out findings.json

      counterpoint diagnose raw embeddings.npz --anchor x --label y

      counterpoint diagnose all-MiniLM-L6-v2 clicks.csv --mended clean.parquet
    """
    given = dict(locals())
    settings = {name: given[name] for name in ("precision", "device", "seed", "match", "delimiter")}
    settings |= {"prompts": named(prompt, "--prompt"), "lengths": whole_numbers(named(length, "--length"))}
    settings |= {"roles": roles_of(given), "allow": tuple(allow or ()), "trust_remote_code": trust_remote_code}
    Run(**settings)  # a bad setting is refused before torch is loaded
    from counterpoint.verbs.diagnose import diagnose as run_diagnose

    run_diagnose(model, data, against=against, temperature=temperature, fine=fine, out=out, mended=mended, **settings)
