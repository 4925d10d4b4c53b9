"""Label-free selection: right numbers, the same views each time, no trace left in the run."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from counterpoint._ops.geometry import rankme, shared_neighbours
from counterpoint.training.method import Contrast, Method
from counterpoint.training.selection import dropout_alone, label_free, two_views
from tests.training.test_health import DIGITS, FP32, digits_method, run

PROBE = {"x": DIGITS[:96], "id": torch.arange(96), "row": torch.arange(96)}


def test_scores_are_those_of_the_two_views() -> None:
    method = digits_method(dropout=0.0)
    x, y = two_views(method, PROBE, seed=3, autocast=FP32)
    views = method.views(PROBE, torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = [method.modules["encoder"](views[name]["x"]) for name in ("first", "second")]
    torch.testing.assert_close([x, y], expected)
    assert label_free("rankme", method, PROBE, seed=3, autocast=FP32)() == pytest.approx(rankme(x))
    found = label_free("neighbours", method, PROBE, seed=3, autocast=FP32, k=5)()
    assert found == pytest.approx(shared_neighbours(x, y, 5))


def test_the_number_is_that_of_the_weights_at_the_time_and_the_same_twice() -> None:
    method = digits_method(dropout=0.3)
    score = label_free("neighbours", method, PROBE, seed=0, autocast=FP32)
    before = score()
    assert score() == before
    run(method, None, steps=60)
    assert score() > before + 0.1, "two views of a digit agree more on neighbours once it has learned"


def test_a_run_does_not_know_that_it_was_asked() -> None:
    method = digits_method(dropout=0.5)
    method.modules["norm"] = nn.BatchNorm1d(4)
    method.modules["encoder"][2].eval()
    before = copy.deepcopy(method.modules.state_dict())
    modes = [module.training for module in method.modules.modules()]
    state = torch.get_rng_state()
    for score in ("rankme", "neighbours"):
        label_free(score, method, PROBE, seed=0, autocast=FP32)()
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in method.modules.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in method.modules.state_dict().items())


def test_dropout_is_on_while_batch_norm_stands_still() -> None:
    modules = nn.ModuleDict({"drop": nn.Dropout(0.5), "norm": nn.BatchNorm1d(2)}).eval()
    with dropout_alone(modules):
        assert (modules["drop"].training, modules["norm"].training) == (True, False)
        modules["norm"](torch.randn(4, 2))
    assert not modules["drop"].training
    assert modules["norm"].num_batches_tracked == 0
    with pytest.raises(RuntimeError), dropout_alone(modules):
        raise RuntimeError
    assert not modules["drop"].training


def test_views_that_differ_by_dropout_alone_differ() -> None:
    method = digits_method(dropout=0.5)
    same = {n: {"x": DIGITS[:20], "id": torch.arange(20), "view": v} for v, n in enumerate(("first", "second"))}
    x, y = two_views(
        Method(method.modules, lambda batch, generator: same, method.encode, method.objective, method.model),
        PROBE,
        seed=0,
        autocast=FP32,
    )
    assert len(x) == 20
    assert not torch.equal(x, y)


def test_where_nothing_is_known_nothing_is_chosen() -> None:
    method = digits_method(Contrast(("nobody",), ("second",), lambda a, c: None, lambda a, c, rule: None))
    assert label_free("rankme", method, PROBE, seed=0, autocast=FP32)() == -math.inf
