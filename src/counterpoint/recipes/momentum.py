"""Recipes with a memory between steps: momentum contrast, and denominators that are remembered."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.estimates import Estimates
from counterpoint.encoders.momentum import Queue, follow, teacher_of
from counterpoint.objectives.custom import joined
from counterpoint.objectives.estimated import estimated
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.remembered import against_queue
from counterpoint.papers import paper
from counterpoint.recipes.text import encode_items, encoder_of, refuse_without_dropout
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.items import twice

__all__ = ["isogclr", "moco"]


@paper(reference="He et al.: Momentum Contrast for Unsupervised Visual Representation Learning, arXiv:1911.05722, 2020")
def moco(
    encoder: Encoder, train: Rows, *, temperature: float = 0.07, queue: int = 4096, momentum: float = 0.999
) -> Method:
    """MoCo: a row finds its other view, encoded by a slowly moving teacher, among the teacher's rows of past batches.

    Args:
        encoder: must have dropout, which makes the views differ.
        train: rows with anchor.
        temperature: divides the cosine; > 0.
        queue: rows of past batches that are remembered, the negatives; the paper's 65,536 suits a million images.
        momentum: of the teacher, from 0 to 1.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        Dropout makes the views, where the paper augments images. A stale row of one's own sample is no negative. There
        is no shuffling over devices, since no layer here mixes rows.

    Relations:
        With a queue of one batch and a momentum of 0, the negatives are the rows of the last batch.

    References:
        He et al. 2020, arXiv:1911.05722.
    """
    del train
    refuse_without_dropout(encoder, "moco")
    remembered = Queue(queue, int(encoder.width)).to(encoder.device)
    modules = nn.ModuleDict({"encoder": encoder, "teacher": teacher_of(encoder), "queue": remembered})
    loss = partial(infonce, rule=against_queue, temperature=temperature)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = encode_items(modules, {k: v for k, v in views.items() if k == "first"})
        with torch.no_grad():
            return sets | encode_items(
                {"encoder": modules["teacher"]}, {k: v for k, v in views.items() if k == "second"}
            )

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return loss(sets["first"], joined([sets["second"].to_unit(), cast(Queue, modules["queue"]).rows()]))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        follow(modules["teacher"], modules["encoder"], momentum=momentum)
        cast(Queue, modules["queue"]).push(sets["second"].to_unit())

    return Method(modules, twice, encode, objective, encoder_of, after)


@paper(row=187)
def isogclr(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    gamma: float = 0.9,
    rho: float = 0.3,
    eta: float = 0.01,
    least: float = 0.01,
    most: float = 0.7,
) -> Method:
    """iSogCLR: a row finds its other view; what pushes it, and how sharply, is remembered for each row of the data.

    Args:
        encoder: must have dropout, which makes the views differ.
        train: rows with anchor; two numbers are kept for each.
        temperature: where each row's own starts; > 0.
        gamma: what of a row's denominator is new at each visit, in (0, 1]; less suits smaller batches.
        rho: nats that the worst case of the negatives may be away from their mean; at least 0.
        eta: step of the temperatures; 0 leaves them where they start, which is SogCLR.
        least, most: between which temperatures stay; > 0.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        Dropout makes the views, where the paper augments images. Temperatures start at 0.05 and may fall to 0.01, which
        suits sentences; 0.1 and 0.05 in the paper.

    Relations:
        With gamma = 1 and eta = 0 it has the gradient of `simcse` without the positive in its denominator, times t.

    References:
        Qiu et al. 2023, arXiv:2305.11965; Yuan et al. 2022, arXiv:2202.12387.
    """
    refuse_without_dropout(encoder, "isogclr")
    told = Estimates(len(train), temperature=temperature, eta=eta, least=least, most=most).to(encoder.device)
    loss = partial(estimated, temperature="temperature", gamma=gamma, rho=rho)

    def of_both(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Embeddings:
        return cast(Estimates, modules["estimates"]).of(Embeddings.cat([sets["first"], sets["second"]]))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], outcome: Outcome) -> None:
        cast(Estimates, modules["estimates"]).follow(of_both(modules, sets), outcome)

    modules = nn.ModuleDict({"encoder": encoder, "estimates": told})
    return Method(modules, twice, encode_items, lambda m, s: loss(of_both(m, s)), encoder_of, after)
