"""The report in a browser: it draws, it answers a pointer, it loads nothing, and it fits a phone."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.evaluation.portrait import MOST, short_texts
from counterpoint.evaluation.report import Story, render
from tests.evaluation.test_figures import contrast
from tests.evaluation.test_report import ATTACK, SPACE, STORY, example

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTILE = [
    ATTACK,
    "half \ud83d",
    "\u202eright to left \u05d0\u05d1",
    "w" * 10_000,
    "</script><img src=x onerror=alert(3)>",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Opened:
    """A page from a file, with everything that it asked for and complained of."""

    def __init__(self, browser: Any, story: Story, folder: Path, **context: Any) -> None:
        self.path = folder / "report.html"
        self.path.write_text(render(story), encoding="utf-8")
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        begun = time.perf_counter()
        self.page.goto(self.path.as_uri())
        self.drawn()
        self.seconds = time.perf_counter() - begun

    def drawn(self) -> None:
        """Wait until every figure of plotly has something in it."""
        self.page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((p) => p.querySelector('.main-svg'))"
        )

    def sound(self) -> bool:
        """Nothing was complained of, and nothing but the file was asked for."""
        return not self.said and set(self.asked) == {self.path.as_uri()}

    def hover(self, time: str, i: int, points: Any) -> Any:
        """Move the mouse onto an item of a map."""
        canvas = self.page.locator(f"#figure-map-{time}")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        wide = box["width"] - 2 - 24  # a border of 1 and the room of 12 on either side
        x, y = (side[i] / 32767 for side in points)
        self.page.mouse.move(box["x"] + 13 + x * wide, box["y"] + 13 + (1 - y) * wide)
        return self.page.locator(".hover")


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    found = Opened(browser, STORY, tmp_path_factory.mktemp("page"), color_scheme="light")
    yield found
    assert found.sound(), (found.said, found.asked)  # after all that the tests did to it
    found.context.close()


INK = """(id) => {
  const canvas = document.getElementById(id), copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const pen = copy.getContext("2d", {willReadFrequently: true}), seen = new Set();
  pen.drawImage(canvas, 0, 0);
  const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 150) seen.add(pixels.slice(i, i + 3).join());
  return [...seen];
}"""
QUERY, CANDIDATE = {"light": "#0b5fc0", "dark": "#5aa9ff"}, {"light": "#b35900", "dark": "#f0a04b"}  # as in report.css
INK_OF = {"light": "#1b1f24"}


def drawn_in(page: Any, when: str, colour: str) -> bool:
    """Whether a map has pixels of this colour, up to the rounding of half-transparent ones."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    seen = np.array([[int(part) for part in pixel.split(",")] for pixel in page.evaluate(INK, f"figure-map-{when}")])
    return bool(len(seen)) and bool((np.abs(seen - wanted).max(1) <= 3).any())


def test_it_is_quiet_and_every_figure_drew_something(opened: Opened) -> None:
    assert opened.sound(), (opened.said, opened.asked)
    marks = opened.page.evaluate(
        "[...document.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.plot path, .plot .point').length)"
    )
    assert len(marks) == 9
    assert all(marks)
    for when in ("before", "after"):
        assert drawn_in(opened.page, when, QUERY["light"])
        assert drawn_in(opened.page, when, CANDIDATE["light"])
        assert not drawn_in(opened.page, when, QUERY["dark"])


def test_pointing_at_an_item_reads_it(opened: Opened) -> None:
    known = SPACE["map"]
    for place, when in enumerate(("before", "after")):
        for i, more in enumerate(["rank beyond 100 → 2", "rank 3 → 1", "candidate"]):
            tip = opened.hover(when, i, known["points"][place])
            assert tip.is_visible()
            assert tip.locator("p").text_content() == known["texts"][i]
            assert more in tip.locator("small").text_content()
            box, whole = tip.bounding_box(), opened.page.viewport_size
            assert 0 <= box["x"] <= box["x"] + box["width"] <= whole["width"]
    opened.page.mouse.move(2, 2)
    assert not opened.page.locator(".hover").is_visible()


def test_an_item_is_ringed_in_both_maps_with_a_line_to_its_mate(opened: Opened) -> None:
    assert not drawn_in(opened.page, "after", INK_OF["light"])
    opened.hover("before", 0, SPACE["map"]["points"][0])
    for place, when in enumerate(("before", "after")):
        assert drawn_in(opened.page, when, INK_OF["light"])
        (x0, y0), (x1, y1) = ([side[i] for side in SPACE["map"]["points"][place]] for i in (0, 2))
        middle = opened.page.evaluate(
            """([id, x, y]) => {
              const canvas = document.getElementById(id), room = 12, wide = canvas.clientWidth - 2 * room;
              const copy = document.createElement("canvas"), pen = copy.getContext("2d", {willReadFrequently: true});
              const at = [room + x / 32767 * wide - 2, room + (1 - y / 32767) * wide - 2].map(Math.round);
              pen.drawImage(canvas, ...at, 5, 5, 0, 0, 5, 5);
              return Math.max(...pen.getImageData(0, 0, 5, 5).data.filter((_, i) => i % 4 === 3));
            }""",
            [f"figure-map-{when}", (x0 + x1) / 2, (y0 + y1) / 2],
        )
        assert middle > 100
    opened.page.mouse.move(2, 2)
    assert not drawn_in(opened.page, "after", INK_OF["light"])


def test_items_are_found_by_their_words(opened: Opened) -> None:
    field = opened.page.get_by_label("Ring items that contain")
    field.fill("O")
    said = opened.page.locator(".find output")
    assert said.text_content().startswith("2 found")  # one dot, two
    read = []
    for _ in range(3):
        field.press("Enter")
        read.append(opened.page.locator(".hover p").text_content())
    assert read == ["one dot", "two", "one dot"]
    field.press("Escape")
    assert not opened.page.locator(".hover").is_visible()
    field.fill("")
    assert said.text_content() == ""


def test_a_bar_is_read_where_one_points(opened: Opened) -> None:
    point = opened.page.locator("#figure-ranks .point path").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = opened.page.locator("#figure-ranks .hoverlayer text").first
    label.wait_for()
    assert "queries" in label.text_content()
    opened.page.mouse.move(2, 2)


def test_everything_is_reached_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.reload()  # or Tab goes on from where an earlier test was
    opened.drawn()
    wanted = page.evaluate(
        """[...document.querySelectorAll('a, button, input, summary')]
          .filter((e) => e.checkVisibility()).map((e) => e.outerHTML)"""
    )
    reached = []
    for _ in range(len(wanted)):
        page.keyboard.press("Tab")
        html, width, style = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
              return [e.outerHTML, parseFloat(s.outlineWidth), s.outlineStyle]; }"""
        )
        assert width >= 2, html[:100]
        assert style != "none", html[:100]
        reached.append(html)
    assert reached == wanted


def test_a_screen_reader_meets_names_and_an_order(opened: Opened) -> None:
    pictures = opened.page.locator("[role=img]").all()
    assert len(pictures) == 11
    assert all(len(picture.get_attribute("aria-label")) > 30 for picture in pictures)
    levels = opened.page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert opened.page.locator("nav").get_attribute("aria-label")
    opened.page.locator("nav a", has_text="Map").click()
    assert opened.page.evaluate("location.hash") == "#map"


TEXTS = "h1, h2, h3, h4, p, li, td, th, dt, dd, summary, a, button, caption, figcaption, small, label, span, b"
COLOURS = """(names) => {
  const seen = [...document.querySelectorAll(names)].filter((e) => e.checkVisibility() && e.textContent.trim());
  return seen.map((e) => {
    let ground = e;
    while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const colours = [getComputedStyle(e).color, getComputedStyle(ground || document.body).backgroundColor];
    return [...colours, e.textContent.trim().slice(0, 40)];
  });
}"""


def as_hex(colour: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_schemes(opened: Opened, scheme: str) -> None:
    opened.page.emulate_media(color_scheme=scheme)
    found = opened.page.evaluate(COLOURS, TEXTS)
    assert len(found) > 100
    signs = {"●", "■"}
    for text, ground, said in found:
        assert contrast(as_hex(text), as_hex(ground)) >= (3 if said in signs else 4.5), said
    ground = as_hex(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert ground == {"light": "#ffffff", "dark": "#11161c"}[scheme]
    # drawings follow without a new start
    lines = opened.page.evaluate("getComputedStyle(document.querySelector('#figure-training .js-line')).stroke")
    assert as_hex(lines) == {"light": "#0b5fc0", "dark": "#5aa9ff"}[scheme]
    assert drawn_in(opened.page, "before", QUERY[scheme])
    assert drawn_in(opened.page, "before", CANDIDATE[scheme])
    opened.page.emulate_media(color_scheme="light")


def test_paper_is_light(opened: Opened) -> None:
    opened.page.emulate_media(color_scheme="dark")
    assert len(opened.page.pdf()) > 20_000  # prints
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert drawn_in(opened.page, "before", QUERY["light"])
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert drawn_in(opened.page, "before", QUERY["dark"])
    opened.page.emulate_media(color_scheme="light")


FITS = "[document.scrollingElement.scrollWidth, innerWidth]"


def test_it_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    found = Opened(browser, STORY, tmp_path, viewport={"width": 390, "height": 844}, has_touch=True)
    wide, screen = found.page.evaluate(FITS)
    assert wide <= screen == 390
    found.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    wide, screen = found.page.evaluate(FITS)
    assert wide <= screen
    canvas = found.page.locator("#figure-map-after")
    canvas.scroll_into_view_if_needed()
    box, (x, y) = canvas.bounding_box(), (side[2] / 32767 for side in SPACE["map"]["points"][1])
    found.page.touchscreen.tap(box["x"] + 13 + x * (box["width"] - 26), box["y"] + 13 + (1 - y) * (box["width"] - 26))
    assert found.page.locator(".hover p").text_content() == "three"
    assert found.sound(), found.said
    found.context.close()


def test_hostile_texts_stay_texts(browser: Any, tmp_path: Path) -> None:
    texts = short_texts(HOSTILE)
    points = [[[0, 8000, 16000, 24000, 32767], [0, 16000, 0, 16000, 32767]]] * 2
    known = {
        "groups": HOSTILE[:5],
        "group": [*range(5)],
        "points": points,
        "texts": texts,
        "mate": [-1] * 5,
        "ranks": [],
    }
    known |= {"of": 5, "told": [HOSTILE[:3], HOSTILE[2:]]}
    hostile = [example("up", text, text, (5, 1), HOSTILE, [*HOSTILE, text]) for text in HOSTILE]
    space = {**SPACE, "map": known, "scores": {**SPACE["scores"], "names": [ATTACK, HOSTILE[2]]}}
    story = replace(
        STORY, space=space, examples=hostile, searches=[{"query": ATTACK, "before": HOSTILE, "after": HOSTILE}]
    )
    found = Opened(browser, story, tmp_path, viewport={"width": 390, "height": 844})
    found.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    wide, screen = found.page.evaluate(FITS)
    assert wide <= screen
    for i, text in enumerate(texts):
        tip = found.hover("before", i, points[0])
        assert tip.locator("p").text_content() == text.encode("utf-8", "replace").decode()
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert found.page.locator("main img").count() == 0
    assert found.sound(), (found.said, found.asked)
    found.context.close()


def test_twenty_thousand_items(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(97, 123, size=(MOST, 300), dtype=np.uint8)
    words[:, ::7] = 32
    texts = short_texts([row.tobytes().decode() for row in words])
    points = [generator.integers(0, 32768, size=(2, MOST)).tolist() for _ in range(2)]
    known = {
        "of": 30_000,
        "groups": ["query", "candidate"],
        "group": [0, 1] * (MOST // 2),
        "points": points,
        "texts": texts,
    }
    known |= {"mate": list(range(MOST)), "ranks": [[101] * MOST] * 2, "told": [texts[:3]] * 12}
    long = "\n".join(["line of code " * 5] * 200)
    full = [
        example(kind, long, long, (9, 8), [long] * 3, [long] * 3) for kind in ("up", "down", "low") for _ in range(4)
    ]
    story = replace(STORY, loss=[1.234567] * 20_000, examples=full, space={**SPACE, "map": known})
    found = Opened(browser, story, tmp_path)
    size = found.path.stat().st_size
    with capsys.disabled():
        print(f"\n{MOST:,} items: {size / 1e6:.2f} MB, drawn after {found.seconds:.2f} s", end=" ")
    assert size < 6_000_000
    assert len(texts[0]) >= 20
    tip = found.hover("after", 7, points[1])
    assert tip.locator("p").text_content() in texts
    assert found.sound(), found.said
    found.context.close()
