"""What recipes that change the negatives change, beside what they leave as it is in their parents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_id
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.recipes import negatives
from counterpoint.recipes.text import pairs_with_negatives, simcse
from counterpoint.testing import assert_method_caches, assert_method_over_processes
from counterpoint.training.method import Method
from counterpoint.types import Embeddings, Outcome

from ..conftest import toy_rows

TEXTS = [row["query"] for row in toy_rows(40)]
DATA = Rows.of(pl.DataFrame({"anchor": TEXTS}))


def made(recipe: Any, folder: Path, rows: Rows = DATA, **settings: Any) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), rows, **settings)


def run(method: Method, count: int = 12, rows: Rows = DATA) -> tuple[dict[str, Embeddings], Outcome]:
    torch.manual_seed(1)
    method.modules.train()
    views = method.views(rows.take(np.arange(count)), torch.Generator().manual_seed(0))
    sets = method.encode(method.modules, views)
    return sets, method.objective(method.modules, sets)


# ---- DCLR


@pytest.mark.proves(row=102, fact="closed-form")
def test_dclr_without_bar_and_noise_is_simcse(tiny: Path) -> None:
    plain, other = (
        run(made(recipe, tiny, **settings))[1].loss
        for recipe, settings in ((simcse, {}), (negatives.dclr, {"phi": 1.1, "noise_times": 0.0}))
    )
    assert torch.equal(plain, other)


def test_dclr_spares_what_the_frozen_model_finds_alike_and_nothing_else(tiny: Path) -> None:
    twin = [f"{TEXTS[0]} ", *TEXTS[1:6], f" {TEXTS[0]}", *TEXTS[7:12]]  # 0 and 6: equal words, unequal ids
    rows = Rows.of(pl.DataFrame({"anchor": twin}))
    method = made(negatives.dclr, tiny, rows, phi=0.9999, noise_times=0.0)
    sets, outcome = run(method, 12, rows)
    assert outcome.notes["negatives"].tolist() == [10 if i in (0, 6) else 11 for i in range(12)]
    before = sets["first"].facts["teacher"].clone()
    with torch.no_grad():
        for weight in method.modules["encoder"].parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    after = run(method, 12, rows)[0]
    assert torch.equal(before, after["first"].facts["teacher"])  # it is frozen, and without dropout
    assert torch.equal(before, after["second"].facts["teacher"])
    assert not torch.equal(sets["first"].z, after["first"].z)


def test_dclr_asks_the_model_that_is_named(tiny: Path, tmp_path: Path) -> None:
    other = made(negatives.dclr, tiny, teacher=str(tiny))
    with torch.no_grad():
        for weight in other.modules["encoder"].parameters():
            weight.zero_()
    known = load(str(tiny)).eval()(TEXTS[:12])
    assert torch.allclose(run(other)[0]["first"].facts["teacher"], known, atol=1e-6)


def climb(sets: dict[str, Embeddings], noise: torch.Tensor, t: float) -> torch.Tensor:
    """L_U of the paper: the positive against the noise alone."""
    first, second, others = (normalize(z, dim=1) for z in (sets["first"].z, sets["second"].z, noise))
    return (torch.logsumexp(first @ others.T / t, 1) - (first * second).sum(1) / t).mean()


@pytest.mark.proves(row=102, fact="closed-form")
def test_dclr_has_so_much_noise_and_it_climbs_the_objective_of_the_paper(tiny: Path) -> None:
    method = made(negatives.dclr, tiny, phi=1.1, noise_times=1.5, noise_steps=4, noise_size=0.05)
    sets, outcome = run(method)
    assert outcome.notes["negatives"].tolist() == [11.0 + 18.0] * 12
    steps = [negatives._noise(sets, 1.5, 0.05, count, 0.05).z for count in range(5)]
    levels = [float(climb(sets, noise, 0.05).detach()) for noise in steps]
    assert levels == sorted(levels)
    assert levels[4] > levels[0]
    leaf = steps[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(climb({k: replace(e, z=e.z.detach()) for k, e in sets.items()}, leaf, 0.05), leaf)
    assert torch.allclose(steps[1], steps[0] + 0.05 * normalize(slope, dim=1), atol=1e-5)
    logits = torch.cat([normalize(sets["second"].z, dim=1), normalize(steps[4], dim=1)])
    wanted = cross_entropy(normalize(sets["first"].z, dim=1) @ logits.T / 0.05, torch.arange(12))
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_dclr_draws_other_noise_each_step(tiny: Path) -> None:
    method = made(negatives.dclr, tiny)
    batch = DATA.take(np.arange(3))
    salts = [method.views(batch, torch.Generator().manual_seed(seed))["first"]["salt"].tolist() for seed in (0, 0, 1)]
    assert salts[0] == salts[1] != salts[2]
    assert len(set(salts[0])) == 1


def test_dclr_refuses_a_bar_that_spares_everything(tiny: Path) -> None:
    with pytest.raises(Refusal, match="phi"):
        made(negatives.dclr, tiny, phi=0.0)


# ---- ClusterNS


@pytest.mark.proves(row=146, fact="closed-form")
def test_clusterns_before_it_has_centroids_is_simcse(tiny: Path) -> None:
    method = made(negatives.clusterns, tiny, start=-1.0)
    sets, outcome = run(method)
    assert torch.equal(run(made(simcse, tiny))[1].loss, outcome.loss)
    method.after(method.modules, sets, outcome)
    assert not bool(method.modules["centroids"].started)


def test_clusterns_starts_where_a_batch_is_spread_enough(tiny: Path) -> None:
    method = made(negatives.clusterns, tiny, clusters=3)
    sets, outcome = run(method)
    apart = {n: replace(e, z=torch.eye(12)[:, :12].repeat(1, 3)[:, :32] + 0 * e.z) for n, e in sets.items()}
    together = {n: replace(e, z=torch.ones_like(e.z)) for n, e in sets.items()}
    method.after(method.modules, together, outcome)
    assert not bool(method.modules["centroids"].started)
    method.after(method.modules, apart, outcome)
    assert bool(method.modules["centroids"].started)


@pytest.mark.proves(row=146, fact="closed-form")  # no reference: the authors leave one's own cluster in
def test_clusterns_has_the_nearest_foreign_centroid_for_a_hard_negative_and_holds_its_own_cluster(tiny: Path) -> None:
    """Re-stated from simcse/models.py and prompt_bert/models.py of github.com/djz233/ClusterNS, own cluster taken out."""
    t, weight, scale, alpha, beta = 0.1, 3.0, 0.5, 0.02, 0.05
    method = made(
        negatives.clusterns, tiny, clusters=3, start=2.0, temperature=t, weight=weight, band_weight=scale, alpha=alpha,
        beta=beta,
    )  # fmt: skip
    sets, outcome = run(method)
    method.after(method.modules, sets, outcome)
    outcome = method.objective(method.modules, sets)
    one, two = (normalize(sets[name].z, dim=1) for name in ("first", "second"))
    centers = normalize(method.modules["centroids"].z, dim=1)
    near = one @ centers.T
    own, foreign = near.argsort(1, descending=True)[:, 0], near.argsort(1, descending=True)[:, 1]
    assert len(own.unique()) > 1
    mates = (own[:, None] == own[None, :]) & ~torch.eye(12, dtype=torch.bool)
    cosine = one @ two.T
    hard = one @ centers[foreign].T / t + np.log(weight) * torch.eye(12)
    logits = torch.cat([(cosine / t).masked_fill(mates, -torch.inf), hard], 1)
    apart = (cosine - cosine.diag()[:, None])[mates]
    held = ((apart + alpha).relu() + (-apart - beta).relu()).mean()
    assert outcome.terms["band"].item() == pytest.approx(held.item(), rel=1e-4)
    assert held > 0
    assert outcome.loss.item() == pytest.approx(
        (cross_entropy(logits, torch.arange(12)) + scale * held).item(), rel=1e-5
    )


def test_clusters_are_those_of_the_first_view(tiny: Path) -> None:
    method, other = (made(negatives.clusterns, tiny, clusters=3, start=2.0) for _ in range(2))
    sets, outcome = run(method)
    turned = {**sets, "second": replace(sets["second"], z=torch.randn(12, 32))}
    method.after(method.modules, sets, outcome)
    other.after(other.modules, turned, outcome)
    assert torch.equal(method.modules["centroids"].z, other.modules["centroids"].z)
    plain, changed = (method.objective(method.modules, found).notes["negatives"] for found in (sets, turned))
    assert torch.equal(plain, changed)  # whose mate a row is does not go by its second view


def test_clusterns_keeps_its_contracts_with_centroids_too(tiny: Path) -> None:
    def make() -> Method:
        return made(negatives.clusterns, tiny, clusters=3, start=2.0, band_weight=0.5)

    batch = DATA.take(np.arange(12))
    assert_method_caches(make, batch)
    assert_method_over_processes(make, batch, processes=(2,))


# ---- CLP


def own_queries(count: int = 12) -> Rows:
    """Row i has the positive of row i + 1 as a negative, but for the first row, whose negative nobody asks for."""
    data = toy_rows(count)
    negative = [[data[(i + 1) % count]["doc"]] if i else ["w1 w2"] for i in range(count)]
    return Rows.of(
        pl.DataFrame({
            "anchor": [row["query"] for row in data], "positive": [[row["doc"]] for row in data], "negative": negative,
        })
    )  # fmt: skip


def test_clp_has_a_query_of_its_own_for_each_negative_that_has_one() -> None:
    rows = own_queries()
    views = negatives.with_own_queries(rows, negatives=1)(rows.take(np.arange(12)), torch.Generator())
    asked, candidates = views["asked"], views["candidate"]
    assert asked["text"] == [rows.anchors[(i + 1) % 12] for i in range(1, 12)]
    assert asked["id"].tolist() == [content_id(text) for text in asked["text"]]
    place = {label: i for i, label in enumerate(candidates["label"].tolist()) if label >= 0}
    assert len(place) == 12
    for text, label in zip(asked["text"], asked["label"].tolist(), strict=True):
        assert candidates["text"][place[label]] == rows.positives[rows.anchors.index(text)][0]


@pytest.mark.proves(row=156, fact="closed-form")
def test_clp_without_penalty_is_pairs_with_negatives(tiny: Path) -> None:
    rows = own_queries()
    plain = made(pairs_with_negatives, tiny, rows, temperature=0.02, directions="forward", negatives=4)
    assert torch.equal(
        run(plain, 12, rows)[1].loss, run(made(negatives.clp, tiny, rows, penalty=0.0), 12, rows)[1].loss
    )


@pytest.mark.proves(row=156, fact="reference")
def test_clp_adds_what_a_negative_lacks_to_the_cosine_with_its_own_query(tiny: Path) -> None:
    """The penalty re-stated from modeling.py of github.com/CreaLabs/Enhanced-BGE-M3-with-CLP-and-MoE."""
    rows = own_queries()
    method = made(negatives.clp, tiny, rows, penalty=0.25)
    sets, outcome = run(method, 12, rows)
    negative = sets["candidate"].z[13:]  # of rows 1 to 11, in their order, as are the queries
    lacks = (1 - torch.cosine_similarity(sets["asked"].z, negative)).mean()
    near = infonce(sets["anchor"], sets["candidate"], rule=listed(rows.relation), temperature=0.02).loss
    assert outcome.loss.item() == pytest.approx((0.75 * near + 0.25 * lacks).item(), rel=1e-5)


def test_clp_keeps_its_contracts_where_negatives_have_queries(tiny: Path) -> None:
    rows = own_queries()
    batch = rows.take(np.arange(12))
    assert_method_caches(lambda: made(negatives.clp, tiny, rows, penalty=0.5), batch)
    assert_method_over_processes(lambda: made(negatives.clp, tiny, rows, penalty=0.5), batch, processes=(2,))


def test_with_the_penalty_negatives_stay_nearer_to_their_own_queries(tiny: Path) -> None:
    rows, found = own_queries(), {}
    batch = rows.take(np.arange(12))
    for penalty in (0.0, 0.8):
        method = made(negatives.clp, tiny, rows, penalty=penalty, temperature=0.1)
        descent = torch.optim.Adam(method.modules.parameters(), lr=1e-3)
        for step in range(10):
            descent.zero_grad()
            views = method.views(batch, torch.Generator().manual_seed(step))
            method.objective(method.modules, method.encode(method.modules, views)).loss.backward()
            descent.step()
        method.modules.eval()
        sets = method.encode(method.modules, method.views(batch, torch.Generator()))
        found[penalty] = float(torch.cosine_similarity(sets["asked"].z, sets["candidate"].z[13:]).mean().detach())
    assert found[0.8] > found[0.0]
