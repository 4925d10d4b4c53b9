"""Distillation of relations: a student's similarities follow those of a teacher's vectors, as distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from counterpoint._ops.running import Reduction
from counterpoint._ops.scores import FLOOR
from counterpoint.objectives.custom import (
    Directions,
    Output,
    Rule,
    Side,
    Tile,
    dot,
    keep,
    per_row,
    sweep,
)  # fmt: skip
from counterpoint.objectives.softmax import LOGITS, Temperature, cooled
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

TAUGHT = "_teacher"  # the fact of a teacher's vectors, without gradient, as wide as the rows
TIE = 64.0  # roundings by which two of the teacher's logits may differ and be equal
RIGHT: dict[str, Reduction] = {"best": "maximum", "hit": "maximum"}
DIVERGENCE: dict[str, Reduction] = {
    "student": "logsumexp", "teacher": "logsumexp", "cross": "mean_under", "own": "mean_under"
}  # fmt: skip


def _taught(rows: Embeddings, fact: str) -> Embeddings:
    """The rows with what the teacher says of them."""
    if fact not in rows.facts:
        known = ", ".join(sorted(rows.facts)) or "none"
        raise KeyError(f"wanted the teacher's vectors as the fact '{fact}' of both sides; one has: {known}")
    return replace(rows, facts={**rows.facts, TAUGHT: rows.facts[fact].detach().to(rows.z.dtype)})


def _both_softmaxes(warmth: float, judge: bool) -> Tile:
    """The student's and the teacher's logits over the pairs that the rule says something of."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        student, teacher = scores["s"], scores["teacher"] / warmth
        there = ((pairs.attract > 0) | (pairs.repel > 0)).to(student.dtype)
        among = keep(teacher, there > 0, FLOOR)
        found: dict[str, Output] = {
            "student": (student, there), "teacher": (teacher, there), "cross": (student, among), "own": (teacher, among)
        }  # fmt: skip
        if judge:
            found |= {"best": among, "hit": keep(teacher, pairs.attract > 0, FLOOR)}
        return found

    return tile


def _divergence(found: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The Kullback-Leibler divergence of each row, and whether it counts."""
    counts = found["student"] > FLOOR / 2
    loss = (found["own"] - found["teacher"]) - (found["cross"] - found["student"])
    counted = counts
    if "hit" in found:  # equal vectors of a teacher may differ by rounding, by where their products were taken
        slack = TIE * torch.finfo(loss.dtype).eps * found["best"].abs().clamp(min=1)
        counted = counts & (found["hit"] >= found["best"] - slack)
    return torch.where(counted, loss, torch.zeros_like(loss)), counts.to(loss)


@paper(row=223)
@paper(row=227)
def distillation(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    teacher: str = "teacher",
    rule: Rule = same_sample,
    temperature: Temperature = 1.0,
    teacher_temperature: float | None = None,
    directions: Directions = "forward",
    right_only: bool = False,
    unit: bool = True,
) -> Outcome:
    """The student's softmax over candidates follows the teacher's: what is near to whom, not only which pair is right.

    Over all candidates that the rule says something of, also the positives,

        loss_i = sum_j p_ij log(p_ij / q_ij),   p_ij ~ exp(u_i.v_j / T),   q_ij ~ exp(s_ij / t_i)

    for the student's similarity s and the teacher's vectors u, v; the result is the mean over anchors with a candidate.

    Args:
        anchors: n rows with the teacher's vectors as a fact.
        candidates: m rows with the same fact. None: the anchors themselves.
        teacher: the name of that fact, [n e]; of unit rows u.v is a cosine. No gradient goes to it.
        rule: which pairs are looked at: all that attract or repel; with `right_only` also who is right.
        temperature: t > 0 of the student; a number, one for each anchor, or the name of the anchors' fact that holds them.
        teacher_temperature: T > 0; None: that of the student, which has to be a number then.
        directions: "both" averages this with the same of each candidate over the anchors.
        right_only: an anchor whose nearest candidate by the teacher is not a positive costs nothing, as if the teacher
            said what the student says. It still counts in the mean.
        unit: scale rows to length 1 first; False: s is the plain dot product.

    Returns:
        One term, "distillation", in nats, at least 0; 0 where both distributions are equal. Notes, [n], detached:
        "entropy" of the teacher's distribution in nats.

    Raises:
        KeyError: for rows without the teacher's fact.
        ValueError: for a temperature that is not above 0, or none for the teacher beside a temperature by anchor.

    Differs:
        The code of Mod-X sums over anchors where this is the mean. PRD takes the softmax of a prototype over the batch,
        as its paper says, when prototypes are the anchors; its code takes that of a sample over the prototypes of one
        old task and adds up tasks, which is this with samples as anchors.

    Relations:
        Cross-entropy with the teacher's distribution is this plus the note "entropy", so its gradient is the same.
        A teacher that is one-hot at the positive (T towards 0) makes it `infonce`. `ranked` keeps the order only,
        `scored` compares the listed pairs of a teacher that gives scores and not vectors.

    References:
        Hinton et al. 2015, arXiv:1503.02531; Ni et al. 2023, arXiv:2305.07437 (Mod-X); Asadi et al. 2023,
        arXiv:2303.14771 (PRD).

    >>> from dataclasses import replace
    >>> z = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> a, c = (Embeddings.of(z, view=view, facts={"teacher": z}) for view in (0, 1))
    >>> distillation(a, c).loss.item()
    0.0
    >>> round(distillation(replace(a, facts={"teacher": z.flip(0)}), c).loss.item(), 4)
    0.079
    """
    anchors, candidates, t, _ = cooled(anchors, candidates, temperature, unit=unit)
    if teacher_temperature is None and t.ndim:
        raise ValueError("wanted a teacher_temperature beside a temperature for each anchor, got none")
    warmth = float(t.detach()) if teacher_temperature is None else teacher_temperature
    if not warmth > 0:
        raise ValueError(f"wanted a temperature of the teacher above 0, got {warmth}")
    reductions = {**DIVERGENCE, **(RIGHT if right_only else {})}
    swept = sweep(
        _both_softmaxes(warmth, right_only),
        _taught(anchors, teacher),
        _taught(candidates, teacher),
        scores={**LOGITS, "teacher": dot(TAUGHT)},
        rule=rule,
        rows=reductions,
        columns=reductions if directions == "both" else None,
    )
    loss = per_row(_divergence, swept, directions)
    entropy = (swept.rows["teacher"] - swept.rows["own"]).detach()
    return Outcome({"distillation": loss}, {"distillation": 1.0}, {"entropy": entropy})
