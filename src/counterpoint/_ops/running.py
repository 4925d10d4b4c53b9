"""Reductions that run over tiles: each takes tile after tile, and knows its gradient in closed form.

`axis` is the side of the results: 0 reduces over candidates and gives one number an anchor, 1 the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.scores import FLOOR

Reduction = Literal["logsumexp", "total", "maximum", "minimum", "count", "mean_under"]
Bound = tuple[float, float]
# A part of a tile's gradient: a matrix (None: ones) times a coefficient of each row or column.
Term = tuple[Tensor | None, Tensor]
SLACK = 2.0  # nats that are kept free below the overflow of exp


class Value:
    """One output of a tile: [n m], or one number for all pairs but a few; its exponential is computed once.

    Args:
        tensor: [n m], or a number that all pairs share.
        shape: (n, m).
        device: of the tile; a number may live on the CPU.
        listed: (row, col, value) of pairs whose value differs from the number; only where `tensor` is one.
    """

    def __init__(
        self,
        tensor: Tensor,
        shape: tuple[int, int],
        device: torch.device,
        listed: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        self.tensor, self.shape, self.device, self.listed = tensor, shape, device, listed
        if tensor.ndim:  # a value of rows or of columns alone is one of their pairs too
            self.tensor = tensor.expand(shape)
        self._exp: dict[float, Tensor] = {}

    @property
    def constant(self) -> bool:
        """Whether all pairs share one number, but for the listed ones."""
        return self.tensor.ndim == 0

    @property
    def everywhere(self) -> float:
        """The number of all pairs; infinity where they differ."""
        return float(self.tensor) if self.constant and self.listed is None else math.inf

    def full(self) -> Tensor:
        """All pairs, [n m]."""
        whole = self.tensor.to(self.device).expand(self.shape)
        return whole if self.listed is None else whole.index_put(self.listed[:2], self.listed[2])

    def exp(self, shift: float, weight: Value | None = None) -> Tensor:
        """w exp(value - shift), kept: rows and columns share it."""
        if shift not in self._exp:
            whole = self.full()
            found = whole.exp() if shift == 0 else (whole - shift).exp_()
            self._exp[shift] = found if weight is None else weight.scale_(found)
        return self._exp[shift]

    def scale_(self, other: Tensor) -> Tensor:
        """other *= value in place; only where it changes something."""
        if self.listed is None:
            return other if self.constant and self.tensor == 1 else other.mul_(self.tensor.detach())
        row, col, value = self.listed
        special = other[row, col] * value
        other = other if self.tensor == 1 else other.mul_(self.tensor)
        return other.index_put_((row, col), special)


def along(vector: Tensor, axis: int) -> Tensor:
    """A vector of one side, shaped to broadcast over a tile."""
    return vector[:, None] if axis == 0 else vector[None, :]


def over(axis: int) -> int:
    """The dimension that is reduced for results of this side."""
    return 1 - axis


def plus_log(value: Tensor, weight: Tensor) -> Tensor:
    """value + log weight; a floor without gradient where the weight is 0; no work where all pairs weigh 1.

    >>> plus_log(torch.ones(2), torch.tensor([1.0, 0.0])).tolist()
    [1.0, -1000000000.0]
    """
    if weight.ndim == 0 and not weight.requires_grad:
        if weight == 1:
            return value
        return value + weight.log() if weight > 0 else torch.full_like(weight, FLOOR)
    log = weight.clamp(min=torch.finfo(weight.dtype).tiny).log()
    return torch.where(weight > 0, value + log, FLOOR)


def safe_shift(bound: Bound | None, pairs: int, dtype: torch.dtype) -> float | None:
    """A number b for which sum exp(value - b) neither overflows nor vanishes, or None where the bound is too wide.

    >>> safe_shift((-20.0, 20.0), 1000, torch.float32), safe_shift((-200.0, 200.0), 1000, torch.float32)
    (0.0, None)
    """
    if bound is None:
        return None
    low, high = bound
    limits = torch.finfo(dtype)
    most, least = math.log(limits.max) - math.log(max(pairs, 1)) - SLACK, math.log(limits.tiny) + SLACK
    if high - low > most - least:
        return None
    return 0.0 if high <= most and low >= least else high - most


class Total:
    """sum of the values."""

    def __init__(self, size: int, axis: int, like: Tensor) -> None:
        self.axis, self.sum = axis, like.new_zeros(size)

    def add(self, value: Value, at: slice) -> None:
        """One more tile."""
        if not value.constant:
            self.sum[at] += value.tensor.sum(over(self.axis))
            return
        if value.tensor != 0:
            self.sum[at] += value.tensor * value.shape[over(self.axis)]
        if value.listed is not None:
            self.sum[at].index_add_(0, value.listed[self.axis], (value.listed[2] - value.tensor).to(self.sum))

    def result(self) -> Tensor:
        """One number a row."""
        return self.sum

    def share(self, grad: Tensor) -> Tensor:
        """The gradient of the results, as `pull` wants it."""
        return grad

    def pull(self, _value: Value, *, grad: Tensor, result: Tensor, at: slice) -> tuple[Term, ...]:
        """Ones."""
        del result, at
        return ((None, along(grad, self.axis)),)


class Count(Total):
    """How many values are above 0; without a gradient."""

    def add(self, value: Value, at: slice) -> None:
        """One more tile, as zeros and ones."""
        listed = value.listed and (*value.listed[:2], (value.listed[2] > 0).to(self.sum))
        super().add(Value((value.tensor > 0).to(self.sum), value.shape, value.device, listed), at)


class LogSumExp:
    """log sum w exp(value), for weights w without gradient; `FLOOR` where there is none.

    With a shift that is known to be safe no maximum is looked for, and rows and columns share one exponential.
    """

    def __init__(self, size: int, axis: int, like: Tensor, shift: float | None = None) -> None:
        self.axis, self.shift = axis, shift
        self.sum = like.new_zeros(size)
        self.best = like.new_full((size,), FLOOR)

    def add(self, value: Value, at: slice, weight: Value | None = None) -> None:
        """One more tile."""
        if value.everywhere <= FLOOR / 2 or (weight is not None and weight.everywhere <= 0):
            return
        if self.shift is not None:
            self.sum[at] += value.exp(self.shift, weight).sum(over(self.axis))
            return
        whole = self._weighted(value, weight)
        if not whole.shape[over(self.axis)]:
            return
        best = torch.maximum(self.best[at], whole.amax(over(self.axis)))
        new = (whole - along(best, self.axis)).exp_().sum(over(self.axis))
        self.sum[at] = self.sum[at] * (self.best[at] - best).exp() + new
        self.best[at] = best

    def result(self) -> Tensor:
        """One number a row."""
        base = self.best if self.shift is None else self.shift
        return torch.where(self.sum > 0, self.sum.log() + base, FLOOR).clamp(min=FLOOR)

    def share(self, grad: Tensor) -> Tensor:
        """With a shift: over the sum of exponentials."""
        if self.shift is None:
            return torch.where(self.best > FLOOR / 2, grad, 0.0)
        return torch.where(self.sum > 0, grad / torch.where(self.sum > 0, self.sum, 1.0), 0.0)

    def pull(
        self, value: Value, weight: Value | None = None, *, grad: Tensor, result: Tensor, at: slice
    ) -> tuple[Term, ...]:
        """The softmax."""
        del at
        if self.shift is not None:
            return ((value.exp(self.shift, weight), along(grad, self.axis)),)
        return (((self._weighted(value, weight) - along(result, self.axis)).exp_(), along(grad, self.axis)),)

    @staticmethod
    def _weighted(value: Value, weight: Value | None) -> Tensor:
        """Values with the logarithms of their weights."""
        return value.full() if weight is None else plus_log(value.full(), weight.full())


class Maximum:
    """The largest value; its gradient is shared evenly among equals. `FLOOR` where there is none."""

    def __init__(self, size: int, axis: int, like: Tensor, sign: float = 1.0) -> None:
        self.axis, self.sign = axis, sign
        self.best = like.new_full((size,), FLOOR)
        self.ties = like.new_zeros(size)

    def add(self, value: Value, at: slice) -> None:
        """One more tile."""
        whole = value.full() if self.sign > 0 else -value.full()
        if not whole.shape[over(self.axis)]:
            return
        best = torch.maximum(self.best[at], whole.amax(over(self.axis)))
        ties = (whole == along(best, self.axis)).sum(over(self.axis))
        self.ties[at] = torch.where(best > self.best[at], 0.0, self.ties[at]) + ties
        self.best[at] = best

    def result(self) -> Tensor:
        """One number a row."""
        return self.best * self.sign

    def share(self, grad: Tensor) -> Tensor:
        """Evenly among equals."""
        return grad / self.ties.clamp(min=1)

    def pull(self, value: Value, *, grad: Tensor, result: Tensor, at: slice) -> tuple[Term, ...]:
        """One where the value is the largest."""
        del at
        whole = value.full()
        return (((whole == along(result, self.axis)).to(whole), along(grad, self.axis)),)


class MeanUnder:
    """The mean of values under the softmax of log weights; 0 where there is no weight."""

    def __init__(self, size: int, axis: int, like: Tensor) -> None:
        self.axis, self.weight = axis, LogSumExp(size, axis, like)
        self.sum = like.new_zeros(size)

    def add(self, value: Value, at: slice, under: Value) -> None:
        """One more tile: `value` is what is averaged, `under` its log weight."""
        before, dim = self.weight.best[at].clone(), over(self.axis)
        self.weight.add(under, at)
        now = self.weight.best[at]
        weighted = (under.full() - along(now, self.axis)).exp_() * value.full()
        self.sum[at] = self.sum[at] * (before - now).exp() + weighted.sum(dim)

    def result(self) -> Tensor:
        """One number a row."""
        some = self.weight.best > FLOOR / 2
        return torch.where(some, self.sum / torch.where(some, self.weight.sum, 1.0), 0.0)

    def share(self, grad: Tensor) -> Tensor:
        """Nothing to a row without weight."""
        return torch.where(self.weight.best > FLOOR / 2, grad, 0.0)

    def pull(self, value: Value, under: Value, *, grad: Tensor, result: Tensor, at: slice) -> tuple[Term, ...]:
        """The gradients of value and log weight."""
        share = (under.full() - along(self.weight.result()[at], self.axis)).exp_() * along(grad, self.axis)
        apart = value.full() - along(result, self.axis)
        one = grad.new_ones(())
        return (share.clone(), one), (share * apart, one)


def combine(terms: list[Term], value: Value) -> Tensor:
    """The gradient of a tile from its parts: those that share a matrix are added before they meet it, in place."""
    sums: dict[int, tuple[Tensor | None, Tensor]] = {}
    for matrix, coefficient in terms:
        before = sums.get(id(matrix))
        sums[id(matrix)] = (matrix, coefficient if before is None else before[1] + coefficient)
    whole: Tensor | None = None
    for matrix, coefficient in sums.values():
        part = coefficient if matrix is None else matrix.mul_(coefficient)
        whole = part if whole is None else whole + part
    assert whole is not None
    return whole.expand(value.shape)


def segment(
    how: Reduction,
    value: Float[Tensor, " e"],
    owner: Int[Tensor, " e"],
    rest: Float[Tensor, " n"],
    *,
    elsewhere: float,
    under: tuple[Tensor, float] | None = None,
) -> Float[Tensor, " n"]:
    """A reduction over listed pairs, where `rest` pairs of each row share the value `elsewhere`. By plain autograd.

    >>> segment("total", torch.tensor([2.0, 3.0]), torch.tensor([0, 0]), torch.tensor([1.0, 4.0]), elsewhere=1.0).tolist()
    [6.0, 4.0]
    """
    n = len(rest)
    match how:
        case "total":
            return (rest * elsewhere).index_add(0, owner, value)
        case "count":
            return (rest * (elsewhere > 0)).index_add(0, owner, (value.detach() > 0).to(rest))
        case "maximum" | "minimum":
            sign = 1.0 if how == "maximum" else -1.0
            base = torch.where(rest > 0, max(sign * elsewhere, FLOOR), FLOOR).to(rest)
            return sign * base.scatter_reduce(0, owner, sign * value, "amax", include_self=True)
        case "logsumexp":
            if under is not None:  # a weight
                value, elsewhere = plus_log(value, under[0].detach()), elsewhere + math.log(max(under[1], 1e-300))
                elsewhere = elsewhere if under[1] > 0 else FLOOR
            shift = _highest(value, owner, rest, elsewhere)
            there = torch.where(rest > 0, rest * (elsewhere - shift).exp(), 0.0)
            total = there.index_add(0, owner, (value - shift[owner]).exp())
            return (torch.where(total > 0, total, 1.0).log() + shift).clamp(min=FLOOR)
        case "mean_under":
            assert under is not None
            log_weight, log_rest = under
            shift = _highest(log_weight, owner, rest, log_rest)
            weight, weight_rest = (log_weight - shift[owner]).exp(), rest * (log_rest - shift).exp()
            below = weight_rest.index_add(0, owner, weight)
            above = (weight_rest * elsewhere).index_add(0, owner, weight * value)
            return torch.where(shift > FLOOR / 2, above / torch.where(below > 0, below, 1.0), rest.new_zeros(n))


def _highest(value: Tensor, owner: Tensor, rest: Tensor, elsewhere: float) -> Tensor:
    """The largest value of each row, without gradient."""
    base = torch.where(rest > 0, max(elsewhere, FLOOR), FLOOR).to(rest)
    return base.scatter_reduce(0, owner, value.detach(), "amax", include_self=True)


def whole(how: Reduction, value: Tensor, axis: int, under: Tensor | None = None) -> Tensor:
    """The same reduction of a whole matrix by plain autograd: what tiles have to equal."""
    dim = over(axis)
    empty = not value.shape[dim]
    match how:
        case "total":
            return value.sum(dim)
        case "count":
            return (value > 0).to(value).sum(dim)
        case "logsumexp":
            weighted = value if under is None else plus_log(value, under.detach())
            return torch.logsumexp(weighted, dim).clamp(min=FLOOR)
        case "maximum":
            return value.new_full((value.shape[axis],), FLOOR) if empty else value.amax(dim)
        case "minimum":
            return value.new_full((value.shape[axis],), -FLOOR) if empty else value.amin(dim)
        case "mean_under":
            assert under is not None
            mean = (torch.softmax(under, dim) * value).sum(dim)
            return torch.where(torch.logsumexp(under, dim).detach() > FLOOR / 2, mean, 0.0)


START: dict[str, Callable[..., Total | LogSumExp | Maximum | MeanUnder]] = {
    "total": Total,
    "count": Count,
    "logsumexp": LogSumExp,
    "maximum": Maximum,
    "minimum": lambda size, axis, like: Maximum(size, axis, like, sign=-1.0),
    "mean_under": MeanUnder,
}
