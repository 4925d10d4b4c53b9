"""Texts embedded beside sentence-transformers' encode: the same model and texts, the sides taking turns.

python benchmarks/embed.py packages_en.parquet --rows 20000 --repeats 3 --json benchmarks/results/embed.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # what is measured is the checkout whose commit is recorded

import numpy as np
import polars as pl
import torch
from code_search import VERSIONS, commit

from counterpoint.encoders.text import TextEncoder, autocast, embed, load
from counterpoint.training.machine import describe

SCHEMA = 1
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SIDES = ("peer-fp32", "ours-fp32", "peer-bf16", "ours-bf16")
WARM = 64  # texts before the clock starts

Side = Callable[[Sequence[str]], np.ndarray]


def sides_of(encoder: TextEncoder, batch: int) -> dict[str, Side]:
    """Texts -> unit vectors, by side and precision of the products; both run the same modules."""

    def peer(precision: str) -> Side:
        def run(texts: Sequence[str]) -> np.ndarray:
            with autocast("cpu", precision):
                return encoder.model.encode(
                    list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False
                )

        return run

    def ours(precision: str) -> Side:
        return lambda texts: embed(encoder, texts, precision=precision).numpy()

    made = {"peer": peer, "ours": ours}
    return {name: made[name.partition("-")[0]](name.partition("-")[2]) for name in SIDES}


def clocked(side: Side, texts: Sequence[str]) -> tuple[dict[str, float], np.ndarray]:
    """Seconds on the wall and of all cores, and the vectors."""
    load_before, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    z = side(texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "load_before": round(load_before, 2)}, z


def measured(texts: Sequence[str], encoder: TextEncoder, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All repeats, another side first in each."""
    sides, found = sides_of(encoder, args.batch), {name: [] for name in args.only}
    for name in args.only:
        sides[name](texts[:WARM])
    exact = None
    for repeat in range(args.repeats):
        turned = args.only[repeat % len(args.only) :] + args.only[: repeat % len(args.only)]
        if exact is None:
            turned = [SIDES[0], *(name for name in turned if name != SIDES[0])] if SIDES[0] in turned else turned
        for name in turned:
            print(f"{name}, {repeat + 1} of {args.repeats}", file=sys.stderr, flush=True)
            run, z = clocked(sides[name], texts)
            exact = z if exact is None and name == SIDES[0] else exact
            if exact is not None:
                cosine = (z.astype(np.float64) * exact).sum(1) / np.linalg.norm(z.astype(np.float64), axis=1)
                run |= {"cosine_lowest": float(cosine.min()), "cosine_mean": float(cosine.mean())}
            found[name].append(run | {"repeat": repeat})
    return found


def ratios(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """How many times as fast as the peer each side is: medians over repeats of pairs that ran in the same round."""
    out = {}
    for ours, peer in (("ours-fp32", "peer-fp32"), ("ours-bf16", "peer-fp32"), ("ours-bf16", "peer-bf16")):
        if ours in found and peer in found:
            pairs = list(zip(found[ours], found[peer], strict=True))
            out[f"{ours} / {peer}"] = {
                clock: round(statistics.median(b[clock] / a[clock] for a, b in pairs), 3)
                for clock in ("seconds", "cpu_seconds")
            }
    return out


def tokens_in(encoder: TextEncoder, texts: Sequence[str]) -> dict[str, float]:
    """How long the texts are for the model."""
    cut = np.minimum(encoder.count_tokens(texts), encoder.longest)
    return {"mean": round(float(cut.mean()), 1), "largest": int(cut.max()), "all": int(cut.sum())}


def table(whole: Mapping[str, Any]) -> str:
    """The result in markdown."""
    lines = ["| side | texts a second | lowest cosine to fp32 |", "| --- | --- | --- |"]
    for name, runs in whole["runs"].items():
        rate = whole["texts"] / statistics.median(run["seconds"] for run in runs)
        lowest = min(run.get("cosine_lowest", float("nan")) for run in runs)
        lines.append(f"| {name} | {rate:,.0f} | {lowest:.5f} |")
    told = [
        f"{name}: {r['seconds']:.2f} times as fast, {r['cpu_seconds']:.2f} by the time of all cores"
        for name, r in whole["ratios"].items()
    ]
    return "\n".join([*lines, "", *told])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="parquet with a column of texts")
    parser.add_argument("--column", default="long", help="which")
    parser.add_argument("--rows", type=int, default=20_000, help="texts, drawn by the seed")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, in which all take turns")
    parser.add_argument("--batch", type=int, default=32, help="of the peer; 32 is its default")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help=", ".join(SIDES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the products")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result here")
    args = parser.parse_args()
    if not Path(args.data).is_file():
        parser.error(f"no such file: {args.data}")
    if min(args.rows, args.repeats, args.batch, args.threads) < 1:
        parser.error("wanted numbers of at least 1")
    return args


def main() -> None:
    """Measure, write the json, print the table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    column = pl.read_parquet(args.data, columns=[args.column])[args.column].drop_nulls()
    texts = column.sample(min(args.rows, len(column)), seed=args.seed, shuffle=True).to_list()
    encoder = load(MODEL)
    found = measured(texts, encoder, args)
    whole = {
        "schema": SCHEMA,
        "benchmark": "embed",
        "commit": commit(),
        "machine": describe(),
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "settings": {k: v for k, v in vars(args).items() if k not in ("data", "json")},
        "texts": len(texts),
        "different": len(set(texts)),
        "tokens": tokens_in(encoder, texts),
        "runs": found,
        "ratios": ratios(found),
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    print(table(whole))


if __name__ == "__main__":
    main()
