"""Dividing weights over processes changes nothing but who holds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.adapt import lora
from counterpoint.encoders.cross import judge_pairs, load_cross
from counterpoint.encoders.layers import freeze
from counterpoint.encoders.text import autocast, embed, load
from counterpoint.errors import Refusal
from counterpoint.recipes import cross, momentum, text
from counterpoint.training.cached import part_of
from counterpoint.training.feed import plain
from counterpoint.training.loop import Schedule, train
from counterpoint.training.method import Method, replace
from counterpoint.training.processes import Split
from counterpoint.training.sharded import clip_gradients, is_divided, sharded
from counterpoint.training.state import Saving
from tests.conftest import make_tiny_model, toy_rows
from tests.recipes.test_text import rows

DATA = rows(48)  # made before any fork: the threads of polars do not survive one
FP32 = autocast("cpu", "fp32")
MADE: dict[str, Callable[..., Method]] = {
    **{name: getattr(text, name) for name in text.__all__},
    "uneven": partial(text.pairs_with_negatives, negatives=9),
    "moco": partial(momentum.moco, queue=30, momentum=0.9),
}


def uneven_rows() -> Rows:
    """The number of negatives goes from 1 to 9 and falls from row to row, so that of two halves of a batch one has more."""
    data = toy_rows(48)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data]}
    frame["negative"] = [[data[(i + 1 + k) % 48]["doc"] for k in range(9 - 8 * (i % 12) // 11)] for i in range(48)]
    return Rows.of(pl.DataFrame(frame))


UNEVEN = uneven_rows()


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dropout that never strikes, for recipes that ask for some."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "dry", dropout=1e-9)


def trained(
    recipe: str, folder: Path, *, shard: bool, steps: int = 2, micro: int | None = None, accumulate: int = 1,
    change: Callable[[Any], Any] = lambda encoder: None, saving: Saving | None = None, scores: tuple[float, ...] = (),
    data: Rows = DATA, order: Any = None,
) -> Callable[[int, int], list[Tensor]]:  # fmt: skip
    """Losses and norms of a short training, and the weights after it."""

    def work(_rank: int, count: int) -> list[Tensor]:
        torch.manual_seed(0)
        encoder = load(str(folder))
        change(encoder)
        method = MADE[recipe](encoder, data)
        dev = iter(scores)
        with sharded(method.modules) if shard else nullcontext():
            history = train(
                method, plain(data.take, order or shuffled(48, batch=12, seed=0)),
                Schedule(steps=steps, lr=1e-4, warmup=0.0, accumulate=accumulate, clip=0.5, evaluations=2),
                split=Split(12, count, micro), seed=0, autocast=FP32, saving=saving,
                dev=(lambda: next(dev)) if scores else None,
            )  # fmt: skip
        assert not any(is_divided(p) for p in method.modules.parameters())
        # the gradient of a bias of keys is 0 but for rounding, and Adam makes steps of any size of that
        weights = [p.detach() for name, p in method.modules.named_parameters() if not name.endswith("key.bias")]
        return [torch.tensor(history.loss), torch.tensor(history.gradient), *weights]

    return work


def assert_same(found: list[Tensor], wanted: list[Tensor], relative: float = 1e-6) -> None:
    assert len(found) == len(wanted)
    for k, (x, y) in enumerate(zip(found, wanted, strict=True)):
        assert float((x - y).abs().max()) <= relative * max(1.0, float(y.abs().max())), f"tensor {k}"


@pytest.mark.parametrize(
    ("recipe", "micro"), [("pairs", None), ("moco", None), *((name, 4) for name in MADE if name != "uneven")]
)
def test_two_divided_are_one(recipe: str, micro: int | None, dry: Path) -> None:
    one = in_processes(1, trained(recipe, dry, shard=False))[0]
    for found in in_processes(2, trained(recipe, dry, shard=True, micro=micro)):
        assert_same(found, one)


def in_order(_epoch: int) -> Any:
    return iter(np.arange(48).reshape(4, 12))


@pytest.mark.parametrize("micro", [None, 2, 5])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_with_other_numbers_of_candidates(micro: int | None, count: int, dry: Path) -> None:
    """3 does not divide the width of the model either."""
    kept = {"data": UNEVEN, "order": in_order}
    one = in_processes(1, trained("uneven", dry, shard=False, **kept))[0]
    for found in in_processes(count, trained("uneven", dry, shard=True, micro=micro, **kept)):
        assert_same(found, one)


def test_the_uneven_rows_are_uneven() -> None:
    per_half = [sum(len(UNEVEN.take(np.arange(a, a + 6))["negative"][i]) for i in range(6)) for a in (0, 6)]
    passes = [-(-(n + 6) // 16) for n in per_half]
    assert passes[0] > passes[1], (per_half, passes)


@pytest.mark.parametrize("micro", [None, 2])
def test_several_batches_an_update(micro: int | None, dry: Path) -> None:
    plainly = in_processes(2, trained("pairs", dry, shard=False, accumulate=2, micro=micro))[0]
    one = in_processes(1, trained("pairs", dry, shard=False, accumulate=2))[0]
    for found in in_processes(2, trained("pairs", dry, shard=True, accumulate=2, micro=micro)):
        assert_same(found, plainly)
        assert_same(found, one, 5e-6)


@pytest.mark.parametrize("micro", [None, 2])
def test_cross_encoders_and_the_rest_of_an_uneven_set(micro: int | None, dry: Path) -> None:
    views = cross.cross_encoder(load_cross(str(dry)), UNEVEN, negatives=9).views

    def work(rank: int, count: int) -> list[Tensor]:
        torch.manual_seed(0)
        encoder = load_cross(str(dry))
        method = cross.cross_encoder(encoder, UNEVEN, negatives=9)

        def uneven(batch: Any, generator: torch.Generator) -> Any:
            pair = views(batch, generator)["pair"]
            chosen = [i for i, row in enumerate(pair["row"].tolist()) if row % 12 < 7]
            return {"pair": part_of(pair, chosen)}  # of the second half of a batch one row alone is left

        method = replace(method, views=uneven)
        with sharded(method.modules) if count > 1 else nullcontext():
            train(
                method, plain(UNEVEN.take, in_order), Schedule(steps=2, lr=1e-4, warmup=0.0),
                split=Split(12, count, micro), seed=0, autocast=FP32,
            )  # fmt: skip
            left = ["q1 w3", "q2"]
            scores = judge_pairs(encoder, left, ["d1", "d2"])
        return [scores, *(p.detach() for n, p in method.modules.named_parameters() if not n.endswith("key.bias"))]

    one = in_processes(1, work)[0]
    for found in in_processes(2, work):
        assert_same(found, one)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "frozen embeddings": lambda encoder: freeze(encoder, 0),
    "a frozen layer": lambda encoder: freeze(encoder, 1),
    "adapters": lambda encoder: lora(encoder, rank=2),
    "a number": lambda encoder: encoder.model[0].register_parameter("scale", nn.Parameter(torch.tensor(1.0))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("micro", [None, 4])
def test_what_is_frozen_or_beside(change: str, micro: int | None, dry: Path) -> None:
    one = in_processes(1, trained("pairs", dry, shard=False, change=CHANGES[change]))[0]
    for found in in_processes(2, trained("pairs", dry, shard=True, change=CHANGES[change], micro=micro)):
        assert_same(found, one)


@pytest.mark.parametrize("count", [2, 4])
def test_each_process_holds_its_part(count: int, dry: Path) -> None:
    """Weights between steps, gradients after one, the optimizer's two moments; and they are whole again at the end."""
    from counterpoint.training import loop

    def work(_rank: int, _count: int) -> list[Tensor]:
        method = MADE["pairs"](load(str(dry)), DATA)
        total, sizes = sum(p.numel() for p in method.modules.parameters()), []
        optimizers: list[Any] = []
        made = loop.optimizer_for
        loop.optimizer_for = lambda *a: optimizers.append(made(*a)) or optimizers[-1]

        def look(*_: Any) -> None:
            own = list(method.modules.parameters())
            assert all(is_divided(p) for p in own)
            sizes.append(sum(p.to_local().numel() for p in own))
            sizes.append(sum(p.grad.to_local().numel() for p in own if p.grad is not None))
            state = [s for p in own for s in optimizers[0].state.get(p, {}).values() if s.ndim]
            sizes.append(sum(s.to_local().numel() for s in state) / 2)

        with sharded(method.modules):
            train(
                method, plain(DATA.take, shuffled(48, batch=12, seed=0)), Schedule(1, lr=1e-4), split=Split(12, count),
                seed=0, autocast=FP32, tick=look,
            )  # fmt: skip
        assert sum(p.numel() for p in method.modules.parameters()) == total
        return [torch.tensor(sizes) / total]

    shares = torch.stack([found[0] for found in in_processes(count, work)])
    assert float((shares[:, 0] - 1 / count).abs().max()) < 0.03, shares
    assert float(shares[:, 0].sum()) == pytest.approx(1)
    assert float(shares[:, 1:].max()) < 1 / count + 0.03, shares  # a pooler that is not used has no gradient
    assert float(shares[:, 1:].min()) > 0.7 / count, shares


def test_gradients_meet_once_a_step(monkeypatch: pytest.MonkeyPatch, dry: Path) -> None:
    """One reduction for each group of weights, whatever the number of passes and batches."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups

    monkeypatch.setattr("counterpoint.encoders.passes.CHUNK", 3)
    whole = groups.foreach_reduce

    def work(_rank: int, count: int) -> list[Tensor]:
        calls: list[int] = []
        groups.foreach_reduce = lambda *a, **k: calls.append(1) or whole(*a, **k)
        trained("pairs", dry, shard=True, steps=2, micro=2, accumulate=2)(0, count)
        micro = len(calls)
        trained("pairs", dry, shard=True, steps=2)(0, count)
        return [torch.tensor([micro, len(calls) - micro])]

    for found in in_processes(2, work):
        assert found[0].tolist() == [2 * 3, 2 * 3]  # 2 steps; embeddings and 2 layers


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2), (2, 3)])
def test_a_checkpoint_is_of_any_number_of_processes(before: int, after: int, dry: Path, tmp_path: Path) -> None:
    """Also its best weights: dev is best at step 2 here, before the checkpoint of step 3."""
    from counterpoint.training import checkpoint

    kept = {"steps": 4, "scores": (0.1, 0.9, 0.2)}
    straight = in_processes(1, trained("moco", dry, shard=False, steps=4))[0]
    best = in_processes(1, trained("moco", dry, shard=False, **kept))[0]
    assert any(not torch.equal(x, y) for x, y in zip(best[2:], straight[2:], strict=True))
    saving = Saving(tmp_path / "c", steps=3)
    in_processes(before, trained("moco", dry, shard=before > 1, saving=saving, **kept))
    last = checkpoint.latest(saving.folder, print)
    assert last is not None
    in_processes(1, trained("moco", dry, shard=False, saving=Saving(tmp_path / "one", steps=3), **kept))
    other = checkpoint.latest(tmp_path / "one", print)
    assert other is not None
    assert {k: (x.shape, x.dtype) for k, x in last.tensors.items()} == {
        k: (x.shape, x.dtype) for k, x in other.tensors.items()
    }
    for name, x in last.tensors.items():
        assert float((x.double() - other.tensors[name].double()).abs().max()) <= 2e-6 * max(1, float(x.abs().max())), (
            name
        )
    for place in checkpoint.steps(saving.folder)[1:]:
        place.rename(tmp_path / place.name)  # the run died after step 3
    assert [p.name for p in checkpoint.steps(saving.folder)] == ["step-000000003"]
    for found in in_processes(after, trained("moco", dry, shard=after > 1, saving=saving, steps=4, scores=(0.2,))):
        assert_same(found, best, 2e-6)


def test_going_on_from_a_divided_checkpoint_is_going_on_divided(dry: Path, tmp_path: Path) -> None:
    """Without best weights: what the optimizer remembers decides the last steps."""
    from counterpoint.training import checkpoint

    saving = Saving(tmp_path / "c", steps=2)
    straight = in_processes(2, trained("pairs", dry, shard=True, steps=4, saving=saving))[0]
    for place in checkpoint.steps(saving.folder)[1:]:
        place.rename(tmp_path / place.name)
    for count, shard in ((1, False), (2, False), (2, True)):
        for found in in_processes(count, trained("pairs", dry, shard=shard, steps=4, saving=saving)):
            assert_same(found, straight)
        for place in checkpoint.steps(saving.folder)[1:]:
            place.rename(tmp_path / f"{place.name}-{count}-{shard}")


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_one_norm_over_divided_and_whole_gradients(most: float) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    numbers = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    single = [nn.Parameter(torch.zeros(5)) for _ in range(3)]
    for p, g in zip(single, numbers, strict=True):
        p.grad = g.clone()
    wanted = nn.utils.clip_grad_norm_(single, most)

    def work(_rank: int, count: int) -> list[Tensor]:
        mesh = init_device_mesh("cpu", (count,))
        many = [nn.Parameter(distribute_tensor(torch.zeros(5), mesh, [Shard(0)])) for _ in range(2)]
        many.append(nn.Parameter(torch.zeros(5)))
        for k, p in enumerate(many):
            p.grad = distribute_tensor(numbers[k], mesh, [Shard(0)]) if k < 2 else numbers[k].clone()
        norm = clip_gradients([*many, nn.Parameter(torch.zeros(1))], most)
        return [norm, *(p.grad.full_tensor() if is_divided(p.grad) else p.grad for p in many)]

    for found in in_processes(2, work):
        for x, y in zip(found, [wanted, *(p.grad for p in single)], strict=True):
            assert torch.allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("many", [1, 9, 37])
def test_embedding_by_divided_processes_of_which_some_have_less_to_do(many: int, dry: Path) -> None:
    texts = [f"q{i % 7} d{i}" for i in range(many)]
    alone = embed(load(str(dry)), texts)

    def work(_rank: int, _count: int) -> list[Tensor]:
        modules = nn.ModuleDict({"encoder": load(str(dry))})
        with sharded(modules):
            first = embed(modules["encoder"], texts, batch=4)
            modules["encoder"](texts[:3]).sum().backward()  # what was made for inference is not in the way
            second = embed(modules["encoder"], texts, batch=64)
        return [first, second, embed(modules["encoder"], texts)]

    for found in in_processes(3, work):
        assert all(torch.allclose(x, alone, atol=1e-6) for x in found)


def test_nothing_is_left_behind(dry: Path, tmp_path: Path) -> None:
    """After the block the encoder is of plain modules, can be copied, trained and saved."""
    import copy

    from counterpoint.encoders.folder import save

    def work(rank: int, _count: int) -> list[Tensor]:
        encoder = load(str(dry))
        kinds = [type(m) for m in encoder.modules()]
        with sharded(nn.ModuleDict({"encoder": encoder})):
            pass
        assert [type(m) for m in encoder.modules()] == kinds
        copied = copy.deepcopy(encoder)
        copied(["q1"]).sum().backward()
        save(copied, tmp_path / f"saved-{rank}")
        return [copied(["q1", "d2 w3"]).detach()]

    found = in_processes(2, work)
    for encoder in (load(str(dry)), load(str(tmp_path / "saved-0"))):
        assert torch.allclose(encoder(["q1", "d2 w3"]), found[1][0], atol=1e-6)


def test_one_process_divides_nothing(dry: Path) -> None:
    modules = nn.ModuleDict({"encoder": load(str(dry))})
    with sharded(modules):
        assert not any(is_divided(p) for p in modules.parameters())


def test_an_encoder_that_cannot_be_divided_is_refused(dry: Path) -> None:
    with (
        pytest.raises(Refusal, match="wanted a model of texts for --shard, got one of arrays"),
        sharded(nn.ModuleDict({"encoder": nn.Linear(1, 1)})),
    ):
        pass
    encoder = load(str(dry))
    encoder.model[0].auto_model.encoder.layer = nn.Identity()
    with pytest.raises(Refusal, match="--shard"), sharded(nn.ModuleDict({"encoder": encoder})):
        pass
