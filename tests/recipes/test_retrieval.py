"""What recipes of general text embedding change, beside what they leave as it is in their parents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.objectives.joint import infonce_joint
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.recipes.retrieval import gte, nv_embed
from counterpoint.recipes.text import pairs, pairs_with_negatives
from counterpoint.testing import assert_method_caches, assert_method_over_processes
from counterpoint.training.method import Method
from counterpoint.types import Embeddings, Outcome

from ..conftest import toy_rows


def rows(count: int = 12) -> Rows:
    data = toy_rows(count)
    return Rows.of(
        pl.DataFrame({
            "anchor": [row["query"] for row in data], "positive": [[row["doc"]] for row in data],
            "negative": [[f"w{i} w{i + 1}", f"w{i}"] for i in range(count)],
            "source": ["web" if i % 3 else "intents" for i in range(count)],
        })
    )  # fmt: skip


def made(recipe: Any, folder: Path, data: Rows, **settings: Any) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), data, **settings)


def run(method: Method, data: Rows) -> tuple[dict[str, Embeddings], Outcome]:
    torch.manual_seed(1)
    batch = data.take(np.arange(len(data)))
    sets = method.encode(method.modules, method.views(batch, torch.Generator().manual_seed(0)))
    return sets, method.objective(method.modules, sets)


# ---- the improved loss


@pytest.mark.proves(row=141, fact="closed-form")
def test_equal_embeddings_cost_the_logarithm_of_all_sums_that_there_are() -> None:
    z = torch.ones(5, 3)
    for flags, terms in (
        ((True, True, True), 4 * 5 - 2), ((False, False, False), 5), ((True, False, False), 10),
        ((False, True, False), 9), ((False, False, True), 9),
    ):  # fmt: skip
        names = dict(zip(("reverse", "among_anchors", "among_candidates"), flags, strict=True))
        assert infonce_joint(z, z, **names).loss.exp().item() == pytest.approx(terms, rel=1e-4)


def lone(q: torch.Tensor, d: torch.Tensor, t: float) -> torch.Tensor:
    """Equation 3 of arXiv:2308.03281, row by row, with hard negatives behind the positives."""
    q, d = (torch.nn.functional.normalize(z, dim=1) for z in (q, d))
    costs = []
    for i in range(len(q)):
        rest = [k for k in range(len(q)) if k != i]
        others = [k for k in range(len(d)) if k != i]
        parts = [q[i] @ d.T, q @ d[i], q[i] @ q[rest].T, d[others] @ d[i]]
        costs.append(torch.cat(parts).div(t).exp().sum().log() - q[i] @ d[i] / t)
    return torch.stack(costs).mean()


@pytest.mark.proves(row=141, fact="closed-form")
@pytest.mark.parametrize("extra", [0, 3])
def test_it_is_the_equation_of_the_paper_in_value_and_gradient(extra: int) -> None:
    drawn = torch.Generator().manual_seed(0)
    q, d = (torch.randn(n, 4, dtype=torch.float64, generator=drawn, requires_grad=True) for n in (6, 6 + extra))
    ours = infonce_joint(Embeddings.of(q), Embeddings.of(d, view=1), temperature=0.3).loss
    theirs = lone(q, d, 0.3)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    for one, other in zip(*(torch.autograd.grad(loss, (q, d)) for loss in (ours, theirs)), strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    assert extra or infonce_joint(d, q, temperature=0.3).loss.item() == pytest.approx(ours.item(), rel=1e-9)


def test_gte_scores_its_batch_by_it_and_without_the_sums_it_is_pairs(tiny: Path) -> None:
    data = rows()
    sets, outcome = run(made(gte, tiny, data, hard=1, temperature=0.05), data)
    wanted = lone(sets["anchor"].z, sets["candidate"].z, 0.05)
    assert len(sets["candidate"]) == 24
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    off = {"reverse": False, "among_anchors": False, "among_candidates": False}
    plain = run(made(pairs, tiny, data, directions="forward"), data)[1].loss
    assert run(made(gte, tiny, data, temperature=0.05, **off), data)[1].loss.item() == pytest.approx(
        plain.item(), rel=1e-6
    )


# ---- NV-Embed


@pytest.mark.proves(row=266, fact="closed-form")
def test_the_first_stage_of_nv_embed_is_pairs_with_negatives(tiny: Path) -> None:
    data = rows()
    plain = made(pairs_with_negatives, tiny, data, temperature=0.02, negatives=7, directions="forward")
    whole = run(plain, data)[1].loss
    assert torch.equal(whole, run(made(nv_embed, tiny, data), data)[1].loss)
    all_named = run(made(nv_embed, tiny, data, retrieval="web, intents"), data)[1].loss
    assert all_named.item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.proves(row=266, fact="closed-form")
def test_anchors_of_other_sources_have_their_own_negatives_alone(tiny: Path) -> None:
    data = rows()
    sets, outcome = run(made(nv_embed, tiny, data, retrieval="web"), data)
    assert outcome.notes["negatives"].tolist() == [35.0 if i % 3 else 2.0 for i in range(12)]
    q, d = (torch.nn.functional.normalize(sets[name].z, dim=1) for name in ("anchor", "candidate"))
    place = {known: k for k, known in enumerate(sets["candidate"].id.tolist())}
    costs = []
    for i in range(12):
        own = [place[k] for k in data.items.ids([data.positives[i][0], *data.negatives[i]])]
        rest = [k for k in range(36) if k not in own] if i % 3 else []
        logits = q[i] @ d[own + rest].T / 0.02
        costs.append(logits.logsumexp(0) - logits[0])
    assert outcome.loss.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-5)
    alone = run(made(nv_embed, tiny, data, retrieval="none"), data)[1]
    assert alone.notes["negatives"].tolist() == [2.0] * 12


def test_it_keeps_its_contracts_with_sources(tiny: Path) -> None:
    data = rows()
    make = partial(made, nv_embed, tiny, data, retrieval="web")
    batch = data.take(np.arange(12))
    assert_method_caches(make, batch)
    assert_method_over_processes(make, batch, processes=(2,))


def test_a_source_that_is_not_there_is_refused(tiny: Path) -> None:
    with pytest.raises(Refusal, match="wep"):
        made(nv_embed, tiny, rows(), retrieval="wep")
    with pytest.raises(Refusal, match="source"):
        made(nv_embed, tiny, Rows.of(pl.DataFrame({"anchor": ["a"], "positive": [["b"]]})), retrieval="web")


def test_batches_carry_sources_as_numbers() -> None:
    assert rows(4).take(np.array([3, 1]))["source"].tolist() == [0, 1]
    assert "source" not in Rows.of(pl.DataFrame({"anchor": ["a"]})).take(np.array([0]))


@pytest.mark.parametrize("off", ["reverse", "among_anchors", "among_candidates"])
def test_gte_leaves_out_the_sum_that_is_named(off: str, tiny: Path) -> None:
    data = rows()
    sets, outcome = run(made(gte, tiny, data, hard=1, **{off: False}), data)
    wanted = infonce_joint(sets["anchor"], sets["candidate"], rule=listed(data.relation), **{off: False}).loss
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_of_several_positives_each_has_its_share() -> None:
    """Equal embeddings have equal logits: the loss is the logarithm of the number of terms, however many positives."""
    rule = labelled()
    label = {"label": torch.tensor([0, 0, 1])}
    z = torch.ones(3, 2)
    found = infonce_joint(
        Embeddings.of(z, facts=label), Embeddings.of(z, view=1, facts=label), rule=rule, reverse=False,
        among_anchors=False, among_candidates=False, temperature=1.0,
    )  # fmt: skip
    wanted = infonce(Embeddings.of(z, facts=label), Embeddings.of(z, view=1, facts=label), rule=rule, temperature=1.0)
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
