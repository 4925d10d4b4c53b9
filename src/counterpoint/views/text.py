"""Edits of one text: words and letters that go, come twice, change places or names; spans of documents; two views of them.

An edit is a function of a text and of random numbers in [0, 1): the same numbers make the same text. A word is what stands
between spaces. An edit that changes nothing gives the text as it is; others put one space between words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch

from counterpoint.types import Batch
from counterpoint.views.draws import uniform
from counterpoint.views.items import Views, named
from counterpoint.views.spans import span_length
from counterpoint.views.variants import typo

Edit = Callable[[str, Sequence[float]], str]

DRAWS = 256  # random numbers for the edit of a text; one for each of its first words
GOLDEN = (5**0.5 - 1) / 2  # a turn by it never comes back to where it was: Weyl 1916
LETTERS = re.compile(r"[^\W\d_](?:.*[^\W\d_])?")  # of a word, without what stands around it


def enough(numbers: Sequence[float], count: int) -> list[float]:
    """That many numbers: those given, and when they are used up the same again, moved on around [0, 1).

    Args:
        numbers: at least one, in [0, 1).
        count: how many are needed.

    >>> [round(u, 3) for u in enough([0.25, 0.5], 3)]
    [0.25, 0.5, 0.868]
    """
    if not len(numbers):
        raise ValueError("wanted random numbers for an edit, got none")
    return [(numbers[i % len(numbers)] + i // len(numbers) * GOLDEN) % 1.0 for i in range(count)]


def _said(text: str, words: Sequence[str]) -> str:
    return text if words == text.split() else " ".join(words)


def _without(text: str, gone: set[int], mark: str | None) -> str:
    """The text without some words; a mark stands for each run of them. Without a mark one word stays at least."""
    words = text.split()
    if mark is None and len(gone) == len(words):
        gone = gone - {0}
    kept = [mark if i in gone else word for i, word in enumerate(words) if i not in gone or i - 1 not in gone]
    return _said(text, [word for word in kept if word is not None])


def _first(numbers: Sequence[float], count: int, of: int) -> set[int]:
    """Some of the first places, by the order of their numbers; each set of them is as likely as another."""
    draws = enough(numbers, of)
    return set(sorted(range(of), key=draws.__getitem__)[:count])


def deleted_words(rate: float, *, mark: str | None = None) -> Edit:
    """Each word goes by chance; the rest keeps its order.

    Args:
        rate: how likely a word goes, in [0, 1].
        mark: stands for each run of words that went, such as "[DEL]"; None: nothing does, and one word stays at least.

    References:
        Wu et al. 2020, arXiv:2012.15466 (CLEAR, with a mark and a rate of 0.7); Wei, Zou 2019, arXiv:1901.11196.

    >>> deleted_words(0.5)("a b c d", [0.1, 0.9, 0.6, 0.3]), deleted_words(0.5, mark="_")("a b c", [0.1, 0.2, 0.6])
    ('b c', '_ c')
    """
    _in_unit(rate)

    def edit(text: str, numbers: Sequence[float]) -> str:
        draws = enough(numbers, len(text.split()))
        return _without(text, {i for i, u in enumerate(draws) if u < rate}, mark)

    return edit


def cut_off(share: float, *, mark: str | None = None) -> Edit:
    """An exact share of the words goes, wherever they stand; the rest keeps its order.

    Args:
        share: of the words, rounded; in [0, 1].
        mark: as in `deleted_words`.

    References:
        Shen et al. 2020, arXiv:2009.13818 (token cutoff; there the embeddings of the words are 0).

    >>> cut_off(0.5)("a b c d", [0.4, 0.9, 0.6, 0.3])
    'b c'
    """
    _in_unit(share)

    def edit(text: str, numbers: Sequence[float]) -> str:
        n = len(text.split())
        return _without(text, _first(numbers, round(share * n), n), mark)

    return edit


def deleted_span(share: float, *, spans: int = 1, mark: str | None = None) -> Edit:
    """Words that stand beside each other go.

    Args:
        share: of the words that a span has, rounded, in [0, 1]; a span has one word at least unless it is 0.
        spans: how many; they may overlap.
        mark: as in `deleted_words`.

    References:
        Wu et al. 2020, arXiv:2012.15466 (CLEAR: five spans of 5 % each).

    >>> deleted_span(0.5)("a b c d", [0.5]), deleted_span(0.5, mark="_")("a b c d", [0.5])
    ('a d', 'a _ d')
    """
    _in_unit(share)

    def edit(text: str, numbers: Sequence[float]) -> str:
        n = len(text.split())
        long = _length(share, n)
        starts = [int(u * (n - long + 1)) for u in enough(numbers, spans)]
        return _without(text, {i for start in starts for i in range(start, start + long)}, mark)

    return edit


def _length(share: float, n: int) -> int:
    return min(n, max(1, round(share * n))) if share else 0


def repeated_words(rate: float) -> Edit:
    """Some words stand there twice; their number is drawn anew for each text, so that length says nothing.

        repeats ~ uniform over 0, 1, ..., max(2, floor(rate * n)),   for a text of n words, and at most n

    Args:
        rate: at least 0; 0 repeats nothing.

    Differs:
        Words are repeated where the paper repeats parts of words.

    References:
        Wu et al. 2022, arXiv:2109.04380 (ESimCSE), equations 3 and 4; 0.32 there.

    >>> repeated_words(0.32)("a b c", [0.5, 0.9, 0.2, 0.6])      # one of 0, 1 and 2; b has the least number
    'a b b c'
    """
    if not rate >= 0:
        raise ValueError(f"wanted a rate of repeats of at least 0, got {rate}")

    def edit(text: str, numbers: Sequence[float]) -> str:
        words = text.split()
        first, *rest = enough(numbers, 1 + len(words))
        repeats = int(first * (max(2, int(rate * len(words))) + 1)) if rate else 0
        twice = _first(rest, repeats, len(words)) if words else set()
        return _said(text, [word for i, word in enumerate(words) for _ in range(1 + (i in twice))])

    return edit


def reordered(spans: int, *, share: float = 0.05) -> Edit:
    """Pairs of spans change places: the same words, another order.

    Args:
        spans: pairs that change places, one after the other.
        share: of the words that a span has, rounded, at least one word; a text of fewer than two spans stays.

    References:
        Wu et al. 2020, arXiv:2012.15466 (CLEAR: five pairs, 5 % each).

    >>> reordered(1, share=0.25)("a b c d", [0.0, 0.99])
    'd b c a'
    """
    _in_unit(share)

    def edit(text: str, numbers: Sequence[float]) -> str:
        words = text.split()
        long = _length(share, len(words))
        places = len(words) - 2 * long + 1
        if not long or places < 1:
            return text
        for u, v in zip(*[iter(enough(numbers, 2 * spans))] * 2, strict=True):
            a, b = sorted((int(u * places), int(v * places)))
            b += long
            words = words[:a] + words[b : b + long] + words[a + long : b] + words[a : a + long] + words[b + long :]
        return _said(text, words)

    return edit


def substituted(rate: float, synonyms: Mapping[str, Sequence[str]]) -> Edit:
    """Each word that has another of its meaning is by chance replaced by it.

    Args:
        rate: how likely, in [0, 1].
        synonyms: of words in lower case, such as those of `wordnet` of `views.wordnet`; a word without any stays.

    References:
        Wu et al. 2020, arXiv:2012.15466 (CLEAR: a rate of 0.3); Wei, Zou 2019, arXiv:1901.11196.

    >>> substituted(0.5, {"quick": ["fast", "rapid"]})("Quick, a fox!", [0.3, 0.1, 0.1])
    'Rapid, a fox!'
    """
    _in_unit(rate)

    def edit(text: str, numbers: Sequence[float]) -> str:
        words = text.split()
        for i, u in enumerate(enough(numbers, len(words))):
            found = LETTERS.search(words[i])
            others = synonyms.get(found[0].lower(), ()) if found else ()
            if found and others and u < rate:
                other = others[int(u / rate * len(others))]
                other = other[0].upper() + other[1:] if found[0][0].isupper() else other
                words[i] = words[i][: found.start()] + other + words[i][found.end() :]
        return _said(text, words)

    return edit


def typos(rate: float) -> Edit:
    """Each word of five letters or more gets by chance one typo: two neighbouring inner letters change places.

    Args:
        rate: how likely, in [0, 1].

    References:
        Those of `views.variants.typo`.

    >>> typos(0.5)("letters in words", [0.1, 0.1, 0.6])
    'lteters in words'
    """
    _in_unit(rate)

    def edit(text: str, numbers: Sequence[float]) -> str:
        words = text.split()
        draws = enough(numbers, len(words))
        return _said(
            text, [(typo(word, u / rate) if u < rate else None) or word for word, u in zip(words, draws, strict=True)]
        )

    return edit


def masked_span(letters: int, *, mask: str = "[MASK]") -> Edit:
    """Some letters beside each other, anywhere in the text, are replaced by one mask.

    Args:
        letters: how many; a text of no more than that stays as it is.
        mask: what stands for them, such as the mask token of the model.

    References:
        Liu et al. 2021, arXiv:2104.08027 (Mirror-BERT: five letters, in one of the two copies).

    >>> masked_span(3)("a letter", [0.5])
    'a l[MASK]er'
    """
    if letters < 0:
        raise ValueError(f"wanted a number of letters of at least 0, got {letters}")

    def edit(text: str, numbers: Sequence[float]) -> str:
        if not letters or len(text) <= letters:
            return text
        at = int(enough(numbers, 1)[0] * (len(text) - letters + 1))
        return text[:at] + mask + text[at + letters :]

    return edit


def prompted(templates: Sequence[str]) -> Edit:
    """The text inside a template, one of several by chance.

    Args:
        templates: each with "{}" where the text goes.

    Raises:
        ValueError: for none, or one without that place.

    References:
        Jiang et al. 2022, arXiv:2201.04337 (PromptBERT: two templates make two views).

    >>> prompted(["It says: {}", '"{}" means'])("stop", [0.9])
    '"stop" means'
    """
    without = [t for t in templates if "{}" not in t]
    if without or not templates:
        raise ValueError(f"wanted templates with {{}} where the text goes, got {without or 'none'}")
    return lambda text, numbers: templates[int(enough(numbers, 1)[0] * len(templates))].replace("{}", text)


def span(*, shortest: int, longest: int, beta: tuple[float, float] = (4.0, 2.0)) -> Edit:
    """A piece of a document: its length by a beta distribution, its place anywhere.

        words = floor(shortest + p (longest - shortest)),   p ~ Beta(a, b)

    Args:
        shortest, longest: words; both at most the words of the document.
        beta: a and b; (4, 2) makes mostly long pieces (anchors), (2, 4) mostly short ones.

    Relations:
        `views.spans.span_near` is where a positive of such a piece lies.

    References:
        Giorgi et al. 2021, arXiv:2006.03659 (DeCLUTR).

    >>> span(shortest=2, longest=4)("a b c d e", [0.2, 0.99])
    'c d e'
    """

    def edit(text: str, numbers: Sequence[float]) -> str:
        words = text.split()
        u, v = enough(numbers, 2)
        long = span_length(len(words), u, shortest=shortest, longest=longest, beta=beta)
        start = int(v * (len(words) - long + 1))
        return _said(text, words[start : start + long])

    return edit


def chained(*edits: Edit) -> Edit:
    """One edit after the other; each has numbers of its own, every k-th of k edits.

    >>> chained(deleted_words(0.5), prompted(["> {}"]))("a b", [0.1, 0.0, 0.9])
    '> b'
    """

    def edit(text: str, numbers: Sequence[float]) -> str:
        own = enough(numbers, max(len(numbers), len(edits)))
        for i, one in enumerate(edits):
            text = one(text, own[i :: len(edits)])
        return text

    return edit


def either(*edits: Edit) -> Edit:
    """One of several edits by chance; each as likely as another.

    >>> either(prompted(["> {}"]), prompted(["< {}"]))("a", [0.9])
    '< a'
    """

    def edit(text: str, numbers: Sequence[float]) -> str:
        first, *rest = enough(numbers, max(2, len(numbers)))
        return edits[int(first * len(edits))](text, rest)

    return edit


def edited(first: Edit | None = None, second: Edit | None = None, *, draws: int = DRAWS) -> Views:
    """Two views of each text: the id of both is that of the sample, so they are a positive pair.

    Args:
        first: makes the first view; None leaves the text as it is.
        second: the same of the second.
        draws: random numbers of a row for each view; of longer texts they are used again, moved on.

    >>> batch = {"anchor": ["a b"], "id": torch.tensor([7]), "row": torch.tensor([0])}
    >>> made = edited(second=deleted_words(1.0))(batch, torch.Generator())
    >>> made["first"]["text"], made["second"]["text"], made["second"]["id"].tolist(), made["second"]["view"]
    (['a b'], ['a'], [7], 1)
    """

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        shared = {"id": batch["id"], "role": "anchor"}
        shared |= {name: batch[name] for name in ("label", "row") if name in batch}
        numbers = uniform(generator, batch["row"], 2 * draws).tolist()
        made: dict[str, Batch] = {}
        for view, (name, edit) in enumerate((("first", first), ("second", second))):
            own = [row[view * draws : (view + 1) * draws] for row in numbers]
            texts = batch["anchor"]
            texts = texts if edit is None else [edit(text, row) for text, row in zip(texts, own, strict=True)]
            made[name] = {**named(texts), **shared, "view": view}
        return made

    return views


def _in_unit(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"wanted a rate or share from 0 to 1, got {share}")
