"""Several processes that train one model: who they are, what they agree on, and one sum of gradients a step.

Any launcher that sets RANK, WORLD_SIZE and MASTER_ADDR will do: torchrun, accelerate launch, Slurm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from counterpoint._ops.world import count, rank
from counterpoint.errors import Refusal
from counterpoint.training.sharded import is_divided

T = TypeVar("T")
BUCKET = 64 * 2**20  # numbers that are summed in one call, at most
PATIENT = timedelta(hours=24)  # how long control messages wait; a process that dies closes its connection at once


def start(device: str) -> str:
    """Join the processes that a launcher started; returns the device of this one. Nothing happens without a launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENT)
    return device


def finish() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def first() -> bool:
    """Whether this process is the one that checks, prints and writes."""
    return rank() == 0


def same(value: Any) -> Any:
    """What process 0 has, on all of them; anything that json holds."""
    if count() == 1:
        return value
    text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    size = torch.tensor([len(text)])
    dist.broadcast(size, 0)
    text = text if first() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))


def first_decides(work: Callable[[], T]) -> T | None:
    """Do something on process 0 alone; what it refuses is refused by all.

    Raises:
        Refusal: on every process, with the words of process 0.
    """
    if count() == 1:
        return work()
    found, said = None, None
    if first():
        try:
            found = work()
        except Refusal as refusal:
            said = refusal.parts
    said = same(said)
    if said is not None:
        raise Refusal(said[0], said[1], where=said[2], remedy=said[3])
    return found


@dataclass(frozen=True)
class Split:
    """How a batch is dealt out.

    Args:
        batch: rows an update, over all processes.
        processes: how many.
        micro: rows that the encoder of a process sees at a time; None: all of its share.
    """

    batch: int
    processes: int
    micro: int | None = None

    @property
    def share(self) -> int:
        """Rows of one process."""
        return self.batch // self.processes

    def own(self, at: T) -> T:
        """The part of a batch's rows that this process takes: a run of them, so that the order of all is the batch's."""
        start = rank() * self.share
        return at[start : start + self.share]  # type: ignore[index]

    def check(self) -> Split:
        """Itself, or a refusal that names the nearest batch that can be dealt out.

        >>> Split(101, 8).check()
        Traceback (most recent call last):
        ...
        counterpoint.errors.Refusal: wanted a batch that 8 processes share evenly, got 101 (--batch): --batch 104 would do
        """
        if self.batch % self.processes:
            nearest = max(1, round(self.batch / self.processes)) * self.processes
            raise Refusal(
                f"a batch that {self.processes} processes share evenly",
                self.batch,
                where="--batch",
                remedy=f"--batch {nearest} would do",
            )
        if self.share < 1:
            raise Refusal("a row for every process", f"{self.batch} rows for {self.processes}", where="--batch")
        return self

    def __str__(self) -> str:
        """In words.

        >>> print(Split(4096, 8, 64))
        4096 = 8 processes x 8 micro x 64
        >>> print(Split(64, 1), Split(100, 1, 64), sep="; ")
        64; 100 = 64 + 36
        """
        many = f"{self.processes} processes x " if self.processes > 1 else ""
        if self.micro is None or self.micro >= self.share:
            return f"{self.batch} = {many}{self.share}" if many else f"{self.batch}"
        whole, rest = divmod(self.share, self.micro)
        pieces = f"{whole} micro x {self.micro}" if whole > 1 or not rest else f"{self.micro}"
        inner = f"{pieces} + {rest}" if rest else pieces
        return f"{self.batch} = {many}" + (f"({inner})" if many and rest else inner)


def sum_gradients(parameters: Iterable[nn.Parameter], beside: Sequence[float] = ()) -> list[float]:
    """Add up the gradients of all processes, each once; the one place where processes meet in a step of the loop.

    A parameter that has a gradient on some processes only counts as zero on the others; one that has none anywhere
    keeps none. Divided parameters have their sums already, see `sharded.reduce_gradients`.

    Args:
        parameters: in the same order on all processes.
        beside: a few numbers that travel with them.

    Returns:
        The sums of those numbers.
    """
    if count() == 1:
        return list(beside)
    own = [p for p in parameters if p.requires_grad and not is_divided(p)]
    device = own[0].device if own else torch.device("cpu")
    known = torch.tensor([*(float(p.grad is not None) for p in own), *beside], dtype=torch.float64, device=device)
    dist.all_reduce(known)
    there = known.tolist()
    some = [p for p, has in zip(own, there, strict=False) if has]
    for bucket in _buckets(some):
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in bucket])
        dist.all_reduce(flat)
        for p, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(total.view_as(p))
    return there[len(own) :]


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type, so many that their gradients are one message."""
    for dtype in dict.fromkeys(p.dtype for p in parameters):
        bucket: list[nn.Parameter] = []
        for p in (p for p in parameters if p.dtype == dtype):
            if bucket and sum(q.numel() for q in bucket) + p.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(p)
        if bucket:
            yield bucket
