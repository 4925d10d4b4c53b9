"""Commands about data: what is wrong with them, and negatives mined for them."""

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
    named,
    roles_of,
    whole_numbers,
)
from counterpoint.errors import Refusal
from counterpoint.pairs.limits import Mining
from counterpoint.verbs.settings import Run


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
    roles = roles_of(locals())
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
    prompt: Prompt = None,
    length: Length = None,
    precision: Precision = Run.precision,
    device: Device = Run.device,
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
    trust_remote_code: Trust = False,
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
    settings |= {"prompts": named(prompt, "--prompt"), "lengths": whole_numbers(named(length, "--length"))}
    settings |= {"roles": roles_of(given), "allow": tuple(allow or ()), "trust_remote_code": trust_remote_code}
    Mining(**limits), Run(**settings)  # a bad number is refused before torch is loaded
    from counterpoint.verbs.mine import mine as run_mine

    run_mine(model, data, out=out, filter=filter_, **limits, **settings)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A folder, a run, a name; 'raw': arrays as they are.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Argument(
            help="A csv, tsv, jsonl, parquet, npz or npy file, or a folder as BEIR has them.", show_default=False
        ),
    ],
    against: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Another model; 'random': the same without training.")
    ] = None,
    anomaly: Annotated[str | None, typer.Option(metavar="LABEL", help="The label of what is not normal.")] = None,
    eval_: Evals = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="A new .json for the numbers.")] = None,
    corpus: Annotated[str | None, typer.Option(metavar="FILE", help="More texts to rank against.")] = None,
    prompt: Prompt = None,
    length: Length = None,
    precision: Precision = Run.precision,
    device: Device = Run.device,
    seed: Annotated[int, typer.Option(help="Of the split and of the resamples.")] = Run.seed,
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
    """Measure a model on data, beside others on the same questions; every number has its 95 % interval.

    The roles of the data decide what is asked. Pairs: retrieval, and where some were judged not to belong together also
    reranking and pair classification; pairs with a value: similarity. Labels: the nearest and a linear probe, few labels,
    clusters; anomaly where train has one label. Values of single items: regression. Texts alone: the first half finds
    the second; arrays alone: one of which most numbers are replaced finds itself.

    Beside the model: BM25 and its fusion with the model for texts; for arrays the numbers, PCA and random weights. With
    --against, pairs also tell what becomes of the other model's cut-offs.

    Examples:

      counterpoint evaluate all-MiniLM-L6-v2 clicks.csv

      counterpoint evaluate runs/clicks-pairs-1 clicks.csv --against all-MiniLM-L6-v2 --out scores.json

      counterpoint evaluate all-MiniLM-L6-v2 beir/scifact

      counterpoint evaluate runs/clicks-pairs-1 clicks.csv --eval general=sts.csv --against all-MiniLM-L6-v2

      counterpoint evaluate raw sensors.npz --anomaly broken
    """
    given = dict(locals())
    settings = {name: given[name] for name in ("corpus", "precision", "device", "seed", "match", "delimiter")}
    settings |= {"prompts": named(prompt, "--prompt"), "lengths": whole_numbers(named(length, "--length"))}
    settings |= {"roles": roles_of(given), "allow": tuple(allow or ()), "trust_remote_code": trust_remote_code}
    Run(**settings)  # a bad setting is refused before torch is loaded
    from counterpoint.verbs.evaluate import evaluate as run_evaluate

    run_evaluate(
        model, data, against=tuple(against or ()), anomaly=anomaly, evals=named(eval_, "--eval"), out=out, **settings
    )


@app.command()
def generate(
    data: Annotated[Path, typer.Argument(help="A csv, tsv, jsonl or parquet file of texts.", show_default=False)],
    out: Annotated[str, typer.Option(metavar="FILE", help="A new .parquet, .jsonl or .csv.", show_default=False)],
    with_: Annotated[
        str,
        typer.Option("--with", metavar="rules|FOLDER|URL", help="What writes: rules, or a language model."),
    ] = "rules",
    as_: Annotated[
        str, typer.Option("--as", help="'positive,negative' for --recipe syncse, 'pairs' with a value for claif.")
    ] = "positive,negative",
    model: Annotated[str, typer.Option(help="The model's name at a URL.")] = "default",
    key_from: Annotated[str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the key.")] = None,
    cache: Annotated[str | None, typer.Option(metavar="FILE", help="Keeps the answers; beside --out if none.")] = None,
    per_text: Annotated[int, typer.Option(help="Pairs of each text.")] = 3,
    tokens: Annotated[int, typer.Option(help="Of an answer, at most.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps, for a FOLDER.")] = "cpu",
    anchor: Anchor = None,
    split: SplitColumn = None,
    ignore: Ignore = None,
    delimiter: Delimiter = None,
) -> None:
    """Let a language model, or rules, write training data for texts: triples, or pairs with a score.

    A URL is an OpenAI-compatible server, of your own machine or of a service; texts go there and nowhere else. Answers are
    kept beside the output: type the same command again to go on after an interruption.

    Examples:

      counterpoint generate texts.csv --out made.parquet --with http://localhost:8000/v1 --model qwen
      counterpoint fit made.parquet --recipe syncse

      counterpoint generate texts.csv --out pairs.parquet --with models/smollm --as pairs
      counterpoint fit pairs.parquet --recipe claif
    """
    given = dict(locals())
    columns = {name: given[name] for name in ("anchor", "split") if given[name] is not None}
    roles = columns | {f"ignore:{column}": column for column in ignore or ()}
    from counterpoint.verbs.generate import generate as run_generate

    how = {name: given[name] for name in ("with_", "as_", "model", "key_from", "cache", "per_text", "tokens")}
    how |= {name: given[name] for name in ("temperature", "seed", "device", "delimiter")}
    run_generate(data, out=out, roles=roles, **how)
