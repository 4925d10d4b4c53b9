"""The command that compares training methods."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from counterpoint.cli.app import app
from counterpoint.cli.words import (
    Allow,
    Anchor,
    Delimiter,
    Device,
    Evals,
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
    choices,
    named,
    roles_of,
    whole_numbers,
)
from counterpoint.verbs.settings import Run


@app.command()
def compare(
    data: Annotated[list[Path], typer.Argument(help="As for fit.", show_default=False)],
    recipes: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Training methods: names, or path/to/mine.py:recipe.", show_default=False),
    ],
    out: Annotated[str | None, typer.Option(help="A folder for all runs [default: runs/<data>-compare-<n>].")] = None,
    seeds: Annotated[int, typer.Option(help="How often each method is trained.")] = 5,
    over: Annotated[
        str | None, typer.Option(help="Intervals over seeds or items [default: seeds where there are 3 or more].")
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B,...", help="Try these on dev; RECIPE:NAME=A,B of one method. Several make a grid."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="RECIPE:NAME=VALUE", help="Argument of a recipe.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As for fit.")] = Run.model,
    steps: Annotated[int | None, typer.Option(help="Budget of a run: updates.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data [default: 1].")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time of training.")] = None,
    batch: Annotated[int, typer.Option(help="Rows an update.")] = Run.batch,
    micro: Annotated[int | None, typer.Option(help="Texts through the encoder at a time.")] = Run.micro,
    order: Annotated[str, typer.Option(help="As for fit.")] = Run.order,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate [default: 5e-5; of arrays 1e-3].")] = Run.lr,
    schedule: Annotated[str, typer.Option(help="Of the rate: linear, cosine or constant.")] = Run.schedule,
    layer_decay: Annotated[float, typer.Option(help="As for fit.")] = Run.layer_decay,
    head_lr: Annotated[float | None, typer.Option(help="Peak rate of new parts [default: --lr].")] = None,
    freeze: Annotated[str | None, typer.Option(metavar="WHAT", help="As for fit.")] = None,
    lora: Annotated[int | None, typer.Option(metavar="RANK", help="As for fit.")] = None,
    evaluations: Annotated[int, typer.Option(help="How often dev is measured.")] = Run.evaluations,
    patience: Annotated[int | None, typer.Option(help="As for fit.")] = None,
    seed: Annotated[int, typer.Option(help="The first one; the next ones follow.")] = Run.seed,
    split_seed: Annotated[int | None, typer.Option(help="Of the one split [default: --seed].")] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Rate while training [default: the model's own].")
    ] = Run.dropout,
    prompt: Prompt = None,
    length: Length = None,
    precision: Precision = Run.precision,
    device: Device = Run.device,
    select: Annotated[str, typer.Option(help="The step to keep: dev, rankme, neighbours or last.")] = Run.select,
    corpus: Annotated[str | None, typer.Option(metavar="FILE", help="Texts to rank against.")] = None,
    eval_: Evals = None,
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
    save_minutes: Annotated[float, typer.Option(help="Between two checkpoints.")] = Run.save_minutes,
    save_steps: Annotated[int | None, typer.Option(help="The same in steps.")] = Run.save_steps,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the protocol and stop.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Compare training methods on the same data, split, budget, seeds and tuning: a ranking with ties, and its cost.

    Writes runs, compare.json, results.csv, table.tex and report.html. The same command again goes on where it was stopped;
    more seeds or methods are added to what is there.

    Examples:

      counterpoint compare clicks.csv --recipes pairs,simcse --seeds 5 --steps 200 --out runs/cmp

      counterpoint compare clicks.csv --recipes pairs,path/mine.py:recipe --tune lr=2e-5,5e-5 --dry-run

      counterpoint compare clicks.csv --recipes pairs,moco --tune pairs:temperature=0.02,0.05 --tune moco:queue=256,1024
    """
    given = dict(locals())
    settings = {f.name: given[f.name] for f in fields(Run) if f.name in given and f.name != "out"}
    settings |= {"settings": named(set_, "--set"), "prompts": named(prompt, "--prompt"), "roles": roles_of(given)}
    settings |= {"evals": named(eval_, "--eval")}
    settings |= {"lengths": whole_numbers(named(length, "--length")), "allow": tuple(allow or ())}
    grid = choices(named(tune, "--tune"), "--tune")
    methods = [name.strip() for name in recipes.split(",") if name.strip()]
    from counterpoint.verbs.comparison.entries import entries_of, settings_of
    from counterpoint.verbs.comparison.protocol import over_of

    base, arguments = settings_of(settings, seeds)  # what is wrong with them is said before torch is loaded
    entries_of(methods, tune=grid, given=arguments, base=base)
    over_of(over, seeds)
    from counterpoint.verbs.compare import compare as run_compare

    run_compare(data if len(data) > 1 else data[0], methods, out=out, seeds=seeds, over=over, tune=grid, dry_run=dry_run,
        **settings)  # fmt: skip
