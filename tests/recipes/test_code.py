"""What recipes of code promise beyond the contracts: six comparisons, four queues, variants that do the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.objectives.softmax import infonce
from counterpoint.recipes.code import cocosoda, contrabert, variant
from counterpoint.training.method import Method
from counterpoint.types import Embeddings

CODES = [f"def f{i}(a, b):\n    # adds\n    c = a\n    d = {i}\n    return c + d + b" for i in range(16)]
DATA = Rows.of(
    pl.DataFrame({"anchor": [f"q{i} w{i} w{i + 1}" for i in range(16)], "positive": [[code] for code in CODES]})
)
ONLY = Rows.of(
    pl.DataFrame({"anchor": [*CODES[:8], *(f"q{i} w{i} w{i + 1} w{i + 2} w3 w4 w5 w6 w7 w8" for i in range(8))]})
)


def made(method: Method, data: Rows, at: range = range(8)) -> dict[str, Embeddings]:
    method.modules.eval()
    return method.encode(method.modules, method.views(data.take(np.array(at)), torch.Generator().manual_seed(3)))


@pytest.mark.proves(row=47, fact="reference")
def test_cocosoda_compares_six_times_with_batch_and_queue(tiny: Path) -> None:
    """The comparisons of DeepSoftwareAnalytics/CoCoSoDa, model.py (commit 2f2bf8e), with do_ineer_loss."""
    method = cocosoda(load(str(tiny)), DATA, queue=16, rate=0.5)
    with torch.no_grad():
        for p in method.modules["teacher"].parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    past = made(method, DATA, range(8, 16))
    method.after(method.modules, past, method.objective(method.modules, past))
    sets = made(method, DATA)
    q, c, mq, mc = (normalize(sets[name].z, dim=1) for name in ("query", "code", "masked query", "masked code"))
    oq, oc, omq, omc = (normalize(past[name].z, dim=1) for name in ("query", "code", "masked query", "masked code"))
    pairs = [(c, q, oq), (c, mq, omq), (q, c, oc), (q, mc, omc), (c, mc, omc), (q, mq, omq)]
    logits = torch.cat([torch.cat([a @ b.T, a @ old.T], 1) / 0.07 for a, b, old in pairs])
    outcome = method.objective(method.modules, sets)
    assert len(outcome.terms) == 6
    assert torch.allclose(outcome.loss, cross_entropy(logits, torch.arange(8).repeat(6)), rtol=1e-4)
    assert not sets["masked code"].z.requires_grad
    assert sets["code"].z.requires_grad
    method.after(method.modules, sets, outcome)
    again = method.modules["queues"]["masked code"].rows()  # type: ignore[index]
    assert again.id.tolist() == [*past["code"].id.tolist(), *sets["code"].id.tolist()]
    assert torch.allclose(again.z[8:], mc, atol=1e-6)


def test_without_memory_and_masks_all_six_are_the_loss_of_the_batch(tiny: Path) -> None:
    method = cocosoda(load(str(tiny)), DATA, queue=0, momentum=0.0, rate=0.0)
    views = method.views(DATA.take(np.arange(8)), torch.Generator())
    assert views["masked code"]["text"] == views["code"]["text"] == CODES[:8]
    assert views["masked query"]["text"] == views["query"]["text"]
    sets = made(method, DATA)
    terms = method.objective(method.modules, sets).terms
    plain = infonce(sets["query"], sets["code"], temperature=0.07).loss
    assert torch.allclose(terms["query to code"], plain, rtol=1e-5)
    assert torch.allclose(terms["query to masked code"], plain, rtol=1e-5)
    still = cocosoda(load(str(tiny)), DATA, momentum=1.0)
    before = [p.clone() for p in still.modules["teacher"].parameters()]
    with torch.no_grad():
        next(still.modules["encoder"].parameters()).add_(1.0)
    rows = made(still, DATA)
    still.after(still.modules, rows, still.objective(still.modules, rows))
    assert all(torch.equal(x, y) for x, y in zip(before, still.modules["teacher"].parameters(), strict=True))


def test_cocosodas_masked_views_are_the_teachers(tiny: Path) -> None:
    method = cocosoda(load(str(tiny)), DATA)
    before = made(method, DATA)
    with torch.no_grad():
        for p in method.modules["teacher"].parameters():
            p.mul_(0.5)
    after = made(method, DATA)
    same = {name: torch.equal(before[name].z, after[name].z) for name in before}
    assert same == {"query": True, "code": True, "masked query": False, "masked code": False}


def test_code_and_queries_are_masked_in_the_teachers_views_alone(tiny: Path) -> None:
    method = cocosoda(load(str(tiny)), DATA, rate=0.6, mask="<m>")
    views = method.views(DATA.take(np.arange(16)), torch.Generator().manual_seed(1))
    assert views["code"]["text"] == CODES
    assert views["query"]["text"] == DATA.anchors
    assert any("<m>" in text for text in views["masked query"]["text"])
    hidden = views["masked code"]["text"]
    assert any("<m>" in text for text in hidden)
    assert any("identifier" in text or "separator" in text or "number" in text for text in hidden)
    assert len({int(v["view"]) for v in views.values()}) == 4
    assert [v["role"] for v in views.values()] == ["anchor", "anchor", "positive", "positive"]


@pytest.mark.proves(row=217, fact="closed-form")
def test_contrabert_adds_guessing_to_the_contrast_of_a_text_and_its_variant(tiny: Path) -> None:
    whole, bare = (contrabert(load(str(tiny)), ONLY, weight=w) for w in (0.5, 0.0))
    sets = made(whole, ONLY, range(8, 16))  # the others are words that the model does not know
    outcome = whole.objective(whole.modules, sets)
    z, v = (normalize(sets[name].z, dim=1) for name in ("first", "second"))
    expected = cross_entropy(z @ v.T / 0.07, torch.arange(8))
    assert torch.allclose(outcome.terms["contrast"], expected, rtol=1e-4)
    cost, hidden = (sets["masked"].facts[name] for name in ("masked", "hidden"))
    words = (cost * hidden).sum() / hidden.sum()
    assert torch.allclose(outcome.loss, expected + 0.5 * words, rtol=1e-4)
    assert torch.allclose(bare.objective(bare.modules, sets).loss, expected, rtol=1e-4)
    views = whole.views(ONLY.take(np.arange(16)), torch.Generator().manual_seed(0))
    assert views["first"]["text"] == ONLY.anchors == views["masked"]["text"]
    assert sum(a != b for a, b in zip(views["first"]["text"], views["second"]["text"], strict=True)) > 8


def test_variants_of_code_do_the_same() -> None:
    seen = set()
    for k in range(40):
        text = variant()(CODES[3], [k / 40, (k * 7 % 40) / 40, 0.4])
        space: dict = {}
        exec(text, space)
        assert space["f3"](2, 4) == 9
        seen.add(text)
    assert len(seen) > 5
    assert CODES[3] not in seen
    assert variant()("it is late in the evening", [0.0, 0.0, 0.9]) != "it is late in the evening"
