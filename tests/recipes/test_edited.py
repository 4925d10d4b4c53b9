"""How ESimCSE, Mirror-BERT and CLEAR differ from SimCSE, each in the way its paper says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.recipes.edited import clear, esimcse, mirror_bert
from counterpoint.recipes.text import simcse
from counterpoint.training.method import Method
from counterpoint.types import Embeddings

from ..conftest import make_tiny_model, toy_rows

DATA = Rows.of(pl.DataFrame({"anchor": [f"{row['query']} {row['doc']}" for row in toy_rows(24)]}))  # six words each
LONG = Rows.of(pl.DataFrame({"anchor": ["q1", *(f"q{i} " * 10 for i in range(1, 8))]}))


def made(recipe, folder: Path, **numbers: object) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), DATA, **numbers)


def viewed(method: Method, data: Rows, at: range) -> dict[str, dict]:
    return {k: dict(v) for k, v in method.views(data.take(np.array(at)), torch.Generator().manual_seed(3)).items()}


def encoded(method: Method, data: Rows, at: range, *, dropout: bool = False) -> dict[str, Embeddings]:
    method.modules.train(dropout)
    torch.manual_seed(1)
    return method.encode(method.modules, viewed(method, data, at))


def nt_xent(sets: dict[str, Embeddings], temperature: float) -> float:
    """NT-Xent over 2B embeddings with labels arange twice: cambridgeltl/mirror-bert, src/contrastive_learning.py."""
    z = normalize(torch.cat([sets["first"].z, sets["second"].z]).detach())
    n = len(z) // 2
    scores = (z @ z.T / temperature).fill_diagonal_(-1e9)
    return cross_entropy(scores, torch.arange(2 * n).roll(n)).item()


@pytest.mark.proves(row=280, fact="closed-form")
def test_without_repeats_and_with_an_empty_queue_esimcse_is_simcse(tiny: Path) -> None:
    ours, theirs = made(esimcse, tiny, rate=0.0), made(simcse, tiny)
    sets = [encoded(method, DATA, range(8), dropout=True) for method in (ours, theirs)]
    assert torch.equal(sets[0]["first"].z, sets[1]["first"].z)
    losses = [method.objective(method.modules, found).loss for method, found in zip((ours, theirs), sets, strict=True)]
    assert torch.equal(*losses)


def test_its_second_view_is_longer_and_has_no_other_words(tiny: Path) -> None:
    method = made(esimcse, tiny, rate=1.0)
    views = viewed(method, DATA, range(24))
    assert views["first"]["text"] == views["past"]["text"] == DATA.anchors
    lengths = []
    for one, two in zip(DATA.anchors, views["second"]["text"], strict=True):
        words = two.split()
        assert [w for i, w in enumerate(words) if i == 0 or w != words[i - 1]] == one.split()  # in their order
        lengths.append(len(words) - len(one.split()))
    assert min(lengths) == 0
    assert max(lengths) > 2
    assert len(set(lengths)) > 3  # so that length says nothing


@pytest.mark.proves(row=280, fact="reference")
def test_the_queue_stands_beside_the_negatives_of_the_batch(tiny: Path) -> None:
    """caskcsg/sentemb, ESimCSE/esimcse/models.py: [cos(z1, z2), cos(z1, queue)] / temperature, labels arange."""
    method = made(esimcse, tiny, queue=12)
    for at in (range(8, 16), range(16, 24)):
        sets = encoded(method, DATA, at)
        method.after(method.modules, sets, method.objective(method.modules, sets))
    sets = encoded(method, DATA, range(8))
    first, second, past = (
        normalize(z.detach()) for z in (sets["first"].z, sets["second"].z, method.modules["queue"].z)
    )
    assert len(method.modules["queue"].rows()) == 12
    wanted = cross_entropy(torch.cat([first @ second.T, first @ past.T], 1) / 0.05, torch.arange(8))
    outcome = method.objective(method.modules, sets)
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert outcome.notes["negatives"].tolist() == [7 + 12] * 8
    again = encoded(method, DATA, range(16, 24))  # rows of a text's own past are no negatives
    assert method.objective(method.modules, again).notes["negatives"].tolist() == [7 + 11] * 8


def test_the_teacher_has_no_dropout_and_moves_slowly(tiny: Path) -> None:
    method = made(esimcse, tiny, momentum=0.75, queue=8)
    sets = encoded(method, DATA, range(8), dropout=True)
    assert not torch.equal(sets["first"].z, sets["past"].z)
    assert torch.equal(sets["past"].z, encoded(method, DATA, range(8), dropout=True)["past"].z)
    assert torch.allclose(sets["past"].z, encoded(method, DATA, range(8))["first"].z, atol=1e-6)  # through the head too
    method.objective(method.modules, sets).loss.backward()
    assert all(p.grad is None for p in method.modules["teacher"].parameters())
    weights = [next(method.modules[name].parameters()) for name in ("teacher", "encoder")]
    with torch.no_grad():
        weights[1].add_(1.0)
    before = weights[0].clone()
    method.after(method.modules, sets, method.objective(method.modules, sets))
    assert torch.allclose(weights[0] - before, torch.tensor(0.25))
    assert torch.allclose(method.modules["queue"].rows().z, normalize(sets["past"].z))


@pytest.mark.parametrize("recipe", [esimcse, mirror_bert])
def test_an_encoder_without_dropout_is_refused(recipe, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=recipe.__name__):
        made(recipe, make_tiny_model(tmp_path / "dry", dropout=0.0))


def test_one_copy_has_a_mask_for_five_letters_and_short_texts_none(tiny: Path) -> None:
    views = viewed(made(mirror_bert, tiny), LONG, range(8))
    assert views["first"]["text"] == LONG.anchors
    assert views["second"]["text"][0] == "q1"
    for one, two in zip(LONG.anchors[1:], views["second"]["text"][1:], strict=True):
        left, right = two.split(" [MASK] ")
        assert one.startswith(left)
        assert one.endswith(right)
        assert len(left) + len(right) == len(one) - 5


@pytest.mark.proves(row=273, fact="reference")
def test_mirror_bert_is_nt_xent_over_both_copies(tiny: Path) -> None:
    method = made(mirror_bert, tiny)
    sets = encoded(method, LONG, range(8), dropout=True)
    assert method.objective(method.modules, sets).loss.item() == pytest.approx(nt_xent(sets, 0.04), rel=1e-5)


@pytest.mark.proves(row=273, fact="closed-form")
def test_without_masks_and_dropout_the_copies_are_identical(tiny: Path) -> None:
    sets = encoded(made(mirror_bert, tiny, letters=0), LONG, range(8))
    assert torch.equal(sets["first"].z, sets["second"].z)
    assert not torch.equal(*(encoded(made(mirror_bert, tiny), LONG, range(8))[name].z for name in ("first", "second")))


def test_both_views_of_clear_lose_words_and_differ(tiny: Path) -> None:
    views = viewed(made(clear, tiny, words=0.5, reorder=0), DATA, range(24))
    pairs = list(zip(DATA.anchors, *(views[name]["text"] for name in ("first", "second")), strict=True))
    for text, *edits in pairs:
        for edit in edits:
            kept = iter(text.split())
            assert all(word in kept for word in edit.split())  # the same words in the same order, but fewer
    assert sum(len(one.split()) for _, one, _ in pairs) == pytest.approx(0.5 * 24 * 6, rel=0.25)
    assert sum(one != two for _, one, two in pairs) > 12
    assert views["masked"]["text"] == DATA.anchors
    moved = viewed(made(clear, tiny, words=0.0), DATA, range(24))["second"]["text"]
    assert [sorted(text.split()) for text in moved] == [sorted(text.split()) for text in DATA.anchors]
    assert moved != DATA.anchors


@pytest.mark.proves(row=82, fact="closed-form")
def test_clear_without_edits_is_equal_views_and_the_cost_of_guessing_is_added(tiny: Path) -> None:
    method = made(clear, tiny, words=0.0, reorder=0, masked=0.5)
    sets = encoded(method, DATA, range(8))
    assert torch.equal(sets["first"].z, sets["second"].z)
    outcome = method.objective(method.modules, sets)
    cost = (sets["masked"].facts["masked"] * sets["masked"].facts["hidden"]).sum() / sets["masked"].facts[
        "hidden"
    ].sum()
    assert cost.item() > 1
    assert outcome.terms["contrast"].item() == pytest.approx(nt_xent(sets, 0.1), rel=1e-5)
    assert outcome.loss.item() == pytest.approx(nt_xent(sets, 0.1) + 0.5 * cost.item(), rel=1e-5)
    alone = made(clear, tiny, words=0.0, reorder=0, masked=0.0)
    found = encoded(alone, DATA, range(8))
    assert alone.objective(alone.modules, found).loss.item() == pytest.approx(nt_xent(found, 0.1), rel=1e-5)


def test_only_what_is_asked_for_needs_wordnet(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterpoint.recipes.edited.wordnet", lambda: {"q": ("d",)})
    method = made(clear, tiny, words=0.0, reorder=0, synonyms=1.0)
    assert viewed(method, DATA, range(24))["first"]["text"] == [text.replace("q", "d") for text in DATA.anchors]


def test_clear_takes_as_many_spans_and_exchanges_as_it_is_told(tiny: Path) -> None:
    cut = viewed(made(clear, tiny, words=0.0, reorder=0, spans=3), DATA, range(24))["first"]["text"]
    assert {6 - len(text.split()) for text in cut} >= {2, 3}  # spans of one word, some on each other
    moved = viewed(made(clear, tiny, words=0.0, reorder=4), DATA, range(24))["first"]["text"]
    away = [
        sum(a != b for a, b in zip(x.split(), y.split(), strict=True)) for x, y in zip(DATA.anchors, moved, strict=True)
    ]
    assert max(away) > 3  # one exchange moves two words


def test_what_is_hidden_beside_a_contrast_belongs_to_the_row_and_has_its_rate(tiny: Path) -> None:
    method = made(clear, tiny, rate=0.9)
    draws = viewed(method, DATA, range(8))["masked"]["draws"]
    assert len(draws.unique(dim=0)) == 8
    hidden = encoded(method, DATA, range(8))["masked"].facts["hidden"]
    assert hidden.sum().item() == pytest.approx(0.9 * 8 * 6, rel=0.2)
