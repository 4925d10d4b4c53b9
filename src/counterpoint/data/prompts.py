"""What a language model is asked for, in words, and what its answers say."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

NUMBER = re.compile(r"(?<![\w.])(?:0(?:\.\d+)?|1(?:\.0+)?|\.\d+)(?![\w.]*\d)")
QUOTES = "\"'`“”„«»"
# Wordings and examples: which of them a text gets is drawn for it, so that answers are not all of one mould.
WORDINGS = {
    "positive": (
        "Say the same in other words, in one sentence.",
        "Write one sentence that must be true if the given one is.",
        "Rewrite the sentence so that its meaning stays and most of its words change.",
        "Shorten or rearrange the sentence without a change of what it says.",
    ),
    "negative": (
        "Write one sentence with much the same words that says the opposite.",
        "Change one detail, so that the new sentence cannot be true together with the given one.",
        "Write one sentence of the same topic that contradicts the given one.",
        "Turn who does what to whom around, or the place, or the number, in one sentence.",
    ),
}
EXAMPLES = {
    "positive": (
        ("Two children are feeding ducks at the pond.", "Some kids give food to ducks by the water."),
        ("The meeting was moved from Monday to Friday.", "We now meet on Friday and not on Monday."),
        ("He could not open the door without a key.", "Without a key the door stayed shut for him."),
    ),
    "negative": (
        ("Two children are feeding ducks at the pond.", "Nobody is at the pond."),
        ("The meeting was moved from Monday to Friday.", "The meeting stays on Monday."),
        ("He could not open the door without a key.", "He opened the door although he had no key."),
    ),
}


class Ask(NamedTuple):
    """One thing that is asked for.

    Args:
        what: "positive" and "negative" of a text; "filled": its masks replaced; "score": how alike text and other are.
        text: the text.
        other: the second text of a score.
        draw: in [0, 1); which wording, example or edit.
    """

    what: Literal["positive", "negative", "filled", "score"]
    text: str
    other: str = ""
    draw: float = 0.0


def prompt_of(ask: Ask) -> str:
    """An ask as a prompt.

    >>> print(prompt_of(Ask("filled", "a <mask> house")))
    Put words in the place of every <mask>, so that a sensible sentence comes out. Answer with the sentence alone.
    Sentence: a <mask> house
    Answer:
    """
    alone = "Answer with the sentence alone."
    if ask.what == "filled":
        task = "Put words in the place of every <mask>, so that a sensible sentence comes out."
        return f"{task} {alone}\nSentence: {ask.text}\nAnswer:"
    if ask.what == "score":
        task = (
            "How alike in meaning are two sentences? 0.0 is not at all, 1.0 is the same. Answer with the number alone."
        )
        return f"{task}\nFirst: {ask.text}\nSecond: {ask.other}\nAnswer:"
    wordings, examples = WORDINGS[ask.what], EXAMPLES[ask.what]
    which = int(ask.draw * len(wordings) * len(examples))
    shown, answer = examples[which % len(examples)]
    task = f"{wordings[which // len(examples)]} {alone}"
    return f"{task}\nSentence: {shown}\nAnswer: {answer}\nSentence: {ask.text}\nAnswer:"


def sentence_of(answer: str) -> str | None:
    """The sentence of an answer: its first line that says something, without quotes; None where there is none.

    >>> sentence_of('\\n "It rains." \\nSentence: more'), sentence_of(" \\n")
    ('It rains.', None)
    """
    lines = (line.strip().removeprefix("Answer:").strip(f" {QUOTES}") for line in answer.splitlines())
    return next((line for line in lines if line), None)


def score_of(answer: str) -> float | None:
    """The first number from 0 to 1 in an answer; None where there is none.

    >>> score_of("0.85, since both rain"), score_of("about .5"), score_of("7 of 10"), score_of("version 1.0.2")
    (0.85, 0.5, None, None)
    """
    found = NUMBER.search(answer)
    return float(found[0]) if found else None
