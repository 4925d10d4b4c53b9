"""Several processes on this machine for the time of one function call: how a claim about processes is proved."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Work = Callable[[int, int], Sequence[Tensor]]


def in_processes(count: int, work: Work, *, seconds: float = 120.0) -> list[list[Tensor]]:
    """Run `work(rank, count)` in `count` processes that talk over gloo; returns the tensors of each, by rank.

    The processes are forks of this one, so `work` may be any function, a closure too; each uses one thread. Libraries with
    threads of their own that ran before, such as polars, must not be used in it.

    Args:
        count: how many, at least 1.
        work: what each does.
        seconds: how long to wait for each result.

    Raises:
        RuntimeError: what went wrong in the first process that failed, or that none answered in time.

    >>> def add(rank, count):
    ...     x = torch.tensor(float(rank)); dist.all_reduce(x); return [x]
    >>> in_processes(2, add)
    [[tensor(1.)], [tensor(1.)]]
    """
    if torch.cuda.is_initialized():
        raise RuntimeError("wanted a process that has not used CUDA yet, since CUDA does not survive a fork")
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(target=_run, args=((rank, count), work, Path(folder) / "store", answers), daemon=True)
            for rank in range(count)
        ]
        for process in started:
            process.start()
        found: dict[int, list[Tensor]] = {}
        try:
            while len(found) < count:
                rank, tensors, problem = answers.get(timeout=seconds)
                if problem:
                    raise RuntimeError(f"process {rank} of {count} failed:\n{problem}")
                found[rank] = [torch.from_numpy(array) for array in tensors]
        except queue.Empty:
            raise RuntimeError(f"wanted an answer of {count} processes, got {len(found)} in {seconds:.0f} s") from None
        finally:
            for process in started:
                process.kill() if len(found) < count else process.join()
        return [found[rank] for rank in range(count)]


def _run(place: tuple[int, int], work: Work, store: Path, answers: Any) -> None:
    """One process: join the others, work, answer."""
    rank, count = place
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    try:
        dist.init_process_group(
            "gloo", store=dist.FileStore(str(store), count), rank=rank, world_size=count, timeout=timedelta(seconds=60)
        )
        answers.put((rank, [tensor.detach().cpu().contiguous().numpy() for tensor in work(rank, count)], ""))
        dist.barrier()  # nobody leaves while another still needs it
        dist.destroy_process_group()
    except Exception:
        answers.put((rank, [], traceback.format_exc()))
