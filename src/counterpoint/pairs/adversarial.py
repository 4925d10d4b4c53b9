"""Rows moved along a gradient: noise that fills what is empty, negatives that mislead, positives that look unlike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from counterpoint._ops.processes import all_sum
from counterpoint._ops.unit import to_unit
from counterpoint.pairs.synthetic import made
from counterpoint.papers import paper
from counterpoint.types import Embeddings

Climb = Callable[[Embeddings], Tensor]  # rows -> a number that says how good or bad they are, differentiable in `z`


def ascended(rows: Embeddings, objective: Climb, *, size: float, steps: int = 1) -> Embeddings:
    """Rows moved a few steps up a number that is made of them, each step of one length.

        z <- z + size * g / |g|,    g = d objective / d z, by row; by token for token sets

    Args:
        rows: where to start.
        objective: rows -> a number, the same on all processes, such as the loss of an `Outcome`; first order only.
        size: length of a step, in units of the rows; below 0 goes down.
        steps: at least 0.

    Returns:
        The same rows, of the same identity, without gradient. A row whose gradient is 0 stays where it is.

    Raises:
        ValueError: for steps below 0.

    Relations:
        `noise_negatives`, `adversarial_negatives` and `adversarial_positives` are made of it.

    >>> ascended(Embeddings.of(torch.tensor([[3.0, 0.0]])), lambda e: e.z.square().sum(), size=-1.0).z.tolist()
    [[2.0, 0.0]]
    """
    if steps < 0:
        raise ValueError(f"wanted at least 0 steps, got {steps}")
    z = rows.z.detach()
    for _ in range(steps):
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            gradient = torch.autograd.grad(objective(replace(rows, z=leaf)), leaf)[0]
        if rows.placement == "replicated":
            gradient = all_sum(gradient)
        z = z + size * to_unit(gradient)
    return replace(rows, z=z)


def noise(count: int, like: Embeddings, generator: torch.Generator) -> Embeddings:
    """Gaussian rows that belong to nobody, equal on all processes where their generators are; ids -1, -2, ...

    Args:
        count: how many, at least 0.
        like: rows whose width, type and device they have.
        generator: what is drawn.

    >>> noise(2, Embeddings.of(torch.eye(3)), torch.Generator()).id.tolist()
    [-1, -2]
    """
    z = torch.randn(count, *like.z.shape[1:], generator=generator, device=generator.device).to(like.z)
    zeros = torch.zeros(count, dtype=torch.int64, device=z.device)
    return Embeddings(z, -1 - torch.arange(count, device=z.device), zeros, zeros, zeros, placement="replicated")


@paper(row=102)
def noise_negatives(
    count: int, like: Embeddings, objective: Climb, *, generator: torch.Generator, steps: int = 1, size: float = 1e-3
) -> Embeddings:
    """Negatives that start as noise and move to where the rows are too many (DCLR).

        n ~ N(0, 1),    n <- n + size * g / |g|,    g = d objective / d n

    Args:
        count: how many; the paper has some times the batch.
        like: rows whose width, type and device they have.
        objective: noise -> how non-uniform the rows are beside it: the loss of anchors that have the noise for negatives,
            as `lambda n: infonce(anchors, joined([positives, n]), temperature=0.05).loss`.
        generator: what the start is drawn from; equal on all processes.
        steps: at least 0.
        size: length of a step.

    Returns:
        A replicated set without gradient, that repels all rows under `same_sample`; not of length 1.

    Raises:
        ValueError: for steps below 0.

    Differs:
        Whether the other rows of the batch stand in the denominator of the objective is up to the caller: in the paper
        the noise alone does, in the authors' code both. A row whose gradient is 0 stays; there it becomes 0.

    Relations:
        count = 0 is the loss as it was, SimCSE's in the paper. The paper's other half, the weights of suspected false
        negatives, is a pair rule.

    References:
        Zhou et al. 2022, arXiv:2205.00656; simcse/models.py at github.com/RUCAIBox/DCLR, with steps of 1e-3.

    >>> noise_negatives(0, Embeddings.of(torch.eye(3)), lambda n: n.z.sum(), generator=torch.Generator()).z.shape
    torch.Size([0, 3])
    """
    return ascended(noise(count, like, generator), objective, size=size, steps=steps)


@paper(row=174)
def adversarial_negatives(targets: Embeddings, surprise: Climb, *, size: float) -> Embeddings:
    """Targets moved a little towards being unlikely: near in space and wrong in meaning (the hard negatives of CLAPS).

        h + size * g / |g|,    g = d surprise / d h

    Args:
        targets: n rows of samples, or token sets whose tokens move one by one.
        surprise: targets -> their negative log likelihood under the decoder.
        size: length of the step.

    Returns:
        Rows without gradient, private to their target and its source (`private_to("sample")`), which they repel.

    Relations:
        `adversarial_positives` is the paper's other half; `infonce_private` scores both.

    References:
        Lee et al. 2021, arXiv:2012.07280; generate_adv in src/summarization/models.py at
        github.com/seanie12/CLAPS.

    >>> adversarial_negatives(Embeddings.of(torch.eye(2)), lambda e: e.z[:, 0].sum(), size=0.5).z.tolist()
    [[1.5, 0.0], [0.5, 1.0]]
    """
    moved = ascended(targets, surprise, size=size)
    return made(replace(targets, facts={}), moved.z, attracts=0.0)


@paper(row=174)
def adversarial_positives(targets: Embeddings, contrast: Climb, divergence: Climb, *, size: float) -> Embeddings:
    """Targets moved far from their source, and corrected to say the same as before (the hard positives of CLAPS).

        h' = h + size * g / |g|,       g = d contrast / d h
        h' - size * k / |k|,           k = d divergence / d h'

    Args:
        targets: n rows of samples, or token sets whose tokens move one by one.
        contrast: targets -> the contrastive loss of sources against them.
        divergence: moved targets -> the Kullback-Leibler divergence from the decoder's words at `targets` to those at
            them.
        size: length of both steps.

    Returns:
        Rows without gradient, private to their target and its source (`private_to("sample")`), which they attract.

    Relations:
        size = 0 gives the targets themselves.

    References:
        Lee et al. 2021, arXiv:2012.07280; generate_cont_adv in src/summarization/models.py at
        github.com/seanie12/CLAPS, which does not divide the logits of these positives by the temperature.

    >>> still = adversarial_positives(Embeddings.of(torch.eye(2)), lambda e: e.z.sum(), lambda e: e.z.sum(), size=1.0)
    >>> [[round(x, 4) for x in row] for row in still.z.tolist()], still.facts["attracts"].tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    """
    far = ascended(targets, contrast, size=size)
    moved = ascended(far, divergence, size=-size)
    return made(replace(targets, facts={}), moved.z, attracts=1.0)
