"""Small edits of a text, by rule: one that leaves its meaning (a typo), others that change it (order, negation, a number)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from counterpoint.views.draws import uniform

Edit = Callable[[str, float], str | None]

WORD = re.compile(r"[^\W\d_]{4,}")  # function words are mostly shorter, and an exchange of two of them says little
SPELLED = re.compile(r"[^\W\d_]{5,}")  # a first and a last letter, and three that can change places
NUMBER = re.compile(r"(?<![\w.,])\d+(?![\w.,]*\d|\w)")
NOT = re.compile(r"\b(?:not|never) |n't\b", re.IGNORECASE)
VERB = re.compile(
    r"\b(?:is|are|was|were|am|can|could|will|would|shall|should|may|might|must|does|do|did|has|have|had)\b(?= )",
    re.IGNORECASE,
)


def typo(text: str, where: float) -> str | None:
    """Two neighbouring letters inside a word in each other's place; the first and the last letter of the word stay.

    Args:
        text: any.
        where: in [0, 1): which of the places where this can be done.

    Returns:
        The text with its typo; None where no word has five letters and two inner ones that differ.

    References:
        Rawlinson 1976, The significance of letter position in word recognition: readers hardly notice. Of encoders,
        Pruthi, Dhingra, Lipton 2019, arXiv:1905.11268 (its "swap").

    >>> typo("a letter", 0.0), typo("a cat", 0.0)
    ('a lteter', None)
    """
    places = [
        i
        for word in SPELLED.finditer(text)
        for i in range(word.start() + 1, word.end() - 2)
        if text[i].lower() != text[i + 1].lower()
    ]
    if not places:
        return None
    i = places[int(where * len(places))]
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def swapped(text: str, where: float) -> str | None:
    """Two words of four letters or more in each other's place: the same words, another order.

    Of a list the meaning stays ("wool and cotton"); of most sentences who does what to whom changes.

    Args:
        text: any.
        where: in [0, 1): which of the pairs of words.

    Returns:
        The text with the two exchanged; None where there are no two different ones.

    >>> swapped("the hound chases a rabbit", 0.0)
    'the chases hound a rabbit'
    """
    words = [(w.start(), w.end()) for w in WORD.finditer(text)]
    pairs = [
        (one, two)
        for k, one in enumerate(words)
        for two in words[k + 1 :]
        if text[slice(*one)].lower() != text[slice(*two)].lower()
    ]
    if not pairs:
        return None
    (a, b), (c, d) = pairs[int(where * len(pairs))]
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def negated(text: str, where: float) -> str | None:
    """The opposite: a "not" (or "never", "n't") away where there is one, else a "not" after an auxiliary verb.

    Args:
        text: English.
        where: in [0, 1): which of the places.

    Returns:
        The text negated; None where it has neither.

    >>> negated("it is closed", 0.0), negated("it is not closed", 0.0), negated("closed", 0.0)
    ('it is not closed', 'it is closed', None)
    """
    away = list(NOT.finditer(text))
    if away:
        found = away[int(where * len(away))]
        return text[: found.start()] + text[found.end() :]
    verbs = list(VERB.finditer(text))
    if not verbs:
        return None
    end = verbs[int(where * len(verbs))].end()
    return text[:end] + " not" + text[end:]


def renumbered(text: str, where: float) -> str | None:
    """A whole number that stands by itself, with another last digit.

    Args:
        text: any.
        where: in [0, 1): which number.

    Returns:
        The text with the number changed; None where there is none.

    >>> renumbered("within 14 days", 0.0), renumbered("version 2.0", 0.0)
    ('within 17 days', None)
    """
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    last = numbers[int(where * len(numbers))].end() - 1
    return text[:last] + str((int(text[last]) + 3) % 10) + text[last + 1 :]


CHANGES: Mapping[str, Edit] = MappingProxyType({"order": swapped, "negation": negated, "number": renumbered})


def contrast_set(
    texts: Sequence[str], edit: Edit, *, generator: torch.Generator
) -> tuple[list[int], list[str], list[str]]:
    """Texts with a variant of the same meaning and one of another.

    Args:
        texts: any.
        edit: what changes the meaning, such as `swapped`.
        generator: decides where; one text's variants do not depend on the others.

    Returns:
        Places of the texts that have both variants; those with a typo; those that were edited.

    References:
        Gardner et al. 2020, arXiv:2004.02709 (contrast sets, there written by hand).

    >>> contrast_set(["the train is late", "ok"], negated, generator=torch.Generator())
    ([0], ['the trian is late'], ['the train is not late'])
    """
    numbers = uniform(generator, range(len(texts)), 2).tolist()
    made = [(i, typo(t, u), edit(t, v)) for i, (t, (u, v)) in enumerate(zip(texts, numbers, strict=True))]
    both = [(i, same, other) for i, same, other in made if same is not None and other is not None]
    return [i for i, _, _ in both], [same for _, same, _ in both], [other for _, _, other in both]
