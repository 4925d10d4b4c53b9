"""`papers` and `kinds`: what is here, read from the generated index and from the code."""

from __future__ import annotations

from counterpoint.papers import index
from counterpoint.verbs.recipes import AUTO, AUTO_OF_ARRAYS

NOT_YET = ("image", "audio", "series", "graph", "table", "interaction sequence", "image and text")


def paper_lines(words: str) -> list[str]:
    """One line for each system whose name, title or function holds all the words."""
    wanted = words.lower().split()
    lines = []
    for system in index()["systems"]:
        text = " ".join([system["system"], system["title"], *system["functions"]]).lower()
        if all(word in text for word in wanted) and (wanted or system["functions"]):
            where = ", ".join(system["functions"]) or "not yet"
            lines.append(
                f"{system['row']:>4}  {system['system']}: {where}  [formula {system['formula']}, effect {system['effect']}]"
            )
    for entry in index()["beyond"]:
        if all(word in " ".join([entry["reference"], *entry["functions"]]).lower() for word in wanted):
            lines.append(f"   -  {entry['reference']}: {', '.join(entry['functions'])}  [formula {entry['formula']}]")
    here = sum(bool(s["functions"]) for s in index()["systems"])
    return [
        *(lines or ["no system matches"]),
        f"{here} of {len(index()['systems'])} systems of the bibliography work here",
    ]


def kind_lines() -> list[str]:
    """The kinds of data, the roles that they may have, and what is done with each."""
    lines = [
        "text (csv, tsv, jsonl, parquet; frames, datasets, lists and dicts in Python)",
        "  with the roles                 --recipe auto takes, measured by",
    ]
    lines += [f"  {' + '.join(c.roles):<30} {c.recipe}, {c.metric}" for c in AUTO]
    lines += ["  by name                        needs, and what it does"]
    lines += [
        f"  {r['name']:<30} {' + '.join(r['needs'])}: {r['says']}"
        for r in index()["recipes"]
        if r["kind"] in ("any", "text") and r["name"] not in {c.recipe for c in AUTO}
    ]
    lines += ["arrays (npz, npy; parquet, jsonl and frames whose cells are lists of numbers; numpy in Python)"]
    lines += [f"  {' + '.join(c.roles):<30} {c.recipe}, {c.metric}" for c in AUTO_OF_ARRAYS]
    return [*lines, f"not yet: {', '.join(NOT_YET)}"]
