"""The embedding space in the report: a map to point at, scores and cut-offs, how near, how even, how many directions."""

from __future__ import annotations

import json
from array import array
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib import resources
from sys import byteorder
from typing import Any

from counterpoint.evaluation.figures import SYSTEMS, percent
from counterpoint.evaluation.figures_space import TIMES, draw_plane, draw_scores, draw_spectrum, effective_dimensions
from counterpoint.evaluation.markup import Html, Section, drawn, embedded, section, table, tag

SIGNS = "●■▲◆▼✚✖★⬟⬢"  # of the groups of a map, in the order in which map.js draws them
CAVEAT = (
    "Each dot is an item of the test, laid out by t-SNE of the cosines. Near neighbours are meant; the distance between "
    "clusters, and their size, is not. The second map starts from the first and is turned to it, so that what did not change "
    "keeps its place as far as it can."
)
NOT_TO_SAY = (
    "Hardly any of the other pairs scored 0.5 or more before, so they cannot say where such a cut-off has to go."
)
STAY = "Fixed cut-offs may stay where they are: as many other pairs pass as before."
FEW_PASS = 5  # pairs that a cut-off has to rest on


def map_script() -> str:
    """What draws the maps in the browser."""
    return resources.files("counterpoint.evaluation").joinpath("map.js").read_text(encoding="utf-8")


def space_map(found: Mapping[str, Any]) -> list[Section]:
    """The map of the test items before and after, with the text of each where one points."""
    if not found:
        return []
    shown, groups = len(found["texts"]), found["groups"]
    how_many = f"{shown:,} items" if shown == found["of"] else f"{shown:,} of {found['of']:,} items, drawn at random"
    signs = [
        tag("li", tag("span", SIGNS[i], aria_hidden="true", style=f"color:var(--group-{i})"), " ", name)
        for i, name in enumerate(groups)
    ]
    sizes = ", ".join(f"{found['group'].count(i):,} {name}" for i, name in enumerate(groups))
    maps = [
        tag(
            "figure",
            tag("figcaption", SYSTEMS[time]),
            tag(
                "canvas", id=f"figure-map-{time}", role="img", aria_label=f"Map of {how_many} {SYSTEMS[time]}: {sizes}."
            ),
        )
        for time in TIMES
    ]
    find = tag("label", "Ring items that contain ", Html('<input type="search" id="map-find">'))
    head = ["item", *(f"nearest to it, {SYSTEMS[time]}" for time in TIMES)]
    words = tag(
        "details",
        tag("summary", "Some items and their neighbours as a table"),
        table(
            "Some items and the nearest other item in the whole space, not on the map",
            head,
            found["told"],
            stacked=True,
        ),
    )
    hint = f"{how_many}. Point at a dot, or tap it, to read it: the same item is ringed in the other map"
    hint += ", and a line leads to what it belongs with." if max(found["mate"]) >= 0 else "."
    box = [
        tag("ul", *signs, class_="signs"),
        tag("p", find, " ", tag("output", for_="map-find"), class_="find", hidden=""),
        tag("div", *maps, class_="beside"),
        embedded(_packed(found)),
        tag("div", class_="hover", role="status", hidden=""),
    ]
    return section(
        "map",
        "Map of the test items",
        tag("p", hint),
        tag("div", *box, class_="map"),
        tag("p", CAVEAT, class_="muted"),
        words,
    )


def _packed(found: Mapping[str, Any]) -> str:
    """The map as json: numbers in base64, each text once for both maps."""
    packed = {
        "texts": found["texts"],
        "groups": found["groups"],
        "group": _numbers("B", found["group"]),
        "mate": _numbers("h", found["mate"]),
        "points": [[_numbers("h", side) for side in of_one] for of_one in found["points"]],
        "ranks": [_numbers("B", of_one) for of_one in found["ranks"]],
        "times": [SYSTEMS[time] for time in TIMES],
    }
    return json.dumps(packed, ensure_ascii=False, separators=(",", ":"))


def _numbers(kind: str, values: Sequence[int]) -> str:
    """Whole numbers as little-endian bytes in base64."""
    packed = array(kind, values)
    if byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()


def space_scores(scores: Mapping[str, Any], shift: Sequence[Mapping[str, float]]) -> list[Section]:
    """How scores of positive and negative pairs are spread, and where a fixed cut-off has to go."""
    if not scores:
        return []
    positive, negative = (sum(kind) for kind in scores["counts"][0])
    yes, no = (name.capitalize() for name in scores["names"])
    said = f"{yes}: {positive:,}. {no}: {negative:,}, drawn at random where there are more. "
    said += "The further apart the two lie, the better one cut-off tells them apart."
    useful = [line for line in shift if round(line["false_positives"] * negative) >= FEW_PASS]
    parts = [tag("p", said), drawn(draw_scores(scores))]
    moved = [line for line in useful if line["kept"] != line["false_positives"]]
    parts.append(tag("p", *(_said(moved[len(moved) // 2]) if moved else [STAY if useful else NOT_TO_SAY])))
    if moved:
        head = ["accepted from", "accept now from", "others that pass", "if you leave it", "positives that pass"]
        caption = "Fixed cut-offs, moved so that as many other pairs pass as before"
        parts.append(table(caption, head, [_cut_off(line, negative) for line in useful], stacked=True))
    if useful and len(useful) < len(shift):
        first = min(line["threshold"] for line in shift if line not in useful)
        parts.append(
            tag(
                "p",
                f"From {first:.1f} on fewer than {FEW_PASS} of the other pairs passed: too few to move a cut-off by.",
            )
        )
    return section("scores", "Scores and cut-offs", *parts)


def _said(line: Mapping[str, float]) -> list[object]:
    """One cut-off in a sentence."""
    recalls = [percent(line[key]) for key in ("recall_after", "recall_before")]
    moved = f"If you accepted pairs from {line['threshold']:.1f} on, accept from {line['moved']:.2f} on now:"
    kept = f" as many other pairs pass as before, and {recalls[0]} of the positives instead of {recalls[1]}."
    return ["A fixed cut-off means something else after training. ", tag("strong", moved), kept]


def _cut_off(line: Mapping[str, float], negative: int) -> list[object]:
    passed, left = (round(line[key] * negative) for key in ("false_positives", "kept"))
    recalls = " → ".join(percent(line[key]) for key in ("recall_before", "recall_after"))
    return [
        f"{line['threshold']:.1f}",
        f"{line['moved']:.2f}",
        f"{passed:,} of {negative:,}",
        f"{left:,} others pass",
        recalls,
    ]


def space_shape(plane: Mapping[str, Any], spectra: Sequence[Sequence[float]]) -> list[Section]:
    """Alignment and uniformity, and the spectrum."""
    pictures, said = [], []
    if plane:
        pictures.append(drawn(draw_plane(plane)))
        said.append("Good training moves to the lower left: positive pairs closer, all items more evenly spread.")
    if len(spectra):
        pictures.append(drawn(draw_spectrum(spectra)))
        of = [f"{_counted(effective_dimensions(values))} of {len(values)}" for values in spectra]
        same = f"The items use about {of[0]} directions before and {of[1]} after training"
        said.append(
            f"{same} (the exponential of the entropy of their shares of the variance); few directions are collapse."
        )
    body = [tag("p", " ".join(said)), tag("div", *pictures, class_="beside")] if pictures else []
    return section("shape", "The shape of the space", *body)


def _counted(dimensions: float) -> str:
    return f"{dimensions:.1f}" if dimensions < 10 else f"{dimensions:.0f}"
