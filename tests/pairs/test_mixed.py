"""Mixed rows: MoCHi's hard negatives and Feature Transformation, by hand, by the authors' formulas, and at their limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from counterpoint.objectives.private import infonce_private
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.mixed import beta_shares, blend, extrapolated, interpolated, mixed_negatives
from counterpoint.pairs.remembered import against_queue
from counterpoint.pairs.synthetic import private_to
from counterpoint.types import Embeddings
from tests.pairs.test_synthetic import unit


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 5, queue: int = 12) -> tuple[Embeddings, Embeddings, Embeddings]:
    """Queries, their keys, and a queue that holds a stale row of the first query's sample."""
    ids = torch.tensor([9, 4, 7, 1, 3])[:n]
    q, k = Embeddings.of(unit(n, seed=1).requires_grad_(), id=ids), Embeddings.of(unit(n, seed=2), id=ids, view=1)
    old = Embeddings.of(unit(queue, seed=3), id=torch.tensor([9, *range(100, 99 + queue)]))
    return q, k, replace(old, age=old.age + 1)


@pytest.mark.proves(row=182, fact="reference")
def test_mochi_is_the_logits_of_the_code() -> None:
    """hard_negatives1 and 2 and the mask of one's own in src/moco.py at github.com/davidsvy/hard-negative-mixing (2955553)."""
    q, k, queue = batch()
    near, t = 4, 0.2
    own = mixed_negatives(q, queue, nearest=near, pairs=3, with_query=2, generator=draws())
    loss = infonce_private(q, Embeddings.cat([k, queue]), own, own=private_to(), rule=against_queue, temperature=t).loss

    z = nn.functional.normalize(q.z, dim=1)
    scores = z @ queue.z.T
    scores = scores.masked_fill(q.id[:, None] == queue.id[None, :], -torch.inf)
    hardest = scores.detach().topk(near, 1).indices
    shares = own.facts["shares"][:, 0].view(5, 5)
    place = (own.facts["sources"][..., None] == queue.id).int().argmax(-1).view(5, 5, 2)
    rows = torch.arange(5)[:, None]
    assert (hardest[:, None] == place[:, :, 1:]).any(2).all()
    assert (hardest[:, None] == place[:, :3, :1]).any(2).all()
    assert (own.facts["sources"].view(5, 5, 2)[:, 3:, 0] == q.id[:, None]).all()
    first = shares[:, :3, None] * queue.z[place[:, :3, 0]] + (1 - shares[:, :3, None]) * queue.z[place[:, :3, 1]]
    beta = shares[:, 3:, None]
    second = beta * q.z.detach()[rows] + (1 - beta) * queue.z[place[:, 3:, 1]]
    hard = nn.functional.normalize(torch.cat([first, second], 1), dim=-1)
    logits = torch.cat([(z * k.z).sum(1, keepdim=True), scores, torch.einsum("nd,nsd->ns", z, hard)], 1) / t
    expected = nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    assert torch.allclose(loss, expected)
    assert torch.allclose(torch.autograd.grad(loss, q.z)[0], torch.autograd.grad(expected, q.z)[0])


@pytest.mark.proves(row=182, fact="closed-form")
def test_a_negative_mixed_with_its_query_is_harder_by_a_known_amount() -> None:
    q, _, queue = batch()
    own = mixed_negatives(q, queue, nearest=6, pairs=0, with_query=20, generator=draws())
    b = own.facts["shares"][:, 0]
    source = (own.facts["sources"][:, 1:] == queue.id).int().argmax(1)
    query = q.z.detach().repeat_interleave(20, 0)
    s = (query * queue.z[source]).sum(1)
    expected = (b + (1 - b) * s) / (b**2 + (1 - b) ** 2 + 2 * b * (1 - b) * s).sqrt()
    found = (query * own.z).sum(1)
    assert torch.allclose(found, expected)
    assert (found > s).all()
    assert (b < 0.5).all()
    assert b.max() > 0.4


def test_mixed_negatives_have_unit_norm_no_gradient_and_an_owner() -> None:
    q, _, queue = batch()
    own = mixed_negatives(q, queue, nearest=6, pairs=30, with_query=4, generator=draws())
    assert torch.allclose(own.z.norm(dim=1), torch.ones(len(own), dtype=torch.float64))
    assert not own.z.requires_grad
    assert own.id.tolist() == [-1 - i for i in q.id.tolist() for _ in range(34)]
    assert own.facts["attracts"].sum() == 0
    share = own.facts["shares"][:, 0].view(5, 34)[:, :30]
    assert share.min() < 0.1
    assert share.max() > 0.9
    assert torch.allclose(own.facts["shares"].sum(1), torch.ones(len(own), dtype=torch.float64))


def test_no_mixed_negatives_is_moco() -> None:
    q, k, queue = batch()
    everything = Embeddings.cat([k, queue])
    own = mixed_negatives(q, queue, nearest=6, pairs=0, with_query=0, generator=draws())
    assert len(own) == 0
    found = infonce_private(q, everything, own, own=private_to(), rule=against_queue, temperature=0.1)
    assert torch.equal(found.loss, infonce(q, everything, rule=against_queue, temperature=0.1).loss)


def test_mixed_negatives_do_not_depend_on_the_order() -> None:
    q, _, queue = batch()
    own = mixed_negatives(q, queue, nearest=6, pairs=2, with_query=1, generator=draws())
    order = torch.tensor([3, 0, 4])
    moved = mixed_negatives(
        q.rows(order), queue.rows(torch.arange(11, -1, -1)), nearest=6, pairs=2, with_query=1, generator=draws()
    )
    assert torch.allclose(moved.z, own.z.view(5, 3, -1)[order].flatten(0, 1))
    other = mixed_negatives(q, queue, nearest=6, pairs=2, with_query=1, generator=draws(4))
    assert not torch.isclose(own.z, other.z).all(1).any()


@pytest.mark.parametrize("last", [False, True])
def test_a_stale_row_of_ones_own_is_never_mixed(last: bool) -> None:
    q, _, queue = batch()
    queue = queue.rows(torch.arange(11, -1, -1)) if last else queue
    own = mixed_negatives(q, queue, nearest=12, pairs=60, with_query=20, generator=draws())
    sources = own.facts["sources"].view(5, 80, 2)
    assert not (sources[0, :60] == 9).any()
    assert not (sources[0, 60:, 1] == 9).any()
    assert (sources[1:] == 9).any()
    assert len(sources[1, :60].unique()) == 12


def test_a_query_without_negatives_gets_none() -> None:
    q, _, queue = batch()
    alone = queue.rows(slice(0, 1))  # a stale row of the first query's sample, which the others may use
    own = mixed_negatives(q, alone, nearest=3, pairs=1, with_query=1, generator=draws())
    assert own.id.unique().tolist() == [-8, -5, -4, -2]
    assert torch.allclose(own.z[::2], alone.z.expand(4, -1))
    with pytest.raises(ValueError, match=r"got -1, 0 of 0"):
        mixed_negatives(q, queue, nearest=0, pairs=-1, with_query=0, generator=draws())


def transformed(q: Tensor, k: Tensor, queue: Tensor, *, pos: Tensor, neg: Tensor, order: Tensor, t: float) -> Tensor:
    """RGBMoCo_dropmix_norm, "posneg", of memory/mem_moco.py.

    At github.com/DTennant/CL-Visualizing-Feature-Transformation (c53d1be), with drawn masks and without scaling again.
    """
    q, k = nn.functional.normalize(q, dim=1), k.detach()
    one, two = pos * q + (1 - pos) * k, pos * k + (1 - pos) * q
    negatives = neg * queue + (1 - neg) * queue[order]
    logits = torch.cat([(one * two).sum(1, keepdim=True), one @ negatives.T], 1) / t
    return nn.functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


@pytest.mark.proves(row=204, fact="reference")
@pytest.mark.parametrize("dimensions", [True, False])
def test_feature_transformation_is_the_authors_loss(dimensions: bool) -> None:
    q, k, queue = batch()
    queue = queue.rows(slice(1, None))  # the authors know no stale rows of one's own
    shape = (lambda rows: tuple(rows.z.shape)) if dimensions else (lambda _rows: ())
    pos = beta_shares(2.0, shape(q), draws(1), above=1.0).double()
    neg, order = beta_shares(1.6, shape(queue), draws(2)).double(), torch.randperm(11, generator=draws())
    turned = k.rows(torch.tensor([4, 2, 0, 1, 3]))
    turned = replace(turned, z=turned.z.clone().requires_grad_())
    far = extrapolated(q, turned, pos)
    candidates = Embeddings.cat([far[1], interpolated(queue, order, neg)])
    loss = infonce(far[0], candidates, rule=against_queue, temperature=0.2, unit=False).loss
    expected = transformed(q.z, k.z, queue.z, pos=pos, neg=neg, order=order, t=0.2)
    assert torch.allclose(loss, expected)
    gradients = torch.autograd.grad(loss, (q.z, turned.z), allow_unused=True)
    assert gradients[1] is None
    assert torch.allclose(gradients[0], torch.autograd.grad(expected, q.z)[0])


@pytest.mark.proves(row=204, fact="closed-form")
@pytest.mark.parametrize("m", [0.3, 1.0, 1.6])
def test_extrapolation_lowers_the_cosine_by_a_known_amount(m: float) -> None:
    q, k, _ = batch()
    s = (q.z * k.z).sum(1)
    far = extrapolated(q, k, torch.full((5,), m, dtype=torch.float64))
    found = (far[0].z * far[1].z).sum(1)
    assert torch.allclose(found, s + 2 * m * (1 - m) * (1 - s))
    assert ((found < s) == (m > 1)).all() or m == 1
    assert [rows.id.tolist() for rows in far] == [q.id.tolist()] * 2
    assert far[1].view.tolist() == [1] * 5


def test_whole_shares_are_moco() -> None:
    q, k, queue = batch()
    one, two = extrapolated(q, k, 1.0)
    same = interpolated(queue, torch.arange(11, -1, -1), 1.0)
    found, plain = (
        infonce(a, Embeddings.cat([b, c]), rule=against_queue, temperature=0.1).loss
        for a, b, c in ((one, two, same), (q, k, queue))
    )
    assert torch.equal(found, plain)


def test_a_query_needs_its_key() -> None:
    q, k, _ = batch()
    with pytest.raises(ValueError, match="each of 5 queries, 2 have none"):
        extrapolated(q, k.rows(slice(0, 3)), 1.2)


@pytest.mark.parametrize("alpha", [0.15, 1.0, 1.6, 4.0])
def test_beta_shares_have_the_moments_of_beta(alpha: float) -> None:
    drawn = beta_shares(alpha, (20_000,), draws())
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)
    assert torch.equal(drawn, beta_shares(alpha, (20_000,), draws()))
    assert torch.allclose(drawn + 1, beta_shares(alpha, (20_000,), draws(), above=1.0))
    with pytest.raises(ValueError, match=r"above 0, got -1"):
        beta_shares(-1.0, (1,), draws())


def test_a_share_for_all_for_rows_and_for_dimensions() -> None:
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    assert blend(x, y, 0.25).tolist() == [[0.25] * 3] * 2
    assert blend(x, y, torch.tensor([0.25, 0.5])).tolist() == [[0.25] * 3, [0.5] * 3]
    assert blend(x, y, torch.tensor([[0.25, 0.5, 1.0]] * 2)).tolist() == [[0.25, 0.5, 1.0]] * 2
