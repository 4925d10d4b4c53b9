"""Markup: elements that escape what they are given, and the pieces that the report is made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from counterpoint.evaluation.figures import Figure

SHOWN_LINES, SHOWN_CHARACTERS = 6, 320  # of a text, before the expander
FEW_CHARACTERS = 80  # so little is not worth a click
MOST_CHARACTERS = 4_000  # of a text in all: a report is read, not searched


class Html(str):
    """Text that is markup already. Everything else is escaped before it reaches the page."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of the page with a heading, and what a link to it is called."""

    name: str
    title: str
    body: Html
    short: str


def section(name: str, title: str, *parts: Html, short: str | None = None) -> list[Section]:
    """No section where there is nothing to show."""
    body = join(parts)
    return [Section(name, title, body, short or title)] if body else []


def tag(element: str, *inside: object, **attributes: object) -> Html:
    """An element; what is inside is escaped unless it is Html, attributes always are, None leaves one out.

    >>> tag("p", "a < b, ", tag("b", "c"), class_="note")
    '<p class="note">a &lt; b, <b>c</b></p>'
    """
    known = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{escape(str(value))}"' for key, value in known.items())
    return Html(f"<{element}{written}>{join(inside)}</{element}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, escaped unless they are Html; the empty ones are left out."""
    return Html(between.join(part if isinstance(part, Html) else escape(str(part)) for part in parts if part != ""))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, stacked: bool = False) -> Html:
    """A table whose first column names the rows; a stacked one turns into blocks in a narrow window."""
    # the roles are what a browser says by itself, until the stylesheet turns cells into blocks
    names = tag("tr", *(tag("th", name, scope="col", role="columnheader") for name in head), role="row")
    body = []
    for first, *others in rows:
        cells = [tag("th", first, scope="row", role="rowheader", data_label=head[0])]
        cells += [tag("td", cell, role="cell", data_label=name) for name, cell in zip(head[1:], others, strict=True)]
        body.append(tag("tr", *cells, role="row"))
    parts = tag("thead", names, role="rowgroup"), tag("tbody", *body, role="rowgroup")
    return tag("table", tag("caption", caption), *parts, role="table", class_="stacked" if stacked else None)


def embedded(data: str) -> Html:
    """Json in the page, which no text in it can end."""
    return tag("script", Html(data.replace("<", "\\u003c")), type="application/json")


def drawn(figure: Figure | None) -> Html:
    """A figure with its title, its text alternative and its numbers as a table."""
    if figure is None:
        return Html()
    data = json.dumps(figure.drawing, sort_keys=True, allow_nan=False)
    return tag(
        "figure",
        tag("figcaption", figure.title),
        tag("div", id=f"figure-{figure.name}", class_="plot", role="img", aria_label=figure.label),
        embedded(data),
        tag("details", tag("summary", "The numbers as a table"), table(figure.title, figure.head, figure.rows)),
    )


def excerpt(text: object, most: int = MOST_CHARACTERS) -> Html:
    """The beginning of a text, and the rest behind an expander, up to so many characters in all."""
    whole = str(text).strip("\n")
    kept = whole[:most]
    shown = "\n".join(kept.split("\n")[:SHOWN_LINES])
    if len(shown) > SHOWN_CHARACTERS:
        shown = shown[:SHOWN_CHARACTERS].rsplit(maxsplit=1)[0]
    if len(whole) - len(shown) < FEW_CHARACTERS:
        shown = whole
    rest = kept[len(shown) :].strip("\n")
    element = "pre" if "\n" in whole else "p"
    parts = [tag(element, shown, dir="auto")]
    if rest.strip():
        lines = rest.count("\n") + 1
        more = f"{lines:,} more lines" if lines > 1 else f"{len(rest):,} more characters"
        left = f"{len(whole) - len(kept):,} more characters are left out here" if len(whole) > len(kept) else ""
        parts.append(tag("details", tag("summary", more), tag(element, rest, dir="auto"), left))
    return tag("div", *parts, class_="text")


def command(text: object) -> Html:
    """A command in a box that copies it."""
    return tag("div", tag("code", text), tag("button", "Copy", type="button", hidden=""), class_="copy")
