"""Several processes are one: value, gradients of rows, and the sum of the gradients of what is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint.objectives.custom import custom
from counterpoint.objectives.dense import dense
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.testing import assert_processes_agree
from counterpoint.types import Embeddings, Outcome
from tests.objectives.contract import RULES

Loss = Callable[[Embeddings, Embeddings], Outcome]


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_processes_agree_for_every_rule(rule: Any) -> None:
    assert_processes_agree(partial(infonce, rule=rule, directions="both"))


def test_processes_agree_for_a_temperature_of_each_anchor() -> None:
    def loss(a: Embeddings, c: Embeddings) -> Outcome:
        warm = a.z.square().sum(1) / 4 + 0.1  # a fact with a gradient
        return infonce(replace(a, facts={**a.facts, "t": warm}), c, temperature="t", rule=labelled())

    assert_processes_agree(loss)


def test_processes_agree_for_a_bias_of_each_candidate() -> None:
    def loss(a: Embeddings, c: Embeddings) -> Outcome:
        return infonce(
            a, replace(c, facts={**c.facts, "b": c.z.sum(1)}), log_bias="b", rule=labelled(), directions="both"
        )

    assert_processes_agree(loss)
    assert_processes_agree(loss, replicated=True)


REDUCED = ("total", "logsumexp", "maximum", "minimum", "mean_under")


@pytest.mark.parametrize("how", REDUCED)
@pytest.mark.parametrize("sides", ["sharded", "candidates replicated", "anchors replicated"])
def test_every_reduction_of_both_sides_agrees(how: Any, sides: str) -> None:
    sharpness = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)

    def tile(s: Any, p: Any, _a: Any, _c: Any, k: Any) -> Any:
        value = (k["sharpness"] * s["s"]).sin()
        return {"x": (value, s["s"]) if how == "mean_under" else (value, p.repel) if how == "logsumexp" else value}

    loss = custom(
        tile, lambda r: r["x"].square(), rows={"x": how}, params={"sharpness": sharpness}, directions="both", unit=False
    )
    turned = (lambda a, c: loss(c, a)) if sides == "anchors replicated" else loss
    assert_processes_agree(turned, learnable=(sharpness,), replicated=sides != "sharded")


def test_processes_agree_where_some_have_no_rows() -> None:
    assert_processes_agree(partial(infonce, rule=labelled(), directions="both"), rows=(2, 3), processes=(4,))


def test_processes_agree_for_token_sets() -> None:
    from counterpoint.objectives.custom import maxsim, times

    score = custom(
        lambda s, p, _a, _c, _k: {"good": times(p.attract, s["s"]), "bad": (s["s"], p.repel)},
        lambda r: r["bad"] - r["good"],
        rows={"good": "total", "bad": "logsumexp"},
        scores={"s": maxsim()},
    )

    def tokens(rows: Embeddings) -> Embeddings:
        return replace(rows, z=torch.stack([rows.z, rows.z.flip(1)], 1))

    assert_processes_agree(lambda a, c: score(tokens(a), tokens(c), rule=labelled()))


def test_a_notebook_loss_agrees_with_its_own_parameters() -> None:
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    loss = dense(lambda za, zb: torch.nn.functional.cross_entropy(za @ zb.T / t, torch.arange(len(za))))
    assert_processes_agree(partial(loss, rule=labelled()), learnable=(t,))


def test_plain_tensors_of_different_processes_are_different_samples() -> None:
    from counterpoint._ops.launch import in_processes

    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def work(rank: int, _count: int) -> list[Tensor]:
        part = z[2 * rank : 2 * rank + 2]
        return [infonce(part, part.roll(1, 1)).loss]

    both = in_processes(2, work)
    assert torch.allclose(both[0][0], both[1][0])
    assert torch.allclose(both[0][0], infonce(z, z.roll(1, 1)).loss, atol=1e-6)


def own_rows(a: Embeddings, c: Embeddings) -> Outcome:
    """A mean over the rows of one process."""
    return Outcome({"x": (a.z.square().sum(1).mean() + c.z.square().sum(1).mean())}, {"x": 1.0}, {})


def remote_gradient_lost(a: Embeddings, c: Embeddings) -> Outcome:
    """Candidates of all processes, without their gradient; one of the options of a well-known loss."""
    from counterpoint._ops.processes import everywhere

    others = everywhere(c)
    return infonce(a, replace(others, z=others.z.detach(), placement="replicated") if len(others) > len(c) else c)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda a, c: infonce(a, replace(c, placement="replicated")), "the loss"),
        (own_rows, "the loss"),
        (remote_gradient_lost, "the gradient of candidates"),
    ],
    ids=["candidates of others forgotten", "mean of one's own rows", "remote gradient lost"],
)
def test_what_does_not_agree_is_found(wrong: Loss, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        assert_processes_agree(wrong, processes=(2,))
