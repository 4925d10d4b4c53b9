"""Checkpoints: all that a run needs to go on as if it had never stopped. Whole or not there, checked when read.

A checkpoint is a folder `step-<n>` with `state.safetensors` (weights, optimizer, best weights, history, tables) and
`state.json` (numbers, and the checksum of the other file). Random numbers are not in it: those of a step are a function of
the seed and the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from counterpoint.errors import Refusal
from counterpoint.training.sharded import divided_like

SCHEMA = 1
KEPT = 2  # the last one, and the one before in case the last is damaged
TENSORS, NUMBERS = "state.safetensors", "state.json"
CHUNK = 2**24  # bytes hashed at a time


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: named tensors, and plain numbers and words."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def under(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with name/, without that beginning.

        >>> Checkpoint({"best/w": torch.ones(1), "w": torch.ones(2)}, {}).under("best")
        {'w': tensor([1.])}
        """
        return {key.removeprefix(f"{name}/"): x for key, x in self.tensors.items() if key.startswith(f"{name}/")}


def named(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with names that begin with name/, each in memory of its own, as the file format wants it."""
    return {f"{name}/{key}": x.detach().cpu().contiguous().clone() for key, x in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimizer's state by the names of the parameters; `names` maps the id of each."""
    return {
        f"{names[id(p)]}/{key}": torch.as_tensor(value)
        for group in optimizer.param_groups
        for p in group["params"]
        for key, value in optimizer.state.get(p, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """Put the state back, each tensor where the optimizer keeps it: step counts stay on the CPU."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        by_name.setdefault(name, {})[field] = value
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = by_name.get(names[id(p)], {})
            on = {
                k: v.clone() if k == "step" and not group.get("fused") else divided_like(p, v.clone().to(p.device))
                for k, v in state.items()
            }
            if on:
                optimizer.state[p] = on


def write(folder: Path, step: int, checkpoint: Checkpoint, *, keep: int = KEPT) -> Path:
    """Write a checkpoint beside its place, make sure that it is on the disk, move it there, remove the oldest and any later one.

    Args:
        folder: where checkpoints are.
        step: how many steps are done.
        checkpoint: what to write.
        keep: how many to keep.

    Raises:
        OSError, SafetensorError: nothing was written; what was there before still is.
    """
    place, scratch = folder / f"step-{step:09d}", folder / f".step-{step:09d}.unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step-*"):  # of a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    try:
        scratch.mkdir()
        save_file(checkpoint.tensors, scratch / TENSORS)
        numbers = {"schema": SCHEMA, **checkpoint.numbers, "checksum": checksum(scratch / TENSORS)}
        (scratch / NUMBERS).write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for path in (scratch / TENSORS, scratch / NUMBERS, scratch):
            _on_disk(path)
        shutil.rmtree(place, ignore_errors=True)
        scratch.replace(place)
        _on_disk(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    known = steps(folder)
    at = known.index(place) + 1
    for old in (*known[: max(0, at - keep)], *known[at:]):  # later ones are damaged: the run went on from before them
        shutil.rmtree(old, ignore_errors=True)
    return place


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def read(place: Path) -> Checkpoint:
    """One checkpoint.

    Raises:
        Refusal: it is damaged, or of another version.
    """
    try:
        numbers = json.loads((place / NUMBERS).read_text(encoding="utf-8"))
        if numbers["schema"] != SCHEMA:
            raise Refusal(f"a checkpoint of schema {SCHEMA}", numbers["schema"], where=str(place))
        if numbers["checksum"] != checksum(place / TENSORS):
            raise Refusal("a whole checkpoint", "one whose bytes changed", where=str(place))
        return Checkpoint(load_file(place / TENSORS), numbers)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, Refusal):
            raise
        raise Refusal("a whole checkpoint", f"{type(error).__name__}: {error}", where=str(place)) from error


def latest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The last whole checkpoint; what is damaged is passed over, in words. None where there never was one.

    Raises:
        Refusal: there are some, and all are damaged.
    """
    found = steps(folder)
    problem: Refusal | None = None
    for place in reversed(found):
        try:
            checkpoint = read(place)
        except Refusal as refusal:
            problem = refusal
            say(f"{refusal}; the one before it is taken")
        else:
            return checkpoint
    if problem is not None:
        remedy = "start again with another --out, or remove this folder"
        raise Refusal("a whole checkpoint", f"{len(found)} damaged", where=str(folder), remedy=remedy) from problem
    return None


def checksum(path: Path) -> str:
    """Of the bytes of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _on_disk(path: Path) -> None:
    """Wait until a file's or folder's bytes are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
