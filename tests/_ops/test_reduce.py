"""Reductions over rows: sums, and sums of what stands in an exponent."""

from __future__ import annotations

import math

import pytest
import torch

from counterpoint._ops.reduce import log_total, total
from counterpoint._ops.scores import FLOOR


def test_total_weighs() -> None:
    rows = torch.tensor([1.0, -3.0, 100.0])
    assert total(rows).item() == 98
    assert total(rows, torch.tensor([1.0, 2.0, 0.0])).item() == -5
    assert total(torch.zeros(0)).item() == 0


def test_log_total_is_exact_where_exponentials_are_not() -> None:
    rows = torch.tensor([1000.0, 1000.0, 999.0], dtype=torch.float64)
    assert log_total(rows).item() == pytest.approx(1000 + math.log(2 + math.exp(-1)), rel=1e-14)
    assert log_total(-rows).item() == pytest.approx(-999 + math.log(1 + 2 * math.exp(-1)), rel=1e-14)


def test_rows_at_the_floor_count_as_nothing() -> None:
    rows = torch.tensor([FLOOR, 2.0, FLOOR], requires_grad=True)
    value = log_total(rows)
    (gradient,) = torch.autograd.grad(value, rows)
    assert value.item() == 2
    assert gradient.tolist() == [0, 1, 0]


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_is_at_the_floor_and_finite(n: int) -> None:
    rows = torch.full((n,), FLOOR, requires_grad=True)
    value = log_total(rows)
    (gradient,) = torch.autograd.grad(value, rows)
    assert value.item() == pytest.approx(FLOOR)
    assert torch.isfinite(gradient).all()
