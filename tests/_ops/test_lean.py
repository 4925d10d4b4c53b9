"""The CPU's lean operations are the same functions as torch's own, but for which random numbers they draw."""

from __future__ import annotations

import copy
import threading
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from counterpoint._ops import lean
from counterpoint._ops.lean import Attention, Dropout, clear_gradients, keeps, rounded
from counterpoint._ops.lean import lean as on_cpu


def heads(length: int = 5, keys: int | None = None, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values as models make them: heads and places swapped in memory."""
    draw = torch.Generator().manual_seed(length)
    sizes = (length, keys or length, keys or length)
    return tuple(  # type: ignore[return-value]
        torch.randn(n, m, 2, 4, generator=draw, dtype=torch.float64).transpose(1, 2).requires_grad_() for m in sizes
    )


def lengths_mask(length: int, kind: str) -> Tensor | None:
    """Which keys there are, [3, 1, 1, length] or [3, 1, length, length]; the last item has one key."""
    if kind == "none":
        return None
    there = torch.arange(length) < torch.tensor([length, length - 2, 1])[:, None]
    there = there[:, None, None]
    if kind == "causal":
        there = there & torch.ones(length, length, dtype=torch.bool).tril()
    if kind == "bool":
        return there
    return torch.zeros(there.shape, dtype=torch.float64).masked_fill(~there, float("-inf"))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_as_many_stay_as_should(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    kept = keeps((400, 1001), rate, torch.ones(1, dtype=dtype))
    assert kept.dtype == dtype
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    spread = (rate * (1 - rate) / kept.numel()) ** 0.5
    assert abs(float(kept.float().mean()) - (1 - rounded(rate))) <= 5 * spread
    by_lane = kept.float().flatten()[: kept.numel() // 4 * 4].view(-1, 4).mean(0)
    assert float((by_lane - (1 - rate)).abs().max()) <= 10 * spread + 1e-5


def test_neighbours_are_drawn_apart() -> None:
    """Elements that share a number of 64 bits, and those that follow, are uncorrelated."""
    torch.manual_seed(2)
    kept = keeps((2**20,), 0.3, torch.ones(1))
    centred = kept - kept.mean()
    for lag in (1, 2, 3, 4, 8, 384):
        together = float((centred[:-lag] * centred[lag:]).mean() / centred.var())
        assert abs(together) < 5 / 2**10, lag


def test_the_seed_decides() -> None:
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(keeps((99,), 0.5, torch.ones(1)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_keeps_the_expectation_and_its_gradient_is_its_mask() -> None:
    torch.manual_seed(5)
    x = torch.randn(50_000, dtype=torch.float64, requires_grad=True)
    y = Dropout.apply(x, 0.25)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(y, x.detach() * x.grad)
    assert x.grad.unique().tolist() == [0.0, 1 / (1 - 0.25)]
    assert float(x.grad.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("block", [1, 2**20])
@pytest.mark.parametrize("kind", ["none", "float", "bool", "causal"])
def test_attention_without_dropout_is_torchs(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "BLOCK", block)
    mask, found = lengths_mask(6, kind), []
    for mode in (False, True):
        q, k, v = heads(6)
        with on_cpu() if mode else nullcontext():
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7)
        assert (type(out.grad_fn).__name__ == "AttentionBackward") == mode
        out.cos().sum().backward()
        found.append((out, q.grad, k.grad, v.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_attention_of_a_query_without_keys_has_no_nan() -> None:
    q, k, v = heads(4)
    mask = torch.zeros(3, 1, 1, 4, dtype=torch.bool)
    with on_cpu():
        functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("block", [1, 2**20])
@pytest.mark.parametrize("keys", [5, 7])
def test_the_gradient_of_attention_under_dropout_is_that_of_its_value(
    keys: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By finite differences: the backward pass drops what the forward pass dropped."""
    monkeypatch.setattr(lean, "BLOCK", block)
    bias = torch.randn(3, 1, 1, keys, dtype=torch.float64)

    def value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(0)
        return Attention.apply(q, k, v, bias, 0.4, 0.6)

    assert torch.autograd.gradcheck(value, heads(5, keys))


def test_dropped_attention_is_probabilities_with_zeros() -> None:
    """Values that are the unit matrix show the probabilities as they were used."""
    torch.manual_seed(6)
    q, k, _ = (x.detach() for x in heads(8, n=400))
    unit = torch.eye(8, dtype=torch.float64).expand(400, 2, 8, 8)
    used = Attention.apply(q, k, unit, None, 0.3, 0.5)
    p = torch.softmax(q @ k.mT * 0.5, -1)
    stays = used != 0
    assert torch.allclose(used[stays], p[stays] / (1 - rounded(0.3)))
    assert float(stays.double().mean()) == pytest.approx(0.7, abs=0.01)


def test_under_autocast_as_torch_does() -> None:
    q, k, v = (x.detach().float().requires_grad_() for x in heads(6))
    with torch.autocast("cpu", torch.bfloat16):
        theirs = functional.scaled_dot_product_attention(q, k, v)
        with on_cpu():
            ours = functional.scaled_dot_product_attention(q, k, v)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.allclose(ours, theirs, atol=0.02)


class Words(nn.Module):
    """A table, two looks into it."""

    def __init__(self, blank: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 3, padding_idx=blank)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sin() + self.table(ids.flip(0)).cos() * 2


@pytest.mark.parametrize("blank", [None, 7])
def test_the_gradient_of_a_table(blank: int | None) -> None:
    torch.manual_seed(0)
    plain = Words(blank)
    ours, ids = copy.deepcopy(plain), torch.tensor([[7, 7, 3], [199, 0, 7]])
    for step in (1, 2):
        for module, mode in ((plain, False), (ours, True)):
            clear_gradients(module.parameters())
            assert module.table.weight.grad is None
            with on_cpu() if mode else nullcontext():
                out = module(ids)
            assert ("Lookup" in str(out.grad_fn.next_functions[0][0].next_functions)) == mode
            (out * step).sum().backward()
        assert torch.allclose(ours.table.weight.grad, plain.table.weight.grad, atol=1e-6)
        ids = ids + 1
        ids[ids == 200] = 0


def test_a_table_that_nobody_looks_into_has_no_gradient() -> None:
    module, ids = Words(), torch.tensor([[1]])
    with on_cpu():
        module(ids).sum().backward()
    held = module.table.weight.grad
    clear_gradients(module.parameters())
    assert module.table.weight.grad is None
    with on_cpu():
        module(ids).sum().backward()
    assert module.table.weight.grad is held  # the same memory, without what was in it
    assert int((held.abs().sum(1) > 0).sum()) == 1


def test_layers_that_are_made_again_drop_the_same() -> None:
    """Activation checkpointing repeats a layer in the backward pass, still inside."""
    torch.manual_seed(0)
    x, weight, found = torch.randn(3, 2, 5, 4), nn.Linear(4, 4), []

    def layer(x: Tensor) -> Tensor:
        y = functional.dropout(weight(x), 0.3)
        return functional.scaled_dot_product_attention(y, y, y, dropout_p=0.3)

    for again in (False, True):
        weight.zero_grad()
        torch.manual_seed(1)
        with on_cpu():
            out = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
            out.sum().backward()
        found.append(weight.weight.grad.clone())
    assert torch.equal(*found)


def test_nothing_of_a_matrix_of_scores_is_kept() -> None:
    sizes: list[int] = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    q, k, v = heads(50, n=1)
    with on_cpu(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        functional.scaled_dot_product_attention(q, k, v, dropout_p=0.2)
    assert max(sizes) < 2 * 50 * 50


def test_outside_nothing_changes() -> None:
    x = torch.ones(4, requires_grad=True)
    with on_cpu():
        assert type(functional.dropout(x, 0.5).grad_fn).__name__ == "DropoutBackward"
        assert torch.equal(functional.dropout(x, 0.5, training=False), x)
        with pytest.raises(ValueError, match="between 0 and 1"):
            functional.dropout(x, 1.5)
    assert "Mul" in type(functional.dropout(x, 0.5).grad_fn).__name__
    assert functional.dropout is lean.THEIRS["dropout"]


def test_another_thread_and_an_error_leave_it_as_it_was() -> None:
    x, found = torch.ones(4, requires_grad=True), []

    def fails() -> None:
        with on_cpu(), on_cpu():
            thread = threading.Thread(target=lambda: found.append(functional.dropout(x, 0.5).grad_fn))
            thread.start()
            thread.join()
            raise RuntimeError("outer")

    with pytest.raises(RuntimeError, match="outer"):
        fails()
    assert "Mul" in type(found[0]).__name__
    assert functional.dropout is lean.THEIRS["dropout"]


def test_who_has_left_is_outside_while_others_are_inside() -> None:
    x, inside, done = torch.ones(4, requires_grad=True), threading.Event(), threading.Event()

    def stays() -> None:
        with on_cpu():
            inside.set()
            done.wait(10)

    other = threading.Thread(target=stays)
    other.start()
    inside.wait(10)
    with on_cpu():
        pass
    assert "Mul" in type(functional.dropout(x, 0.5).grad_fn).__name__
    done.set()
    other.join()
    assert functional.dropout is lean.THEIRS["dropout"]
