"""Sparse codes and their loss: how sparse, exact decoding, the authors' head and loss, dead units, many processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint._ops.launch import in_processes
from counterpoint.encoders.sparse import SparseCode
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.sparse import csr
from counterpoint.types import Embeddings


def rows(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(*, units: int = 16, k: int = 2, dead_k: int = 3, seed: int = 0) -> SparseCode:
    """A head with biases, of which every third unit is dead."""
    torch.manual_seed(seed)
    found = SparseCode(4, units, k=k, dead=30, dead_k=dead_k).double()
    with torch.no_grad():
        found.bias.copy_(0.3 * rows(1, units, seed=5)[0])
        found.centre.copy_(rows(1, seed=6)[0])
        found.idle[::3] = 31
    return found


def coded(code: SparseCode, x: Tensor, view: int = 0) -> Embeddings:
    return Embeddings.of(code(x), view=view, facts=code.facts(x))


def test_codes_are_the_k_largest_and_not_negative() -> None:
    code, x = head(k=3), rows(50)
    found, before = code(x), (x - code.centre) @ code.weight.T + code.bias
    assert int((found != 0).sum(1).max()) == 3
    assert found.min() == 0
    third = before.topk(3).values[:, -1:]
    assert torch.equal(found, torch.where((before >= third) & (before > 0), before, 0.0))
    assert torch.equal(code(x, 1), torch.where(found == found.amax(1, keepdim=True), found, 0.0))
    assert int((code(x, 99) != 0).sum(1).max()) > 3


@pytest.mark.proves(row=132, fact="closed-form")
def test_all_units_of_an_orthonormal_head_give_codes_above_0_back_exactly() -> None:
    code = SparseCode(4, 4, k=4).double()
    turn = torch.linalg.qr(rows(4, seed=3))[0]
    with torch.no_grad():
        code.weight.copy_(turn)
    x = rows(9).abs() @ turn  # its coordinates along the units are above 0
    assert torch.allclose(code.decode(code(x)), x)
    terms = csr(coded(code, x), coded(code, x, 1)).terms
    assert terms["decoded"].item() == pytest.approx(0, abs=1e-20)
    assert terms["wide"].item() == pytest.approx(0, abs=1e-20)


@pytest.mark.proves(row=132, fact="reference")
def test_head_and_loss_equal_those_of_the_authors() -> None:
    """Vision/model_zoo.py and main_visual.py of github.com/neilwen987/CSR_Adaptive_Rep (commit e171693): MSE at k and 0.125
    of it at 4k, 1/32 of the normalised MSE of dead units against x - recon + pre_bias, 0.1 of the contrast of two passes
    at temperature 0.2."""
    code, x, n = head(), rows(9), 9
    leaves = [code.weight, code.bias, code.centre]

    def top(before: Tensor, k: int) -> Tensor:
        found = torch.topk(before, k=k, dim=-1)
        return torch.zeros_like(before).scatter_(-1, found.indices, found.values).relu()

    before = torch.nn.functional.linear(x - code.centre, code.weight, code.bias)
    latent, wide, aux = top(before, 2), top(before, 8), top(before * (code.idle > 30), 3)
    recon, recon_4k, recon_aux = (z @ code.weight + code.centre for z in (latent, wide, aux))
    mse = torch.nn.MSELoss()
    over = x - recon.detach() + code.centre.detach()
    normed = mse(recon_aux, over) / mse(over.mean(0)[None].broadcast_to(over.shape), over)
    z = normalize(torch.cat([latent, latent]), dim=-1)
    sim, ids = (z @ z.T / 0.2).exp(), torch.arange(n).repeat(2)
    same = ids[:, None] == ids[None, :]
    pos = (sim * (same & ~torch.eye(2 * n, dtype=torch.bool))).sum(1)
    contrast = -(pos / (pos + (sim * ~same).sum(1))).log().mean()
    expected = mse(x, recon) + 0.125 * mse(x, recon_4k) + normed / 32 + 0.1 * contrast
    found = csr(Embeddings.cat([coded(code, x), coded(code, x, 1)])).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for g, h in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert torch.allclose(g, h, rtol=1e-8, atol=1e-12)
        assert h.abs().max() > 0


def test_dead_units_learn_from_what_is_left_alone() -> None:
    code, x = head(), rows(9)
    dead = csr(coded(code, x), coded(code, x, 1)).terms["dead"]
    gradient = torch.autograd.grad(dead, code.weight)[0]
    alive = code.idle <= 30
    assert gradient[alive].abs().max() == 0
    assert gradient[~alive].abs().max() > 0


def test_idle_units_are_counted_over_the_rows_of_a_step() -> None:
    code = SparseCode(4, 5, k=2)
    code.observe(torch.tensor([[0.0, 1.0, 0.0, 0.0, 1e-6], [0.0, 0.0, 2.0, 0.0, 0.0]]))
    code.observe(torch.tensor([[0.0, 0.0, 2.0, 0.0, 0.0]]))
    assert code.idle.tolist() == [2, 1, 0, 2, 2]
    assert "idle" in code.state_dict()


def test_a_unit_that_another_process_used_is_not_idle() -> None:
    def work(rank: int, _count: int) -> list[Tensor]:
        code = SparseCode(4, 3, k=1)
        code.observe(torch.eye(3)[rank : rank + 1])
        return [code.idle]

    for (idle,) in in_processes(2, work):
        assert idle.tolist() == [0, 0, 1]


def test_the_head_reads_row_by_row() -> None:
    code, x = head(), rows(7)
    for name, fact in {"code": code(x), **code.facts(x)}.items():
        one = code(x[3:4]) if name == "code" else code.facts(x[3:4])[name]
        assert torch.allclose(fact[3:4], one)


def test_two_kinds_of_data_are_contrasted_across_and_averaged() -> None:
    code, x, y = head(), rows(9), rows(9, seed=1)
    a, c = coded(code, x), coded(code, y, 1)
    terms = csr(a, c).terms
    assert terms["contrast"].item() == infonce(a, c, temperature=0.2).loss.item()
    for name in ("decoded", "wide", "dead"):
        alone = (csr(a).terms[name] + csr(c).terms[name]) / 2
        assert terms[name].item() == pytest.approx(alone.item(), rel=1e-12)


def test_nothing_left_over_and_bad_arguments() -> None:
    x = rows(3)
    facts = {"input": x, "decoded": x, "wide": x, "dead": torch.ones_like(x)}
    assert csr(Embeddings.of(x, facts=facts)).terms["dead"].item() == 0
    with pytest.raises(KeyError, match="they lack: decoded, wide, dead"):
        csr(Embeddings.of(x, facts={"input": x}))
    with pytest.raises(ValueError, match="from 1 to 4 units of a code, got k=5"):
        SparseCode(2, 4, k=5)
