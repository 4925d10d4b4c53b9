"""What every method has to keep, each as a function that proves it or says what differs and by how much.

Comparisons of gradients run in double precision without dropout, over a few updates, since a queue is empty at first. Updates
are plain gradient descent: Adam would blow rounding errors of a gradient of zero up to whole steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint._ops.launch import in_processes
from counterpoint.errors import Refusal
from counterpoint.training import checkpoint
from counterpoint.training.cached import part_of
from counterpoint.training.checkpoint import Checkpoint
from counterpoint.training.method import Method, gradients
from counterpoint.training.processes import sum_gradients
from counterpoint.types import Batch, Embeddings

Make = Callable[[], Method]
STEPS = 2  # the first fills a queue, the second uses it
RATE = 0.1  # of gradient descent between them
ROUNDED = 1e-6  # what counts as equal, relative
SHARE = 1e-6  # of the largest gradient of all: less than that is what rounding leaves of a gradient that is zero
SHOWN = 4  # names in a message


@dataclass(frozen=True)
class Update:
    """What one update saw: its loss, and the gradient of each parameter by name; None where there is none."""

    loss: Tensor
    gradients: dict[str, Tensor | None]

    @property
    def largest(self) -> float:
        """The largest number of all gradients."""
        return max((float(g.abs().max()) for g in self.gradients.values() if g is not None and g.numel()), default=0.0)


def assert_method_over_processes(
    make: Make,
    batch: Batch,
    *,
    processes: Sequence[int] = (2, 4),
    steps: int = STEPS,
    relative: float = ROUNDED,
) -> None:
    """Prove that a method trained by several processes is the method trained by one: every loss, every summed gradient.

    Each process gets a run of the batch's rows, the first one most, so that none has as many valid anchors as another.

    Args:
        make: makes the method anew; called in processes that are forks of this one.
        batch: rows, at least as many as count * (count + 1) / 2 for the largest count.
        processes: how many to try.
        steps: updates.
        relative: what may differ, relative to the largest number of each gradient.

    Raises:
        AssertionError: saying what differs, over how many processes, and by how much.
    """

    def work(rank: int, count: int) -> list[Tensor]:
        method, found = doubled(make()), []
        for update in updates(method, own_share(batch, rank, count), steps=steps):
            names = [f"{name}{'' if g is not None else ' -'}" for name, g in update.gradients.items()]
            found += [update.loss, torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)]
            found += [torch.zeros(0) if g is None else g.clone() for g in update.gradients.values()]
        return found

    wanted = _unpacked(in_processes(1, work)[0], steps)
    for count in processes:
        for rank, tensors in enumerate(in_processes(count, work)):
            where = f"on process {rank} of {count}"
            for number, (one, other) in enumerate(zip(wanted, _unpacked(tensors, steps), strict=True), start=1):
                _agree(f"step {number} {where}", other, one, relative=relative)


def assert_method_caches(
    make: Make, batch: Batch, *, micro: int = 5, steps: int = STEPS, relative: float = ROUNDED
) -> None:
    """Prove that gradient caching gives the gradient of the whole batch.

    Args:
        make: makes the method anew, with equal weights each time.
        batch: rows, more than `micro`.
        micro: rows that the encoder sees at a time.
        steps: updates.
        relative: what may differ, relative to the largest number of each gradient.

    Raises:
        AssertionError: saying what differs and by how much, or that the method cannot be cached.
    """
    plain = list(updates(doubled(make()), batch, steps=steps))
    try:
        cached = list(updates(doubled(make()), batch, steps=steps, micro=micro))
    except Refusal as refusal:
        raise AssertionError(str(refusal)) from refusal
    for number, (one, other) in enumerate(zip(plain, cached, strict=True), start=1):
        _agree(f"step {number} with {micro} rows at a time", other, one, relative=relative)


def assert_method_encodes_rows(make: Make, batch: Batch, *, seed: int = 0, relative: float = ROUNDED) -> None:
    """Prove that encode is row-wise while training: encode(batch)[i] == encode(batch[i : i + 1]), in vectors and facts.

    Args:
        make: makes the method.
        batch: rows.
        seed: of the views.
        relative: what may differ, relative to the largest number of a set.

    Raises:
        AssertionError: saying which row differs, in what, and by how much.
    """
    method = doubled(make())
    method.modules.train()
    views = method.views(batch, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        whole = method.encode(method.modules, views)
        for name, view in views.items():
            for i in range(len(view["id"])):
                where = f"row {i} of '{name}', encoded alone,"
                try:
                    alone = method.encode(method.modules, {name: part_of(view, [i])})
                except Exception as error:  # such as that of batch norm, which refuses a row alone
                    raise AssertionError(f"{where} fails: {type(error).__name__}: {error}") from error
                if name not in alone or len(alone[name]) != 1:
                    raise AssertionError(f"{where} gives {len(alone.get(name, ()))} rows instead of 1")
                _same_row(where, alone[name], whole[name], i, relative=relative)


def assert_method_is_finite(
    make: Make,
    batch: Batch,
    *,
    precisions: Sequence[str] = ("fp32", "bf16"),
    unused: Sequence[str] = (),
    steps: int = STEPS,
) -> None:
    """Prove that losses and gradients are finite in fp32 and bf16, and that every trainable parameter gets a gradient.

    Args:
        make: makes the method.
        batch: rows.
        precisions: of the encoders' matrix products.
        unused: words in the names of parameters that need no gradient, such as a pooler that nothing reads.
        steps: updates.

    Raises:
        AssertionError: naming what is not finite, or the parameters that no gradient reaches.
    """
    for precision in precisions:
        method = make()
        reached: set[str] = set()
        for number, update in enumerate(updates(method, batch, steps=steps, precision=precision), start=1):
            if not torch.isfinite(update.loss):
                raise AssertionError(f"the loss of step {number} in {precision} is {float(update.loss)}")
            there = {name: g for name, g in update.gradients.items() if g is not None}
            bad = [name for name, g in there.items() if not torch.isfinite(g).all()]
            if bad:
                raise AssertionError(f"the gradient of {_listed(bad)} in step {number} in {precision} is not finite")
            reached |= {name for name, g in there.items() if bool((g != 0).any())}
        wanted = [name for name, p in method.modules.named_parameters() if p.requires_grad]
        silent = [name for name in wanted if name not in reached and not any(word in name for word in unused)]
        if silent:
            raise AssertionError(f"no gradient reaches {_listed(silent)} in {steps} steps in {precision}")


def assert_method_goes_on(make: Make, batch: Batch, *, steps: int = STEPS) -> None:
    """Prove that a checkpoint of `method.modules` holds all that a method remembers.

    After some updates the state is written to disk and read into a method made anew; the next update of both has to be the
    same bit for bit, and so has the state after it.

    Args:
        make: makes the method.
        batch: rows.
        steps: updates before the checkpoint.

    Raises:
        AssertionError: naming what differs, and by how much.
    """
    first = make()
    list(updates(first, batch, steps=steps))
    with tempfile.TemporaryDirectory() as place:
        known = Checkpoint(checkpoint.named("modules", first.modules.state_dict()), {})
        read = checkpoint.read(checkpoint.write(Path(place), steps, known)).under("modules")
    second = make()
    second.modules.load_state_dict(read)
    (later,) = updates(
        second, batch, steps=1, start=steps
    )  # before the other one, so that it can lean on nothing of it
    (straight,) = updates(first, batch, steps=1, start=steps)
    _agree("the step after a checkpoint", later, straight, relative=0.0)
    state = second.modules.state_dict()
    for name, tensor in first.modules.state_dict().items():
        if not torch.equal(tensor, state[name]):
            raise AssertionError(f"'{name}' differs after the step that follows a checkpoint")


def updates(
    method: Method, batch: Batch, *, steps: int, start: int = 0, micro: int | None = None, precision: str = "fp32"
) -> Iterator[Update]:
    """Updates on one batch by gradient descent, each with what it saw; random numbers belong to the number of the step."""
    method.modules.train()
    parameters = {name: p for name, p in method.modules.named_parameters() if p.requires_grad}
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    for number in range(start, start + steps):
        torch.manual_seed(number)
        method.modules.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(number)
        sets, outcome = gradients(method, batch, generator=generator, autocast=autocast, micro=micro)
        sum_gradients(parameters.values())
        found = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
        yield Update(outcome.loss.detach().clone(), found)
        with torch.no_grad():
            for p in parameters.values():
                if p.grad is not None:
                    p.sub_(RATE * p.grad)
        method.after(method.modules, sets, outcome)


def doubled(method: Method) -> Method:
    """The method in double precision and without dropout; what is cast to fp32 on the way is cast back where it goes in."""
    method.modules.double()
    for module in method.modules.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(_wide_inputs)
        names = ("p",) if isinstance(module, nn.modules.dropout._DropoutNd) else ("dropout", "attention_dropout")
        for name in names:
            if type(vars(module).get(name)) in (int, float):
                setattr(module, name, 0.0)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {name: _widened(rows) for name, rows in method.encode(modules, views).items()}

    return replace(method, encode=encode)


def own_share(batch: Batch, rank: int, count: int) -> dict[str, Any]:
    """The rows of one process: count parts of them for the first, one part for the last.

    >>> [len(own_share({"id": torch.arange(12)}, rank, 4)["id"]) for rank in range(4)]
    [4, 4, 2, 2]
    """
    rows, parts = len(batch["id"]), count * (count + 1) // 2
    if rows < parts:
        raise ValueError(f"wanted a batch of at least {parts} rows for {count} processes, got {rows}")
    ends = [rows * sum(range(count, count - k, -1)) // parts for k in range(count + 1)]
    return part_of(batch, range(ends[rank], ends[rank + 1]))


def _wide_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def _widened(rows: Embeddings) -> Embeddings:
    facts = {name: f.double() if f.is_floating_point() else f for name, f in rows.facts.items()}
    return replace(rows, z=rows.z.double(), facts=facts)


def _unpacked(tensors: Sequence[Tensor], steps: int) -> list[Update]:
    size, found = len(tensors) // steps, []
    for k in range(steps):
        loss, names, *values = tensors[k * size : (k + 1) * size]
        words = bytes(names.tolist()).decode().split("\n") if len(names) else []
        pairs = zip(words, values, strict=True)
        found.append(Update(loss, {n.removesuffix(" -"): None if n.endswith(" -") else g for n, g in pairs}))
    return found


def _agree(where: str, found: Update, wanted: Update, *, relative: float) -> None:
    """Compare two updates: losses, then each gradient, relative to its largest number."""
    loss, expected = float(found.loss), float(wanted.loss)
    if not abs(loss - expected) <= relative * abs(expected):
        share = abs(loss - expected) / max(abs(expected), 1e-300)
        raise AssertionError(
            f"the loss of {where} differs by {share:.3g} relative: wanted {expected:.9g}, got {loss:.9g}"
        )
    least = SHARE * wanted.largest if relative else 0.0
    for name, given in found.gradients.items():
        ours, theirs = _both(given, wanted.gradients[name])
        difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
        largest = max(float(theirs.abs().max()) if theirs.numel() else 0.0, least)
        if not difference <= relative * largest:
            share = difference / max(largest, 1e-300)
            raise AssertionError(f"the gradient of '{name}' in {where} differs by {share:.3g} relative")


def _both(one: Tensor | None, other: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two gradients; one that is not there is zero."""
    there = [x for x in (one, other) if x is not None] or [torch.zeros(1)]
    zero = torch.zeros_like(there[0])
    return zero if one is None else one, zero if other is None else other


def _same_row(where: str, alone: Embeddings, whole: Embeddings, i: int, *, relative: float) -> None:
    for column in ("id", "view", "part", "age"):
        if int(getattr(alone, column)[0]) != int(getattr(whole, column)[i]):
            raise AssertionError(f"{where} has another {column}")
    if set(alone.facts) != set(whole.facts):
        raise AssertionError(f"{where} has other facts: {_listed(sorted(set(alone.facts) ^ set(whole.facts)))}")
    named = {"vector": (alone.z, whole.z)}
    named |= {f"fact '{n}'": (f.double(), whole.facts[n].double()) for n, f in alone.facts.items()}
    for what, (one, all_rows) in named.items():
        if one.shape[1:] != all_rows.shape[1:]:
            raise AssertionError(
                f"the {what} of {where} has the shape {list(one.shape[1:])}, not {list(all_rows.shape[1:])}"
            )
        if not one.numel():
            continue
        largest = max(float(all_rows.abs().max()), 1e-300)
        difference = float((one[0] - all_rows[i]).abs().max())
        if not difference <= relative * largest:
            raise AssertionError(f"the {what} of {where} differs by {difference / largest:.3g} relative")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more
