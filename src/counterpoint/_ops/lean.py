"""Three operations of text models that cost more on a CPU than all matrix products, done with less.

| operation | torch's CPU kernels | here |
|---|---|---|
| dropout | one serial random number an element | four elements from one, kept as one number each |
| attention, most of all under dropout | matrices [heads, length, length] are kept | none is kept, blocks fit the cache |
| gradient of a table of words | as large as the table, at every pass | only the rows that were looked up |

They are the same functions: only which random numbers are drawn differs, and a rate is rounded to 1/65536. Blocks of
attention: Dao et al.: FlashAttention, arXiv:2205.14135, 2022.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from counterpoint._ops.pace import in_pace

LEVELS = 2**16  # of a random number that decides about one element
BLOCK = 2**20  # bytes of one matrix of scores that is worked on at a time; a share of the second-level cache
_spare: MutableMapping[Tensor, Tensor | None] = WeakTensorKeyDictionary()  # tables that were looked up -> memory


def keeps(shape: Sequence[int], rate: float, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ones where elements stay and zeros where they are dropped, in the dtype of `like`.

    Args:
        shape: of the result.
        rate: share of zeros, in [0, 1); rounded to 1/65536, see `rounded`.
        like: gives the dtype.
        generator: None: torch's own.

    >>> torch.manual_seed(0) and round(float(keeps((1000,), 0.1, torch.ones(1)).mean()), 1)
    0.9
    """
    many = math.prod(shape)
    bits = torch.empty(-(-many // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    lanes = bits.view(torch.int16)[:many].view(*shape)
    kept = torch.empty(*shape, dtype=like.dtype)
    return torch.ge(lanes, round(rate * LEVELS) - LEVELS // 2, out=kept)


def rounded(rate: float) -> float:
    """The rate that `keeps` has.

    >>> rounded(0.1)
    0.100006103515625
    """
    return round(rate * LEVELS) / LEVELS


class Dropout(torch.autograd.Function):
    """Zeros at random places, and the rest scaled so that the expectation stays."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        """x with elements dropped."""
        kept = keeps(x.shape, rate, x).div_(1 - rounded(rate))
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient at the same places."""
        return gradient * ctx.saved_tensors[0], None


class Attention(torch.autograd.Function):
    """softmax(q kᵀ · scale + bias) under dropout, times v; matrices of scores are made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rate: float, scale: float) -> Tensor:  # noqa: PLR0917
        """[n, heads, length, d] from queries, keys, values of that shape, and a bias that broadcasts to the scores."""
        ctx.seed = int(torch.randint(2**62, ())) if rate else 0
        ctx.rate, ctx.scale = rate, scale
        q, k, v = ((q * scale).contiguous(), k.contiguous(), v.contiguous())
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
        draw = torch.Generator().manual_seed(ctx.seed)
        for at in blocks(q, k):
            p = probabilities(q, k, bias, at)
            used = p.mul_(keeps(p.shape, rate, p, draw)) if rate else p
            torch.bmm(used, heads(v, at), out=heads(out, at))
        ctx.save_for_backward(q, k, v, bias)
        return out.div_(1 - rounded(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        q, k, v, bias = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        draw = torch.Generator().manual_seed(ctx.seed)
        gradient = (gradient / (1 - rounded(ctx.rate))).contiguous()
        for at in blocks(q, k):
            p = probabilities(q, k, bias, at)
            dp, used = torch.bmm(heads(gradient, at), heads(v, at).mT), p
            if ctx.rate:
                kept = keeps(p.shape, ctx.rate, p, draw)
                dp, used = dp.mul_(kept), kept.mul_(p)
            torch.bmm(used.mT, heads(gradient, at), out=heads(dv, at))
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            torch.bmm(ds, heads(k, at), out=heads(dq, at))
            torch.bmm(ds.mT, heads(q, at), out=heads(dk, at))
        return dq.mul_(ctx.scale), dk, dv, None, None, None


def blocks(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Slices of items whose scores fit the cache together."""
    n, heads, length, _ = q.shape
    some = max(1, BLOCK // max(1, heads * length * k.shape[-2] * q.element_size()))
    return (slice(start, min(start + some, n)) for start in range(0, n, some))


def heads(x: Tensor, at: slice) -> Tensor:
    """The heads of some items as one row of matrices, a view."""
    return x[at].flatten(0, 1)


def probabilities(q: Tensor, k: Tensor, bias: Tensor | None, at: slice) -> Tensor:
    """The softmax of a block, over keys, [items * heads, length, keys]."""
    scores = torch.bmm(heads(q, at), heads(k, at).mT)
    if bias is not None:
        scores.view(-1, q.shape[1], *scores.shape[1:]).add_(bias[at] if len(bias) > 1 else bias)
    return torch.softmax(scores, -1)


def attention(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor | None:  # fmt: skip
    """`scaled_dot_product_attention`, or None where torch's own kernels have to do it."""
    if is_causal or enable_gqa or query.ndim != 4 or dropout_p >= 1 or not (dropout_p or torch.is_grad_enabled()):
        return None
    q, k, v = query, key, value
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    bias = attn_mask
    if bias is not None:
        if bias.requires_grad or bias.ndim != 4:
            return None
        lowest = (
            torch.finfo(q.dtype).min / 4
        )  # no -inf: a query without any key gives a mean, and no NaN in its gradient
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=q.dtype).masked_fill_(~bias, lowest)
        bias = bias.to(q.dtype).clamp(min=lowest)
    with torch.autocast("cpu", enabled=False):
        return Attention.apply(q, k, v, bias, dropout_p, q.shape[-1] ** -0.5 if scale is None else scale)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor | None:
    """`dropout`, or None where there is nothing to gain."""
    if not training or inplace or not 0 < p < 1 or not input.is_floating_point():
        return None
    return Dropout.apply(input, p)


class Lookup(torch.autograd.Function):
    """Rows of a table; the backward pass adds their gradients to the table's own, which is there already."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, blank: int | None) -> Tensor:
        """[*, d] from a table and ids of any shape."""
        ctx.weight, ctx.blank = weight, blank
        ctx.save_for_backward(ids)
        return weight.detach()[ids]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        """The side effect alone."""
        ids = ctx.saved_tensors[0].flatten()
        gradient = gradient.reshape(len(ids), -1).to(ctx.weight.dtype)
        if ctx.blank is not None:
            gradient = gradient * (ids != ctx.blank).unsqueeze(1)
        ctx.weight.grad.index_add_(0, ids, gradient)
        return None, None, None


def embedding(  # noqa: PLR0917
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor | None:  # fmt: skip
    """`embedding`, or None for a table that does not train, is divided over processes, or smaller than what is looked up."""
    if not (weight.requires_grad and weight.is_leaf and torch.is_grad_enabled()) or in_pace():
        return None
    if max_norm is not None or scale_grad_by_freq or sparse or len(weight) <= 2 * input.numel():
        return None
    if weight.grad is None:
        kept = _spare.get(weight)
        weight.grad = torch.zeros_like(weight) if kept is None else kept.zero_()
        _spare[weight] = None
    return Lookup.apply(weight, input, padding_idx)


def clear_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """No parameter has a gradient any more; for tables of words the memory is kept, since fresh memory costs more than zeros."""
    for p in parameters:
        if p in _spare and p.grad is not None:
            _spare[p] = p.grad
        p.grad = None


OURS: Mapping[str, Callable[..., Tensor | None]] = {
    "scaled_dot_product_attention": attention,
    "dropout": dropout,
    "embedding": embedding,
}
THEIRS = {name: getattr(functional, name) for name in OURS}
_lock, _inside, _here = threading.Lock(), [0], threading.local()


@contextmanager
def lean() -> Iterator[None]:
    """Inside, `torch.nn.functional` has the functions above for what this thread does on the CPU.

    A `TorchFunctionMode` would be the form without replaced names; but torch leaves modes out when it makes a layer again in
    the backward pass, which would then drop other elements than before.
    """
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def _enter(change: int) -> None:
    with _lock:
        _inside[0] += change
        _here.depth = getattr(_here, "depth", 0) + change
        for name in OURS:
            setattr(functional, name, CALLS[name] if _inside[0] else THEIRS[name])


def _calling(name: str) -> Callable[..., Tensor]:
    ours, theirs = OURS[name], THEIRS[name]

    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        here = getattr(_here, "depth", 0) and args and type(args[0]) in (Tensor, nn.Parameter)
        if here and args[0].device.type == "cpu":
            found = ours(*args, **kwargs)
            if found is not None:
                return found
        return theirs(*args, **kwargs)

    return call


CALLS = {name: _calling(name) for name in OURS}
