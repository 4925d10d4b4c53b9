"""Prediction: rows that have to meet their target, which itself stays where it is. No pair repels."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.reduce import mean
from counterpoint.objectives.custom import Rule, as_embeddings
from counterpoint.objectives.spread import alignment
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, same_sample


def fixed(rows: Embeddings, fact: str = "z") -> Embeddings:
    """The rows as targets: their vectors, or a fact in their place, without gradient.

    Raises:
        KeyError: for a fact that the rows do not have.

    >>> import torch
    >>> fixed(Embeddings.of(torch.eye(2, requires_grad=True))).z.requires_grad
    False
    """
    if fact != "z" and fact not in rows.facts:
        known = ", ".join(sorted(rows.facts)) or "none"
        raise KeyError(f"wanted the targets as the fact '{fact}'; the rows have: {known}")
    return replace(rows, z=(rows.z if fact == "z" else rows.facts[fact]).detach())


@paper(reference="Grill et al.: Bootstrap Your Own Latent, arXiv:2006.07733, 2020")
@paper(reference="Chen, He: Exploring Simple Siamese Representation Learning, arXiv:2011.10566, 2020")
def prediction(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    unit: bool = True,
) -> Outcome:
    """How far predictions are from their targets, which get no gradient.

        loss = sum_ij w_ij |q_i - sg(z_j)|^2 / sum_ij w_ij = 2 - 2 mean cosine          for unit rows and attract weights w_ij

    Args:
        anchors: n predictions, or a plain [n, d] tensor.
        candidates: m targets, such as the projections of a teacher or of the other view; with plain tensors row i is the
            target of row i, explicitly. None: the anchors themselves.
        rule: which targets each prediction has; repel weights are not read.
        unit: scale rows to length 1 first; False: distances of rows as they are.

    Returns:
        One term, "prediction", from 0 to 4 for unit rows, 2 for rows at right angles; 0 without a pair.

    Raises:
        ValueError: for plain tensors of different length.

    Differs:
        With the predictions of both views as anchors and the targets of both as candidates this is the mean of the two
        directions; BYOL adds them up. SimSiam's loss is minus the mean cosine, loss / 2 - 1, of half the gradient. The
        mean is over pairs, so a prediction of two targets counts twice.

    Relations:
        `alignment` whose candidates get no gradient. BYOL's targets are those of a teacher (`encoders.momentum`),
        SimSiam's those of the encoder itself. What keeps it from collapsing is the predictor, not the loss.

    References:
        Grill et al. 2020, arXiv:2006.07733, equation 2; Chen, He 2020, arXiv:2011.10566, equation 1.

    >>> import torch
    >>> round(prediction(torch.eye(2), torch.ones(2, 2)).loss.item(), 4)      # 2 - sqrt 2
    0.5858
    """
    anchors, candidates = as_embeddings(anchors, candidates)
    loss = alignment(anchors, fixed(candidates), rule=rule, unit=unit).loss
    return Outcome.term("prediction", loss)


def _to_own(rows: Embeddings, teacher: str) -> Tensor:
    """The mean squared distance of each unit row to its own target."""
    return mean((rows.to_unit().z - fixed(rows, teacher).to_unit().z).square().sum(1))


@paper(row=209)
def slap(
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    teacher: str = "teacher",
    rule: Rule = same_sample,
    across: float = 0.5,
) -> Outcome:
    """Two kinds of data predict each other and themselves: each row the teacher's row of its pair, and its own.

    For unit predictions q, u of the two kinds and the teacher's unit projections x, y of the same samples, as facts,

        across = 1/2 ( mean_ij |q_i - sg(y_j)|^2 + mean_ij |u_j - sg(x_i)|^2 )          over pairs that attract
        within = 1/2 ( mean_i |q_i - sg(x_i)|^2 + mean_j |u_j - sg(y_j)|^2 )
        loss   = w across + (1 - w) within

    Args:
        anchors: n predictions of one kind, such as audio; their fact `teacher` is [n, d].
        candidates: m predictions of the other, such as text, with the same fact.
        teacher: the name of the fact that holds the projections of a slowly moving copy of the encoder.
        rule: which rows of the two kinds are pairs; repel weights are not read.
        across: w, from 0 (each kind alone) to 1 (only across).

    Returns:
        Two terms, "across" and "within", each from 0 to 4.

    Raises:
        KeyError: for rows without the fact.
        ValueError: for a weight outside 0 to 1.

    Differs:
        The authors' training step hands the predictions to their loss in the other order, which exchanges the two
        weights; at their 0.5 it is the same.

    Relations:
        `prediction` across and within two kinds. Nothing here looks across rows, so batches may be summed up piece by
        piece.

    References:
        Guinot, Riou et al. 2025, arXiv:2506.17815; BYOLLoss in src/utils/losses/byol.py of github.com/Pliploop/SLAP.

    >>> import torch
    >>> rows = Embeddings.of(torch.eye(2), facts={"teacher": torch.eye(2)})
    >>> slap(rows, Embeddings.of(torch.eye(2).flip(0), view=1, facts={"teacher": torch.eye(2)})).loss.item()
    1.0
    """
    if not 0 <= across <= 1:
        raise ValueError(f"wanted a weight of the terms across from 0 to 1, got {across}")
    there = alignment(anchors, fixed(candidates, teacher), rule=rule).loss
    back = alignment(fixed(anchors, teacher), candidates, rule=rule).loss
    within = _to_own(anchors, teacher) + _to_own(candidates, teacher)
    terms = {"across": (there + back) / 2, "within": within / 2}
    return Outcome(terms, {"across": across, "within": 1 - across}, {})
