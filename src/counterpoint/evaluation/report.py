"""The report of a run: one html file that says whether the model is better, shows why, and needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.evaluation import figures
from counterpoint.evaluation.figures import change_in_words, duration, finite, metric_name, number, percent, span
from counterpoint.evaluation.health import draw_health, said_of
from counterpoint.evaluation.markup import Html, Section, command, drawn, join, section, table, tag
from counterpoint.evaluation.page import page
from counterpoint.evaluation.report_queries import moved_queries, searches
from counterpoint.evaluation.report_space import map_script, space_map, space_scores, space_shape

WORDS = {
    "worse": "Worse: keep what you had",
    "no difference shown": "No difference shown",
    "better": "Better than what you had",
}
ICONS = {"worse": "M5 11l7 8 7-8M12 19V4", "no difference shown": "M5 9h14M5 15h14", "better": "M5 13l7-8 7 8M12 5v15"}
MEANINGS = {
    "mrr": "1 divided by the rank of a query's first positive (0 beyond rank k), averaged over queries; 1 is perfect.",
    "recall": "the share of a query's positives that stand among its first k results, averaged over the queries.",
    "ndcg": "like recall, but a positive counts the more the higher it stands; 1 is the best possible order.",
    "spearman": "how well the order of the similarities follows the given values; 1 is the same order, 0 is chance.",
    "accuracy": "the share of texts whose k nearest labelled texts (kNN) vote for the right class.",
}  # fmt: skip
BESIDE = {
    "bm25": "BM25, word search without a model,",
    "raw": "The distance of the numbers themselves, without a model,",
    "pca": "The distance in principal components, without training,",
    "random": "The same encoder with random weights",
}
MOVED = ("before", "after", "difference")
PHASES = {"read": "reading the data", "before": "measuring before", "train": "training", "after": "measuring after"}
LEVELS = {"warn": "warning", "refuse": "serious, allowed on request"}
SCRIPT = """
const root = document.documentElement, plots = [...document.querySelectorAll(".plot")];
const drawings = plots.map((plot) => plot.nextElementSibling.textContent);
function draw(width) {
  const style = getComputedStyle(root);
  const coloured = (_, v) =>
    typeof v === "string" && v.startsWith("var(--") ? style.getPropertyValue(v.slice(4, -1)).trim() : v;
  plots.forEach((plot, i) => {
    const {data, layout} = JSON.parse(drawings[i], coloured);
    Plotly.react(plot, data, {...layout, width}, {displayModeBar: false, responsive: true});
  });
}
function print(on) { root.classList.toggle("paper", on); draw(on ? 640 : undefined); }
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
document.querySelectorAll(".copy button").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code);
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
    catch { button.textContent = "Selected"; }
  });
});
"""


@dataclass(frozen=True)
class Story:
    """Everything the report shows, as plain data; a part that is missing or empty is left out.

    Args:
        run: run.json: command, training method ("recipe"), model, settings, roles, split, findings, versions.
        metrics: metrics.json: verdict, sentence; value, low, high of each metric before, after and of the difference.
        cost: cost.json: seconds, bytes, machine.
        loss: of each step.
        dev: (step, deciding metric on the dev rows).
        ranks: rank of the first positive of each query, before and after; 1-based, 101 is beyond 100.
        examples: queries that moved most ("kind" up or down) or stand lowest ("low"): query, positive, ranks before and after,
            and first results found_before and found_after, each with "text" and whether it is "positive".
        searches: query, before and after, the latter two lists of texts, the best first.
        token_lengths: role -> token counts of a sample of its texts.
        health: readings and findings, as `training.health.Health.record` gives them.
        space: map, scores, shift, plane, spectrum, as `evaluation.portrait.portrait` gives them.
    """

    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    cost: Mapping[str, Any]
    loss: Sequence[float]
    dev: Sequence[tuple[int, float]]
    ranks: tuple[Sequence[int], Sequence[int]] | None
    examples: Sequence[Mapping[str, Any]]
    searches: Sequence[Mapping[str, Any]]
    token_lengths: Mapping[str, Sequence[int]]
    health: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)


def judged(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict and its sentence: the less favourable of what is stated and what the interval shows.

    >>> change = {"value": 0.1, "low": -0.1, "high": 0.3}
    >>> judged({"metric": "mrr@10", "verdict": "better", "difference": {"mrr@10": change}})
    ('no difference shown', 'MRR@10 changed by +0.100 (-0.100 to +0.300), and that interval contains 0.')
    """
    difference = (metrics.get("difference") or {}).get(metrics.get("metric"), {})
    stated, shown = str(metrics.get("verdict", "no difference shown")).split(",")[0], change_in_words(difference)
    verdict = min(stated if stated in WORDS else "no difference shown", shown, key=list(WORDS).index)
    if verdict == stated and metrics.get("sentence"):
        return verdict, str(metrics["sentence"])
    if finite(difference.get("value")) is None:
        return verdict, "There is nothing to compare: no difference was measured."
    within = ", and that interval contains 0." if shown == "no difference shown" else "."
    return verdict, f"{metric_name(metrics['metric'])} changed by {span(difference, sign=True)}{within}"


def _asked(metrics: Mapping[str, Any]) -> str:
    queries, others = f"{metrics.get('queries', 0):,}", f"{metrics.get('candidates', 0):,}"
    if metrics.get("metric") == "spearman":
        return f"{queries} pairs of {metrics.get('items', 'texts')}"
    if metrics.get("metric") == "accuracy":
        return f"{queries} {metrics.get('items', 'texts')}, told from {others} labelled ones"
    return f"{queries} queries, each among {others} candidates"


def _notes(story: Story, verdict: str) -> list[str]:
    """What a person who stops reading after the verdict has to know besides."""
    metrics, main = story.metrics, story.metrics.get("metric", "")
    differences, after = metrics.get("difference") or {}, metrics.get("after") or {}
    notes = []
    for name in figures.metrics_order(metrics):
        change = change_in_words(differences.get(name, {}))
        if name != main and change not in (verdict, "no difference shown"):
            notes.append(f"{metric_name(name)} got {change}: {span(differences[name], sign=True)}.")
    for name, said in BESIDE.items():
        other, own = (finite((x.get(main) or {}).get("value")) for x in (metrics.get(name) or {}, after))
        if other is not None and own is not None and other > own:
            notes.append(f"{said} scores {number(other)}, the trained model {number(own)}.")
    notes += [f"Before means {metrics['had']}."] if metrics.get("had") else []
    lost = [name for name, one in (metrics.get("others") or {}).items() if one["verdict"] == "forgotten"]
    notes += [f"It got worse on other data: {', '.join(lost)}. See On other data."] if lost else []
    main_one = differences.get(main, {})
    if finite(main_one.get("low")) is not None and main_one["low"] == main_one.get("high") != 0:
        notes.append("The interval has no width: too few independent groups of queries to tell the change from chance.")
    if story.run.get("best_step") == 0 and len(story.loss):
        notes.append("No step beat the start on the dev rows, so the model is the one you had.")
    for role, length in (story.run.get("lengths") or {}).items():
        share = finite(length.get("cut")) or 0
        if share > 0.5:
            longer = f"longer than {length['tokens']} tokens and lose their end"
            notes.append(f"Most texts of the {role} ({percent(share)}) are {longer}.")
    sick = len(story.health.get("findings") or ())
    notes += [f"While training, {sick} thing{'s' * (sick > 1)} went wrong: see Health of the training."] if sick else []
    warned = len(story.run.get("findings") or ())
    return notes + ([f"The data has {warned} finding{'s' * (warned > 1)} to look at."] if warned else [])


def _fact(name: str, value: str, more: str = "") -> Html:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else ""))


def _parted(difference: Mapping[str, Any]) -> tuple[str, str]:
    value, _, interval = span(difference, sign=True).partition(" (")
    return value, f"95 % interval {interval.rstrip(')')}" if interval else ""


def _head(story: Story, groups: Mapping[str, Sequence[Section]]) -> Html:
    run, metrics, (verdict, sentence) = story.run, story.metrics, judged(story.metrics)
    main = metrics.get("metric", "")
    before, after, difference = ((metrics.get(x) or {}).get(main, {}) for x in ("before", "after", "difference"))
    icon = Html(f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{ICONS[verdict]}"/></svg>')
    notes = [tag("li", note) for note in _notes(story, verdict)]
    box = tag("h1", icon, WORDS[verdict]), tag("p", sentence), tag("ul", *notes) if notes else ""
    phases = story.cost.get("seconds") or {}
    seconds = phases.get("training", phases.get("train"))
    steps = f"{run.get('steps', 0):,} steps on {run.get('device', 'an unknown device')}"
    values = f"{number(before.get('value'))} → {number(after.get('value'))}"
    facts = [
        _fact(metric_name(main), values, "before → after training"),
        _fact("difference", *_parted(difference)),
        _fact("asked", *_asked(metrics).split(" ", 1)),
    ] if after else []  # fmt: skip
    facts += [_fact("training took", duration(seconds), steps)] if seconds is not None else []
    known = [f"{name} {run[key]}" for name, key in (("Training method", "recipe"), ("model", "model")) if run.get(key)]
    about = ", ".join(known + ([f"{run['rows']:,} rows"] if run.get("rows") else []))
    links = [
        tag("li", group, tag("ul", *(tag("li", tag("a", s.short, href=f"#{s.name}")) for s in sections)))
        for group, sections in groups.items()
        if sections
    ]
    return tag(
        "header",
        tag("p", about, class_="about"),
        tag("div", *box, class_=f"verdict {verdict.split()[0]}"),
        tag("dl", *facts, class_="facts") if facts else "",
        tag("nav", tag("ul", *links), aria_label="on this page") if links else "",
    )


def _proof(story: Story) -> list[Section]:
    metrics = story.metrics
    order = figures.metrics_order(metrics)
    if not order:
        return []
    pictures = [drawn(figures.draw_metrics(metrics)), drawn(figures.draw_difference(metrics))]
    asked = f"Asked: {_asked(metrics)}. A 95 % interval holds the values that other questions of this kind might give"
    asked += f" ({metrics['resampled']} are independent)." if metrics.get("resampled") else "."
    meanings: dict[str, list[str]] = {}
    for metric in order:
        meanings.setdefault(MEANINGS.get(metric.partition("@")[0], ""), []).append(metric_name(metric))
    explained = [
        part for text, names in meanings.items() if text for part in (tag("dt", ", ".join(names)), tag("dd", text))
    ]
    listed = tag("dl", *explained, class_="plain") if explained else Html()
    return section("proof", "Before and after", tag("p", asked), tag("div", *pictures, class_="beside"), listed)


def _others(story: Story) -> list[Section]:
    """What the model was measured on besides: what it must not forget."""
    rows = []
    for name, one in (story.metrics.get("others") or {}).items():
        metric = one["metric"]
        old, new, change = (span(one[part].get(metric, {}), sign=part == "difference") for part in MOVED)
        verdict = tag("b", one["verdict"]) if one["verdict"] == "forgotten" else one["verdict"]
        rows.append([name, f"{one['task']}, {metric_name(metric)}", old, new, change, verdict])
    if not rows:
        return []
    head = ["data", "asked", "before", "after training", "difference", ""]
    said = "Data that it was not trained on. Forgotten: the interval of the difference lies below 0."
    return section("others", "On other data", tag("p", said), table("The main metric", head, rows, stacked=True))


def _training(story: Story) -> list[Section]:
    if not len(story.loss) and not len(story.dev):
        return []
    metric, kept = str(story.metrics.get("metric", "")), story.run.get("best_step")
    return section(
        "training", "Training", drawn(figures.draw_training(story.loss, story.dev, metric=metric, kept=kept))
    )


def _health(story: Story) -> list[Section]:
    figure, items = draw_health(story.health), said_of(story.health)
    found = tag("ul", *items) if items else tag("p", "Nothing wrong was found while training.")
    return section("health", "Health of the training", found, drawn(figure)) if figure or items else []


def _moves(story: Story) -> list[Section]:
    if story.ranks is None or not len(story.ranks[0]):
        return []
    pairs = list(zip(*story.ranks, strict=True))
    shares = {
        "up": sum(a < b for b, a in pairs) / len(pairs),
        "still": sum(a == b for b, a in pairs) / len(pairs),
        "down": sum(a > b for b, a in pairs) / len(pairs),
    }
    said = (
        f"Of {len(pairs):,} queries {percent(shares['up'])} improved: their first positive stands higher than before. "
    )
    said += f"{percent(shares['still'])} are unchanged, {percent(shares['down'])} worsened."
    bar = [tag("i", class_=name, style=f"flex:{share:.4f}") for name, share in shares.items() if share]
    strip = tag("div", *bar, class_="share", aria_hidden="true")
    return section("ranks", "Where ranks moved", tag("p", said), strip, drawn(figures.draw_ranks(*story.ranks)))


def _split(split: Mapping[str, Any]) -> Html:
    if not split.get("sizes"):
        return Html()
    told = ", ".join(dict.fromkeys(str(split[key]) for key in ("how", "unit") if split.get(key)))
    rows = [[name, f"{size:,}"] for name, size in split["sizes"].items()]
    return table("How the rows were split" + (f": {told}" if told else ""), ["split", "rows"], rows)


def _data(story: Story) -> list[Section]:
    run, lengths = story.run, story.run.get("lengths") or {}
    roles = run.get("roles") or {}
    parts = [table("Columns and their roles", ["role", "column"], list(roles.items()))] if roles else []
    if run.get("unused"):
        parts.append(
            tag("p", "Columns that were not used: ", join([tag("code", name) for name in run["unused"]], ", "), ".")
        )
    parts.append(_split(run.get("split") or {}))
    rows = [
        [f["message"], f"{f['count']:,}", LEVELS.get(f["level"], f["level"]), tag("code", f["code"])]
        for f in run.get("findings") or ()
    ]
    if rows:
        parts.append(table("What was found in the data", ["finding", "rows", "level", "code"], rows, stacked=True))
    histograms = []
    for role, counts in story.token_lengths.items():
        known = lengths.get(role) or {}
        if len(counts):
            histograms.append(
                drawn(figures.draw_lengths(role, counts, cut=known.get("tokens"), share=finite(known.get("cut"))))
            )
    parts.append(tag("div", *histograms, class_="beside") if histograms else Html())
    return section("data", "The data", *parts)


def _cost(story: Story) -> list[Section]:
    cost, seconds = story.cost, story.cost.get("seconds") or {}
    rows = [[PHASES.get(name, name), duration(s)] for name, s in seconds.items()]
    rows += [["in all", duration(sum(seconds.values()))]] if len(rows) > 1 else []
    if cost.get("steps_per_second"):
        rows.append(["training steps in a second", f"{cost['steps_per_second']:.2f}"])
    if cost.get("peak_memory_bytes"):
        rows.append(["memory at its peak", f"{cost['peak_memory_bytes'] / 1e9:.1f} GB"])
    for name, value in (cost.get("machine") or {}).items():
        said = f"{value / 1e9:.1f} GB" if name.endswith("_bytes") and value else value
        rows += [] if value is None else [[name.removesuffix("_bytes"), said]]
    return section(
        "cost", "What it cost", table("Time, memory and machine", ["what", "how much"], rows) if rows else Html()
    )


def _next(story: Story) -> list[Section]:
    return section("next", "How to go on", *(command(line) for line in story.run.get("next") or ()))


def _repeat(story: Story) -> list[Section]:
    run = story.run
    names = {
        "recipe": "training method",
        "lr": "learning rate",
        "batch": "rows in a batch",
        "best_step": "step that was kept",
    }
    keys = ("recipe", "model", "device", "precision", "seed", "batch", "steps", "lr", "best_step")
    rows = [[names.get(key, key), run[key]] for key in keys if run.get(key) is not None]
    rows += [*(run.get("settings") or {}).items(), *(run.get("versions") or {}).items()]
    parts = [command(run["command"])] if run.get("command") else []
    parts += [tag("p", f"Why this training method: {run['recipe_why']}")] if run.get("recipe_why") else []
    parts += [table("Settings and versions", ["setting", "value"], rows)] if rows else []
    return section("repeat", "How to repeat it", *parts)


def _examples(story: Story) -> list[Section]:
    return moved_queries(story.examples)


def _searches(story: Story) -> list[Section]:
    return searches(story.searches)


def _scores(story: Story) -> list[Section]:
    return space_scores(story.space.get("scores") or {}, story.space.get("shift") or ())


def _map(story: Story) -> list[Section]:
    return space_map(story.space.get("map") or {})


def _shape(story: Story) -> list[Section]:
    return space_shape(story.space.get("plane") or {}, story.space.get("spectrum") or ())


PARTS = {
    "The result": (_proof, _others, _moves, _scores),
    "Queries": (_examples, _searches),
    "The space": (_map, _shape),
    "The run": (_training, _health, _data, _cost, _next, _repeat),
}


def render(story: Story) -> str:
    """The whole page; the same for the same story.

    Args:
        story: what is known of the run; what is missing is left out.

    Returns:
        html with plotly.js inlined once, about 5 MB.
    """
    groups = {name: [section for part in parts for section in part(story)] for name, parts in PARTS.items()}
    sections = [section for some in groups.values() for section in some]
    title = f"{WORDS[judged(story.metrics)[0]]} - {story.run.get('recipe', '')} {story.run.get('model', '')}"
    script = SCRIPT + (map_script() if story.space.get("map") else "")
    return page(title, _head(story, groups), sections, script=script)
