"""Why two texts are alike: which token of one matches which of the other, as numbers that add up to the score, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from counterpoint.encoders.text import TextEncoder, inference
from counterpoint.encoders.tokens import has_tokens, named_sets
from counterpoint.evaluation.markup import Html, Section, join, section, table, tag
from counterpoint.evaluation.page import page
from counterpoint.objectives import transport

SHOWN = 12  # matches that are named
STYLE = """
.heat { overflow-x: auto; }
.heat table { min-width: 0; border-collapse: separate; border-spacing: 2px; }
.heat th, .heat td { padding: 4px 8px; border: 0; text-align: right; white-space: nowrap; }
.heat thead th { text-align: center; }
.heat tbody th { position: sticky; left: 0; background: var(--page); }
.heat td { min-width: 44px; border-radius: 4px; background: var(--panel); color: var(--muted); font-size: 0.8rem; }
.heat td.some { color: var(--ink); background: color-mix(in srgb, var(--after) var(--share), var(--panel)); }
.heat td.less { color: var(--ink); background: color-mix(in srgb, var(--bad) var(--share), var(--panel)); }
"""
FULL = 55  # percent of colour of the largest entry: the ink can be read on it, dark or light


class HeatMap(NamedTuple):
    """The tokens of two texts and what each pair of them adds to the score of the texts.

    Args:
        left, right: tokens, as the tokenizer calls them.
        matrix: [t u]; adds up to the score.
    """

    left: list[str]
    right: list[str]
    matrix: Float[Tensor, "t u"]

    @property
    def score(self) -> float:
        """How alike the texts are, at most 1."""
        return float(self.matrix.sum())


def heat_map(encoder: TextEncoder, a: str, b: str, *, tokens: int = 64) -> HeatMap:
    """What each pair of tokens adds to the relaxed transport of two texts (RCMD).

    Args:
        encoder: a transformer; best one that `clrcmd` trained, whose tokens were made for it.
        a, b: the texts, as anchor and as positive.
        tokens: of a text that are read.

    References:
        Lee et al. 2022, arXiv:2202.13196, section 4.3.

    >>> from counterpoint.encoders.text import load
    >>> found = heat_map(load("sentence-transformers/all-MiniLM-L6-v2"), "a cat", "a cat")
    >>> found.left, round(found.score, 4), found.matrix.argmax(1).tolist()
    (['[CLS]', 'a', 'cat', '[SEP]'], 1.0, [0, 1, 2, 3])
    """
    with inference(encoder):
        (x, (left,)), (y, (right,)) = (
            named_sets(encoder, [text], role, tokens=tokens) for text, role in ((a, "anchor"), (b, "positive"))
        )
        whole = transport.heat_map(transport.rcmd(), x.z, y.z, x_mask=x.mask, y_mask=y.mask)[0]
        return HeatMap(left, right, whole[: len(left), : len(right)].clone().cpu())


def render(found: HeatMap, a: str, b: str, *, trained: bool = True) -> str:
    """A page that shows a heat map: one file without scripts, which loads nothing.

    Args:
        found: the map.
        a, b: the texts.
        trained: whether the model was trained to be read token by token; else the page says that it was not.
    """
    note = (
        ""
        if trained
        else tag("p", "This model was not trained to be compared token by token: --recipe clrcmd does.", class_="muted")
    )
    header = tag(
        "header",
        tag("p", "counterpoint explain", class_="about"),
        tag("h1", f"Alike by {found.score:.3f}"),
        tag("dl", *(tag("div", tag("dt", n), tag("dd", t)) for n, t in (("text", a), ("with", b))), class_="facts"),
        note,
    )
    sections: list[Section] = [
        *section("map", "Which token matches which", _explained(), _drawn(found)),
        *section("matches", "The strongest matches", _matches(found)),
    ]
    return page("counterpoint explain", header, sections, script=None, style=STYLE)


def _explained() -> Html:
    words = (
        "Each token is matched to the one of the other text that is most like it, in both directions. A number is what a pair "
        "of tokens adds to the score, in thousandths; all of them add up to it. Rows are the tokens of the first text, columns "
        "those of the second."
    )
    return tag("p", words)


def _drawn(found: HeatMap) -> Html:
    largest = max(float(found.matrix.abs().max()), 1e-12) if found.matrix.numel() else 1.0
    head = tag("tr", tag("th", ""), *(tag("th", token, scope="col") for token in found.right))
    rows = [
        tag("tr", tag("th", token, scope="row"), *(_cell(value, largest) for value in row))
        for token, row in zip(found.left, found.matrix.tolist(), strict=True)
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag("div", whole, class_="heat", tabindex="0", role="region", aria_label="heat map")


def _cell(value: float, largest: float) -> Html:
    share = abs(value) / largest
    if round(1000 * value) == 0:
        return tag("td", "")
    kind = "some" if value > 0 else "less"
    return tag("td", f"{1000 * value:.0f}", class_=kind, style=f"--share: {FULL * share:.0f}%")


def _matches(found: HeatMap) -> Html:
    if not found.matrix.numel():
        return Html()
    values, at = found.matrix.flatten().topk(min(SHOWN, found.matrix.numel()))
    pairs: list[Sequence[object]] = [
        (found.left[i // len(found.right)], found.right[i % len(found.right)], f"{value:.3f}")
        for value, i in zip(values.tolist(), at.tolist(), strict=True)
        if value > 0
    ]
    return join([table("What they add to the score", ("token", "matches", "adds"), pairs)])


def explained(encoder: TextEncoder, a: str, b: str, *, tokens: int = 64) -> tuple[HeatMap, str]:
    """The heat map of two texts, and its page.

    Args:
        encoder: a transformer.
        a, b: the texts.
        tokens: of a text that are read.
    """
    found = heat_map(encoder, a, b, tokens=tokens)
    return found, render(found, a, b, trained=has_tokens(encoder))
