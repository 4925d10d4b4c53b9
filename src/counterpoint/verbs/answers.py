"""answers.parquet: what each system answered to each question of a run's test, to compare runs question by question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from counterpoint.data.identity import content_ids
from counterpoint.errors import Refusal
from counterpoint.evaluation.tasks import Classification, Measured, Similarity

FILE = "answers.parquet"
QUESTION, UNIT = "question", "unit"


@dataclass(frozen=True)
class Answers:
    """The answers of several systems to the same questions.

    Args:
        question: [n] content ids.
        unit: [n] rows of one unit are not independent.
        values: system -> metric -> [n] one number a question, or [n, 2] whose correlation is the metric.
    """

    question: np.ndarray
    unit: np.ndarray
    values: Mapping[str, Mapping[str, np.ndarray]]


def questions_of(task: Any) -> list[str]:
    """What a task asks, in the order of its answers; of pairs the left one."""
    if isinstance(task, Similarity):
        return list(task.left)
    return list(task.asked if isinstance(task, Classification) else task.queries)


def write_answers(path: Path, task: Any, measured: Mapping[str, Measured]) -> None:
    """One row a question: `question`, `unit`, and `<system>.<metric>`, or `.x` and `.y` of it for a correlation.

    Args:
        path: of the file.
        task: that was asked.
        measured: system, such as before and after -> its answers.
    """
    columns: dict[str, Any] = {QUESTION: content_ids(questions_of(task)).numpy()}
    columns[UNIT] = next(iter(measured.values())).unit
    for system, answers in measured.items():
        for metric, values in answers.values.items():
            parts = {"": values} if values.ndim == 1 else {".x": values[:, 0], ".y": values[:, 1]}
            columns |= {f"{system}.{metric}{end}": part.astype(float) for end, part in parts.items()}
    pl.DataFrame(columns).write_parquet(path)


def read_answers(path: Path) -> Answers:
    """The answers that a run wrote.

    Raises:
        Refusal: no such file, or another one.
    """
    try:
        frame = pl.read_parquet(path)
        question, unit = frame[QUESTION].to_numpy(), frame[UNIT].to_numpy()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Refusal(f"the {FILE} of a run", str(error).splitlines()[0], where=str(path)) from error
    values: dict[str, dict[str, np.ndarray]] = {}
    for name in frame.columns:
        if name in (QUESTION, UNIT) or name.endswith(".y"):
            continue
        system, metric = name.removesuffix(".x").split(".", maxsplit=1)
        own = frame[name].to_numpy()
        if name.endswith(".x"):
            own = np.stack([own, frame[f"{system}.{metric}.y"].to_numpy()], axis=1)
        values.setdefault(system, {})[metric] = own
    return Answers(question, unit, values)
