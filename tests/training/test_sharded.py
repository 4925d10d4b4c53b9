"""Dividing weights over processes changes nothing but who holds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint.data.orders import shuffled
from counterpoint.encoders.adapt import lora
from counterpoint.encoders.layers import freeze
from counterpoint.encoders.text import autocast, embed, load
from counterpoint.errors import Refusal
from counterpoint.recipes import momentum, text
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method
from counterpoint.training.processes import Split
from counterpoint.training.sharded import clip_gradients, is_divided, sharded
from counterpoint.training.state import Saving
from tests.conftest import make_tiny_model
from tests.recipes.test_text import rows

DATA = rows(48)  # made before any fork: the threads of polars do not survive one
FP32 = autocast("cpu", "fp32")
MADE: dict[str, Callable[..., Method]] = {
    **{name: getattr(text, name) for name in text.__all__},
    "moco": partial(momentum.moco, queue=30, momentum=0.9),
}
# The number of negatives differs from row to row, so that processes hold other numbers of candidates.
UNEVEN = DATA


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dropout that never strikes, for recipes that ask for some."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "dry", dropout=1e-9)


def trained(
    recipe: str, folder: Path, *, shard: bool, steps: int = 2, micro: int | None = None, accumulate: int = 1,
    change: Callable[[Any], Any] = lambda encoder: None, saving: Saving | None = None, dev: bool = False,
) -> Callable[[int, int], list[Tensor]]:  # fmt: skip
    """Losses and norms of a short training, and the weights after it."""

    def work(_rank: int, count: int) -> list[Tensor]:
        torch.manual_seed(0)
        encoder = load(str(folder))
        change(encoder)
        method = MADE[recipe](encoder, DATA)
        scores = iter([0.1, 0.3, 0.2, 0.1, 0.0])
        with sharded(method.modules) if shard else nullcontext():
            history = train(
                method, plain(DATA.take, shuffled(48, batch=12, seed=0)),
                Schedule(steps=steps, lr=1e-4, warmup=0.0, accumulate=accumulate, clip=0.5, evaluations=2),
                split=Split(12, count, micro), seed=0, autocast=FP32, saving=saving,
                dev=(lambda: next(scores)) if dev else None,
            )  # fmt: skip
        assert not any(is_divided(p) for p in method.modules.parameters())
        weights = [p.detach() for p in method.modules.parameters()]
        return [torch.tensor(history.loss), torch.tensor(history.gradient), *weights]

    return work


def assert_same(found: list[Tensor], wanted: list[Tensor], relative: float = 1e-6) -> None:
    assert len(found) == len(wanted)
    for k, (x, y) in enumerate(zip(found, wanted, strict=True)):
        assert float((x - y).abs().max()) <= relative * max(1.0, float(y.abs().max())), f"tensor {k}"


@pytest.mark.parametrize("recipe", MADE)
@pytest.mark.parametrize("micro", [None, 4])
def test_two_divided_are_one(recipe: str, micro: int | None, dry: Path) -> None:
    one = in_processes(1, trained(recipe, dry, shard=False))[0]
    for found in in_processes(2, trained(recipe, dry, shard=True, micro=micro)):
        assert_same(found, one)
