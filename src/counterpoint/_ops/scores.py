"""Scores: how alike two rows are. Each computes a tile, carries a gradient back into its rows, and scores listed pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from counterpoint._ops.products import Precision, add_product, product

Names = tuple[str, ...]
Columns = tuple[Tensor, ...]
Totals = tuple[Tensor | None, ...]  # where gradients are added; None: not wanted

# Stands for log 0 and for the maximum of nothing. Finite, so that a fully masked tile has a zero gradient and not NaN,
# and so far below any score that exp of the difference is exactly 0.
FLOOR = -1e9


@runtime_checkable
class Score(Protocol):
    """A comparison of two sets of rows, made of the columns that it `reads` ("z", or names of facts)."""

    @property
    def reads(self) -> tuple[Names, Names]:
        """The names of its columns, of the anchors and of the candidates."""

    def of(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """The tile of scores, [n m]."""

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
        """Add the gradient of a tile to those of its columns, in place."""

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """The scores of row i of x with row i of y, [e]."""

    def inner(self, x: Columns, y: Columns) -> int:
        """How many numbers one pair takes while it is computed."""


@dataclass(frozen=True)
class Dot:
    """The dot product; made by `dot`."""

    fact: str
    against: str

    @property
    def reads(self) -> tuple[Names, Names]:
        """One column of each side."""
        return (self.fact,), (self.against,)

    def of(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """X Y^T."""
        return product(x[0], y[0].T, precision)

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
        """G Y to the anchors, G^T X to the candidates."""
        add_product(to[0][0], grad, y[0], precision)
        add_product(to[1][0], grad.T, x[0], precision)

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """One dot product for each pair."""
        return (x[0] * y[0]).sum(-1)

    def inner(self, _x: Columns, _y: Columns) -> int:
        """One number a pair."""
        return 1


@dataclass(frozen=True)
class Squared:
    """The squared Euclidean distance; made by `squared`."""

    fact: str
    against: str

    @property
    def reads(self) -> tuple[Names, Names]:
        """One column of each side."""
        return (self.fact,), (self.against,)

    def of(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """|x|^2 + |y|^2 - 2 x.y, at least 0."""
        norms = x[0].square().sum(-1)[:, None] + y[0].square().sum(-1)[None, :]
        return torch.addcmul(norms, product(x[0], y[0].T, precision), torch.tensor(-2.0).to(norms)).clamp(min=0)

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
        """2 (sum_j G_ij) x_i - 2 sum_j G_ij y_j, and the same for the candidates."""
        twice = grad * -2
        for total, own, other, part in ((to[0][0], x[0], y[0], twice), (to[1][0], y[0], x[0], twice.T)):
            if total is not None:
                total.sub_(part.sum(1)[:, None] * own)
                add_product(total, part, other, precision)

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """One squared distance for each pair."""
        return (x[0] - y[0]).square().sum(-1)

    def inner(self, _x: Columns, _y: Columns) -> int:
        """One number a pair."""
        return 1


@dataclass(frozen=True)
class MaxSim:
    """Late interaction of token sets; made by `maxsim`."""

    fact: str
    against: str
    mask: str | None

    @property
    def reads(self) -> tuple[Names, Names]:
        """The tokens and, where there is one, their mask."""
        mask = () if self.mask is None else (self.mask,)
        return (self.fact, *mask), (self.against, *mask)

    def _tokens(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """Products of all tokens, [n t m u]; absent tokens of y at the floor."""
        flat = product(x[0].flatten(0, 1), y[0].flatten(0, 1).T, precision)
        tokens = flat.view(*x[0].shape[:2], *y[0].shape[:2])
        return tokens if len(y) == 1 else tokens.masked_fill(~y[1].bool()[None, None], FLOOR)

    def of(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """For each token of x its best token of y, added up."""
        best = self._tokens(x, y, precision).max(-1).values
        if len(x) > 1:  # a set without tokens scores 0
            best = torch.where(x[1].bool()[:, :, None] & y[1].bool().any(1), best, 0.0)
        return best.sum(1)

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
        """Gradient flows through the best token of each."""
        tokens = self._tokens(x, y, precision)
        place = tokens.max(-1, keepdim=True).indices
        each = grad[:, None, :].expand(tokens.shape[:3])
        if len(x) > 1:
            each = torch.where(x[1].bool()[:, :, None] & y[1].bool().any(1), each, 0.0)
        routed = torch.zeros_like(tokens).scatter_(-1, place, each[..., None]).flatten(2).flatten(0, 1)
        for total, other, part in ((to[0][0], y[0], routed), (to[1][0], x[0], routed.T)):
            add_product(None if total is None else total.flatten(0, 1), part, other.flatten(0, 1), precision)

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """One pair of token sets at a time, side by side."""
        tokens = torch.einsum("etd,eud->etu", x[0], y[0])
        if len(y) == 1:
            return tokens.max(-1).values.sum(-1)
        best = tokens.masked_fill(~y[1].bool()[:, None], FLOOR).max(-1).values
        return torch.where(x[1].bool() & y[1].bool().any(1)[:, None], best, 0.0).sum(-1)

    def inner(self, x: Columns, y: Columns) -> int:
        """Tokens times tokens."""
        return x[0].shape[1] * y[0].shape[1]


@dataclass(frozen=True)
class Pairwise:
    """Any function of two sets of rows; made by `pairwise`."""

    fn: Callable[..., Tensor]
    fact: str
    against: str
    size: int

    @property
    def reads(self) -> tuple[Names, Names]:
        """One column of each side."""
        return (self.fact,), (self.against,)

    def of(self, x: Columns, y: Columns, _precision: Precision) -> Tensor:
        """The function itself."""
        return self.fn(x[0], y[0])

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], _precision: Precision) -> None:
        """By autograd through the function."""
        with torch.enable_grad():
            left, right = x[0].detach().requires_grad_(), y[0].detach().requires_grad_()
            for whole, part in zip(
                (to[0][0], to[1][0]), torch.autograd.grad(self.fn(left, right), (left, right), grad), strict=True
            ):
                if whole is not None:
                    whole.add_(part)

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """The function on one row and one row, for each pair."""
        return torch.vmap(lambda p, q: self.fn(p[None], q[None])[0, 0])(x[0], y[0])

    def inner(self, _x: Columns, _y: Columns) -> int:
        """As declared."""
        return self.size


def dot(fact: str = "z", *, against: str | None = None) -> Dot:
    """The dot product of a column: s_ij = x_i . y_j; of unit rows the cosine.

    Args:
        fact: the anchors' column, [n d]: their vectors, or a fact.
        against: the candidates' column, [m d]; None: the same.

    >>> dot().of((torch.eye(2),), (torch.eye(2),), "fp32").tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return Dot(fact, against or fact)


def squared(fact: str = "z") -> Squared:
    """The squared Euclidean distance of a column: s_ij = |x_i - y_j|^2, at least 0.

    >>> squared().of((torch.eye(2),), (torch.eye(2),), "fp32").tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    return Squared(fact, fact)


def maxsim(fact: str = "z", *, mask: str | None = None) -> MaxSim:
    """Late interaction of token sets: s_ij = sum_t max_u x_it . y_ju (ColBERT).

    Args:
        fact: a column of token sets, [n t d].
        mask: the fact [n t] that is true where there is a token; None: all are there.

    >>> x = torch.eye(2)[None]      # one set of two tokens
    >>> maxsim().of((x,), (x,), "fp32").tolist()
    [[2.0]]
    """
    return MaxSim(fact, fact, mask)


def pairwise(fn: Callable[[Tensor, Tensor], Tensor], *, fact: str = "z", inner: int = 1) -> Pairwise:
    """Any differentiable function of two sets of rows, [n d] and [m d] -> [n m], such as a distance of another geometry.

    Args:
        fn: right for any two sets; what it needs a gradient for is in its two arguments.
        fact: the column it reads.
        inner: numbers that one pair takes while it is computed (d for |x - y| written out); the tiles shrink by it.

    >>> taxi = pairwise(lambda x, y: (x[:, None] - y[None]).abs().sum(-1), inner=2)
    >>> taxi.of((torch.eye(2),), (torch.eye(2),), "fp32").tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    return Pairwise(fn, fact, fact, inner)
