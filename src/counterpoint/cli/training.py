"""Commands that train."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from counterpoint.cli.app import NOT_BETTER, NOT_KEPT, app
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
    Source,
    SplitColumn,
    Time,
    Trust,
    Value,
    Weight,
    named,
    numbers,
    roles_of,
    values,
    whole_numbers,
)
from counterpoint.errors import Refusal
from counterpoint.verbs.settings import Run


@app.command()
def fit(
    data: Annotated[
        list[Path],
        typer.Argument(help="One or more csv, tsv, jsonl or parquet files, or an npz or npy file.", show_default=False),
    ],
    recipe: Annotated[str, typer.Option(help="Training method; 'auto' chooses by the roles of the data.")] = Run.recipe,
    model: Annotated[
        str | None, typer.Option(help="A folder or a name [default: all-MiniLM-L6-v2; of arrays 'mlp'].")
    ] = Run.model,
    out: Annotated[str | None, typer.Option(help="Run folder [default: runs/<data>-<recipe>-<n>].")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data [default: 1].")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget of training.")] = None,
    batch: Annotated[int, typer.Option(help="Rows an update; the others in it are the negatives.")] = Run.batch,
    micro: Annotated[
        int | None, typer.Option(help="Texts through the encoder at a time, of a batch as large as you like.")
    ] = Run.micro,
    order: Annotated[
        str,
        typer.Option(
            help="How batches are put together: shuffled, distinct, by_source, mixed, balanced, grouped or hard."
        ),
    ] = Run.order,
    order_set: Annotated[
        list[str] | None, typer.Option("--order-set", metavar="NAME=VALUE", help="Argument of the order.")
    ] = None,
    source_weight: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=NUMBER", help="How many times as often its rows are drawn.")
    ] = None,
    mine_every: Annotated[
        int | None, typer.Option(metavar="EPOCHS", help="Mine new negatives by the model as it is then.")
    ] = None,
    mining: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Which: count=4, depth=100, relative_margin=0.05...")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate [default: 5e-5; of arrays 1e-3].")] = Run.lr,
    schedule: Annotated[str, typer.Option(help="Of the rate: linear, cosine or constant.")] = Run.schedule,
    layer_decay: Annotated[
        float, typer.Option(help="Factor of the rate from a layer to the one below, such as 0.95.")
    ] = Run.layer_decay,
    head_lr: Annotated[float | None, typer.Option(help="Peak rate of new parts [default: --lr].")] = None,
    freeze: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Left as they are: embeddings, or those and 3 layers: 3.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="Of tokens: mean, cls, last, weighted, max, latent or prompt [default: the model's own]."),
    ] = Run.pooling,
    lora: Annotated[
        int | None, typer.Option(metavar="RANK", help="Train adapters of this rank, such as 8, and merge them.")
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(help="Batches an update; each keeps its own negatives (for more of them: --micro)."),
    ] = Run.accumulate,
    evaluations: Annotated[int, typer.Option(help="How often dev is measured.")] = Run.evaluations,
    patience: Annotated[int | None, typer.Option(help="Stop after so many measurements without a new best.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    seed: Annotated[int, typer.Option(help="Of split, order, dropout and intervals.")] = Run.seed,
    split_seed: Annotated[
        int | None, typer.Option(help="Of split, questions and intervals, in place of --seed.")
    ] = Run.split_seed,
    dropout: Annotated[
        float | None, typer.Option(help="Rate while training [default: the model's own].")
    ] = Run.dropout,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Argument of the recipe.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=TEXT", help="Put before texts, anchor='query: '.")
    ] = None,
    length: Length = None,
    precision: Precision = Run.precision,
    device: Device = Run.device,
    select: Annotated[
        str, typer.Option(help="The step to keep: by dev, rankme, neighbours, or the last.")
    ] = Run.select,
    on_sick: Annotated[
        str, typer.Option("--on-sick", help="A run that will hardly recover: warn or stop.")
    ] = Run.on_sick,
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
    shard: Annotated[bool, typer.Option("--shard", help="Divide weights and optimizer state over processes.")] = False,
    save_minutes: Annotated[float, typer.Option(help="Between two checkpoints.")] = Run.save_minutes,
    save_steps: Annotated[int | None, typer.Option(help="The same in steps.")] = Run.save_steps,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    require_better: Annotated[
        bool, typer.Option("--require-better", help="Exit 3 unless the verdict is better.")
    ] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Train on a data file, measure before and after, and write a run folder with a report.

    A run that was stopped goes on by the same command, or by 'counterpoint resume'. Several processes share a batch:

      torchrun --nproc-per-node 8 -m counterpoint fit clicks.csv --batch 4096 --micro 64

    Examples:

      counterpoint fit clicks.csv

      counterpoint fit clicks.csv --anchor query --positive clicked --minutes 10

      counterpoint fit faq.jsonl --recipe pairs --set temperature=0.02 --dry-run

      counterpoint fit clicks.csv --model static:width=128 --epochs 10

      counterpoint fit clicks.csv --lora 8 --lr 5e-4 --schedule cosine

      counterpoint fit clicks.csv --freeze 3 --layer-decay 0.9 --evaluations 20 --patience 4

      counterpoint fit a.csv b.csv --order by_source --order-set temperature=2

      counterpoint fit clicks.csv --eval general=sts.csv --eval faq=faq.csv
    """
    given = dict(locals())
    settings = {f.name: given[f.name] for f in fields(Run) if f.name in given}
    settings |= {"settings": named(set_, "--set"), "prompts": named(prompt, "--prompt"), "roles": roles_of(given)}
    settings |= {"lengths": whole_numbers(named(length, "--length")), "allow": tuple(allow or ())}
    settings |= {"order_settings": named(order_set, "--order-set"), "mining": values(named(mining, "--mining"))}
    settings |= {"evals": named(eval_, "--eval")}
    settings |= {"source_weights": numbers(named(source_weight, "--source-weight"), "--source-weight")}
    Run(**settings)  # a bad number is refused before torch is loaded
    from counterpoint.verbs.fit import fit as run_fit

    trained = run_fit(data if len(data) > 1 else data[0], dry_run=dry_run, **settings)
    if trained is not None and require_better and trained.verdict != "better":
        raise typer.Exit(NOT_BETTER)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The run folder that 'fit' was to write.", show_default=False)],
) -> None:
    """Go on with a run that was stopped or killed, from its last checkpoint, to the same end.

    Example:

      counterpoint resume runs/clicks-pairs-1
    """
    from counterpoint.verbs.resume import resume as run_resume

    run_resume(run)


@app.command()
def stages(
    plan: Annotated[Path, typer.Argument(help="A json file: a list of objects, one a stage.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder for all stages.", show_default=False)],
    require_better: Annotated[
        bool, typer.Option("--require-better", help="Exit 3 unless all stages together are better.")
    ] = False,
) -> None:
    """Train in stages, such as pre-train and fine-tune: each goes on with the model of the one before.

    A stage has "data" and whatever 'fit' takes, by the names of its flags (batch, lr, "settings": {"temperature": 0.02}); a
    "model" of its own overrides. Files are looked for beside the plan. The same command again goes on where it was stopped.

    Example:

      counterpoint stages plan.json --out runs/two-stages

      [{"data": "texts.csv", "recipe": "simcse", "minutes": 10}, {"data": "clicks.csv", "minutes": 10}]
    """
    from counterpoint.verbs.stages import read_plan, stages_of
    from counterpoint.verbs.stages import stages as run_stages

    entries = read_plan(plan)
    stages_of(entries, out)  # a bad plan is refused before torch is loaded
    if run_stages(out, entries).verdict != "better" and require_better:
        raise typer.Exit(NOT_BETTER)


@app.command()
def prove(
    recipe: Annotated[
        str | None, typer.Argument(help="A name of ours, or path/to/file.py:function.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Argument of the recipe.")
    ] = None,
    processes: Annotated[list[int] | None, typer.Option(help="How many to try, several times [default: 2, 4].")] = None,
    kind: Annotated[
        str | None, typer.Option(help="What to try it on: text or arrays [default: what the recipe works on].")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="A loss of two sets, in place of a recipe.")
    ] = None,
) -> None:
    """Does a training method keep what every method has to keep? On a small model and random data; exit code 3 if not.

    Several processes give the gradient of one; gradient caching gives that of the whole batch; each row is encoded by
    itself; losses are finite and every parameter gets a gradient; a checkpoint holds all that the method remembers.

    Examples:

      counterpoint prove moco --set queue=64

      counterpoint prove path/to/mine.py:recipe --processes 2 --processes 8

      counterpoint prove --objective counterpoint.objectives.softmax:infonce
    """
    if (recipe is None) == (objective is None):
        raise Refusal("a recipe or an --objective", "neither" if recipe is None else "both")
    from counterpoint.verbs.prove import prove as prove_recipe
    from counterpoint.verbs.prove import prove_objective

    counts = tuple(processes or (2, 4))
    if objective is not None:
        found = prove_objective(objective, processes=counts)
    else:
        found = prove_recipe(str(recipe), settings=named(set_, "--set"), processes=counts, kind=kind)
    if not all(contract.kept for contract in found):
        raise typer.Exit(NOT_KEPT)


@app.command()
def demo(
    out: Annotated[str | None, typer.Option(help="Run folder [default: runs/demo-<n>].")] = None,
    seconds: Annotated[float, typer.Option(help="Time budget of training.")] = 120,
    steps: Annotated[
        int | None, typer.Option(help="Updates, instead of a time budget: the same result each time.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the order and the intervals.")] = 0,
) -> None:
    """The main job on real data, offline: teach a model to find Python functions by what they do.

    Mines (docstring, function) pairs from this computer's own Python, trains for two minutes, and shows what changed.
    """
    from counterpoint.verbs.demo import demo as run_demo

    run_demo(out=out, seconds=None if steps else seconds, steps=steps, seed=seed)
