"""Recipes for Python code: views that keep what it does, and views that hide what it is made of."""

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
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of, with_guessing
from counterpoint.recipes.text import encode_items, encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Outcome, same_sample
from counterpoint.views.code import (
    is_code,
    masked_tokens,
    renamed,
    reordered_statements,
    with_dead_code,
    without_comments,
)
from counterpoint.views.items import draw
from counterpoint.views.text import Edit, chained, cut_off, deleted_words, edited, either, reordered, repeated_words

__all__ = ["cocosoda", "contrabert"]
KIND = "text"
NEEDS = {"cocosoda": ("anchor", "positive")}
SIDES = ("query", "code")
# Who looks for whom: the online row, the set in which it finds itself, and the queue of that set.
COMPARED = tuple(
    (one, other) for one in SIDES for other in (*(s for s in SIDES if s != one), "masked query", "masked code")
)


def soft(rate: float, mask: str) -> Edit:
    """Code with tokens masked, or replaced by their kinds; of all kinds, or of one."""
    return either(*(masked_tokens(rate, mask=m, one_kind=one) for m in (mask, None) for one in (False, True)))


def query_and_code(batch: Batch, generator: torch.Generator, *, query: Edit, code: Edit) -> dict[str, Batch]:
    """The two sides of a pair as they are, and edited; all four have the id of the pair, and views of their own."""
    codes = draw(batch["positive"], 1, rows=batch["row"], generator=generator)
    found: dict[str, Batch] = {}
    for side, texts, edit, role in zip(
        SIDES, (batch["anchor"], codes), (query, code), ("anchor", "positive"), strict=True
    ):
        made = edited(second=edit)({**batch, "anchor": texts}, generator)
        for view, name in (("first", side), ("second", f"masked {side}")):
            found[name] = {**made[view], "role": role, "view": len(found)}
    return found


@paper(row=47)
def cocosoda(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.07,
    queue: int = 1024,
    momentum: float = 0.999,
    rate: float = 0.1,
    mask: str = "[MASK]",
) -> Method:
    """CoCoSoDa: queries and code find each other and their own masked versions, among the batch and four queues.

        loss = mean of six InfoNCE: q -> c, q -> c~, q -> q~, c -> q, c -> q~, c -> c~

    Tilde: tokens masked or replaced by their kinds, encoded by a slowly moving teacher.

    Args:
        encoder: encodes both sides.
        train: rows with a query as anchor and code as positive.
        temperature: divides the cosine; > 0.
        queue: rows of past batches that each of the four sets remembers; 0: none.
        momentum: of the teachers, from 0 to 1.
        rate: share of the tokens that is masked, from 0 to 1.
        mask: what stands for a masked token; that of the model.

    Differs:
        One encoder reads both sides, as the authors' code has it, so their two teachers are one. Which of the four ways of
        masking a text gets is drawn for it, where their code takes turns by step; words of a query beside each other get
        one mask, and code that is no Python none. Equal code under another query is a negative.
        The temperature is that of the paper; their code multiplies by 20 once more. No queue holds noise at the start.

    Relations:
        Without queues, with momentum 0 and rate 0 it is InfoNCE of a batch, six times.

    References:
        Shi et al. 2023, arXiv:2204.03293; DeepSoftwareAnalytics/CoCoSoDa, model.py and run.py.
    """
    del train
    names = (*SIDES, *(f"masked {side}" for side in SIDES))
    queues = {name: Queue(queue, int(encoder.width)).to(encoder.device) for name in names if queue}
    modules = nn.ModuleDict({"encoder": encoder, "teacher": teacher_of(encoder), "queues": nn.ModuleDict(queues)})
    views = partial(query_and_code, query=deleted_words(rate, mark=mask), code=soft(rate, mask))
    loss = partial(infonce, temperature=temperature)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        sets = encode_items(modules, {k: v for k, v in views.items() if k in SIDES})
        with torch.no_grad():
            return sets | encode_items(
                {"encoder": modules["teacher"]}, {k: v for k, v in views.items() if k not in SIDES}
            )

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        past = {k: [cast(Queue, q).rows()] for k, q in cast(nn.ModuleDict, modules["queues"]).items()}
        among = {k: joined([rows.to_unit(), *past.get(k, [])]) for k, rows in sets.items()}
        parts = {f"{one} to {other}": (1 / len(COMPARED), loss(sets[one], among[other])) for one, other in COMPARED}
        return Outcome.of(**parts)

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        follow(modules["teacher"], modules["encoder"], momentum=momentum)
        for name, remembered in cast(nn.ModuleDict, modules["queues"]).items():
            cast(Queue, remembered).push(sets[name].to_unit())

    return Method(modules, views, encode, objective, encoder_of, after)


def variant() -> Edit:
    """An edit that leaves the meaning: of code renaming, dead code, order and comments; of another text its words."""
    code = (
        renamed(),
        with_dead_code(2),
        reordered_statements(),
        without_comments(),
        chained(renamed(), with_dead_code()),
    )
    words = (deleted_words(0.1), repeated_words(0.1), reordered(1), cut_off(0.1))
    changed, worded = either(*code), either(*words)
    return lambda text, numbers: (changed if is_code(text) else worded)(text, numbers)


@paper(row=217)
def contrabert(
    encoder: Encoder, train: Rows, *, temperature: float = 0.07, weight: float = 1.0, rate: float = 0.15
) -> Method:
    """ContraBERT: code finds its variant that does the same among other code, while hidden words of it are guessed.

        loss = InfoNCE(code, variant) + w cost of the hidden words

    Args:
        encoder: a transformer with a mask token. The head that guesses is saved beside it.
        train: rows with anchor: code, or comments, which are edited as words.
        temperature: divides the cosine; > 0.
        weight: w, of the guessing; at least 0.
        rate: share of the words that is hidden, in (0, 1).

    Raises:
        Refusal: for an encoder without words to guess.

    Differs:
        Negatives are the variants of the batch. Nothing is translated and back, no line is left out and no function is
        renamed: those of the authors' nine operators that need a model, or that change what code does to its callers.

    Relations:
        With w = 0 it is InfoNCE of a text and its variant; `mlm` is the guessing alone.

    References:
        Liu et al. 2023, arXiv:2301.09072.
    """
    del train
    encoder = texts_of(encoder, "contrabert")
    objective = Contrast(("first",), ("second",), same_sample, partial(infonce, temperature=temperature))
    modules = nn.ModuleDict({"encoder": encoder})
    method = Method(modules, edited(second=variant()), encode_items, objective, encoder_of)
    return with_guessing(method, encoder, rate=rate, weight=weight)
