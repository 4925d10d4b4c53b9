"""Recipes whose pairs are drawn against the bias of how texts look."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.data.batches import Rows
from counterpoint.data.identity import ids_of
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import embed
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.negatives import complement_of
from counterpoint.recipes.text import dense_tanh, encode_items, encoder_of, refuse_without_dropout, with_training_head
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Pairs, Relation
from counterpoint.views.draws import uniform
from counterpoint.views.propensity import inverse_propensity, surface

__all__ = ["debcse"]
KIND = "text"
BLOCK = 1024  # rows whose neighbours are looked for at a time
FLOOR = 0.05  # the least propensity, so that no candidate is drawn always


def nearest(z: Float[Tensor, "n d"], count: int, least: float) -> list[list[int]]:
    """Of each row the nearest others by cosine, at most `count` and of at least `least`.

    >>> nearest(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 2, 0.5)
    [[1], [0], []]
    """
    found: list[list[int]] = []
    for start in range(0, len(z), BLOCK):
        cosine = z[start : start + BLOCK] @ z.T
        rows = torch.arange(len(cosine))
        cosine[rows, rows + start] = -torch.inf
        best = cosine.topk(min(count, len(z) - 1), 1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found += [[k for k, s in zip(at, by, strict=True) if s >= least] for at, by in pairs]
    return found


def positive_of(texts: Sequence[str], row: int, near: Sequence[int], where: float) -> int:
    """The row itself or one near to it, the likelier the less it looks like it."""
    among = [row, *near]
    return among[inverse_propensity([max(surface(texts[row], texts[k]), FLOOR) for k in among], where)]


def negative_of(texts: Sequence[str], row: int, far: Sequence[int], where: float) -> int:
    """One of some rows that are not near, the likelier the more it looks like the row."""
    return far[inverse_propensity([max(1 - surface(texts[row], texts[k]), FLOOR) for k in far], where)]


def drawn_pairs(relation: Relation, a: Embeddings, c: Embeddings) -> Pairs:
    """What was drawn for a row with the label 1 attracts it; what it is related to besides is ignored; the rest repels."""
    mine = (a.facts["row"][:, None] == c.facts["row"][None, :]) & (c.facts["label"][None, :] > 0)
    return Pairs(mine.to(a.z), torch.where(mine, 0.0, listed(relation)(a, c).repel))


def sampled(
    texts: Sequence[str], near: Sequence[Sequence[int]], batch: Batch, generator: torch.Generator, *, pool: int
) -> dict[str, Batch]:
    """The views: "anchor", and "candidate" with a positive of each row and then, of a pool, a negative of each.

    Args:
        texts: of all rows.
        near: of each row those that mean the like.
        batch: rows.
        generator: of the draws.
        pool: rows drawn from all, of which the negative is one; those that are near are left out. 0: no negative.
    """
    rows, numbers = batch["row"].tolist(), uniform(generator, batch["row"], pool + 2).tolist()
    positives = [positive_of(texts, i, near[i], drawn[0]) for i, drawn in zip(rows, numbers, strict=True)]
    owners, negatives = [], []
    for i, drawn in zip(rows, numbers, strict=True):
        among = [int(u * len(texts)) for u in drawn[2:]]
        far = [k for k in among if k not in near[i] and texts[k] != texts[i]]
        if far:
            owners.append(i)
            negatives.append(negative_of(texts, i, far, drawn[1]))
    found = [texts[k] for k in (*positives, *negatives)]
    label = torch.tensor([1] * len(positives) + [0] * len(negatives))
    return {
        "anchor": {"text": batch["anchor"], "id": batch["id"], "row": batch["row"], "role": "anchor", "view": 0},
        "candidate": {
            "text": found, "id": ids_of(found), "row": torch.tensor([*rows, *owners]), "label": label, "role": "anchor",
            "view": 1,
        },
    }  # fmt: skip


@paper(row=30)
def debcse(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    near: int = 8,
    least: float = 0.8,
    pool: int = 8,
    teacher: str = "",
    head: bool = True,
) -> Method:
    """DebCSE: positives that mean the like and look unlike, negatives that look alike and mean another thing, then InfoNCE.

    A row's positive is drawn among itself, under another dropout, and those nearest to it by a frozen model, with the
    probability 1 / e for the likeness e of their looks; its negative among others, with 1 / (1 - e).

    Args:
        encoder: must have dropout, which makes a row's own positive differ.
        train: rows with anchor; all are encoded once when the method is made.
        temperature: divides the cosine; > 0.
        near: rows that may be a row's positive beside itself, at least 0.
        least: cosine by the frozen model from which on they may, from -1 to 1.
        pool: rows among which a row's negative is drawn, at least 0; 0: those of the batch alone.
        teacher: folder or name of the frozen model; "": the encoder before training.
        head: as of `simcse`.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        There is no public code; this is made of the paper's idea: propensity here is the likeness of looks (`surface`),
        at least 0.05, where the paper mixes several scores; candidates are rows of the data. Every number is ours.

    Relations:
        `simcse` with near = 0 and pool = 0.

    References:
        Miao, Du, Zhang 2023, arXiv:2309.07396.
    """
    refuse_without_dropout(encoder, "debcse")
    texts = list(train.anchors)
    known = embed(complement_of(texts_of(encoder, "debcse"), teacher), texts)
    mates = nearest(known, near, least) if near else [[] for _ in texts]
    pairs = [(i, k) for i, some in enumerate(mates) for k in some]
    relation = Relation.of(train.ids[[i for i, _ in pairs]], train.ids[[k for _, k in pairs]])
    rule = partial(drawn_pairs, relation)
    objective = Contrast(("anchor",), ("candidate",), rule, partial(infonce, temperature=temperature))
    views = partial(sampled, texts, mates, pool=pool)
    method = Method(nn.ModuleDict({"encoder": encoder}), views, encode_items, objective, encoder_of)
    return with_training_head(method, dense_tanh(int(encoder.width))) if head else method
