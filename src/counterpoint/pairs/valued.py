"""Continuous labels: mixtures of a known label, and pairs whose labels and predictions disagree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.processes import everywhere
from counterpoint.pairs.mixed import blend
from counterpoint.pairs.synthetic import ATTRACTS, SHARES, SOURCES, by_identity, made
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Pairs

VALUE = "value"  # the fact [n] that holds a continuous label


def _ordered(rows: Embeddings, value: str) -> Int[Tensor, " n"]:
    """The order by value; of equal values by identity, so that no order of the rows matters."""
    order = torch.arange(len(rows), device=rows.id.device)
    for key in (rows.part, rows.view, rows.id, rows.facts[value]):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _within(low: Tensor, high: Tensor, drawn: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A place from low to below high; meaningless where there is none."""
    return low + (drawn * (high - low)).long()


@paper(row=41)
@torch.no_grad()
def mixed_by_value(
    anchors: Embeddings,
    *,
    negatives: int,
    positives: int,
    window: float,
    generator: torch.Generator,
    beta: tuple[int, int] = (2, 8),
    value: str = VALUE,
) -> Embeddings:
    """Mixtures whose continuous label is known: near negatives with the anchor in them, positives from both its sides.

    For anchor i of label y_i, k of another label, and j, k of labels on both sides of y_i within the window,

        Mix-neg:  b z_i + (1 - b) z_k,  label b y_i + (1 - b) y_k,  b ~ Beta(beta)
        Mix-pos:  l z_j + (1 - l) z_k,  label y_i,                  l = (y_k - y_i) / (y_k - y_j)

    Args:
        anchors: n rows of samples with the fact `value`; scaled to length 1. Partners come from the rows of all processes.
        negatives: Mix-neg of each anchor, at least 0.
        positives: Mix-pos of each anchor, at least 0.
        window: how far partners of a Mix-pos may be from the anchor's label; above 0.
        generator: one number is drawn from it; what an anchor draws depends on that, on its identity and on the rows.
        beta: whole numbers above 0.
        value: the name of the fact.

    Returns:
        Rows without gradient, private to their anchor (`private_to`), with the facts `value`, `sources` and `shares`. Not of
        length 1. An anchor whose partners are missing gets none.

    Raises:
        ValueError: for numbers below 0, a window that is not above 0, or a beta that is not of whole numbers above 0.

    Differs:
        The authors make all mixtures, which grow with the cube of the batch; here each anchor draws some. The weights by
        distance of labels belong to the objective.

    Relations:
        With none it is SupCon on labels; `infonce_private` scores the rows, with `unit=False` as the authors do, who scale
        rows to length 1 before they are mixed.

    References:
        Wu et al. 2023, arXiv:2309.16633; imdb-wiki/train_supremix.py (mixing_func) and utils.py
        (calculate_alpha_vectorized) of github.com/Dingyijiang1/Mixup-Your-Own-Pairs, where b ~ Beta(2, 8).

    >>> rows = Embeddings.of(torch.eye(3), facts={"value": torch.tensor([0.0, 1.0, 3.0])})
    >>> found = mixed_by_value(rows, negatives=0, positives=1, window=5.0, generator=torch.Generator())
    >>> found.id.tolist(), [[round(x, 3) for x in row] for row in found.z.tolist()]
    ([-2], [[0.667, 0.0, 0.333]])
    """
    if min(negatives, positives) < 0 or not window > 0:
        raise ValueError(f"wanted numbers of at least 0 and a window above 0, got {negatives}, {positives}, {window}")
    if min(beta) < 1:
        raise ValueError(f"wanted a beta of two whole numbers above 0, got {beta}")
    anchors = replace(anchors, facts={value: anchors.facts[value]}).to_unit()
    partners = everywhere(anchors)
    partners = partners.rows(_ordered(partners, value))
    each = negatives + positives
    owner = torch.arange(len(anchors), device=anchors.id.device).repeat_interleave(each)
    number = torch.arange(each, device=owner.device).repeat(len(anchors))
    own, inside = anchors.rows(owner), number < negatives
    y, line = own.facts[value], partners.facts[value].contiguous()
    low, high = (torch.searchsorted(line, y.contiguous(), right=right) for right in (False, True))
    first = torch.searchsorted(line, (y - window).contiguous(), right=True)
    last = torch.searchsorted(line, (y + window).contiguous(), right=False)
    drawn = by_identity(generator, own, number, 2 + sum(beta) - 1)
    other = _within(torch.zeros_like(low), len(line) - (high - low), drawn[:, 0])  # a label that is not the anchor's
    other = torch.where(other >= low, other + high - low, other)
    below, over = _within(first, low, drawn[:, 0]), _within(high, last, drawn[:, 1])
    there = torch.where(inside, len(line) > high - low, (first < low) & (high < last))
    own, inside, y = own.rows(there), inside[there], y[there]
    other, below, over = other[there], below[there], over[there]
    near = partners.rows(torch.where(inside, other, over))
    left = partners.rows(torch.where(inside, other, below))
    share = drawn[there, 2:].sort(1).values[:, beta[0] - 1].to(y)  # Beta(a, b) is the a-th of a + b - 1 uniform numbers
    gap = near.facts[value] - left.facts[value]
    share = torch.where(inside, share, (near.facts[value] - y) / torch.where(inside, torch.ones_like(gap), gap))
    z = blend(torch.where(inside[:, None], own.z, left.z), near.z, share.to(own.z))
    label = torch.where(inside, share * y + (1 - share) * near.facts[value], y)
    ids = torch.stack([torch.where(inside, own.id, left.id), near.id], 1)
    found = made(own, z, attracts=0.0, facts={value: label, SOURCES: ids, SHARES: torch.stack([share, 1 - share], 1)})
    return replace(found, facts={**found.facts, ATTRACTS: (~inside).to(z)})


@dataclass(frozen=True)
class Disagreeing:
    """The rule that reads a label and a prediction; made by `disagreeing`."""

    width: float
    push: float
    value: str
    predicted: str
    weight: str | None

    elsewhere = None

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        apart = (a.facts[self.value][:, None] - c.facts[self.value][None, :]).abs().to(a.z)
        guess = (a.facts[self.predicted].detach()[:, None] - c.facts[self.predicted].detach()[None, :]).abs()
        near, confused = apart <= self.width, guess <= self.width
        same = a.id[:, None] == c.id[None, :]
        oneself = same & (a.view[:, None] == c.view[None, :]) & (a.part[:, None] == c.part[None, :])
        stale = same & ((a.age[:, None] > 0) | (c.age[None, :] > 0))
        strength = (self.push * apart).exp()
        if self.weight is not None:
            strength = strength * a.facts[self.weight].to(a.z)[:, None]
        return Pairs((near & ~(oneself | stale)).to(a.z), strength * (~near & confused & ~same))


@paper(row=123)
def disagreeing(
    width: float, *, push: float = 0.01, value: str = VALUE, predicted: str = "predicted", weight: str | None = None
) -> Disagreeing:
    """Near labels attract; far labels with near predictions repel, the more the further the labels are (ConR).

        attract_ij = [|y_i - y_j| <= width],    repel_ij = [|y_i - y_j| > width, |p_i - p_j| <= width] w_i exp(push |y_i - y_j|)

    Args:
        width: of labels and predictions that count as near; at least 0.
        push: growth of a negative's weight with the distance of labels; at least 0. The softmax takes weights up to
            exp(20), so push times the largest distance is to stay below 20.
        value: the fact [n] that holds the label.
        predicted: the fact [n] that holds the prediction; read without gradient.
        weight: the fact [n] that weighs the anchor's negatives, such as the rarity of its label; None: 1.

    Raises:
        ValueError: for a width or a push below 0.

    Relations:
        `conr` is its objective.

    References:
        Keramati et al. 2024, arXiv:2309.06651; agedb-dir/loss.py at github.com/BorealisAI/ConR.

    >>> facts = {"value": torch.tensor([0.0, 0.5, 9.0]), "predicted": torch.zeros(3)}
    >>> rows = Embeddings.of(torch.eye(3), facts=facts)
    >>> disagreeing(1.0, push=0.0)(rows, rows).repel.tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    if not width >= 0 or not push >= 0:
        raise ValueError(f"wanted a width and a push of at least 0, got {width} and {push}")
    return Disagreeing(width, push, value, predicted, weight)
