"""What a run says of each step while it runs: one line of json a step, and TensorBoard events where they are asked for.

Seconds are no function of the seed, so none of this is in metrics.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import util
from pathlib import Path

from counterpoint.errors import Refusal

Note = Callable[[int, Mapping[str, float]], None]  # (step, name -> number)
DIGITS = 7  # a float32 has no more


def silent(step: int, numbers: Mapping[str, float]) -> None:
    """Notes nothing."""


def both(*notes: Note) -> Note:
    """A note that goes to several places."""

    def note(step: int, numbers: Mapping[str, float]) -> None:
        for one in notes:
            one(step, numbers)

    return note


def line_of(step: int, numbers: Mapping[str, float]) -> str:
    """A line of json; what is not finite is null, since json has no word for it.

    >>> line_of(3, {"loss": 0.25, "gradient": math.inf})
    '{"step": 3, "loss": 0.25, "gradient": null}'
    """
    short = {name: float(f"{x:.{DIGITS}g}") if math.isfinite(x) else None for name, x in numbers.items()}
    return json.dumps({"step": step, **short})


@contextmanager
def lines(path: Path, *, after: int = 0) -> Iterator[Note]:
    """A jsonl file that gets a line at each note, readable while the run goes on.

    Args:
        path: of the file; its folder exists.
        after: keep the lines up to this step, of a run that goes on from there; 0: start anew.
    """
    kept = path.read_text(encoding="utf-8").splitlines() if after and path.exists() else []
    kept = [line for line in kept if _step_of(line) <= after]
    with path.open("w", encoding="utf-8", buffering=1) as file:
        file.writelines(f"{line}\n" for line in kept)
        yield lambda step, numbers: print(line_of(step, numbers), file=file)


def _step_of(line: str) -> float:
    """The step of a line; a line that was cut short when its run was killed comes after all others."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def refuse_without_tensorboard() -> None:
    """Say how to get TensorBoard where it is not installed.

    Raises:
        Refusal: it is not.
    """
    if util.find_spec("tensorboard") is None:
        remedy = "pip install 'counterpoint[tensorboard]'; steps.jsonl holds the same numbers"
        raise Refusal("the package tensorboard for --tensorboard", "none", remedy=remedy)


@contextmanager
def events(folder: Path, *, after: int = 0) -> Iterator[Note]:
    """TensorBoard events in a folder, one curve for each name.

    Args:
        folder: where the event file goes.
        after: of a run that goes on: curves of later steps are dropped from view.

    Raises:
        Refusal: TensorBoard is not installed.
    """
    refuse_without_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def note(step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)

    try:
        yield note
    finally:
        writer.close()
