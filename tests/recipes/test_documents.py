"""How DeCLUTR and Quick Thoughts take their pairs from where texts stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.recipes.documents import anchors_and_spans, declutr, in_context, places, quick_thoughts
from counterpoint.training.method import Method

WORDS = [f"{side}{i}" for side in "qd" for i in range(40)]
DOCUMENTS = Rows.of(pl.DataFrame({"anchor": [" ".join(WORDS[k:] + WORDS[:k]) for k in (0, 20, 40)]}))
CORPUS = Rows.of(pl.DataFrame({"anchor": [f"q{i} d{i}" for i in range(12)]}))


def made(recipe, data: Rows, folder: Path, **numbers: object) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), data, **numbers)


def test_spans_lie_in_their_document_and_positives_touch_their_anchor() -> None:
    limits = {"shortest": 4, "longest": 16}
    lengths: dict[str, list[float]] = {"anchor": [], "positive": []}
    for seed in range(40):
        views = anchors_and_spans(anchors=2, positives=3, **limits)(
            DOCUMENTS.take(np.arange(3)), torch.Generator().manual_seed(seed)
        )
        assert views["anchor"]["id"].tolist() == views["positive"]["id"].tolist()
        for k, (anchor, around) in enumerate(zip(views["anchor"]["text"], views["positive"]["texts"], strict=True)):
            text = f" {DOCUMENTS.anchors[k // 2]} "
            assert len(around) == 3
            words, long = text.split(), len(anchor.split())
            start = words.index(anchor.split()[0])
            for piece in around:
                assert f" {piece} " in text
                first, size = words.index(piece.split()[0]), len(piece.split())
                assert start - size <= first <= start + long  # overlaps or touches
                lengths["positive"].append((size - 4) / 12)
            assert f" {anchor} " in text
            lengths["anchor"].append((long - 4) / 12)
    # Beta(4, 2) and Beta(2, 4), less the half word that rounding down takes
    assert np.mean(lengths["anchor"]) == pytest.approx(2 / 3 - 0.5 / 12, abs=0.03)
    assert np.mean(lengths["positive"]) == pytest.approx(1 / 3 - 0.5 / 12, abs=0.03)


@pytest.mark.proves(row=128, fact="reference")
def test_declutr_is_nt_xent_of_anchors_and_averaged_positives_beside_guessing(tiny: Path) -> None:
    """JohnGiorgi/DeCLUTR, declutr/model.py: positives averaged; NT-Xent over both, labels of anchor and positive equal."""
    method = made(declutr, DOCUMENTS, tiny, shortest=4, longest=16)
    method.modules.eval()
    views = method.views(DOCUMENTS.take(np.arange(3)), torch.Generator().manual_seed(1))
    sets = method.encode(method.modules, views)
    encoder = method.modules["encoder"]
    means = torch.stack([sum(encoder([t]) for t in texts)[0] / 2 for texts in views["positive"]["texts"]])
    assert torch.allclose(sets["positive"].z, means, atol=1e-6)
    z = normalize(torch.cat([encoder(views["anchor"]["text"]), means]))
    scores = (z @ z.T / 0.05).fill_diagonal_(-1e9)
    wanted = cross_entropy(scores, torch.arange(12).roll(6))  # the other anchor of a document is a negative
    outcome = method.objective(method.modules, sets)
    assert outcome.terms["contrast"].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert (
        outcome.notes["contrast negatives" if "contrast negatives" in outcome.notes else "negatives"].tolist()
        == [10] * 12
    )
    assert list(views["masked"]["text"]) == list(views["anchor"]["text"])
    assert outcome.terms["masked"].item() > 1
    assert outcome.loss.item() == pytest.approx(sum(term.item() for term in outcome.terms.values()), rel=1e-5)


@pytest.mark.proves(row=128, fact="closed-form")
def test_one_positive_is_its_own_mean_and_a_short_document_is_one_piece(tiny: Path) -> None:
    method = made(declutr, DOCUMENTS, tiny, positives=1, shortest=4, longest=16)
    method.modules.eval()
    views = method.views(DOCUMENTS.take(np.arange(3)), torch.Generator().manual_seed(1))
    sets = method.encode(method.modules, views)
    alone = method.modules["encoder"]([text for (text,) in views["positive"]["texts"]])
    assert torch.allclose(sets["positive"].z, alone, atol=1e-6)
    short = anchors_and_spans(anchors=2, positives=2, shortest=32, longest=512)(
        CORPUS.take(np.arange(2)), torch.Generator()
    )
    assert short["anchor"]["text"] == ["q0 d0"] * 2 + ["q1 d1"] * 2
    assert short["positive"]["texts"] == [("q0 d0",) * 2] * 2 + [("q1 d1",) * 2] * 2


def test_a_row_brings_the_sentences_around_it_and_no_others() -> None:
    views = in_context(CORPUS, context=2)(CORPUS.take(np.array([0, 6])), torch.Generator())
    assert views["sentence"]["row"].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert views["context"]["text"] == [f"q{i} d{i}" for i in (0, 1, 2, 4, 5, 6, 7, 8)]
    two = replace(CORPUS, sources=["a"] * 5 + ["b"] * 7)
    where = places(two, context=2)
    assert (where[5] - where[4]).item() == 3  # no context across sources
    assert where.diff().tolist() == [1] * 4 + [3] + [1] * 6


@pytest.mark.proves(row=105, fact="reference")
def test_quick_thoughts_has_the_band_of_its_context_as_targets(tiny: Path) -> None:
    """lajanugen/S2V, src/s2v_model.py: targets of a band without its diagonal, normalised; here the sentence itself is left
    out of the softmax, as in the paper."""
    method = made(quick_thoughts, CORPUS, tiny, context=2)
    method.modules.eval()
    with torch.no_grad():
        for p in method.modules["other"].parameters():
            p.mul_(1.1)  # g is not f
    views = method.views(CORPUS.take(np.array([2, 7])), torch.Generator())
    sets = method.encode(method.modules, views)
    f, g = (method.modules[name](views["sentence"]["text"]) for name in ("encoder", "other"))
    assert torch.allclose(sets["sentence"].z, f)
    assert torch.allclose(sets["context"].z, g)
    at = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert views["sentence"]["row"].tolist() == at.tolist()
    band = ((at[:, None] - at).abs() <= 2).float() - torch.eye(10)
    scores = (f @ g.T).fill_diagonal_(-1e9)
    wanted = cross_entropy(scores, band / band.sum(1, keepdim=True))
    outcome = method.objective(method.modules, sets)
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    outcome.loss.backward()
    for name in ("encoder", "other"):
        assert next(method.modules[name].parameters()).grad.abs().max() > 0
    assert method.model(method.modules) is method.modules["encoder"]


@pytest.mark.proves(row=105, fact="closed-form")
def test_a_sentence_says_nothing_of_itself(tiny: Path) -> None:
    method = made(quick_thoughts, CORPUS, tiny)
    method.modules.eval()
    sets = method.encode(method.modules, method.views(CORPUS.take(np.array([1])), torch.Generator()))
    flat = {name: replace(rows, z=torch.ones(3, 4)) for name, rows in sets.items()}
    # the first and the last have one positive and one negative, the middle two positives that compete: log 2 each
    assert method.objective(method.modules, flat).loss.item() == pytest.approx(np.log(2), rel=1e-6)


def test_a_context_of_nothing_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="a context of at least 1"):
        made(quick_thoughts, CORPUS, tiny, context=0)


def test_each_piece_has_draws_of_its_own_and_the_last_word_may_be_in_it(tiny: Path) -> None:
    same = Rows.of(pl.DataFrame({"anchor": DOCUMENTS.anchors[:1] * 12}))
    views = made(declutr, same, tiny, shortest=4, longest=16).views(same.take(np.arange(12)), torch.Generator())
    assert len(set(views["anchor"]["text"])) > 18
    assert len(views["anchor"]["row"].unique()) == 24
    assert len(views["masked"]["draws"].unique(dim=0)) == 24  # two anchors of a document hide other words
    short = Rows.of(pl.DataFrame({"anchor": ["q0 q1 q2"] * 12}))
    pieces = anchors_and_spans(anchors=1, positives=1, shortest=2, longest=2)(
        short.take(np.arange(12)), torch.Generator()
    )
    assert set(pieces["anchor"]["text"]) == {"q0 q1", "q1 q2"}
    long = anchors_and_spans(anchors=4, positives=8, shortest=4, longest=40)(
        same.take(np.arange(12)), torch.Generator()
    )
    found = []
    for anchor, around in zip(long["anchor"]["text"], long["positive"]["texts"], strict=True):
        begin, end = WORDS.index(anchor.split()[0]), WORDS.index(anchor.split()[-1]) + 1
        for piece in around:
            size = len(piece.split())
            first, last = max(0, begin - size), min(len(WORDS) - size, end)
            found.append((size, (WORDS.index(piece.split()[0]) - first) / (last - first)))
    assert abs(np.corrcoef(np.array(found).T)[0, 1]) < 0.3  # where a piece lies does not go by its length
