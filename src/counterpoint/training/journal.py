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
from typing import TextIO

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
def lines(path: Path) -> Iterator[Note]:
    """A jsonl file that gets a line at each note, readable while the run goes on.

    What a run that was killed wrote after the step that it goes on from is dropped at the first note.

    Args:
        path: of the file; its folder exists.
    """
    file: TextIO | None = None

    def note(step: int, numbers: Mapping[str, float]) -> None:
        nonlocal file
        if file is None:
            known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in known if _comes_before(line, step, numbers)]
            file = path.open("w", encoding="utf-8", buffering=1)
            file.writelines(f"{line}\n" for line in kept)
        print(line_of(step, numbers), file=file)

    try:
        yield note
    finally:
        if file is not None:
            file.close()


def _comes_before(line: str, step: int, numbers: Mapping[str, float]) -> bool:
    """Whether a line is of an earlier step, or says other things of this one; a line that was cut short does not count.

    >>> [_comes_before('{"step": 3, "loss": 1.0}', *now) for now in ((4, {"loss": 0.0}), (3, {"dev": 0.0}), (3, {"loss": 0.0}))]
    [True, True, False]
    """
    try:
        known = json.loads(line)
        return known["step"] < step or (known["step"] == step and set(known) != {"step", *numbers})
    except (ValueError, KeyError, TypeError):
        return False


def refuse_without_tensorboard() -> None:
    """Say how to get TensorBoard where it is not installed.

    Raises:
        Refusal: it is not.
    """
    if util.find_spec("tensorboard") is None:
        remedy = "pip install 'counterpoint[tensorboard]'; steps.jsonl holds the same numbers"
        raise Refusal("the package tensorboard for --tensorboard", "none", remedy=remedy)


@contextmanager
def events(folder: Path) -> Iterator[Note]:
    """TensorBoard events in a folder, one curve for each name; a run that goes on hides what came after its step.

    Args:
        folder: where the event files go.

    Raises:
        Refusal: TensorBoard is not installed.
    """
    refuse_without_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    writer: SummaryWriter | None = None

    def note(step: int, numbers: Mapping[str, float]) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=step)
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)

    try:
        yield note
    finally:
        if writer is not None:
            writer.close()
