"""What each text recipe alone has to pass; what all of them have to pass is in test_contracts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.recipes import text
from counterpoint.types import Embeddings

from .test_contracts import method, rows


def test_only_the_encoder_is_saved(tiny: Path) -> None:
    m = method("simcse", tiny, rows())
    assert "head" in m.modules
    assert m.model(m.modules) is m.modules["encoder"]


def test_every_listed_positive_in_the_batch_attracts(tiny: Path) -> None:
    frame = pl.DataFrame({"anchor": ["q1", "q2", "q1"], "positive": [["d1"], ["d2"], ["d2"]]})
    data = Rows.of(frame)
    m = method("pairs", tiny, data)
    sets = m.encode(m.modules, m.views(data.take(np.arange(3)), torch.Generator()))
    notes = m.objective(m.modules, sets).notes
    assert notes["negatives"].tolist() == [0, 1, 0]  # q1 owns d1 and both copies of d2; q2 only d2


def test_hard_negatives_are_candidates_of_the_whole_batch(tiny: Path) -> None:
    data = rows()
    for name, expected in (("pairs", 7), ("pairs_with_negatives", 15)):
        m = method(name, tiny, data)
        sets = m.encode(m.modules, m.views(data.take(np.arange(8)), torch.Generator()))
        assert m.objective(m.modules, sets).notes["negatives"].max() == expected


def test_simcse_without_dropout_is_refused(tiny: Path) -> None:
    encoder = load(str(tiny))
    encoder.set_dropout(0.0)
    with pytest.raises(Refusal, match="dropout"):
        text.simcse(encoder, rows())


@pytest.mark.proves(row=80, fact="closed-form")
def test_without_contradictions_supervised_simcse_is_the_pair_loss_in_one_direction(tiny: Path) -> None:
    data = rows()
    empty = replace(data, negatives=[[] for _ in data.negatives])
    encoder = load(str(tiny)).eval()
    batch = empty.take(np.arange(10))
    one = text.simcse_supervised(encoder, empty, head=False)
    two = text.pairs(encoder, empty, directions="forward")
    losses = [
        m.objective(m.modules, m.encode(m.modules, m.views(batch, torch.Generator()))).loss.item() for m in (one, two)
    ]
    assert losses[0] == losses[1]


def test_equal_views_of_simcse_cost_what_their_similarities_say(tiny: Path) -> None:
    encoder = load(str(tiny))
    data = rows()
    m = text.simcse(encoder, data, head=False)
    encoder.eval()  # no dropout: both views equal
    sets = m.encode(m.modules, m.views(data.take(np.arange(5)), torch.Generator()))
    z = torch.nn.functional.normalize(sets["first"].z, dim=1)
    expected = torch.nn.functional.cross_entropy(z @ z.T / 0.05, torch.arange(5))
    assert m.objective(m.modules, sets).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert isinstance(sets["first"], Embeddings)
