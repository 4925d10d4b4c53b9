"""Edits of texts: what they may change, what they leave, and where they cannot be made."""

from __future__ import annotations

import pytest
import torch

from counterpoint.data.words import frequency
from counterpoint.views.variants import CHANGES, contrast_set, negated, renumbered, swapped, typo

PLACES = [k / 20 for k in range(20)]
TEXTS = [
    "The second train will not stop in Turin before 14 March 2019.",
    "Do never open windows while it is raining; they can't be closed",
    "Werkzeuge für große Dateien, 7 Stück",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_typo_is_two_inner_letters_exchanged(text: str) -> None:
    made = {typo(text, p) for p in PLACES}
    assert len(made) > 3
    for one in made:
        assert one is not None
        at = [i for i, (x, y) in enumerate(zip(text, one, strict=True)) if x != y]
        assert at == [at[0], at[0] + 1]
        assert (one[at[0]], one[at[1]]) == (text[at[1]], text[at[0]])
        assert text[at[0] - 1].isalpha()
        assert text[at[1] + 1].isalpha()  # neither the first nor the last letter of a word


@pytest.mark.parametrize("text", TEXTS)
def test_an_exchange_keeps_the_words(text: str) -> None:
    made = {swapped(text, p) for p in PLACES}
    assert text not in made
    for one in made:
        assert one is not None
        assert sorted(one) == sorted(text)
        was, now = text.split(), one.split()
        assert sum(x != y for x, y in zip(was, now, strict=True)) == 2


def test_negation_turns_and_turns_back() -> None:
    for text in ("it is closed", "trains are late today", "You should stop"):
        once = negated(text, 0.3)
        assert once is not None
        assert once != text
        assert negated(once, 0.3) == text
    assert negated("they can't wait", 0.0) == "they ca wait"
    assert negated("nothing of the kind here", 0.0) is None


def test_a_number_changes_in_one_digit() -> None:
    assert {renumbered("between 10 and 99", p) for p in PLACES} == {"between 13 and 99", "between 10 and 92"}
    for none in ("no number", "version 2.0", "utf8 and x86", "3rd", "1,000"):
        assert renumbered(none, 0.5) is None


@pytest.mark.parametrize("edit", CHANGES.values())
def test_what_cannot_be_made_is_none(edit: object) -> None:
    for text in ("", "ok", "a b c"):
        assert edit(text, 0.0) is None  # type: ignore[operator]
        assert typo(text, 0.0) is None
    assert typo("aaaaaa", 0.0) is None
    assert swapped("same Same same", 0.0) is None


def test_a_contrast_set_has_both_variants_and_its_seed() -> None:
    texts = ["ok", *TEXTS, "longer words only"]
    at, same, other = contrast_set(texts, renumbered, generator=torch.Generator().manual_seed(1))
    assert at == [1, 3]
    assert all(len(s) == len(texts[i]) for i, s in zip(at, same, strict=True))
    assert all(a != b for a, b in zip(same, other, strict=True))
    again = contrast_set(["another", *texts[1:]], renumbered, generator=torch.Generator().manual_seed(1))
    assert again == (at, same, other)  # the text before them plays no part
    assert (
        contrast_set(texts * 5, swapped, generator=torch.Generator().manual_seed(2))[1]
        != (contrast_set(texts * 5, swapped, generator=torch.Generator().manual_seed(1))[1])
    )


def test_frequency_by_plain_loops() -> None:
    import math

    one, two = ["The cat saw the cat", "the dog", "---"], ["a cat", "the end"]
    every = [set(t.lower().split()) - {"---"} for t in one + two]
    expected = [
        sum(math.log(sum(w in other for other in every)) for w in words) / max(1, len(words)) for words in every
    ]
    found = frequency(one, two)
    assert [*found[0], *found[1]] == pytest.approx(expected)
    assert found[0][2] == 0
