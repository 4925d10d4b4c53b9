"""Symile: closed forms, the authors' formula, identities with CLIP, pairing by id, shuffled negatives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from counterpoint.objectives.multilinear import _all, _matched, _shuffled, symile
from counterpoint.objectives.softmax import infonce
from counterpoint.types import Embeddings


def raw(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kinds(m: int, n: int = 5, d: int = 6) -> list[Tensor]:
    return [raw(n, d, seed) for seed in range(m)]


def of_the_authors(kinds: list[Tensor], scale: float) -> Tensor:
    """compute_logits and symile of src/losses.py at github.com/rajesh-lab/symile (commit 191617b), three kinds."""

    def logits(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        rolled = [y * torch.roll(z, k, 0) for k in range(len(y))]
        return scale * x @ torch.cat(rolled).T

    a, b, c = kinds
    turns = [logits(a, b, c), logits(b, a, c), logits(c, a, b)]
    labels = torch.arange(len(a))
    return sum(nn.functional.cross_entropy(t, labels) for t in turns) / 3  # type: ignore[return-value]


@pytest.mark.proves(row=45, fact="closed-form")
@pytest.mark.parametrize("m", [2, 3, 4])
def test_equal_rows_cost_the_logarithm_of_all_products(m: int) -> None:
    same = [torch.ones(3, 2, dtype=torch.float64)] * m
    assert symile(same, negatives="all").loss.item() == pytest.approx((m - 1) * math.log(3), rel=1e-12)
    generator = torch.Generator().manual_seed(1)
    found = symile(same, negatives="shuffled", generator=generator).loss.item()
    assert math.log(3) - 1e-9 <= found <= math.log(4) + 1e-9  # 2 or 3 negatives: a row's own product is none


@pytest.mark.proves(row=45, fact="closed-form")
def test_axes_by_hand() -> None:
    """Products of unit axes are the axis where all agree, else 0: one at 1 against 8 at 0."""
    e = torch.eye(3, dtype=torch.float64)
    expected = math.log(1 + 8 * math.exp(-1 / 0.3))
    found = symile([e, e, e], temperature=0.3, negatives="all")
    assert found.loss.item() == pytest.approx(expected, rel=1e-12)
    assert found.notes["positive"].tolist() == pytest.approx([1.0] * 3)
    assert found.notes["negative"].tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert found.notes["negatives"].tolist() == [8.0] * 3


@pytest.mark.proves(row=45, fact="reference")
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_all_negatives_equal_the_authors_code_in_value_and_gradient(scale: float) -> None:
    given = [x.requires_grad_() for x in kinds(3)]
    expected = of_the_authors([nn.functional.normalize(x, dim=-1) for x in given], scale)
    found = symile(given, temperature=1 / scale, negatives="all").loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, given), torch.autograd.grad(expected, given), strict=True):
        assert torch.allclose(g, h, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_shuffled_equals_its_products_one_at_a_time(seed: int) -> None:
    """The negatives of a kind are rows of the others in two orders, drawn one after the other."""
    given = [nn.functional.normalize(x, dim=-1) for x in kinds(3)]
    draw, t, losses = torch.Generator().manual_seed(seed), 0.2, []
    for turn, x in enumerate(given):
        y, z = given[:turn] + given[turn + 1 :]
        p, q = torch.randperm(5, generator=draw).tolist(), torch.randperm(5, generator=draw).tolist()
        for i in range(5):
            own = float((x[i] * y[i] * z[i]).sum()) / t
            others = [float((x[i] * y[j] * z[k]).sum()) / t for j, k in zip(p, q, strict=True) if (j, k) != (i, i)]
            losses.append(-own + math.log(math.exp(own) + sum(math.exp(s) for s in others)))
    found = symile(given, temperature=t, generator=torch.Generator().manual_seed(seed)).loss.item()
    assert found == pytest.approx(sum(losses) / 15, rel=1e-12)


@pytest.mark.parametrize("negatives", ["all", "shuffled"])
def test_two_kinds_are_clip(negatives: Any) -> None:
    x, y = kinds(2)
    expected = infonce(x, y, temperature=0.2, directions="both").loss.item()
    assert symile([x, y], temperature=0.2, negatives=negatives).loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_third_kind_of_ones_counts_each_product_n_times() -> None:
    """Of the first two kinds: -log(e / (n sum)), InfoNCE and log n; of the third, all of whose rows are alike, n^2 products."""
    x, y = (nn.functional.normalize(z, dim=-1) for z in kinds(2))
    found = symile([x, y, torch.ones_like(x)], temperature=0.5, negatives="all", unit=False).loss.item()
    pair = infonce(x, y, temperature=0.5, directions="both", unit=False).loss.item()
    scores = x @ y.T / 0.5
    third = float(torch.logsumexp(scores.flatten(), 0) - scores.diag().mean())
    assert found == pytest.approx((2 * (pair + math.log(5)) + third) / 3, rel=1e-12)


def test_a_third_kind_may_decide_what_two_cannot() -> None:
    """The paper's XOR in signs, c = a b: no two kinds tell of each other, all three do."""
    signs = [(a, b) for a in (1.0, -1.0) for b in (1.0, -1.0)]
    a, b = (torch.tensor([s[k] for s in signs])[:, None] for k in (0, 1))
    pairwise = [(x * y).mean().item() for x, y in ((a, b), (a, a * b), (b, a * b))]
    assert pairwise == [0, 0, 0]
    assert (a * b * (a * b)).mean().item() == 1
    ids = [Embeddings.of(z, view=k) for k, z in enumerate((a, b, a * b))]
    found = symile(ids, temperature=0.1, negatives="all").loss.item()
    assert found == pytest.approx(math.log(8), abs=1e-6)  # of 16 products 8 have the right sign
    assert found < math.log(16)


def test_pairs_go_by_id_and_not_by_position() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    x, y, z = (Embeddings.of(v, view=k) for k, v in enumerate(kinds(3)))
    expected = symile([x, y, z], temperature=0.3, negatives="all").loss.item()
    moved = symile([x, y.rows(order), z.rows(order.flip(0))], temperature=0.3, negatives="all").loss.item()
    assert moved == pytest.approx(expected, rel=1e-12)


def test_a_product_is_of_a_sample_only_if_all_its_parts_are() -> None:
    y, z = (Embeddings.of(torch.full((2, 1), 2.0 + k), id=torch.tensor([4, 9]), view=k) for k in (0, 1))
    assert _matched([y, z]).id.tolist() == [4, 9]
    assert _all([y, z]).id.tolist() == [4, -1, -1, 9]
    assert _all([y, z, y]).id.tolist() == [4, -1, -1, -1, -1, -1, -1, 9]
    assert _all([y, z]).z.tolist() == [[6.0]] * 4
    assert _all([y]).id.tolist() == [4, 9]
    crossed = _shuffled([y, replace(z, id=z.id.flip(0))], torch.Generator().manual_seed(0))
    assert set(crossed.id.tolist()) <= {4, 9, -1}
    assert len(_shuffled([y, z.rows(slice(0, 1))], None)) == 1


def test_a_sample_that_lacks_a_kind_has_no_turn() -> None:
    x, y, z = (Embeddings.of(v, view=k) for k, v in enumerate(kinds(3)))
    some = z.rows(slice(0, 4))
    losses = []
    for turn, anchors in enumerate((x, y, some)):
        others = [rows.to_unit() for k, rows in enumerate((x, y, some)) if k != turn]
        products, unit = _all(others), anchors.to_unit()
        for i in range(4):
            s = (unit.z[i] * products.z).sum(1) / 0.3
            losses.append(float(torch.logsumexp(s, 0) - s[products.id == i].sum()))
    found = symile([x, y, some], temperature=0.3, negatives="all").loss
    assert found.item() == pytest.approx(sum(losses) / 12, rel=1e-12)


def test_scale_and_shuffling_change_nothing_and_signs_of_two_kinds_cancel() -> None:
    given = kinds(3)
    base = symile(given, temperature=0.3, negatives="all").loss.item()
    assert symile([3 * given[0], *given[1:]], temperature=0.3, negatives="all").loss.item() == pytest.approx(base)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert symile([x[order] for x in given], temperature=0.3, negatives="all").loss.item() == pytest.approx(base)
    flipped = [-given[0], -given[1], given[2]]
    assert symile(flipped, temperature=0.3, negatives="all").loss.item() == pytest.approx(base, rel=1e-12)
    turned = [x.flip(1) for x in given]
    assert symile(turned, temperature=0.3, negatives="all").loss.item() == pytest.approx(base, rel=1e-12)
    assert symile([given[2], *given[:2]], temperature=0.3, negatives="all").loss.item() == pytest.approx(base)


def test_gradients_equal_finite_differences() -> None:
    given = [x.requires_grad_() for x in kinds(3, 3, 2)]
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: symile(x[:3], temperature=x[3], negatives="all").loss, (*given, t))


def test_products_of_ones_own_sample_alone_are_no_negatives() -> None:
    same = [Embeddings.of(x, id=torch.zeros(3, dtype=torch.int64), view=k) for k, x in enumerate(kinds(3, 3))]
    assert symile(same, negatives="all").loss.item() == 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 2 sets of rows, got 1"):
        symile([raw(3)])
    with pytest.raises(ValueError, match=r"wanted plain tensors of equal length, got \[3, 4\]"):
        symile([raw(3), raw(4)])
