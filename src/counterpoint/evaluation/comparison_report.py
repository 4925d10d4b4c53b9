"""The report of a comparison: which training method is best, which are ties, by what protocol, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.evaluation import comparison_figures as figures
from counterpoint.evaluation.comparison_figures import name_of
from counterpoint.evaluation.figures import duration, finite, metric_name, number, span
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.markup import Html, Section, command, drawn, join, section, table, tag
from counterpoint.evaluation.page import page
from counterpoint.evaluation.ranking import Ranking
from counterpoint.evaluation.report import MEANINGS, SCRIPT

OVER = {
    "seeds": "over seeds: would training again, with other seeds, end alike? They say nothing about other questions.",
    "items": "over items: would other questions of this kind end alike? They say nothing about training again.",
}


@dataclass(frozen=True)
class Comparison:
    """Everything the report shows, as plain data.

    Args:
        ranking: of all systems.
        metric: the one that decides.
        trained: the methods; all other systems stand beside them.
        lines: the protocol, line by line.
        values: system -> the metric for each seed.
        others: other metric -> system -> its mean.
        curves: method -> for each seed (step, metric on dev).
        seconds: method -> training seconds of each seed.
        seeds: of the runs.
        notes: what a reader has to know besides.
        chosen: method -> what tuning chose.
        about: command, versions, machine.
        elsewhere: other data -> task, metric, before, and for each method the change of its metric.
    """

    ranking: Ranking
    metric: str
    trained: Sequence[str]
    lines: Mapping[str, str]
    values: Mapping[str, Sequence[float]]
    others: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, Sequence[Sequence[Sequence[float]]]]
    seconds: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    notes: Sequence[str] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def ranks_in_words(ranks: tuple[int, int]) -> str:
    """A range of ranks.

    >>> ranks_in_words((1, 1)), ranks_in_words((2, 4))
    ('1', '2 to 4')
    """
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def against_before(shown: Comparison) -> dict[str, list[str]]:
    """Which methods are better than what you had, which worse, and of which neither is shown, after the correction."""
    found: dict[str, list[str]] = {"better": [], "no difference shown": [], "worse": []}
    pairs = {frozenset((pair.first, pair.second)): pair for pair in shown.ranking.pairs}
    for name in shown.trained:
        pair = pairs[frozenset((name, "before"))]
        found["no difference shown" if not pair.apart else "better" if pair.first == name else "worse"].append(name)
    return found


def verdict_of(shown: Comparison) -> str:
    """Whether any method is better than what you had: better, no difference shown, or worse where all are."""
    found = against_before(shown)
    if found["better"]:
        return "better"
    return "worse" if len(found["worse"]) == len(shown.trained) else "no difference shown"


def headline_of(shown: Comparison) -> str:
    """Who is first, in a few words."""
    leaders = [name_of(name) for name in shown.ranking.leaders]
    if len(leaders) == 1:
        return f"{leaders[0]} is first"
    if len(leaders) == len(shown.ranking.order):
        return "No system can be told from another"
    return (
        f"{listed(leaders)} are tied at the top" if len(leaders) < 5 else f"{len(leaders)} systems are tied at the top"
    )


def sentence_of(shown: Comparison) -> str:
    """Who is first, by which numbers, and who is better than what you had."""
    ranking, metric = shown.ranking, metric_name(shown.metric)
    values = listed([number(ranking.values[name].value) for name in ranking.leaders[:4]])
    said = [f"{headline_of(shown)}: {metric} {values}" + (" ..." if len(ranking.leaders) > 4 else "")]
    had = f"what you had ({number(ranking.values['before'].value)})"
    words = {"better": "better than", "no difference shown": "no difference shown to", "worse": "worse than"}
    for verdict, names in against_before(shown).items():
        if names:
            said.append(f"{words[verdict]} {had}: {listed(names)}")
            had = "it"
    return "; ".join(said)


def _signed(interval: Interval) -> str:
    return span(interval._asdict(), sign=True)


def _head(shown: Comparison, sections: Sequence[Section]) -> Html:
    ranking = shown.ranking
    rest = sentence_of(shown).removeprefix(headline_of(shown)).removeprefix(": ")
    notes = [tag("li", note) for note in shown.notes]
    box = [tag("h1", headline_of(shown)), tag("p", rest[:1].upper() + rest[1:], ".")]
    box += [tag("ul", *notes)] if notes else []
    first = next(name for name in ranking.order if name in shown.trained)
    gain, total = ranking.between(first, "before"), sum(sum(s) for s in shown.seconds.values())
    count = sum(len(s) for s in shown.seconds.values())
    facts = [
        ("highest of the methods", first, f"{metric_name(shown.metric)} {number(ranking.values[first].value)}"),
        ("less what you had", number(gain.value, sign=True), _signed(gain).partition(" ")[2].strip("()")),
        ("runs", f"{count}", f"{len(shown.trained)} methods, {len(shown.seeds)} seeds"),
        ("training took", duration(total), "all runs together"),
    ]
    told = [tag("div", tag("dt", name), tag("dd", value, tag("small", more))) for name, value, more in facts]
    links = [tag("li", tag("a", one.title, href=f"#{one.name}")) for one in sections]
    return tag(
        "header",
        tag("p", f"Comparison of training methods: {shown.lines.get('protocol', '')}", class_="about"),
        tag("div", *box, class_=f"verdict {verdict_of(shown).split()[0]}"),
        tag("dl", *told, class_="facts"),
        tag("nav", tag("ul", *links), aria_label="on this page"),
    )


def _ranking(shown: Comparison) -> list[Section]:
    ranking, metric = shown.ranking, metric_name(shown.metric)
    first = ranking.order[0]
    head = [
        "system",
        "rank",
        "ties",
        f"{metric} (95 % interval)",
        f"less {name_of(first)}",
        "less what you had",
        "training",
    ]
    rows = []
    for system in ranking.order:
        gaps = ["-" if system == other else _signed(ranking.between(system, other)) for other in (first, "before")]
        seconds = shown.seconds.get(system)
        took = duration(sum(seconds) / len(seconds)) if seconds else "-"
        own = [ranks_in_words(ranking.ranks[system]), ranking.letters[system], span(ranking.values[system]._asdict())]
        rows.append([name_of(system), *own, *gaps, took])
    said = (
        "Systems that share a letter are ties: after Holm's correction for all pairs they cannot be told apart at 5 %. "
        "A rank is the range that this leaves. Each interval is for itself alone, so one may exclude 0 where the "
        f"correction still says a tie. Intervals are {OVER[ranking.over]}"
    )
    figure = figures.draw_values(ranking, shown.values, metric=shown.metric, trained=shown.trained, seeds=shown.seeds)
    meaning = MEANINGS.get(shown.metric.partition("@")[0])
    explained = tag("p", f"{metric}: {meaning}", class_="muted") if meaning else Html()
    parts = [tag("p", said), table("All systems, the best first", head, rows, stacked=True), explained, drawn(figure)]
    return section("ranking", "Ranking", *parts)


def _pairs(shown: Comparison) -> list[Section]:
    tested = sum(p.p is not None for p in shown.ranking.pairs)
    alike = {"seeds": "the same seed", "items": "the same questions"}[shown.ranking.over]
    said = f"Each two systems on {alike}; {tested} pairs were tested and corrected together."
    figure = drawn(figures.draw_pairs(shown.ranking, metric=shown.metric))
    return section("pairs", "Each against each", tag("p", said), figure) if figure else []


def _curves(shown: Comparison) -> list[Section]:
    figure = drawn(figures.draw_curves(shown.curves, metric=shown.metric))
    return section("curves", "Learning curves", figure)


def _cost(shown: Comparison) -> list[Section]:
    figure = figures.draw_cost(shown.ranking, shown.values, shown.seconds, metric=shown.metric)
    return section("cost", "Cost against quality", drawn(figure))


def _others(shown: Comparison) -> list[Section]:
    if not shown.others:
        return []
    head = ["system", *(metric_name(m) for m in shown.others)]
    rows = [[name_of(s), *(number(values[s]) for values in shown.others.values())] for s in shown.ranking.order]
    said = "Means over seeds. The ranking is by one metric alone, which was fixed before anything trained."
    return section("others", "Other metrics", tag("p", said), table("Means", head, rows))


def _elsewhere(shown: Comparison) -> list[Section]:
    if not shown.elsewhere:
        return []
    head = ["other data", "metric", "before", *(name_of(s) for s in shown.trained)]
    rows = []
    for name, one in shown.elsewhere.items():
        changes = [one["changes"][s] for s in shown.trained]
        cells = [[_signed(c), tag("b", " forgotten") if (finite(c.high) or 0) < 0 else ""] for c in changes]
        rows.append([name, metric_name(one["metric"]), number(one["before"]), *(join(cell) for cell in cells)])
    said = "How much each method changed on data that it did not train for. Forgotten: the interval lies below 0."
    return section("elsewhere", "On other data", tag("p", said), table("Change", head, rows, stacked=True))


def _protocol(shown: Comparison) -> list[Section]:
    parts = [table("What is the same for all runs", ["what", "how"], list(shown.lines.items()))]
    if any(words != "defaults" for words in shown.chosen.values()):
        parts.append(table("What tuning chose", ["training method", "chosen"], list(shown.chosen.items())))
    return section("protocol", "The protocol", *parts)


def _repeat(shown: Comparison) -> list[Section]:
    about = shown.about
    rows = [*(about.get("versions") or {}).items()]
    for name, value in (about.get("machine") or {}).items():
        said = f"{value / 1e9:.1f} GB" if name.endswith("_bytes") and value else value
        rows += [] if value is None else [(name.removesuffix("_bytes"), said)]
    parts = [command(about["command"])] if about.get("command") else []
    parts.append(tag("p", "The same command again trains nothing new; with more seeds or methods it adds those."))
    parts += [table("Versions and machine", ["what", "value"], rows)] if rows else []
    return section("repeat", "How to repeat it", *parts)


def render_comparison(shown: Comparison) -> str:
    """The whole page; the same for the same comparison.

    Args:
        shown: all that is known of it.

    Returns:
        html with plotly.js inlined once, about 5 MB.
    """
    parts = (_ranking, _pairs, _elsewhere, _curves, _cost, _others, _protocol, _repeat)
    sections = [one for part in parts for one in part(shown)]
    title = f"{headline_of(shown)} - comparison of training methods"
    return page(title, _head(shown, sections), sections, script=SCRIPT, style=figures.STYLE)
