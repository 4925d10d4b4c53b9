"""`generate`: positives and negatives, or scored pairs, that a language model or rules write for texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from counterpoint.data.generated import Generator, Kept, answers_of, endpoint
from counterpoint.data.identity import content_ids
from counterpoint.data.prompts import Ask, prompt_of, score_of, sentence_of
from counterpoint.data.roles import Samples
from counterpoint.errors import Refusal
from counterpoint.papers import paper
from counterpoint.verbs import table_file
from counterpoint.verbs.console import Screen
from counterpoint.verbs.prepare import inspect
from counterpoint.verbs.settings import Run
from counterpoint.views.draws import uniform
from counterpoint.views.rules import kept_in_meaning, overlap, turned_in_meaning
from counterpoint.views.text import cut_off, enough

Answer = Callable[[Sequence[Ask], Callable[..., Any]], list[str]]

WAYS = ("positive,negative", "pairs")
RULES = "rules"
MASK = "<mask>"
MOST_MASKED = 0.8  # of the words; the authors go from 0 to this in steps of 0.1
DRAWS = 64


@dataclass(frozen=True)
class Made:
    """Data that were written.

    Args:
        frame: anchor, positive, negative; or anchor, positive, value. `fit` takes it.
        path: the file that holds it, or None.
        left: reason -> how many answers could not be used.
    """

    frame: pl.DataFrame
    path: Path | None
    left: dict[str, int]


def generate(
    data: object,
    *,
    with_: str | Path | Generator,
    as_: str = WAYS[0],
    out: str | Path | None = None,
    cache: str | Path | None = None,
    model: str = "default",
    key_from: str | None = None,
    per_text: int = 3,
    tokens: int = 100,
    temperature: float = 0.7,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
    **settings: Any,
) -> Made:
    """Write training data for the anchors of some data: triples for `syncse`, or pairs with a score for `claif`.

    What was answered is kept beside the output, so that a second try goes on where the first one ended.

    Args:
        data: whatever `fit` takes, with texts; only its anchors are read, and its split where it has one.
        with_: "rules"; the folder of a language model; the address of an OpenAI-compatible server; or a generator.
        as_: "positive,negative" or "pairs".
        out: a .parquet, .jsonl or .csv file that does not exist yet; None writes nothing.
        cache: the file of the answers; None: beside `out`, where that is given.
        model: its name at the address.
        key_from: the environment variable that holds the key of the service; None: none is sent.
        per_text: pairs of a text, each with more of its words masked.
        tokens: of an answer, at most.
        temperature: of the answers.
        seed: of what is drawn.
        device: of a model in a folder.
        quiet: print nothing.
        settings: fields of `Run` that say how data are read: roles, delimiter, match.

    Raises:
        Refusal: for input that cannot be used, a model that does not answer, or answers of which none can be used.

    >>> made = generate([{"text": "it is late"}, {"text": "trains are fast"}], with_="rules", quiet=True)
    >>> made.frame.row(0)[2]
    'it is not late'
    """
    if as_ not in WAYS:
        raise Refusal("one of " + " and ".join(WAYS), f"'{as_}'", where="--as")
    for flag, number, least in (
        ("--per-text", per_text, 1),
        ("--tokens", tokens, 1),
        ("--temperature", temperature, 0),
    ):
        if not number >= least:
            raise Refusal(f"at least {least}", number, where=flag)
    path = None if out is None else table_file.place_of(out)
    kept = cache if cache is not None else (path and path.with_name(path.name + ".answers.jsonl"))
    screen = Screen(quiet=quiet)
    with screen.stage("reading data"):
        samples, _ = inspect(data, Run(**settings))
        anchors, splits = _anchors(samples)
    answer = _answerer(with_, kept, model=model, key_from=key_from, tokens=tokens, temperature=temperature, seed=seed,
                       device=device)  # fmt: skip
    draws = uniform(_seeded(seed), content_ids(anchors), DRAWS).tolist()
    left: Counter[str] = Counter()
    with screen.stage("writing texts", total=2 * len(anchors) * (1 if as_ == WAYS[0] else per_text)) as tick:
        if as_ == WAYS[0]:
            columns = triples(anchors, draws, lambda asks: answer(asks, tick), left)
        else:
            columns = scored_pairs(anchors, draws, lambda asks: answer(asks, tick), left, per_text=per_text)
    frame = pl.DataFrame(columns)
    if not len(frame):
        came = f"none; most answers were left as: {left.most_common(1)[0][0]}" if left else "none"
        raise Refusal("an answer that can be used", came, where=f"--with {with_}")
    if splits:
        frame = frame.with_columns(split=pl.col("anchor").replace_strict(splits))
    if path is not None:
        table_file.write(frame, path)
    told = "".join(f", {count:,} {reason}" for reason, count in left.most_common())
    screen.say(f"{len(frame):,} rows for {len(anchors):,} texts{told}" + (f"; {path}" if path else ""))
    return Made(frame, path, dict(left))


def _seeded(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def _anchors(samples: Samples) -> tuple[list[str], dict[str, str]]:
    if samples.items.kind != "text":
        raise Refusal("texts to write for", f"{samples.items.kind}s", where=samples.source)
    cells = [text.strip() for text in samples.frame["anchor"].to_list() if text]
    found = list(dict.fromkeys(text for text in cells if text))
    if not found:
        raise Refusal("at least one text", "none", where=samples.source)
    own = samples.frame["split"].to_list() if samples.has("split") else []
    return found, dict(zip((t.strip() for t in samples.frame["anchor"]), own, strict=False)) if own else {}


def _answerer(
    with_: str | Path | Generator, kept: str | Path | None, *, model: str, key_from: str | None, tokens: int,
    temperature: float, seed: int, device: str
) -> Answer:  # fmt: skip
    """What answers asks: rules at once, a generator by prompts."""
    if with_ == RULES:
        return lambda asks, tick: [by_rules(ask) for ask in asks if tick(1) is None]
    how = {"tokens": tokens, "temperature": temperature, "seed": seed}
    if callable(with_):
        generator, name = with_, getattr(with_, "__name__", type(with_).__name__)
    elif str(with_).startswith(("http://", "https://")):
        if key_from is not None and key_from not in os.environ:
            raise Refusal(f"a key in the environment variable {key_from}", "none", where="--key-from")
        key = None if key_from is None else os.environ[key_from]
        generator, name = endpoint(str(with_), model, key=key, **how), f"{with_} {model}"  # type: ignore[arg-type]
    elif Path(with_).is_dir():
        from counterpoint.encoders.writer import writer

        generator, name = writer(with_, device=device, **how), str(Path(with_).resolve())  # type: ignore[arg-type]
    else:
        remedy = f"'{RULES}', the folder of a language model, or an address such as http://localhost:8000/v1"
        raise Refusal("something that writes", f"'{with_}'", where="--with", remedy=remedy)
    if kept is not None:
        generator = Kept(generator, kept, model=f"{name} {sorted(how.items())}")
    return lambda asks, tick: answers_of(generator, [prompt_of(ask) for ask in asks], tick=tick)


def by_rules(ask: Ask) -> str:
    """The answer of rules; empty where they have none.

    >>> by_rules(Ask("filled", "a <mask> house")), by_rules(Ask("score", "a house", "A house"))
    ('a house', '1.00')
    """
    if ask.what == "positive":
        return kept_in_meaning(ask.text, ask.draw)
    if ask.what == "negative":
        return turned_in_meaning(ask.text, ask.draw) or ""
    if ask.what == "filled":
        return " ".join(word for word in ask.text.split() if word != MASK)
    return f"{overlap(ask.text, ask.other):.2f}"


def _usable(answer: str, others: Sequence[str], left: Counter[str]) -> str | None:
    """A sentence that is not one of the others."""
    made = sentence_of(answer)
    if made is None:
        left["empty"] += 1
    elif made.casefold() in (other.casefold() for other in others):
        left["the same text again"] += 1
        return None
    return made


@paper(row=117)
def triples(
    anchors: Sequence[str],
    draws: Sequence[Sequence[float]],
    answer: Callable[[Sequence[Ask]], list[str]],
    left: Counter[str],
) -> dict[str, list[str]]:
    """A positive and a hard negative for each text that has both: what supervised SimCSE trains on.

    Args:
        anchors: texts.
        draws: for each some numbers in [0, 1); they pick the wording and the example of a prompt.
        answer: asks -> answers.
        left: is told what could not be used, and why.

    Differs:
        Wordings and examples are our own, where the authors' were tuned for one model. Texts have to be given
        (the paper's SynCSE-partial).

    References:
        Zhang, Lan, He 2023, arXiv:2305.15077 (SynCSE), sections 2.2 and 2.3.

    >>> made = triples(["it is late"], [[0.1, 0.2]], lambda asks: [f"{a.what} of {a.text}" for a in asks], Counter())
    >>> made["negative"]
    ['negative of it is late']
    """
    asks = [Ask("positive", t, draw=u[0]) for t, u in zip(anchors, draws, strict=True)]
    asks += [Ask("negative", t, draw=u[1]) for t, u in zip(anchors, draws, strict=True)]
    answers = answer(asks)
    rows = []
    for text, near, far in zip(anchors, answers[: len(anchors)], answers[len(anchors) :], strict=True):
        positive = _usable(near, [text], left)
        negative = None if positive is None else _usable(far, [text, positive], left)
        if positive is not None and negative is not None:
            rows.append((text, positive, negative))
    return {role: [row[i] for row in rows] for i, role in enumerate(("anchor", "positive", "negative"))}


@paper(row=108)
def scored_pairs(
    anchors: Sequence[str],
    draws: Sequence[Sequence[float]],
    answer: Callable[[Sequence[Ask]], list[str]],
    left: Counter[str],
    *,
    per_text: int,
) -> dict[str, list[Any]]:
    """Pairs of all degrees of likeness with a score in [0, 1]: masked texts that were filled again, then judged.

    Args:
        anchors: texts.
        draws: for each some numbers in [0, 1); they pick which words are masked.
        answer: asks -> answers.
        left: is told what could not be used, and why.
        per_text: pairs of a text; their shares of masked words go up to 0.8 in equal steps. Of one alone nothing is
            masked: the text in other words.

    Differs:
        Runs of masks are always one mask, in the paper half of the time. No explanation of the score is asked for.

    References:
        Cheng et al. 2023, arXiv:2305.01918 (CLAIF), section 3.

    >>> def answer(asks):
    ...     return ["0.5" if a.what == "score" else f"{a.what}: {a.text}" for a in asks]
    >>> scored_pairs(["a b c"], [[0.1, 0.5, 0.9]], answer, Counter(), per_text=2)["positive"]
    ['positive: a b c', 'filled: <mask> b <mask>']
    """
    asks = []
    for text, own in zip(anchors, draws, strict=True):
        for k in range(per_text):
            masked = cut_off(MOST_MASKED * k / max(per_text - 1, 1), mark=MASK)(text, enough(own, DRAWS)[k:])
            asks.append((text, Ask("filled" if k else "positive", masked, draw=own[k % len(own)])))
    answers = answer([ask for _, ask in asks])
    made = [(text, other) for (text, _), said in zip(asks, answers, strict=True)
            if (other := _usable(said, [text], left)) is not None]  # fmt: skip
    made = list(dict.fromkeys(made))
    scores = [score_of(said) for said in answer([Ask("score", *pair) for pair in made])]
    left["without a score"] += scores.count(None)
    rows = [(*pair, score) for pair, score in zip(made, scores, strict=True) if score is not None]
    left += Counter()  # no reason that never came
    return {role: [row[i] for row in rows] for i, role in enumerate(("anchor", "positive", "value"))}
