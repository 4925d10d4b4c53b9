"""Recipes with a memory between steps: momentum contrast."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.momentum import Queue, follow, teacher_of
from counterpoint.objectives.custom import joined
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.remembered import against_queue
from counterpoint.papers import paper
from counterpoint.recipes.text import encode_items, encoder_of, refuse_without_dropout
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.text import twice

__all__ = ["moco"]


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
