"""What recipes of generated texts promise beyond the contracts: which pairs count, and how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cosine_similarity, log_softmax, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.recipes.generated import claif, clhaif, syncse, with_triples
from counterpoint.recipes.text import simcse_supervised
from counterpoint.training.method import Method
from counterpoint.types import Embeddings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.job import Job
from counterpoint.verbs.settings import Run

from ..conftest import toy_rows

TOYS = toy_rows(24)
ANCHORS = [row["query"] for row in TOYS]
VALUES = [round(0.04 * i, 2) for i in range(24)]
COLUMNS = {"anchor": ANCHORS, "positive": [[r["doc"]] for r in TOYS]}
NEGATIVES = {"negative": [[TOYS[(i + 12) % 24]["doc"]] for i in range(24)]}


def rows(**columns: list) -> Rows:
    return Rows.of(pl.DataFrame({**COLUMNS, **columns}))


def sets_of(method: Method, data: Rows, count: int = 12) -> dict[str, Embeddings]:
    method.modules.eval()
    return method.encode(method.modules, method.views(data.take(np.arange(count)), torch.Generator().manual_seed(0)))


def loss(method: Method, data: Rows) -> torch.Tensor:
    return method.objective(method.modules, sets_of(method, data)).loss


@pytest.mark.proves(row=108, fact="closed-form")
def test_claif_costs_the_squares_of_what_cosines_miss_and_sees_no_other_pair(tiny: Path) -> None:
    data = rows(value=VALUES)
    method = claif(load(str(tiny)), data)
    sets = sets_of(method, data)
    cosines = cosine_similarity(sets["anchor"].z, sets["candidate"].z)
    expected = (cosines - torch.tensor(VALUES[:12])).square().sum() / 12
    outcome = method.objective(method.modules, sets)
    assert torch.allclose(outcome.loss, expected, rtol=1e-5)
    assert len(outcome.notes["residual"]) == 12  # 132 pairs of the batch say nothing
    perfect = claif(load(str(tiny)), rows(value=[5 * c for c in cosines.tolist()] + [0.0] * 12), highest=5.0)
    assert perfect.objective(perfect.modules, sets).loss.item() < 1e-12


@pytest.mark.proves(row=108, fact="reference")
def test_clhaif_is_the_authors_smooth_positive(tiny: Path) -> None:
    """The formula of xiami2019/CLAIF, simcse/models.py (commit bcf6322), smooth_type "smooth_positive"."""
    data = rows(**NEGATIVES, value=VALUES)
    method = clhaif(load(str(tiny)), data, head=False)
    sets = sets_of(method, data)
    anchor, both = (normalize(sets[name].z, dim=1) for name in ("anchor", "candidate"))
    logits = anchor @ both.T / 0.05
    assert len(sets["candidate"].id.unique()) == 24
    expected = -(torch.tensor(VALUES[:12]) * log_softmax(logits, dim=1).diagonal()).sum() / 12
    assert torch.allclose(method.objective(method.modules, sets).loss, expected, rtol=1e-4)


def test_clhaif_of_full_scores_is_supervised_simcse(tiny: Path) -> None:
    encoder, plain = load(str(tiny)), rows(**NEGATIVES)
    wanted = loss(simcse_supervised(encoder, plain, head=False, hard_weight=2.0), plain)
    for data, highest in (
        (plain, 1.0),
        (rows(**NEGATIVES, value=[1.0] * 24), 1.0),
        (rows(**NEGATIVES, value=[5.0] * 24), 5.0),
    ):
        found = loss(clhaif(encoder, data, head=False, hard_weight=2.0, highest=highest), data)
        assert torch.allclose(found, wanted, rtol=1e-6)
    half = rows(**NEGATIVES, value=[0.5] * 24)
    assert torch.allclose(loss(clhaif(encoder, half, head=False, hard_weight=2.0), half), wanted / 2)


def test_a_positive_without_any_likeness_is_no_negative(tiny: Path) -> None:
    data = rows(**NEGATIVES, value=[0.0] + [1.0] * 23)
    method = clhaif(load(str(tiny)), data, head=False)
    outcome = method.objective(method.modules, sets_of(method, data))
    assert outcome.notes["negatives"].tolist() == [23.0] * 12
    share = outcome.loss.item()  # it counts in the mean, and adds next to nothing
    assert share > 0
    less = rows(**NEGATIVES, value=[0.001] + [1.0] * 23)
    assert loss(clhaif(load(str(tiny)), less, head=False), less).item() == pytest.approx(share, rel=1e-2)


@pytest.mark.proves(row=117, fact="closed-form")
def test_syncse_of_written_triples_is_supervised_simcse(tiny: Path) -> None:
    encoder, data = load(str(tiny)), rows(**NEGATIVES)
    wanted = loss(simcse_supervised(encoder, data, head=False, hard_weight=2.0), data)
    assert torch.equal(loss(syncse(encoder, data, head=False, hard_weight=2.0), data), wanted)


def test_syncse_writes_what_texts_lack_and_only_that(tiny: Path) -> None:
    texts = ["it is late", "a big house near here", "trains are fast", "ok"]
    data = Rows.of(pl.DataFrame({"anchor": texts, "positive": [[], [], ["quick trains"], []]}))
    method = syncse(load(str(tiny)), data, head=False)
    views = method.views(data.take(np.array([2, 0, 1])), torch.Generator())
    made = views["candidate"]["text"]
    assert views["anchor"]["text"] == ["trains are fast", "it is late", "a big house near here"]
    assert made[0] == "quick trains"
    assert made[2].replace("large", "big").replace("close to", "near") == "a big house near here" != made[2]
    assert made[3:5] == ["trains are not fast", "it is not late"]
    sets = method.encode(method.modules, views)
    outcome = method.objective(method.modules, sets)
    assert outcome.notes["negatives"].tolist() == [5.0, 5.0, 5.0]
    near = syncse(load(str(tiny)), data, head=False, hard_weight=1e9)
    assert (
        near.objective(near.modules, sets).loss.item() > outcome.loss.item() + 10
    )  # its own contradiction weighs more


def test_what_a_table_says_reaches_the_loss(tiny: Path, tmp_path: Path) -> None:
    """`fit` hands values on to the recipe."""
    table = pl.DataFrame({"anchor": ANCHORS, "positive": [r["doc"] for r in TOYS], "value": VALUES})
    table.write_parquet(tmp_path / "made.parquet")
    run = Run(recipe="claif", model=str(tiny), out=str(tmp_path / "run"), steps=2, batch=4)
    job = Job(tmp_path / "made.parquet", run, Screen(quiet=True))
    assert job.rows.relation.value is not None
    assert set(job.rows.relation.value.tolist()) <= set(torch.tensor(VALUES).tolist())
    assert len(set(job.rows.relation.value.tolist())) > 10


def test_rules_draw_for_each_text_and_by_their_seed() -> None:
    data = Rows.of(pl.DataFrame({"anchor": [f"abcdefghijk {i}" for i in range(12)]}))
    made, again, other = (with_triples(data, seed=seed).positives for seed in (0, 0, 1))
    assert made == again != other
    assert len({text.split()[0] for (text,) in made}) > 2  # typos at several places
