"""The ladder: a notebook's loss, its tiled form, the proof that both are one loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from counterpoint.objectives import dense as dense_module
from counterpoint.objectives.custom import custom, times
from counterpoint.objectives.dense import dense, first_positives
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.testing import assert_tiled_equals
from counterpoint.types import Embeddings, Pairs, Relation

ROWS = {"all": "logsumexp", "good": "total"}


def notebook(za: Tensor, zb: Tensor) -> Tensor:
    return cross_entropy(normalize(za, dim=1) @ normalize(zb, dim=1).T / 0.1, torch.arange(len(za)))


def tile(s, p, a, c, k):
    return {"all": (s["s"] / 0.1, p.attract + p.repel), "good": times(p.attract, s["s"] / 0.1)}


def row(r):
    return r["all"] - r["good"]


def test_the_tiled_form_of_a_notebook_is_proven() -> None:
    assert_tiled_equals(notebook, tile, row, rows=ROWS)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s, p, a, c, k: {**tile(s, p, a, c, k), "good": times(p.attract, s["s"])},
        lambda s, p, a, c, k: {**tile(s, p, a, c, k), "all": (s["s"] / 0.1, p.repel)},
        lambda s, p, a, c, k: {**tile(s, p, a, c, k), "all": (s["s"].detach() / 0.1, p.attract + p.repel)},
    ],
    ids=["no temperature", "no own positive", "no gradient"],
)
def test_a_wrong_tiled_form_is_found(wrong: object) -> None:
    with pytest.raises(AssertionError, match="rows differs by"):
        assert_tiled_equals(notebook, wrong, row, rows=ROWS)  # type: ignore[arg-type]


def test_both_directions_average_rows_and_columns() -> None:
    za, zb = torch.randn(2, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine = custom(tile, row, rows=ROWS, directions="both")
    expected = infonce(za, zb, temperature=0.1, directions="both").loss
    assert mine(za, zb).loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_params_get_a_gradient() -> None:
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    za, zb = torch.randn(2, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = lambda s, p, a, c, k: {"all": (s["s"] / k["t"], p.repel), "good": times(p.attract, s["s"] / k["t"])}  # noqa: E731
    mine = custom(scaled, lambda r: softplus(r["all"] - r["good"]), rows=ROWS, params={"t": t})
    plain = infonce(za, zb, temperature=t).loss
    assert mine(za, zb).loss.item() == pytest.approx(plain.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(x, t)[0].item() for x in (mine(za, zb).loss, plain))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_dense_pairs_rows_by_identity() -> None:
    seen = []
    mine = dense(lambda za, zb: seen.append((za, zb)) or (za * zb).sum())
    a = Embeddings.of(torch.randn(4, 3), id=torch.tensor([1, 2, 3, 4]))
    c = Embeddings.of(torch.randn(4, 3), id=torch.tensor([30, 10, 11, 99]))
    rule = listed(Relation.of([1, 1, 3], [10, 11, 30]))
    mine(a, c, rule=rule)
    assert torch.equal(seen[0][0], a.z[[0, 2]])
    assert torch.equal(seen[0][1], c.z[[1, 0]])
    by_matrix = lambda x, y: Pairs(rule(x, y).attract, rule(x, y).repel)  # noqa: E731
    for one, other in zip(first_positives(a, c, rule), first_positives(a, c, by_matrix), strict=True):
        assert torch.equal(one, other)


def test_dense_without_a_pair_is_zero_and_differentiable() -> None:
    z = torch.randn(2, 3, requires_grad=True)
    loss = dense(notebook)(Embeddings.of(z), Embeddings.of(torch.randn(2, 3), id=torch.tensor([8, 9]))).loss
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert z.grad.abs().max() == 0


def test_dense_warns_of_many_rows_and_refuses_what_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="one number"):
        dense(lambda za, zb: za * zb)(torch.eye(3), torch.eye(3))
    monkeypatch.setattr(dense_module, "MANY", 2)
    with pytest.warns(UserWarning, match="assert_tiled_equals"):
        dense(notebook)(torch.eye(3), torch.eye(3))


def test_half_precision_rows_are_summed_in_single() -> None:
    z = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = infonce(z, z.flip(1)).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(infonce(z.float(), z.float().flip(1)).loss.item(), rel=1e-2)
