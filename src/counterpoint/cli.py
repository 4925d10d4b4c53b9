"""The command line: arguments into verbs, errors into one line and an exit code. Nothing heavy is imported at the top."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from counterpoint.errors import Refusal
from counterpoint.pairs.limits import Mining
from counterpoint.verbs.settings import Run

NOT_BETTER, INTERRUPTED = 3, 130

app = typer.Typer(
    name="counterpoint",
    help="Train an embedding model on your own data, and see whether it is better than what you had.",
    epilog="Start with 'counterpoint demo', or 'counterpoint check DATA' on a csv, jsonl, parquet or npz file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
Delimiter = Annotated[str | None, typer.Option(help="Of csv and tsv.")]
Allow = Annotated[list[str] | None, typer.Option(metavar="CODE", help="Go on in spite of a finding of 'check'.")]


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
    dropout: Annotated[
        float | None, typer.Option(help="Rate while training [default: the model's own].")
    ] = Run.dropout,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Argument of the recipe.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=TEXT", help="Put before texts, anchor='query: '.")
    ] = None,
    length: Annotated[list[str] | None, typer.Option(metavar="ROLE=TOKENS", help="Where texts are cut.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = Run.precision,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = Run.device,
    select: Annotated[
        str, typer.Option(help="The step to keep: by dev, rankme, neighbours, or the last.")
    ] = Run.select,
    on_sick: Annotated[
        str, typer.Option("--on-sick", help="A run that will hardly recover: warn or stop.")
    ] = Run.on_sick,
    corpus: Annotated[str | None, typer.Option(metavar="FILE", help="Texts to rank against.")] = None,
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
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Train on a data file, measure before and after, and write a run folder with a report.

    A run that was stopped goes on by the same command, or by 'counterpoint resume'. Several processes share a batch:

      torchrun --nproc-per-node 8 -m counterpoint fit clicks.csv --batch 4096 --micro 64

    Examples:

      counterpoint fit clicks.csv

      counterpoint fit clicks.csv --anchor query --positive clicked --minutes 10

      counterpoint fit faq.jsonl --recipe pairs --set temperature=0.02 --dry-run

      counterpoint fit clicks.csv --lora 8 --lr 5e-4 --schedule cosine

      counterpoint fit clicks.csv --freeze 3 --layer-decay 0.9 --evaluations 20 --patience 4

      counterpoint fit a.csv b.csv --order by_source --order-set temperature=2
    """
    given = dict(locals())
    settings = {f.name: given[f.name] for f in fields(Run) if f.name in given}
    settings |= {"settings": _named(set_, "--set"), "prompts": _named(prompt, "--prompt"), "roles": _roles(given)}
    settings |= {"lengths": _whole_numbers(_named(length, "--length")), "allow": tuple(allow or ())}
    settings |= {"order_settings": _named(order_set, "--order-set"), "mining": _values(_named(mining, "--mining"))}
    settings |= {"source_weights": _numbers(_named(source_weight, "--source-weight"), "--source-weight")}
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
def check(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="One or more csv, tsv, jsonl or parquet files, or an npz or npy file.", show_default=False),
    ] = None,
    explain: Annotated[str | None, typer.Option(metavar="CODE", help="What a finding means and what to do.")] = None,
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
) -> None:
    """Say what a data file holds and what is wrong with it. Exit code 2 when it could not be trained on.

    Examples:

      counterpoint check clicks.csv

      counterpoint check --explain leak
    """
    from counterpoint.data import lint
    from counterpoint.verbs.check import check as run_check

    if explain is not None:
        typer.echo(lint.explain(explain))
        return
    if not data:
        raise Refusal("a data file or --explain CODE", "neither", remedy="counterpoint check DATA")
    roles = _roles(locals())
    codes = tuple(allow or ())
    findings = run_check(data if len(data) > 1 else data[0], roles=roles, match=match, delimiter=delimiter, allow=codes)
    lint.accept(findings, codes, source=" + ".join(path.name for path in data))


@app.command()
def mine(
    model: Annotated[str, typer.Argument(help="Finds the nearest: a folder, a run or a name.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="A csv, tsv, jsonl or parquet file of pairs.", show_default=False)],
    out: Annotated[str, typer.Option(metavar="FILE", help="A new .parquet, .jsonl or .csv.", show_default=False)],
    count: Annotated[int, typer.Option(help="Negatives a query, at most.")] = Mining.count,
    depth: Annotated[int, typer.Option(help="How many of the nearest are looked at.")] = Mining.depth,
    skip: Annotated[int, typer.Option(help="First ranks that are left out.")] = Mining.skip,
    relative_margin: Annotated[
        float, typer.Option(help="Negatives score at most the positive less this share.")
    ] = Mining.relative_margin or 0,
    margin: Annotated[float | None, typer.Option(help="... at most the positive less this.")] = Mining.margin,
    no_margin: Annotated[bool, typer.Option("--no-margin", help="Do not compare with the positive.")] = False,
    highest: Annotated[float | None, typer.Option(help="Highest score of a negative.")] = Mining.highest,
    lowest: Annotated[float | None, typer.Option(help="Lowest score of a negative.")] = Mining.lowest,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="MODEL", help="A cross-encoder or a second model as a filter.")
    ] = None,
    filter_margin: Annotated[float, typer.Option(help="Of the filter's scores.")] = Mining.filter_margin,
    against: Annotated[str, typer.Option(help="Which positive counts: weakest or strongest.")] = Mining.against,
    pick: Annotated[str, typer.Option(help="top, or random among all that are left.")] = Mining.pick,
    seed: Annotated[int, typer.Option(help="Of random picks.")] = Mining.seed,
    corpus: Annotated[str | None, typer.Option(metavar="FILE", help="More texts to take negatives from.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(metavar="ROLE=TEXT", help="Put before texts.")] = None,
    length: Annotated[list[str] | None, typer.Option(metavar="ROLE=TOKENS", help="Where texts are cut.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = Run.precision,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = Run.device,
    anchor: Anchor = None,
    positive: Positive = None,
    negative: Negative = None,
    label: Label = None,
    value: Value = None,
    weight: Weight = None,
    group: Group = None,
    split: SplitColumn = None,
    time: Time = None,
    ignore: Ignore = None,
    match: Match = None,
    delimiter: Delimiter = None,
    allow: Allow = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Find hard negatives for the queries of labelled pairs, and write data that 'fit' takes as they are.

    Says what was kept and why the rest was left, and shows the most doubtful ones.

    Examples:

      counterpoint mine all-MiniLM-L6-v2 clicks.csv --out mined.parquet

      counterpoint mine runs/clicks-pairs-1 clicks.csv --out mined.parquet --filter runs/clicks-cross_encoder-1
    """
    given = dict(locals())
    limits = {f.name: given[f.name] for f in fields(Mining)}
    limits |= {"relative_margin": None, "margin": None} if no_margin else {}
    settings = {name: given[name] for name in ("corpus", "precision", "device", "match", "delimiter")}
    settings |= {"prompts": _named(prompt, "--prompt"), "lengths": _whole_numbers(_named(length, "--length"))}
    settings |= {"roles": _roles(given), "allow": tuple(allow or ()), "trust_remote_code": trust_remote_code}
    Mining(**limits), Run(**settings)  # a bad number is refused before torch is loaded
    from counterpoint.verbs.mine import mine as run_mine

    run_mine(model, data, out=out, filter=filter_, **limits, **settings)


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


def shorten(text: str, width: int = 100) -> str:
    """One line of at most `width` characters.

    >>> shorten("a  b", 3)
    'a b'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _roles(options: dict[str, Any]) -> dict[str, str]:
    """The columns that were named; ignored ones are listed under a role of their own."""
    names = ("anchor", "positive", "negative", "label", "value", "weight", "group", "split", "time", "source")
    roles = {name: options[name] for name in names if options[name] is not None}
    return roles | {f"ignore:{column}": column for column in options["ignore"] or ()}


def _named(options: list[str] | None, flag: str) -> dict[str, str]:
    """NAME=VALUE words as a mapping."""
    pairs = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise Refusal("NAME=VALUE", f"'{option}'", where=flag)
        pairs[name] = value
    return pairs


def _values(words: dict[str, str]) -> dict[str, int | float | str | None]:
    """Words as whole numbers, numbers, None or words.

    >>> _values({"count": "2", "margin": "0.1", "relative_margin": "none", "pick": "top"})
    {'count': 2, 'margin': 0.1, 'relative_margin': None, 'pick': 'top'}
    """

    def value(word: str) -> int | float | str | None:
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(word)
        return None if word == "none" else word

    return {name: value(word) for name, word in words.items()}


def _whole_numbers(values: dict[str, str]) -> dict[str, int]:
    for name, value in values.items():
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise Refusal("a whole number of tokens", f"'{value}'", where=f"--length {name}")
    return {name: int(value) for name, value in values.items()}


def _numbers(values: dict[str, str], flag: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in values.items()}
    except ValueError as error:
        raise Refusal("NAME=NUMBER", f"'{next(iter(values.values()))}'", where=flag) from error


def main() -> None:
    """The entry point: 0 done, 1 our bug, 2 bad input, 3 a requirement not met, 130 interrupted."""
    from counterpoint.interrupts import ended_by_signals, say

    with ended_by_signals():
        try:
            sys.exit(app(standalone_mode=False) or 0)
        except Refusal as refusal:
            say(f"counterpoint: {refusal}")
            sys.exit(refusal.exit_code)
        except Exception as error:
            sys.exit(_exit_of(error))


def _exit_of(error: Exception) -> int:
    """Wrong usage is one line and 2; whatever else arrives here is our bug: a traceback and 1."""
    import traceback

    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        print(f"counterpoint: {error.format_message()} (counterpoint --help)", file=sys.stderr)
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return 0
    if type(error).__name__ == "Stopped":  # its module needs torch
        return INTERRUPTED
    traceback.print_exc()
    print("counterpoint: this is a bug; the lines above say where", file=sys.stderr)
    return 1
