"""Recipes that keep embeddings from collapsing by their statistics: whitened positives, decorrelation with a slow target."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.momentum import follow, teacher_of
from counterpoint.objectives.decorrelation import barlow_twins, vicreg
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.whitening import whiten
from counterpoint.papers import paper
from counterpoint.recipes.negatives import carrying, with_salt
from counterpoint.recipes.text import dense_tanh, encode_items, encoder_of, refuse_without_dropout, with_training_head
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.items import named, twice

__all__ = ["unsee", "whitenedcse"]
WIDER = 10  # times the width: the hidden layers of UNSEE's head


def copies(batch: Batch, _generator: torch.Generator, *, count: int) -> dict[str, Batch]:
    """Each item `count` times, "copy 0" to "copy <count - 1>", for the encoder's dropout to make them differ."""
    shared = {**named(batch["anchor"]), "id": batch["id"], "role": "anchor"}
    return {f"copy {k}": {**shared, "view": k} for k in range(count)}


def groups_of(width: int, group: int) -> int:
    """Into how many groups of equal size a width is split, of at most `group` coordinates each.

    >>> groups_of(768, 6), groups_of(32, 6)
    (128, 8)
    """
    return width // next(size for size in range(min(group, width), 0, -1) if width % size == 0)


def orders(salt: Tensor, width: int, count: int) -> list[Tensor]:
    """Permutations of the coordinates, one for each view, by the number of the step."""
    drawn = torch.Generator().manual_seed(int(salt[0]) % 2**63)
    return [torch.randperm(width, generator=drawn) for _ in range(count)]


@paper(row=28)
def whitenedcse(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    positives: int = 2,
    group: int = 6,
    eps: float = 1e-3,
    head: bool = True,
) -> Method:
    """WhitenedCSE: dropout copies of a batch, each whitened in groups of coordinates that are shuffled anew, then SimCSE.

        loss = sum over positives k of infonce(head(W_0 z_0), head(W_k z_k))

    with the group whitening W of each copy by the statistics of the batch, under a permutation of its own.

    Args:
        encoder: must have dropout, which makes the copies differ.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        positives: copies beside the anchor's, at least 1.
        group: coordinates of a group at most; the largest divisor of the width up to it is taken, and a batch should have
            more rows. 0: no whitening.
        eps: added to the variances, > 0; less than 1e-3 turns rounding into gradient where coordinates hardly vary.
        head: a layer with tanh after the whitening while training; it is not saved.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        The gradient knows that the whitening depends on the rows, and eps is added; the authors' code has neither, and
        whitens when it evaluates too, where embeddings here are the encoder's own. Their 128 groups of 768 coordinates
        are groups of 6.

    Relations:
        `simcse` with one positive and without whitening.

    References:
        Zhuo et al. 2023, arXiv:2305.17746; whitenedcse/models.py of github.com/SupstarZh/WhitenedCSE.
    """
    del train
    refuse_without_dropout(encoder, "whitenedcse")
    width, loss = int(encoder.width), partial(infonce, temperature=temperature)
    modules = nn.ModuleDict({"encoder": encoder})
    if head:
        modules["head"] = dense_tanh(width).to(encoder.device)
    white = partial(whiten, groups=groups_of(width, group) if group else 1, eps=eps)

    def after_whitening(modules: nn.ModuleDict, rows: Embeddings, order: Tensor) -> Embeddings:
        rows = white(rows, order=order.to(rows.z.device)) if group else rows
        return replace(rows, z=modules["head"](rows.z)) if head else rows

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        drawn = orders(sets["copy 0"].facts["salt"], width, positives + 1)
        first, *others = (after_whitening(modules, sets[f"copy {k}"], order) for k, order in enumerate(drawn))
        return Outcome.of(**{f"positive {k}": (1.0, loss(first, rows)) for k, rows in enumerate(others, start=1)})

    views = with_salt(partial(copies, count=positives + 1))
    return Method(modules, views, carrying(encode_items, "salt"), objective, encoder_of)


@paper(row=157)
def unsee(
    encoder: Encoder,
    train: Rows,
    *,
    loss: Literal["vicreg", "barlow_twins"] = "vicreg",
    momentum: float = 0.999,
    head: bool = True,
) -> Method:
    """UNSEE: two dropout views without any negative; each is compared with a slow copy's encoding of the other.

        loss = L(head(f(x_1)), g(x_2)) + L(head(f(x_2)), g(x_1)),      g <- momentum g + (1 - momentum) f

    Args:
        encoder: f; must have dropout, which makes the views differ.
        train: rows with anchor; every other column is ignored.
        loss: L.
        momentum: of the target, from 0 (the encoder as it was a step ago) to 1 (as it was before training).
        head: three layers after the encoder while training, on its side alone; they are not saved.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        One head of three layers without batch norm, where the authors' code stacks four with it, so that rows are
        encoded by themselves. CorInfoMax and BYOL, which they try too, are left out.

    Relations:
        With momentum 0 and without dropout and head it is L of the encoder with itself, twice.

    References:
        Çağatan 2024, arXiv:2401.15316; sentence_transformers/losses/VICRegLoss.py and BarlowLoss.py at
        github.com/asparius/UNSEE, with its weights: its 25 for the mean of two variances is 12.5 for their sum.
    """
    del train
    refuse_without_dropout(encoder, "unsee")
    compare = partial(vicreg, weights=(25.0, 12.5, 1.0)) if loss == "vicreg" else barlow_twins

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        found = encode_items(modules, views)
        with torch.no_grad():
            slow = encode_items({"encoder": modules["target"]}, views)
        return {name: rows.told(target=slow[name].z) for name, rows in found.items()}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        first, second = sets["first"], sets["second"]
        targets = [replace(rows, z=rows.facts["target"].detach()) for rows in (first, second)]
        return Outcome.of(first=(1.0, compare(first, targets[1])), second=(1.0, compare(second, targets[0])))

    def after(modules: nn.ModuleDict, _sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        follow(modules["target"], modules["encoder"], momentum=momentum)

    modules = nn.ModuleDict({"encoder": encoder, "target": teacher_of(cast(nn.Module, encoder))})
    method = Method(modules, twice, encode, objective, encoder_of, after)
    return with_training_head(method, three_layers(int(encoder.width))) if head else method


def three_layers(width: int) -> nn.Module:
    """A head with two hidden layers of ten times the width."""
    wide = WIDER * width
    return nn.Sequential(nn.Linear(width, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, width))
