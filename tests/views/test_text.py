"""Edits of texts keep what they say, draw by row, and do nothing at a rate of 0."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.errors import Refusal
from counterpoint.views.items import twice
from counterpoint.views.rules import kept_in_meaning, turned_in_meaning
from counterpoint.views.spans import span_length, span_near
from counterpoint.views.text import (
    chained,
    cut_off,
    deleted_span,
    deleted_words,
    edited,
    either,
    masked_span,
    prompted,
    reordered,
    repeated_words,
    span,
    substituted,
    typos,
)
from counterpoint.views.units import sentences, whole_passages
from counterpoint.views.wordnet import wordnet

SYNONYMS = {"ab": ("xy", "zz"), "b": ("q",), "haus": ("heim",)}
word = st.sampled_from(["a", "ab", "B,", "(haus)", "letters", "wonderful.", "é", "12"])
texts = st.builds(lambda words, gap: gap.join(words), st.lists(word, max_size=30), st.sampled_from([" ", "  ", "\n"]))
numbers = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=70)
rates = st.floats(0, 1)
quick = settings(max_examples=40, deadline=None)


def part_of(small: list[str], large: list[str]) -> bool:
    """Whether the one is the other with words left out."""
    rest = iter(large)
    return all(w in rest for w in small)


IDENTITIES = [deleted_words(0), deleted_words(0, mark="_"), cut_off(0), deleted_span(0), repeated_words(0), reordered(0),
    reordered(3, share=0), substituted(0, SYNONYMS), typos(0), masked_span(0), prompted(["{}"])]  # fmt: skip


@quick
@given(texts, numbers, st.sampled_from([*IDENTITIES, chained(*IDENTITIES), either(*IDENTITIES), chained()]))
def test_a_rate_of_zero_changes_no_letter(text: str, draws: list[float], edit) -> None:
    assert edit(text, draws) == text


@quick
@given(texts, numbers, rates)
def test_deleted_words_leave_the_rest_in_order(text: str, draws: list[float], rate: float) -> None:
    for edit in (deleted_words(rate), cut_off(rate), deleted_span(rate), deleted_span(rate, spans=3)):
        left = edit(text, draws).split()
        assert part_of(left, text.split())
        assert bool(left) == bool(text.split())


@quick
@given(texts, numbers, rates)
def test_what_goes_is_as_much_as_is_said(text: str, draws: list[float], rate: float) -> None:
    n = len(text.split())
    assert len(cut_off(rate)(text, draws).split()) == max(n - round(rate * n), min(n, 1))
    long = min(n, max(1, round(rate * n))) if rate else 0
    assert len(deleted_span(rate)(text, draws).split()) == max(n - long, min(n, 1))
    words, left = text.split(), deleted_span(rate)(text, draws).split()
    assert any(left == words[:i] + words[len(words) - len(left) + i :] for i in range(len(left) + 1))  # one hole


@quick
@given(texts, numbers, rates)
def test_a_mark_stands_for_each_run(text: str, draws: list[float], rate: float) -> None:
    marked = deleted_words(rate, mark="_")(text, draws).split()
    assert all(not (one == other == "_") for one, other in pairwise(marked))
    bare = [w for w in marked if w != "_"]
    kept = [w for w, u in zip(text.split(), draws, strict=False) if u >= rate]
    if len(text.split()) <= len(draws):
        assert bare == kept
        assert ("_" in marked) == (len(kept) < len(text.split()))


@quick
@given(st.integers(0, 30), numbers, rates)
def test_repeats_are_beside_their_word_and_as_many_as_the_paper_says(n: int, draws: list[float], rate: float) -> None:
    words = [str(i) for i in range(n)]
    made = repeated_words(rate)(" ".join(words), draws).split()
    often = Counter(made)
    assert sorted(made, key=int) == made
    assert set(made) == set(words)
    assert max(often.values(), default=1) <= 2
    assert len(made) - n <= max(2, int(rate * n))


def test_the_number_of_repeats_is_uniform() -> None:
    text = " ".join("abcdefghij")
    found = Counter(len(repeated_words(0.4)(text, [(k + 0.5) / 50, 0.5]).split()) - 10 for k in range(50))
    assert found == {0: 10, 1: 10, 2: 10, 3: 10, 4: 10}  # 0 to max(2, 0.4 * 10)
    assert Counter(len(repeated_words(0.1)(text, [(k + 0.5) / 30, 0.5]).split()) - 10 for k in range(30)) == {
        0: 10, 1: 10, 2: 10
    }  # fmt: skip


@quick
@given(texts, numbers, st.integers(0, 6), st.floats(0.01, 0.6))
def test_reordered_keeps_the_words(text: str, draws: list[float], pairs: int, share: float) -> None:
    made = reordered(pairs, share=share)(text, draws)
    assert Counter(made.split()) == Counter(text.split())


def test_one_exchange_of_spans() -> None:
    n, long = 10, 2
    text = " ".join(map(str, range(n)))
    found = {reordered(1, share=0.2)(text, [u / 14, v / 14]) for u in range(14) for v in range(14)}
    wanted = set()
    for a in range(n):
        for b in range(a + long, n - long + 1):
            words = list(range(n))
            words[a : a + long], words[b : b + long] = words[b : b + long], words[a : a + long]
            wanted.add(" ".join(map(str, words)))
    assert found == wanted  # every pair of spans that do not overlap, and nothing else


@quick
@given(texts, numbers, rates)
def test_only_words_with_synonyms_are_substituted(text: str, draws: list[float], rate: float) -> None:
    made = substituted(rate, SYNONYMS)(text, draws).split()
    for was, now in zip(text.split(), made, strict=True):
        others = {"ab": {"xy", "zz"}, "B,": {"Q,"}, "(haus)": {"(heim)"}}.get(was, set())
        assert now == was or now in others
    everything = substituted(1.0, SYNONYMS)(text, draws).split()
    assert not {"ab", "B,", "(haus)"} & set(everything)


@quick
@given(texts, numbers, rates)
def test_typos_are_exchanges_inside_long_words(text: str, draws: list[float], rate: float) -> None:
    made = typos(rate)(text, draws).split()
    for was, now in zip(text.split(), made, strict=True):
        assert sorted(was) == sorted(now)
        apart = [i for i, (x, y) in enumerate(zip(was, now, strict=True)) if x != y]
        assert apart in ([], [*apart[:1], apart[0] + 1] if apart else [])
        assert len(was) >= 5 or was == now
    long = [w for w in text.split() if len(w) >= 7]
    assert sum(x != y for x, y in zip(text.split(), typos(1.0)(text, draws).split(), strict=True)) == len(long)


@quick
@given(texts, numbers, st.integers(1, 8))
def test_a_masked_span_hides_so_many_letters(text: str, draws: list[float], letters: int) -> None:
    made = masked_span(letters, mask="[MASK]")(text, draws)
    if len(text) <= letters:
        assert made == text
    else:
        before, after = made.split("[MASK]")
        assert text.startswith(before)
        assert text.endswith(after)
        assert len(before) + len(after) == len(text) - letters


def test_every_place_may_be_masked_and_every_template_taken() -> None:
    made = {masked_span(2, mask="_")("abcd", [u / 9]) for u in range(9)}
    assert made == {"_cd", "a_d", "ab_"}
    assert {prompted(["1 {}", "2 {}", "3 {}"])("x", [u / 9]) for u in range(9)} == {"1 x", "2 x", "3 x"}
    for wrong in ([], ["no place"]):
        with pytest.raises(ValueError, match="templates"):
            prompted(wrong)


@quick
@given(texts, numbers, st.integers(0, 5), st.integers(0, 20))
def test_a_span_is_a_piece_of_the_text(text: str, draws: list[float], shortest: int, more: int) -> None:
    words = text.split()
    made = span(shortest=shortest, longest=shortest + more)(text, draws).split()
    assert min(shortest, len(words)) <= len(made) <= shortest + more
    assert any(words[i : i + len(made)] == made for i in range(len(words) + 1))


@quick
@given(st.integers(1, 60), st.data())
def test_a_piece_near_another_touches_it(words: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, words - 1))
    anchor = (start, data.draw(st.integers(start + 1, words)))
    draws = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2))
    begin, end = span_near(words, anchor, draws, shortest=1, longest=12)
    assert 0 <= begin < end <= words
    assert begin <= anchor[1]
    assert end >= anchor[0]  # adjacent, overlapping, or inside


def test_lengths_follow_the_beta_distribution() -> None:
    # The mean of Beta(a, b) is a / (a + b): DeCLUTR's anchors are two thirds of the way, its positives one third.
    for beta, mean in (((4.0, 2.0), 2 / 3), ((2.0, 4.0), 1 / 3)):
        lengths = [span_length(10_000, (k + 0.5) / 500, shortest=100, longest=1100, beta=beta) for k in range(500)]
        assert sum(lengths) / 500 == pytest.approx(100 + 1000 * mean, abs=1.5)
    with pytest.raises(ValueError, match="shortest"):
        span_length(5, 0.5, shortest=3, longest=2, beta=(4.0, 2.0))


def test_edits_in_a_chain_have_numbers_of_their_own() -> None:
    both = chained(deleted_words(0.5), deleted_words(0.5))
    assert both("a b c d", [0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9]) == "b c"  # a by 0.1; then of b c d the third
    assert chained(deleted_words(0.5))("a b", [0.1, 0.9]) == "b"


@quick
@given(texts, numbers)
def test_either_is_one_of_them(text: str, draws: list[float]) -> None:
    made = either(prompted(["1 {}"]), prompted(["2 {}"]), prompted(["3 {}"]))(text, draws)
    assert made == f"{1 + int(draws[0] * 3)} {text}"


BATCH = {"anchor": ["ab letters B, haus", "wonderful letters ab ab 12", "ab"], "id": torch.tensor([5, 6, 7]),
    "row": torch.tensor([0, 1, 2]), "label": torch.tensor([1, 1, 0])}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_two_views_without_an_edit_are_those_of_twice() -> None:
    made, wanted = edited()(BATCH, seeded()), twice(BATCH, seeded())
    assert {k: set(v) for k, v in made.items()} == {k: set(v) for k, v in wanted.items()}
    for name, view in wanted.items():
        assert made[name]["text"] == view["text"]
        assert made[name]["view"] == view["view"]
        assert all(torch.equal(made[name][k], view[k]) for k in ("id", "row", "label"))


def test_an_edit_of_one_view_leaves_the_other_and_both_draw_apart() -> None:
    edit = chained(deleted_words(0.5), typos(0.9))
    one, both = edited(second=edit)(BATCH, seeded()), edited(edit, edit)(BATCH, seeded())
    assert one["first"]["text"] == BATCH["anchor"] != one["second"]["text"]
    assert one["second"]["text"] == both["second"]["text"] != both["first"]["text"]
    assert torch.equal(one["second"]["id"], BATCH["id"])
    assert edited(edit)(BATCH, seeded())["second"]["text"] == BATCH["anchor"]


def test_views_go_by_seed_and_row_and_by_nothing_beside_them() -> None:
    views = edited(typos(0.5), chained(deleted_words(0.4), repeated_words(0.5)), draws=16)
    whole = views(BATCH, seeded())
    back = [2, 0]
    some = {k: v[back] if isinstance(v, torch.Tensor) else [v[i] for i in back] for k, v in BATCH.items()}
    for name, view in views(some, seeded()).items():
        assert view["text"] == [whole[name]["text"][i] for i in back]
    assert views(BATCH, seeded()) is not whole
    many = [views(BATCH, seeded(k))["second"]["text"][1] for k in range(20)]
    assert len(set(many)) > 5


def test_numbers_that_run_out_are_used_again_without_repeating_themselves() -> None:
    text = " ".join(map(str, range(100)))
    kept = [int(w) for w in deleted_words(0.5)(text, [0.2, 0.7]).split()]
    assert 35 < len(kept) < 65
    assert len({k % 2 for k in kept}) == 2
    with pytest.raises(ValueError, match="random numbers"):
        deleted_words(0.5)(text, [])


@pytest.mark.parametrize(("make", "value"), [(deleted_words, 1.5), (cut_off, -0.1), (typos, 2), (repeated_words, -1),
    (masked_span, -1)])  # fmt: skip
def test_what_is_no_rate_is_refused(make, value: float) -> None:
    with pytest.raises(ValueError, match="wanted a"):
        make(value)


def test_wordnet_from_its_files(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="wordnet-base"):
        wordnet(tmp_path)
    lines = {
        "noun": "  1 This is the licence of 4 lines\n00001740 03 n 03 Car 0 auto 0 motor_car 0 001 @ 0 n 0 | a motor vehicle",
        "verb": "00002 29 v 02 go 0 move 1 000 | change place\n00003 29 v 02 go 1 run 0 000 | work",
        "adj": "00004 00 s 02 glad(p) 0 happy 0 000 | of good cheer",
        "adv": "00005 02 r 01 alone 0 000 | by oneself",
    }
    for kind, text in lines.items():
        (tmp_path / f"data.{kind}").write_text(text + "  \n")
    found = wordnet(tmp_path)
    assert found == {
        "car": ("auto",), "auto": ("car",), "go": ("move", "run"), "move": ("go",), "run": ("go",),
        "glad": ("happy",), "happy": ("glad",),
    }  # fmt: skip
    assert substituted(1.0, found)("Go car", [0.6, 0.0]) == "Run auto"


def test_equal_texts_of_two_rows_are_edited_apart_and_a_span_may_end_the_text() -> None:
    text = " ".join(map(str, range(12)))
    batch = {"anchor": [text] * 12, "id": torch.arange(12), "row": torch.arange(12)}
    assert len(set(edited(second=deleted_words(0.5))(batch, seeded())["second"]["text"])) > 6
    ends = {deleted_span(0.5)("a b c d", [k / 6]) for k in range(6)}
    assert ends == {"c d", "a d", "a b"}
    begins = {span_near(9, (4, 6), [0.5, k / 40], shortest=2, longest=2)[0] for k in range(40)}
    assert begins == {
        2,
        3,
        4,
        5,
        6,
    }  # from the one that ends where the anchor begins to the one that begins where it ends
    typed = {typos(0.1)("transformer", [k / 400]) for k in range(40)}
    assert len(typed) > 4  # at every place inside, however rare typos are


def test_sentences_beyond_the_most_are_in_the_last_one() -> None:
    text = "A b. C d. E f. G."
    assert [text[a:b] for a, b in sentences(text, 2)] == ["A b.", "C d. E f. G."]
    assert [text[a:b] for a, b in sentences(text, 4)] == [text[a:b] for a, b in sentences(text)]
    assert whole_passages(["C d.", "E f.", text]) == [text]


def test_rules_turn_first_by_a_not_and_keep_by_leaving_a_word_out() -> None:
    assert turned_in_meaning("it is 5 o'clock", 0.0) == "it is not 5 o'clock"
    assert turned_in_meaning("take 5 of them", 0.5) not in (None, "take 5 of them")
    made = kept_in_meaning("we go up to it", 0.3)
    assert len(made.split()) == 4
    assert part_of(made.split(), ["we", "go", "up", "to", "it"])
