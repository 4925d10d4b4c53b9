"""Score shift on data: which pairs are scored by both models, and what becomes of old cut-offs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from counterpoint.evaluation.judged_pairs import cosines_of, judged_pairs
from counterpoint.evaluation.matching import PairClassification
from counterpoint.evaluation.shift import score_shift
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.verbs.console import Screen
from counterpoint.verbs.questions import Question

BINS = 40


def shift(question: Question, before: Measured, after: Measured, *, seed: int) -> dict[str, Any] | None:
    """Old cut-offs beside new ones of equal false-positive rate, on the same pairs.

    Pairs that do not belong together: those that were judged so, where there are some; else others, drawn by the seed, as in
    the report of a run; see `evaluation.judged_pairs`.

    Args:
        question: retrieval or pair classification.
        before: answers of the model you had.
        after: of the one you evaluate.
        seed: of what is drawn.

    Returns:
        cut_offs: a line a threshold, see `evaluation.shift.Shift`; pairs: how many of both kinds; edges and counts of
        histograms with 40 bins. None where a system has no scores of pairs that could be compared.
    """
    task = question.task
    if isinstance(task, PairClassification):
        scores = [(m.values["ap"][task.together, 0], m.values["ap"][~task.together, 0]) for m in (before, after)]
    elif isinstance(task, Retrieval) and before.vectors is not None and after.vectors is not None:
        pairs = judged_pairs(task, seed=seed)
        scores = [
            (cosines_of((m.anchors, m.vectors), pairs.positive), cosines_of((m.anchors, m.vectors), pairs.negative))
            for m in (before, after)
            if m.anchors is not None and m.vectors is not None
        ]
    else:
        return None
    if not all(len(part) for part in scores[0]):
        return None
    every = np.concatenate([part for side in scores for part in side])
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1e-6), BINS + 1)
    counts = {
        f"{kind}_{when}": np.histogram(part, edges)[0].tolist()
        for when, side in zip(("before", "after"), scores, strict=True)
        for kind, part in zip(("positive", "negative"), side, strict=True)
    }
    return {
        "cut_offs": [{k: round(v, 6) for k, v in asdict(line).items()} for line in score_shift(*scores)],
        "pairs": {"positive": len(scores[0][0]), "negative": len(scores[0][1])},
        "judged": isinstance(task, PairClassification),
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": counts,
    }


def show_shift(found: Mapping[str, Any], screen: Screen, *, old: str, new: str) -> None:
    """A line for each cut-off: its counterpart, the share of wrong pairs that pass either, that would pass the old one with the
    new model, and of right pairs that pass before and after."""
    kind = "judged" if found["judged"] else "drawn"
    counts = f"{found['pairs']['positive']:,} positive and {found['pairs']['negative']:,} {kind} negative pairs"
    screen.say()
    screen.say(f"cut-offs of {old} for {new}: {counts}", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    titles = ("cut-off", "becomes", "wrong pass", "if it stays", "right before", "right after")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right")
    for line in found["cut_offs"]:
        shares = (line[name] for name in ("false_positives", "kept", "recall_before", "recall_after"))
        table.add_row(f"{line['threshold']:.1f}", f"{line['moved']:.3f}", *(f"{share:.2%}" for share in shares))
    screen.console.print(table)
