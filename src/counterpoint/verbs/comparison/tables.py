"""How a comparison is written: the printed table, compare.json, results.csv, table.tex."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from counterpoint.evaluation.comparison_report import name_of, ranks_in_words
from counterpoint.evaluation.figures import finite, metric_name, span
from counterpoint.evaluation.intervals import Interval
from counterpoint.verbs.comparison.protocol import SCHEMA, Protocol
from counterpoint.verbs.comparison.results import Results
from counterpoint.verbs.comparison.runs import trials_of
from counterpoint.verbs.console import Screen

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def plain(interval: Interval) -> dict[str, float | None]:
    """For json: six digits, null where there is no number."""
    return {name: None if (x := finite(v)) is None else round(x, 6) for name, v in interval._asdict().items()}


def record_of(protocol: Protocol, results: Results, lines: Mapping[str, str], about: Mapping[str, Any]) -> dict:
    """compare.json: everything that was computed.

    Args:
        protocol: what is the same for all.
        results: of the runs.
        lines: the protocol in words.
        about: sentence, verdict, command, versions, machine.
    """
    ranking = results.ranking
    systems = {}
    for system in ranking.order:
        own: dict[str, Any] = {
            **plain(ranking.values[system]),
            "ranks": list(ranking.ranks[system]),
            "ties": ranking.letters[system],
            "metrics": {m: _of_seeds(results.values(system, m)) for m in results.metrics},
        }
        if system in results.runs:
            seconds = results.training_seconds(system)
            own |= {
                "training_seconds": round(float(seconds.mean()), 2),
                "chosen": results.chosen[system],
                "runs": [str(one.place.relative_to(protocol.out)) for one in results.runs[system]],
                "dev": [one.metrics["dev"] for one in results.runs[system]],
            }
        systems[system] = own
    tried = {
        entry.label: [
            {"trial": str(trial), "dev": noted["dev"], "failed": noted.get("failed")}
            for trial, noted in trials_of(protocol, entry)
        ]
        for entry in protocol.entries
    }
    pairs = [
        {"first": p.first, "second": p.second, **plain(p.difference), "p": p.p, "p_holm": p.adjusted, "apart": p.apart}
        for p in ranking.pairs
    ]
    return {
        "schema": SCHEMA,
        "protocol": {"name": protocol.name, "lines": dict(lines), "begun": dict(protocol.begun)},
        "metric": results.metric,
        "over": ranking.over,
        "seeds": list(protocol.seeds),
        "questions": len(results.unit),
        "units": {"are": results.units, "count": len(np.unique(results.unit))},
        "order": list(ranking.order),
        "systems": systems,
        "pairs": pairs,
        "others": {
            name: {**one, "changes": {label: plain(change) for label, change in one["changes"].items()}}
            for name, one in results.elsewhere().items()
        },
        "trials": {label: rows for label, rows in tried.items() if rows},
        **about,
    }


def _of_seeds(values: np.ndarray) -> dict[str, Any]:
    spread = round(float(values.std(ddof=1)), 6) if len(values) > 1 else None
    return {
        "mean": round(float(values.mean()), 6),
        "deviation": spread,
        "each": [round(float(value), 6) for value in values],
    }


def csv_of(protocol: Protocol, results: Results) -> str:
    """One row a method and seed; what stands beside them has one for each seed too, and no cost."""
    head = ["system", "seed", "trained", *results.metrics, "training_seconds", "peak_memory_bytes", "steps", "best_step",
        "dev", "health_findings", "arguments", "path"]  # fmt: skip
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(head)
    for label, several in results.runs.items():
        for one in several:
            rows.writerow([label, one.seed, "yes", *(f"{one.value(m):.6f}" for m in results.metrics),
                one.cost["training_seconds"], one.cost["peak_memory_bytes"], one.run["steps"], one.run["best_step"],
                _best(one.metrics["dev"]), one.sick, json.dumps(one.run["arguments"], sort_keys=True, default=str),
                one.place.relative_to(protocol.out)])  # fmt: skip
    for system in results.beside:
        for seed, *values in zip(protocol.seeds, *(results.values(system, m) for m in results.metrics), strict=True):
            rows.writerow([system, seed, "no", *(f"{value:.6f}" for value in values), *[""] * 8])
    return text.getvalue()


def _best(dev: list[list[float]]) -> str:
    known = [score for _, score in dev if finite(score) is not None]
    return f"{max(known):.6f}" if known else ""


def tex(text: object) -> str:
    r"""Text as LaTeX has to have it.

    >>> print(tex("50 % of a_b & {c}"))
    50 \% of a\_b \& \{c\}
    """
    return "".join(SPECIAL.get(sign, sign) for sign in str(text)).replace(" +", " $+$").replace(" -", " $-$")


def tex_of(protocol: Protocol, results: Results) -> str:
    """The ranking as a table for booktabs: letters are ties, intervals say over what they are taken."""
    ranking, main = results.ranking, metric_name(results.metric)
    others = results.metrics[1:]
    head = ["Rank", "Training method", main, "95\\,\\% interval", *(tex(metric_name(m)) for m in others), "Seconds"]
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{caption_of(protocol, results)}}}",
        "  \\label{tab:comparison}",
        f"  \\begin{{tabular}}{{llr{'c'}{'r' * (len(others) + 1)}}}",
        "    \\toprule",
        f"    {' & '.join(head)} \\\\",
        "    \\midrule",
    ]
    for system in ranking.order:
        own = ranking.values[system]
        ends = "--" if finite(own.low) is None else f"[{own.low:.3f}, {own.high:.3f}]"
        seconds = f"{results.training_seconds(system).mean():.1f}" if system in results.runs else "--"
        cells = [
            ranks_in_words(ranking.ranks[system]).replace(" to ", "--"),
            tex(name_of(system)),
            f"{own.value:.3f}\\textsuperscript{{{ranking.letters[system]}}}",
            ends.replace("-0", "$-$0"),
            *(f"{results.values(system, m).mean():.3f}" for m in others),
            seconds,
        ]
        lines.append(f"    {' & '.join(cells)} \\\\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])


def caption_of(protocol: Protocol, results: Results) -> str:
    """What the LaTeX table shows, and by what."""
    over = {
        "seeds": f"Student's $t$ over {len(protocol.seeds)} seeds, paired by seed",
        "items": f"resampled over {len(np.unique(results.unit))} {tex(results.units)}, answers averaged over seeds",
    }[results.ranking.over]
    return (
        f"{tex(metric_name(results.metric))} on {len(results.unit)} test questions ({tex(protocol.name)}). "
        f"Intervals: {over}. Systems that share a letter cannot be told apart "
        f"(pairwise, Holm's correction, 5\\,\\%); ranks are ranges accordingly."
    )


def show(protocol: Protocol, results: Results, sentence: str, screen: Screen) -> None:
    """The ranking as a table, the sentence above it."""
    ranking, metric = results.ranking, results.metric
    screen.say()
    screen.say(sentence, "bold")
    first = ranking.order[0]
    table = Table("rank", "ties", "system", f"{metric_name(metric)} (95 % interval)", f"less {name_of(first)}", "less before",
        "training", box=None, pad_edge=False, padding=(0, 2, 0, 0))  # fmt: skip
    for system in ranking.order:
        seconds = f"{results.training_seconds(system).mean():.1f} s" if system in results.runs else ""
        gaps = ["" if system == other else _signed(ranking.between(system, other)) for other in (first, "before")]
        cells = [ranks_in_words(ranking.ranks[system]), ranking.letters[system], name_of(system).replace("[", r"\["),
            span(ranking.values[system]._asdict()), *gaps, seconds]  # fmt: skip
        table.add_row(*cells)
    screen.console.print(table)
    for name, one in results.elsewhere().items():
        screen.say(f"{name}: {metric_name(one['metric'])} {one['before']:.3f} before; changed by")
        for label, change in one["changes"].items():
            lost = finite(change.high) is not None and change.high < 0
            words = f"  {name_of(label)}  {_signed(change)}{'  forgotten' if lost else ''}"
            screen.say(words, style="bold yellow" if lost else None)
    screen.say(f"intervals over {ranking.over} ({over_words(protocol, results)}); systems that share a letter are ties")


def over_words(protocol: Protocol, results: Results) -> str:
    """What was compared or resampled."""
    if results.ranking.over == "seeds":
        untold = "; two that are not trained are not told apart by seeds" * (len(results.beside) > 1)
        return f"{len(protocol.seeds)} seeds, Student's t of paired differences; Holm's correction{untold}"
    return f"{len(np.unique(results.unit)):,} {results.units}; Holm's correction"


def _signed(interval: Interval) -> str:
    return span(interval._asdict(), sign=True)
