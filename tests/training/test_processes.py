"""Training by several processes is training by one: gradients, weights after a step, losses of many, for every recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint.data.orders import shuffled
from counterpoint.encoders.text import autocast, embed, load
from counterpoint.errors import Refusal
from counterpoint.recipes import momentum, text
from counterpoint.training import checkpoint
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, Stopped, seed_step, train
from counterpoint.training.method import Method, gradients, step
from counterpoint.training.processes import Split, first_decides, same, sum_gradients
from counterpoint.training.state import Saving, last_of
from counterpoint.types import Embeddings, Outcome
from tests.conftest import make_tiny_model
from tests.recipes.test_text import rows

RECIPES: dict[str, Callable[..., Method]] = {
    **{name: getattr(text, name) for name in text.__all__},
    **{name: getattr(momentum, name) for name in momentum.__all__},
}
DATA = rows(48)  # made before any fork: the threads of polars do not survive one
FP32 = autocast("cpu", "fp32")


def made(recipe: str, folder: Path, double: bool = False) -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = DATA
    settings = {"queue": 30, "momentum": 0.9} if recipe == "moco" else {}
    method = RECIPES[recipe](load(str(folder)), data, **settings)
    if double:
        method.modules.double()
        method.modules["encoder"].wide = True
    return method, data


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dropout that never strikes, for recipes that ask for some."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "dry", dropout=1e-9)


def trained(
    recipe: str, folder: Path, *, steps: int, micro: int | None = None, lr: float = 5e-5
) -> Callable[[int, int], list[Tensor]]:
    """Losses of a short training, and the weights after it."""

    def work(_rank: int, count: int) -> list[Tensor]:
        method, data = made(recipe, folder)
        history = train(
            method, plain(data.take, shuffled(48, batch=12, seed=0)), Schedule(steps=steps, lr=lr, warmup=0.0),
            split=Split(12, count, micro), seed=0, autocast=FP32,
        )  # fmt: skip
        return [torch.tensor(history.loss), *(p.detach() for p in method.modules.parameters())]

    return work


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_step_leaves_the_same_weights(recipe: str, dry: Path) -> None:
    one = in_processes(1, trained(recipe, dry, steps=2))[0]
    for count in (2, 4) if recipe in ("pairs", "moco") else (2,):
        for found in in_processes(count, trained(recipe, dry, steps=2)):
            for k, (x, y) in enumerate(zip(found[1:], one[1:], strict=True)):
                assert float((x - y).abs().max()) <= 1e-6 * max(1.0, float(y.abs().max())), f"parameter {k}, {count}"


@pytest.mark.parametrize("recipe", ["pairs", "moco"])
def test_losses_of_twenty_steps_agree(recipe: str, dry: Path) -> None:
    one = in_processes(1, trained(recipe, dry, steps=20, lr=1e-3))[0][0]
    assert len(one) == 20
    assert one[-1] < one[2]
    for count in (2, 4):
        for found in in_processes(count, trained(recipe, dry, steps=20, lr=1e-3)):
            assert torch.allclose(found[0], one, rtol=1e-5, atol=0), count


def test_gradient_caching_on_two_processes_is_plain_training_on_one(dry: Path) -> None:
    one = in_processes(1, trained("pairs", dry, steps=3))[0]
    for found in in_processes(2, trained("pairs", dry, steps=3, micro=2)):
        assert all(torch.allclose(x, y, rtol=1e-4, atol=1e-6) for x, y in zip(found, one, strict=True))


def learned(kind: str) -> tuple[Method, int]:
    """A method in double precision on arrays, with a learnable temperature, or replicated prototypes, or a queue."""
    from functools import partial

    from counterpoint._ops.processes import joined
    from counterpoint.encoders.momentum import Queue
    from counterpoint.objectives.pair_weighting import proxy_anchor
    from counterpoint.objectives.softmax import infonce
    from counterpoint.pairs.labels import labelled
    from counterpoint.pairs.remembered import against_queue

    torch.manual_seed(0)
    modules = nn.ModuleDict({"encoder": nn.Linear(5, 3)}).double()
    modules.register_parameter("temperature", nn.Parameter(torch.tensor(0.2, dtype=torch.float64)))
    modules.register_parameter("prototypes", nn.Parameter(torch.randn(4, 3, dtype=torch.float64)))
    modules["queue"] = Queue(7, 3).double()
    modules["queue"].push(Embeddings.of(torch.randn(7, 3, dtype=torch.float64), id=torch.arange(7) + 100))

    def encode(m: nn.ModuleDict, views: dict) -> dict[str, Embeddings]:
        return {
            name: Embeddings.of(
                m["encoder"](v["x"]), id=v["id"], view=int(name == "second"), facts={"label": v["label"]}
            )
            for name, v in views.items()
        }

    def objective(m: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        if kind == "temperature":
            return infonce(sets["first"], sets["second"], rule=labelled(), temperature=m.temperature, directions="both")
        if kind == "prototypes":
            zeros = torch.zeros(4, dtype=torch.int64)
            proxies = Embeddings(
                m.prototypes, -1 - torch.arange(4), zeros, zeros, zeros, {"label": torch.arange(4)}, "replicated"
            )
            return proxy_anchor(sets["first"], proxies, rule=labelled())
        return partial(infonce, rule=against_queue)(sets["first"], joined([sets["second"], m["queue"].rows()]))

    def views(batch: Any, _generator: torch.Generator) -> dict:
        return {"first": batch, "second": {**batch, "x": batch["x"].flip(1)}}

    return Method(modules, views, encode, objective, lambda m: m["encoder"]), 12


@pytest.mark.parametrize("kind", ["temperature", "prototypes", "queue"])
@pytest.mark.parametrize("micro", [None, 2])
def test_gradients_agree_in_double_precision(kind: str, micro: int | None) -> None:
    """Rows without a positive lie on some processes only, so that the numbers of valid anchors are uneven."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    label = torch.tensor([-1, -1, -1, -1, 0, 1, 2, 3, 0, 1, -1, 2])

    def work(rank: int, count: int) -> list[Tensor]:
        method, n = learned(kind)
        own = slice(rank * n // count, (rank + 1) * n // count)
        batch = {"x": x[own], "id": torch.arange(n)[own], "label": label[own]}
        gradients(method, batch, generator=torch.Generator(), autocast=FP32, micro=micro)
        sum_gradients(method.modules.parameters())
        return [torch.zeros(1) if p.grad is None else p.grad for p in method.modules.parameters()]

    one = in_processes(1, work)[0]
    assert max(float(g.abs().max()) for g in one) > 0
    for count in (2, 4):
        for found in in_processes(count, work):
            for ours, wanted in zip(found, one, strict=True):
                assert float((ours - wanted).abs().max()) <= 1e-6 * max(1e-9, float(wanted.abs().max()))


def test_a_parameter_without_gradient_on_some_processes_counts_as_zero_and_on_all_keeps_none() -> None:
    def work(rank: int, _count: int) -> list[Tensor]:
        a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
        a.grad = torch.full((2,), 1.0 + rank)
        b.grad = torch.ones(2) if rank == 0 else None
        sums = sum_gradients([a, b, c], [1.0, float(rank)])
        return [a.grad, b.grad, torch.tensor(float(c.grad is None)), torch.tensor(sums)]

    for found in in_processes(2, work):
        assert [x.tolist() for x in found] == [[3.0, 3.0], [1.0, 1.0], 1.0, [2.0, 1.0]]


def test_gradients_of_many_buckets_are_all_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterpoint.training.processes.BUCKET", 5)

    def work(rank: int, _count: int) -> list[Tensor]:
        many = [nn.Parameter(torch.ones(k, dtype=d)) for k in (3, 3, 7, 1) for d in (torch.float32, torch.float64)]
        for k, p in enumerate(many):
            p.grad = torch.full_like(p, k + rank)
        sum_gradients(many)
        return [p.grad for p in many]

    for found in in_processes(2, work):
        assert [set(g.tolist()) for g in found] == [{2.0 * k + 1} for k in range(8)]


def test_process_0_decides_and_its_refusal_is_everybodys() -> None:
    def work(rank: int, _count: int) -> list[Tensor]:
        def check() -> int:
            if rank == 0:
                raise Refusal("a thing", "none", where="--here", remedy="do this")
            raise AssertionError("only process 0 looks")

        said = ""
        try:
            first_decides(check)
        except Refusal as refusal:
            said = str(refusal)
        assert said == "wanted a thing, got none (--here): do this"
        return [torch.tensor(same({"x": [rank + 5]})["x"])]

    assert [x[0].tolist() for x in in_processes(3, work)] == [[5], [5], [5]]


def test_a_run_has_one_clock_and_the_same_dev_on_all_processes() -> None:
    def work(rank: int, count: int) -> list[Tensor]:
        torch.manual_seed(0)
        modules = nn.ModuleDict({"encoder": nn.Linear(1, 1)})
        method = Method(
            modules, lambda b, _: {"x": b}, lambda m, v: {"x": Embeddings.of(m["encoder"](v["x"]["x"]))},
            lambda _, sets: Outcome({"x": sets["x"].z.square().mean()}, {"x": 1.0}, {}), lambda m: m["encoder"],
        )  # fmt: skip

        def take(at: np.ndarray) -> dict[str, Tensor]:
            time.sleep(0.1)
            return {"x": torch.ones(len(at), 1)}

        started, scores = time.monotonic(), iter([0.5, 0.9, 0.2] if rank == 0 else [0.9, 0.1, 0.95])
        history = train(
            method, plain(take, shuffled(8, batch=4, seed=0)), Schedule(4, lr=0.1, evaluations=2), split=Split(4, count),
            seed=0, autocast=FP32, dev=lambda: next(scores),
        )  # fmt: skip
        assert 0.4 <= history.seconds <= time.monotonic() - started
        return [torch.tensor(history.dev), torch.tensor(history.best_step), torch.tensor(history.seconds)]

    one, other = in_processes(2, work)
    assert torch.equal(one[0], torch.tensor([[0, 0.5], [2, 0.9], [4, 0.2]]))
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_processes_that_find_different_checkpoints_all_refuse(tmp_path: Path) -> None:
    def work(rank: int, _count: int) -> list[Tensor]:
        own = tmp_path / str(rank)
        found = []
        for _ in range(2):
            try:
                found.append(0.0 if last_of(Saving(own), print) is None else 1.0)
            except Refusal as refusal:
                found.append(-1.0 if "got those of steps 0 and 3" in str(refusal) else -2.0)
            if rank == 1:
                checkpoint.write(own, 3, checkpoint.Checkpoint({"w": torch.ones(1)}, {"place": {"step": 3}}))
        return [torch.tensor(found)]

    assert [x[0].tolist() for x in in_processes(2, work)] == [[0.0, -1.0]] * 2


def test_views_draw_alike_on_all_processes_and_dropout_does_not() -> None:
    def work(_rank: int, _count: int) -> list[Tensor]:
        generator, found = torch.Generator(), []
        for number in (1, 2, 1):
            seed_step(generator, 7, number)
            found.append(torch.stack([torch.rand(3, generator=generator), torch.rand(3)]))
        return [torch.stack(found)]

    one, other = (x[0] for x in in_processes(2, work))
    assert torch.equal(one[:, 0], other[:, 0])
    assert not (one[:, 1] == other[:, 1]).any()
    assert torch.equal(one[0], one[2])
    assert not (one[0] == one[1]).any()


def test_an_update_that_one_process_cannot_take_is_taken_by_none() -> None:
    def work(rank: int, _count: int) -> list[Tensor]:
        modules = nn.ModuleDict({"encoder": nn.Linear(1, 1, bias=False)})
        nn.init.ones_(modules["encoder"].weight)
        off = float("inf") if rank == 1 else 0.0  # a loss of one's own that no sum over processes sees

        def objective(m: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
            return Outcome({"x": sets["x"].z.mean() + off}, {"x": 1.0}, {})

        method = Method(
            modules, lambda b, _: {"x": b}, lambda m, v: {"x": Embeddings.of(m["encoder"](v["x"]["x"]))}, objective,
            lambda m: m["encoder"],
        )  # fmt: skip
        sgd = torch.optim.SGD(modules.parameters(), lr=0.1)
        done = step(method, [{"x": torch.ones(2, 1)}], sgd, generator=torch.Generator(), autocast=FP32, clip=1.0)
        return [torch.tensor(done.taken), modules["encoder"].weight.detach()]

    assert [[x.tolist() for x in found] for found in in_processes(2, work)] == [[False, [[1.0]]]] * 2


def test_a_signal_to_one_process_ends_all_after_the_same_step(dry: Path) -> None:
    def work(rank: int, count: int) -> list[Tensor]:
        method, data = made("pairs", dry)
        steps = []
        with pytest.raises(Stopped):
            train(
                method, plain(data.take, shuffled(48, batch=12, seed=0)), Schedule(50, lr=1e-3), split=Split(12, count), seed=0,
                autocast=FP32, stop=lambda: rank == 1 and len(steps) >= 3, tick=lambda n, *_: steps.append(n),
            )  # fmt: skip
        return [torch.tensor(steps)]

    assert [x[0].tolist() for x in in_processes(2, work)] == [[1, 2, 3, 4]] * 2


def test_embedding_is_shared_and_every_process_has_all(dry: Path) -> None:
    texts = [f"q{i % 7} d{i}" for i in range(37)]
    alone = embed(load(str(dry)), texts)
    for found in in_processes(3, lambda _rank, _count: [embed(load(str(dry)), texts, batch=4)]):
        assert torch.allclose(found[0], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(4096, 8, 64), "4096 = 8 processes x 8 micro x 64"),
        (Split(64, 1), "64"),
        (Split(64, 2), "64 = 2 processes x 32"),
        (Split(200, 2, 64), "200 = 2 processes x (64 + 36)"),
    ],
)
def test_the_split_in_words(split: Split, words: str) -> None:
    assert str(split.check()) == words


@pytest.mark.parametrize(("batch", "near"), [(63, 64), (65, 64), (67, 68), (1, 4)])
def test_a_batch_that_cannot_be_shared_names_the_nearest_that_can(batch: int, near: int) -> None:
    with pytest.raises(Refusal, match=f"--batch {near} would do"):
        Split(batch, 4).check()


def test_shares_cover_the_batch_in_order() -> None:
    def work(_rank: int, count: int) -> list[Tensor]:
        return [torch.from_numpy(Split(12, count).own(np.arange(12)).copy())]

    assert torch.cat([x[0] for x in in_processes(3, work)]).tolist() == list(range(12))
