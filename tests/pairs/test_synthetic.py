"""Made rows: whose they are, what is in a mixture, and the losses of SSCD and M3CoL that stand on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint._ops.layout import Rule
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.mixed import mixed
from counterpoint.pairs.synthetic import by_identity, made, of_sources, private_to, shared_sources
from counterpoint.types import Embeddings, same_sample


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def two_views(ids: list[int]) -> Embeddings:
    """Each sample in two views, one after the other."""
    rows = Embeddings.of(torch.eye(2 * len(ids)), id=torch.tensor(ids * 2))
    return replace(rows, view=torch.arange(2).repeat_interleave(len(ids)))


def assert_both_forms_agree(rule: Rule, a: Embeddings, c: Embeddings) -> None:
    """The matrix, its edges, and the matrices of single pairs say the same; nothing attracts and repels at once."""
    whole, edges = rule(a, c), rule.edges(a, c)  # type: ignore[union-attr]
    at = list(zip(edges.row.tolist(), edges.col.tolist(), strict=True))
    assert len(set(at)) == len(at), "a pair is listed twice"
    for i in range(len(a)):
        for j in range(len(c)):
            one = rule(a.rows(slice(i, i + 1)), c.rows(slice(j, j + 1)))
            assert (one.attract.item(), one.repel.item()) == (whole.attract[i, j].item(), whole.repel[i, j].item())
            if (i, j) not in at:
                assert (whole.attract[i, j].item(), whole.repel[i, j].item()) == rule.elsewhere  # type: ignore[union-attr]


def test_a_made_row_belongs_to_its_row_alone() -> None:
    a = two_views([7, 0])
    own = made(a.rows(torch.tensor([3, 0])), torch.ones(2, 4), attracts=0.0)
    assert own.id.tolist() == [-1, -8]
    assert private_to()(a, own).repel.tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]
    assert private_to()(a, own).attract.sum() == 0
    assert private_to()(own, a).repel.T.tolist() == private_to()(a, own).repel.tolist()
    apart = replace(own, part=own.part + 1)
    assert private_to()(a, apart).repel.sum() == 0


def test_a_made_row_belongs_to_all_views_of_its_sample() -> None:
    a = two_views([7, 0])
    own = made(a.rows(torch.tensor([3, 0])), torch.ones(2, 4), attracts=1.0)
    assert private_to("sample")(a, own).attract.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert private_to("sample")(a, own).repel.sum() == 0
    assert private_to("sample")(own, a).attract.T.tolist() == private_to("sample")(a, own).attract.tolist()
    assert private_to("sample")(own, a).repel.sum() == 0


def test_made_rows_attract_as_much_as_they_say_and_repel_the_rest() -> None:
    a = two_views([7, 0])
    own = Embeddings.cat([made(a, torch.ones(4, 4), attracts=0.25), made(a, torch.ones(4, 4), attracts=1.0)])
    pairs = private_to()(a, own)
    assert pairs.attract.sum(1).tolist() == [1.25] * 4
    assert pairs.repel.sum(1).tolist() == [0.75] * 4


def test_ownership_outlives_a_join_that_drops_facts() -> None:
    a = two_views([7, 0])
    joined = Embeddings.cat([a, made(a, torch.ones(4, 4), attracts=0.0)])
    assert joined.facts == {}
    assert torch.equal(private_to()(a, joined).repel, torch.cat([torch.zeros(4, 4), torch.eye(4)], 1))


def drawn_rows(data: st.DataObject, mixtures: bool) -> Embeddings:
    ids = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    n = len(ids)
    column = st.lists(st.integers(0, 1), min_size=n, max_size=n)
    rows = Embeddings.of(torch.zeros(n, 2), id=torch.tensor(ids))
    rows = replace(rows, view=torch.tensor(data.draw(column)), age=torch.tensor(data.draw(column)))
    if not mixtures:
        return rows
    partner = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    share = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n)))
    return of_sources(rows, partner, share)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_both_forms_of_ownership_agree(data: st.DataObject) -> None:
    a, owners = drawn_rows(data, False), drawn_rows(data, False)
    c = made(owners, torch.ones(len(owners), 2), attracts=0.25)
    for by in ("row", "sample"):
        assert_both_forms_agree(private_to(by), a, c)  # type: ignore[arg-type]
        assert_both_forms_agree(private_to(by), c, a)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_both_forms_of_shared_sources_agree(data: st.DataObject) -> None:
    a, c = drawn_rows(data, data.draw(st.booleans())), drawn_rows(data, data.draw(st.booleans()))
    for weighted in (True, False):
        rule = shared_sources(weighted=weighted)
        assert_both_forms_agree(rule, a, c)
        pairs = rule(a, c)
        assert ((pairs.attract > 0) & (pairs.repel > 0)).sum() == 0
        assert pairs.repel[a.id[:, None] == c.id[None, :]].sum() == 0


def test_without_mixtures_shared_sources_are_samples() -> None:
    rows = two_views([7, 0, 3])
    rows = replace(rows, age=torch.tensor([0, 0, 0, 0, 0, 1]))
    for weighted in (True, False):
        pairs, plain = shared_sources(weighted=weighted)(rows, rows), same_sample(rows, rows)
        assert torch.equal(pairs.attract, plain.attract)
        assert torch.equal(pairs.repel, plain.repel)


def test_a_mixture_is_not_its_own_positive() -> None:
    rows = of_sources(two_views([7, 0]), torch.tensor([0, 7, 0, 7]), 0.75)
    pairs = shared_sources()(rows, rows)
    assert pairs.attract.diagonal().tolist() == [0] * 4
    assert pairs.attract[0].tolist() == [0, 0.375, 0.625, 0.375]  # 2 * 3/16, 9/16 + 1/16
    assert pairs.repel.sum() == 0


def mixco(mix: Tensor, fix: Tensor, t: float, target: Tensor) -> Tensor:
    """mixco_nce of model/utils.py at github.com/RaghavSinghal10/M3CoL (cb62969), of a given target."""
    mix, fix = (nn.functional.normalize(x, dim=-1) for x in (mix, fix))
    scores = mix @ fix.T / t
    forth = -(scores.log_softmax(-1) * target).sum(-1).mean()
    back = -(scores.T.log_softmax(-1) * target.T).sum(-1).mean()
    return (forth + back) / 2


@pytest.mark.proves(row=207, fact="reference")
@pytest.mark.parametrize("order", [[2, 0, 1, 4, 3], [0, 2, 1, 3, 4]])
def test_m3col_is_the_authors_loss(order: list[int]) -> None:
    n, ids = 5, torch.tensor([9, 4, 7, 1, 3])
    mixture, fixed = (unit(n, seed=s).requires_grad_() for s in (0, 1))
    share = torch.tensor([0.9, 0.2, 0.6, 1.0, 0.35], dtype=torch.float64)
    perm = torch.tensor(order)
    target = torch.diag(share)
    target = target.index_put((torch.arange(n), perm), 1 - share, accumulate=True)  # the public code overwrites
    assert torch.allclose(target.sum(1), torch.ones(n, dtype=torch.float64))
    other = torch.tensor([3, 1, 4, 0, 2])
    rows = of_sources(Embeddings.of(mixture, id=ids), ids[perm], share)
    loss = infonce(
        rows, Embeddings.of(fixed, id=ids, view=1).rows(other), rule=shared_sources(), temperature=0.1,
        directions="both", normalize="none",
    ).loss  # fmt: skip
    expected = mixco(mixture, fixed, 0.1, target)
    assert torch.allclose(loss, expected)
    for one, two in zip(*(torch.autograd.grad(x, (mixture, fixed)) for x in (loss, expected)), strict=True):
        assert torch.allclose(one, two)


@pytest.mark.proves(row=207, fact="closed-form")
def test_m3col_of_two_pairs() -> None:
    rows = mixed(Embeddings.of(torch.eye(2)), torch.tensor([1, 0]), torch.tensor([0.75, 0.5]))
    assert rows.z.tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert shared_sources()(rows, Embeddings.of(torch.eye(2), view=1)).attract.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_a_whole_share_is_the_loss_of_the_rows_as_they_are() -> None:
    x, y = (Embeddings.of(unit(5, seed=s), view=s) for s in (0, 1))
    whole = mixed(x, torch.tensor([1, 2, 3, 4, 0]), 1.0)
    found = infonce(whole, y, rule=shared_sources(), temperature=0.1, directions="both", normalize="none")
    assert torch.allclose(found.loss, infonce(x, y, temperature=0.1, directions="both").loss, rtol=1e-12)


def test_mixtures_carry_gradient_to_both_sources() -> None:
    z = unit(3).requires_grad_()
    rows = mixed(Embeddings.of(z), torch.tensor([1, 2, 0]), 0.75)
    assert torch.autograd.grad(rows.z[0].sum(), z)[0].tolist() == [[0.75] * 6, [0.25] * 6, [0.0] * 6]


def sscd(z: Tensor, labels: Tensor, t: float) -> Tensor:
    """The InfoNCE of mixed batches in sscd/train.py at github.com/facebookresearch/sscd-copy-detection (9590266).

    Without the 1e-6 that it adds to each sum of negatives.
    """
    scores = z @ z.T
    match = labels @ labels.T > 0
    others = match & ~torch.eye(len(z), dtype=torch.bool)
    e = (scores / t).exp()
    p = e / (e + (~match * e).sum(1, keepdim=True))
    return ((-p.log() * others).sum(1) / others.sum(1)).mean()


@pytest.mark.proves(row=88, fact="reference")
def test_mixed_images_attract_every_source_as_with_the_authors() -> None:
    ids, n = torch.tensor([9, 4, 7, 1, 3, 8]), 6
    partner = torch.tensor([1, 1, 0, 3, 4, 5, 0, 1, 2, 2, 4, 5])  # of each of two copies; half are not mixed
    share = torch.where(partner == torch.arange(n).repeat(2), 1.0, 0.4).double()
    labels = torch.zeros(2 * n, n, dtype=torch.float64)
    labels = labels.index_put((torch.arange(2 * n), torch.arange(n).repeat(2)), share)
    labels = labels.index_put((torch.arange(2 * n), partner), 1 - share, accumulate=True)
    z = unit(2 * n).requires_grad_()
    rows = Embeddings.of(z, id=ids.repeat(2))
    rows = of_sources(replace(rows, view=torch.arange(2).repeat_interleave(n)), ids[partner], share)
    loss = infonce_separate(rows, rule=shared_sources(weighted=False), temperature=0.05, unit=False).loss
    expected = sscd(z, labels, 0.05)
    assert torch.allclose(loss, expected)
    assert torch.allclose(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0])


def test_draws_belong_to_rows_and_numbers() -> None:
    rows, number = two_views([7, 0]), torch.tensor([0, 0, 0, 0])
    one = by_identity(torch.Generator().manual_seed(1), rows, number, 2)
    turned = by_identity(torch.Generator().manual_seed(1), rows.rows(torch.tensor([3, 1])), number[:2], 2)
    assert torch.equal(turned, one[[3, 1]])
    assert len(one.flatten().unique()) == 8  # rows, views and columns all differ
    assert not torch.equal(one, by_identity(torch.Generator().manual_seed(1), rows, number + 1, 2))
    apart = by_identity(torch.Generator().manual_seed(1), replace(rows, part=rows.part + 1), number, 2)
    assert not (one == apart).any()
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(by_identity(generator, rows, number, 2), one)
    assert not torch.equal(by_identity(generator, rows, number, 2), one)


def test_nothing_is_made_of_made_rows() -> None:
    """The id of what is made of a made row would be that of a sample."""
    a = Embeddings.of(torch.eye(4))
    once = made(a, torch.ones(4, 4), attracts=0.0)
    with pytest.raises(ValueError, match="got an id of -4: a made row"):
        made(once, torch.ones(4, 4), attracts=0.0)
    with pytest.raises(ValueError, match="wanted rows of samples"):
        of_sources(once, torch.arange(4), 0.5)
