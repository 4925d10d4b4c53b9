"""Single queries in the report: what moved, what stayed hard, and what stands near them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.evaluation.markup import Html, Section, excerpt, join, section, tag

GROUPS = {
    "up": ("Moved up", "Their first positive rose most."),
    "down": ("Moved down", "Their first positive fell most."),
    "low": ("Still lowest", "Their first positive stands lowest after training."),
}
SHORT, BRIEF, LONG = (
    90,
    1_000,
    2_000,
)  # characters of a query in its heading, of a neighbour, of a query and its positive


def _rank(rank: int) -> str:
    return "beyond 100" if rank > 100 else str(rank)


def moved_queries(examples: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The queries that moved most or stand lowest, each with its positive and its first results before and after."""
    parts: list[Html] = []
    for kind, (title, said) in GROUPS.items():
        rows = [example for example in examples if example["kind"] == kind]
        if rows:
            parts += [
                tag("h3", title),
                tag("p", said),
                *(_moved(e, opened=not parts and not i) for i, e in enumerate(rows)),
            ]
    return section("examples", "Queries that moved most, and those still lowest", *parts, short="Queries that moved")


def _moved(example: Mapping[str, Any], *, opened: bool) -> Html:
    words = " ".join(str(example["query"])[: 4 * SHORT].split())
    cut = words if len(words) <= SHORT else words[: SHORT - 1].rstrip() + "…"
    ranks = " → ".join(_rank(example[time]) for time in ("before", "after"))
    head = tag("summary", tag("b", f"rank {ranks}"), " ", tag("span", cut, dir="auto"))
    own = [tag("h4", "query"), excerpt(example["query"], most=LONG)] if words != example["query"] else []
    own += [tag("h4", "its positive"), excerpt(example["positive"], most=LONG)]
    found = [
        _neighbours(title, example[key])
        for title, key in (("first results before", "found_before"), ("first results after training", "found_after"))
    ]
    return tag(
        "details", head, *own, tag("div", *found, class_="beside"), class_="example", open="" if opened else None
    )


def _neighbours(title: str, found: Sequence[Mapping[str, Any]]) -> Html:
    right = join([tag("span", "✓ positive", class_="badge good"), " "])
    items = [tag("li", right if hit["positive"] else "", excerpt(hit["text"], most=BRIEF)) for hit in found]
    return tag("div", tag("h4", title), tag("ol", *items) if items else tag("p", "nothing found"))


def _found(title: str, texts: Sequence[str], known: Sequence[str]) -> Html:
    badge = join([tag("span", "new", class_="badge"), " "])
    items = [tag("li", "" if text in known else badge, excerpt(text)) for text in texts]
    return tag("div", tag("h4", title), tag("ol", *items) if items else tag("p", "nothing found"))


def searches(asked: Sequence[Mapping[str, Any]]) -> list[Section]:
    """What searches find before and after, with a mark at what is new."""
    parts = []
    for search in asked:
        before, after = list(search.get("before") or ()), list(search.get("after") or ())
        found = _found("before", before, before), _found("after training", after, before)
        parts += [tag("h3", "“", search["query"], "”"), tag("div", *found, class_="beside")]
    return section("searches", "Searches, before and after", *parts, short="Searches")
