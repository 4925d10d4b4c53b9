"""A page that is one file: its sections, its style, its scripts, and a law for the browser that lets nothing else in."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib import resources

from counterpoint.evaluation.markup import Html, Section, tag


def _allowed(*scripts: str) -> str:
    """The page's own law for the browser: these scripts run, nothing else does, and nothing is loaded from anywhere."""
    hashes = " ".join(f"'sha256-{b64encode(sha256(s.encode()).digest()).decode()}'" for s in scripts) or "'none'"
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {hashes}; {rest}"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n")  # as the browser reads it, or the hash is another


def page(title: str, header: Html, sections: Sequence[Section], *, script: str | None, style: str = "") -> str:
    """The whole page; the same for the same parts.

    Args:
        title: of the window.
        header: what stands before the sections.
        sections: what it is made of.
        script: runs after plotly.js; None: a page without scripts.
        style: css beside that of report.css.

    Returns:
        html; with plotly.js inlined once, about 5 MB.
    """
    scripts = [] if script is None else [_plotly(), script]
    common = resources.files("counterpoint.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    main = [tag("section", tag("h2", s.title, id=s.name), s.body, aria_labelledby=s.name) for s in sections]
    head = [
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_allowed(*scripts)}">'),
        tag("title", title.strip()),
        tag("style", Html(common + style)),
    ]
    foot = tag("footer", "Written by counterpoint. This page is one file: it loads nothing and sends nothing.")
    body = [header, tag("main", *main), foot, *(tag("script", Html(s)) for s in scripts)]
    whole = f'<!doctype html>\n<html lang="en">\n{tag("head", *head)}\n{tag("body", *body)}\n</html>\n'
    return whole.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written to a file
