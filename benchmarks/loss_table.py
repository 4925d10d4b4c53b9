"""The result of benchmarks/loss.py as tables: for a terminal, and in Markdown between two marks of a file.

python benchmarks/loss_table.py RESULT.json [FILE.md ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from table import aligned

BEGIN, BRIEFLY, END = "<!-- loss table -->", "<!-- loss summary -->", "<!-- end -->"
TITLES = {
    "symmetric": "InfoNCE, both directions",
    "forward": "InfoNCE, one direction",
    "ntxent": "NT-Xent",
    "tiny": "InfoNCE, one direction, few rows",
    "supcon": "SupCon, 100 classes",
    "custom": "six lines of your own",
}
LABELS = {
    "open-clip": "open_clip, re-stated",
    "st-symmetric": "sentence-transformers",
    "st-forward": "sentence-transformers",
    "st-cached-32": "sentence-transformers, cached, chunks of 32",
    "st-cached-1024": "sentence-transformers, cached, chunks of 1024",
    "info-nce-pytorch": "info-nce-pytorch, re-stated",
    "lightly": "lightly, re-stated",
    "pml-forward": "pytorch-metric-learning NTXentLoss",
    "pml-ntxent": "pytorch-metric-learning NTXentLoss, both views on both sides",
    "pml-supcon": "pytorch-metric-learning",
    "dense-custom": "dense autograd",
    "no-rule": "no rule: logsumexp - mean",
    "logsumexp": "no rule: logsumexp alone",
    "identity": "same_sample",
    "listed": "listed, 2 positives an anchor",
    "labelled": "labelled, 100 classes",
    "kernel": "a kernel of scalars, as a matrix",
    "two-products": "no rule, a second score",
}
COLUMNS = (
    *("loss", "rows", "products", "by", "seconds", "times ours", "extra GB", "times ours"),
    *("share of torch's rate", "of the fastest", "gradient differs"),
)
RULES = ("rule", "fp32 s", "times no rule", "extra GB", "bf16 s", "times no rule", "extra GB")


def median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def label(method: str) -> str:
    """A method's name for people."""
    return LABELS.get(method, "counterpoint")


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"


def gigabytes(bytes_: float | None) -> str:
    """Bytes in 10^9, to 10 MB."""
    return number(None if bytes_ is None else bytes_ / 1e9, ".2f")


def losses(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One line for each method, size and precision."""
    lines = []
    for r in found["results"]:
        if r["section"] != "rules":
            lines.append(
                (
                    TITLES[r["section"]],
                    f"{r['rows']:,}",
                    r["precision"],
                    label(r["method"]),
                    f"{r['median_seconds']:.3g}",
                    f"{r['times_first']:.2f}",
                    gigabytes(r["extra_bytes"]),
                    number(r["memory_times_first"], ".1f"),
                    f"{r['share']['torch']:.0%}",
                    f"{r['share']['fastest']:.0%}",
                    number(r.get("gradient_differs"), ".1g"),
                )
            )
    return lines


def rules(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One line for each rule."""
    by = {(r["method"], r["precision"]): r for r in found["results"] if r["section"] == "rules"}
    lines = []
    for method in dict.fromkeys(name for name, _ in by):
        cells = [label(method)]
        for precision in ("fp32", "bf16"):
            r = by.get((method, precision), {})
            cells += [number(r.get("median_seconds"), ".3g"), number(r.get("times_first"), ".2f")]
            cells += [gigabytes(r.get("extra_bytes"))]
        lines.append(tuple(cells))
    return lines


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What fits no table."""
    lines = []
    for r in found["large"]:
        lines.append(
            f"InfoNCE of {r['rows']:,} x {r['width']} in both directions, {r['precision']} products: {r['seconds']:.0f} s, "
            f"peak {gigabytes(r['peak_bytes'])} GB above the imports, of which inputs {gigabytes(r['inputs_bytes'])} GB."
        )
    for r in found["largest"]:
        size = f"{r['rows']:,} pairs" if r["rows"] else "no size tried"
        lines.append(f"{label(r['method'])}: {size} fit {r['limit_bytes'] / 1e9:g} GB.")
    near = found["neighbours"]
    if near:
        ours = median(near["seconds"]["ours"])
        line = f"Top {near['k']} of {near['queries']:,} queries over {near['corpus']:,} x {near['width']}: {ours:.3g} s"
        if "faiss" in near["seconds"]:
            theirs = median(near["seconds"]["faiss"])
            line += f"; faiss flat {theirs:.3g} s, {theirs / ours:.2f} times ours; {near['equal_share']:.4%} equal ids"
            line += f", {near['ties']} of the {near['differing']} others ties within 1e-6" if near["differing"] else ""
        lines.append(f"{line}; {near['note']}." if near["note"] else f"{line}.")
    errors = found["score_errors"]
    if errors["bf16"] < errors["inputs_rounded"] / 2:
        lines.append(
            "bf16: this processor makes the scores of a sweep in fp32 all the same; autocast rounds the peers'."
        )
    return lines + absent(found)


def absent(found: Mapping[str, Any]) -> list[str]:
    """What did not fit, and what failed."""
    tried: dict[tuple[str, str, str, str], list[int]] = {}
    for r in found["skipped"]:
        who = ", ".join(label(m) for m in r["methods"]) or r["section"]
        tried.setdefault((who, r["section"], r["precision"], r["why"]), []).append(r["rows"])
    lines = []
    for (who, section, precision, why), rows in tried.items():
        sizes = " nor ".join(f"{n:,}" for n in rows)
        lines.append(f"{who} ({TITLES.get(section, section)}, {precision}), not with {sizes} rows: {why}.")
    return lines


def about(found: Mapping[str, Any]) -> str:
    """Where and how it ran."""
    machine, versions = found["machine"], found["versions"]
    peers = {"sentence-transformers": 0, "pytorch-metric-learning": 0, "faiss-cpu": 0}
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", *peers))
    return (
        f"{machine['processor']} ({machine['vectors']}), {found['threads']} threads; {named}; width "
        f"{found['settings']['width']}, medians of {found['repeats']} rounds, seed {found['seed']}, "
        f"commit {found['commit'][:10]}."
    )


def parts(found: Mapping[str, Any]) -> list[list[tuple[str, ...]]]:
    """The tables that have a line."""
    pairs = ((COLUMNS, losses(found)), (RULES, rules(found)))
    return [[head, *lines] for head, lines in pairs if lines]


def table(found: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = [about(found)]
    for part in parts(found):
        lines += ["", *aligned(part)]
    return "\n".join([*lines, "", *sentences(found)]).rstrip()


def markdown(found: Mapping[str, Any]) -> str:
    """The result for a page."""
    lines = [about(found), ""]
    for head, *rows in parts(found):
        words = sum(not cell[:1].isdigit() for cell in rows[0][:1])
        rule = ["---"] * words + ["---:" if is_number(cell) else "---" for cell in rows[0][words:]]
        lines += [bar(head), bar(rule), *map(bar, rows), ""]
    return "\n".join([*lines, *(f"- {line}" for line in sentences(found))]).rstrip()


BRIEF = (
    "loss",
    "rows",
    "products",
    "ours",
    "share of torch's product rate",
    "extra GB",
    "fastest peer",
    "its time",
    "its GB",
)


def summary(found: Mapping[str, Any]) -> str:
    """One line for each loss and precision, at the most rows that a peer managed too: ours and the fastest peer."""
    groups: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = {}
    for r in found["results"]:
        if r["section"] != "rules":
            groups.setdefault((r["section"], r["precision"]), {}).setdefault(r["rows"], []).append(r)
    lines = []
    for (section, precision), sizes in groups.items():
        both = [rows for rows, results in sizes.items() if len(results) > 1]
        if both:
            ours, *peers = sizes[max(both)]
            peer = min(peers, key=lambda r: r["median_seconds"])
            cells = (TITLES[section], f"{max(both):,}", precision, f"{ours['median_seconds']:.3g} s")
            cells += (f"{ours['share']['torch']:.0%}", gigabytes(ours["extra_bytes"]), label(peer["method"]))
            lines.append((*cells, f"{peer['times_first']:.1f} times ours", gigabytes(peer["extra_bytes"])))
    table = [bar(BRIEF), bar(["---"] * len(BRIEF)), *map(bar, lines)]
    return "\n".join([about(found), "", *table])


def is_number(cell: str) -> bool:
    """Whether a cell goes to the right."""
    return cell == "-" or cell.rstrip("%").replace(",", "").replace(".", "").replace("e-", "").isdigit()


def bar(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def between(text: str, new: str, begin: str = BEGIN) -> str:
    """The text with what stands between the marks replaced.

    Raises:
        ValueError: where the marks are not there, once each and in their order.
    """
    before, begun, rest = text.partition(begin)
    old, ended, after = rest.partition(END)
    if not begun or not ended or begin in old + after:
        raise ValueError(f"wanted '{begin}' and then '{END}', once each")
    return f"{before}{begin}\n{new}\n{END}{after}"


def main() -> None:
    """Print the tables, or put them, or their summary, between the marks of files."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) < 3:
        print(markdown(found))
        return
    for name in sys.argv[2:]:
        page = Path(name)
        text = page.read_text(encoding="utf-8")
        text = between(text, summary(found), BRIEFLY) if BRIEFLY in text else between(text, markdown(found))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
