"""Recipes for a few labelled texts: pairs of classes, and prompts that ask for the word of a class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from counterpoint._ops.reduce import mean
from counterpoint.data.batches import Rows
from counterpoint.data.identity import ids_of
from counterpoint.encoders.adapt import backbone_of
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.masked import Words, words_of
from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal
from counterpoint.objectives.custom import custom, times
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import encode_items, encoder_of
from counterpoint.training.method import Contrast, Method
from counterpoint.types import Batch, Embeddings, Outcome, Pairs
from counterpoint.views.draws import uniform

__all__ = ["lm_supcon", "setfit"]
KIND = "text"
NEEDS = {"lm_supcon": ("anchor", "label"), "setfit": ("anchor", "label")}
MASK, TEXT = "{mask}", "{text}"  # what stands in a template for the word that is asked for, and for the text


def drawn_pairs(a: Embeddings, c: Embeddings) -> Pairs:
    """Pairs that were drawn for a row: those of equal `row`; a candidate with the label 1 attracts, with 0 it repels."""
    mine = a.facts["row"][:, None] == c.facts["row"][None, :]
    good = c.facts["label"][None, :] > 0
    return Pairs((mine & good).to(a.z), (mine & ~good).to(a.z))


def places_by(labels: Int[Tensor, " n"]) -> list[list[int]]:
    """The rows of each class, by its number."""
    return [(labels == name).nonzero()[:, 0].tolist() for name in range(int(labels.max()) + 1)]


def with_partners(train: Rows, batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
    """The views of pairs of classes: "anchor", and "candidate" with a row of each anchor's class (1), then of another (0).

    A row that is alone in its class is its own partner.
    """
    assert train.labels is not None
    classes = places_by(train.labels)
    numbers = uniform(generator, batch["row"], 2).tolist()
    chosen: list[list[int]] = [[], []]
    for row, label, (one, two) in zip(batch["row"].tolist(), batch["label"].tolist(), numbers, strict=True):
        same = [k for k in classes[label] if k != row] or [row]
        others = [k for name, rows in enumerate(classes) if name != label for k in rows]
        chosen[0].append(same[int(one * len(same))])
        chosen[1].append(others[int(two * len(others))])
    texts = [train.anchors[k] for k in (*chosen[0], *chosen[1])]
    value = torch.tensor([1, 0]).repeat_interleave(len(batch["row"]))
    return {
        "anchor": {"text": batch["anchor"], "id": batch["id"], "row": batch["row"], "role": "anchor", "view": 0},
        "candidate": {
            "text": texts, "id": ids_of(texts), "row": batch["row"].repeat(2), "label": value, "role": "anchor", "view": 1,
        },
    }  # fmt: skip


@paper(row=122)
@paper(reference="Tunstall et al.: Efficient Few-Shot Learning Without Prompts, arXiv:2209.11055, 2022 (SetFit)")
def setfit(encoder: Encoder, train: Rows) -> Method:
    """SetFit: pairs of one class are to have the cosine 1, pairs of two classes 0; a logistic regression reads the result.

        loss = mean over drawn pairs of (cos(u, v) - y)^2

    For each row of a batch a pair of its class and one of two classes are drawn, so that both are equally many, as SetFit
    has them when it oversamples. The regression is the reader "linear" of the metric accuracy.

    Args:
        encoder: encodes the texts.
        train: rows with anchor and label, of at least two classes.

    Raises:
        Refusal: for rows of one class.

    Differs:
        Pairs are drawn for a row: the classes of unequal size have pairs in proportion to their rows, in SetFit to the
        square. A row pairs with itself only where it is alone in its class. LIME, with which the paper compares
        attributions, is no part of it.

    Relations:
        Without a step it is the logistic regression on the encoder as it came.

    References:
        Kilic et al. 2023, Contrast Is All You Need, arXiv:2307.02882; sampler.py of github.com/huggingface/setfit.
    """
    if train.labels is None or len(train.labels.unique()) < 2:
        raise Refusal("rows of at least two classes", "fewer", where="--recipe setfit")
    loss = custom(
        lambda s, p, _a, _c, _k: {"cost": times(p.attract, (s["s"] - 1).square()) + times(p.repel, s["s"].square()),
                                  "pairs": p.attract + p.repel},
        lambda found: (found["cost"] / found["pairs"].clamp(min=1), found["pairs"]),
        rows={"cost": "total", "pairs": "total"},
        name="pairs",
    )  # fmt: skip
    objective = Contrast(("anchor",), ("candidate",), drawn_pairs, loss)
    return Method(
        nn.ModuleDict({"encoder": encoder}), partial(with_partners, train), encode_items, objective, encoder_of
    )


def prompted(
    train: Rows,
    template: str,
    *,
    words: Sequence[str],
    mask: str,
    numbers: Sequence[Sequence[float]],
    rows: Sequence[int],
) -> list[str]:
    """Each row in a template, before one row of each class in the same template with its word: the demonstrations.

    Args:
        train: where demonstrations come from; a row is none of its own.
        template: with {text} and {mask}.
        words: of each class.
        mask: the token that is guessed.
        numbers: of each row, in [0, 1), one for each class.
        rows: numbers of the rows.
    """
    assert train.labels is not None
    classes, made = places_by(train.labels), []
    for row, drawn in zip(rows, numbers, strict=True):
        parts = [template.replace(MASK, mask).replace(TEXT, train.anchors[row])]
        for word, known, number in zip(words, classes, drawn, strict=True):
            others = [k for k in known if k != row]
            if others:
                shown = train.anchors[others[int(number * len(others))]]
                parts.append(template.replace(MASK, word).replace(TEXT, shown))
        made.append(" ".join(parts))
    return made


def mask_states(encoder: TextEncoder, head: Words, batch: Batch, words: Int[Tensor, " c"]) -> tuple[Tensor, Tensor]:
    """The state of each text's mask, [n d], and what it costs to guess the word of its label out of those of all, [n]."""

    def one(model: Any, features: dict[str, Any]) -> dict[str, Tensor]:
        label, here = features.pop("label"), features["input_ids"] == model.tokenizer.mask_token_id
        if not bool(here.any(1).all()):
            remedy = "a mask before the text in the template, or more tokens"
            raise Refusal("a prompt whose mask is not cut off", "one without", where="--set template", remedy=remedy)
        states = model[0](features)["token_embeddings"]
        state = states[torch.arange(len(here), device=here.device), here.int().argmax(1)]
        logits = head(state, backbone_of(encoder).get_input_embeddings().weight)[:, words.to(here.device)]
        return {"state": state.float(), "word": cross_entropy(logits.float(), label.to(here.device), reduction="none")}

    found = encoder.read(batch["text"], batch["role"], one=one, beside={"label": batch["label"]})
    return found["state"], found["word"]


def word_numbers(encoder: TextEncoder, words: Sequence[str]) -> Int[Tensor, " c"]:
    """The token of each word: its first, as it stands after a space."""
    ids = encoder.model.tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return torch.tensor([tokens[0] for tokens in ids])


@paper(row=118)
def lm_supcon(
    encoder: Encoder,
    train: Rows,
    *,
    template: str = "{text} It was {mask} .",
    second: str = "{text} I think it is {mask} .",
    words: str = "",
    temperature: float = 0.07,
    weight: float = 1.0,
) -> Method:
    """LM-SupCon: a prompt asks for the word of a text's class, and masks of one class attract over two prompts.

        loss = mean of -log p(word of the class | first prompt, words of all classes)
             + weight * SupCon(states of the mask under both prompts)

    Each prompt shows one drawn row of each class with its word behind the text.

    Args:
        encoder: a transformer with a mask token. The head that guesses is saved beside it and found again.
        train: rows with anchor and label.
        template: of the first prompt, with {text} and {mask}.
        second: of the other.
        words: one for each class in alphabetical order of the classes, with commas between; "": their names.
        temperature: divides the cosine; > 0.
        weight: of the second term, at least 0.

    Raises:
        Refusal: for a template without its two places, another number of words, or an encoder without words to guess.

    Differs:
        One update of the sum, where the authors take two with a learning rate each. The texts keep their length, and a
        mask that is cut off is refused. Their other prompts are drawn from a list for each task.

    Relations:
        Prompt tuning with demonstrations with weight 0.

    References:
        Jian et al. 2022, arXiv:2205.01308; trainer.py and losses.py of github.com/yiren-jian/LM-SupCon.
    """
    encoder, chosen = texts_of(encoder, "lm_supcon"), words_for(train, words)
    for text in (template, second):
        if text.count(MASK) != 1 or text.count(TEXT) != 1:
            raise Refusal("a template with one {text} and one {mask}", f"'{text}'", where="--set template")
    head, numbers = words_of(encoder), word_numbers(encoder, chosen)
    contrast = partial(infonce, rule=labelled(), temperature=temperature)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        made: dict[str, Batch] = {}
        for view, (name, form) in enumerate((("first", template), ("second", second))):
            drawn = uniform(generator, batch["row"], len(chosen)).tolist()
            mask, rows = str(encoder.model.tokenizer.mask_token), batch["row"].tolist()
            texts = prompted(train, form, words=chosen, mask=mask, numbers=drawn, rows=rows)
            made[name] = {"text": texts, "id": batch["id"], "label": batch["label"], "role": "anchor", "view": view}
        return made

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        found = {}
        for name, batch in views.items():
            state, cost = mask_states(modules["encoder"], modules["words"], batch, numbers)  # type: ignore[arg-type]
            facts = {"word": cost, "label": batch["label"].to(state.device)}
            found[name] = Embeddings.of(state, id=batch["id"], view=batch["view"], facts=facts)
        return found

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        both = Embeddings.cat([sets["first"], sets["second"]])
        guessed = Outcome.term("word", mean(sets["first"].facts["word"]))
        return Outcome.of(word=(1.0, guessed), contrast=(weight, contrast(both)))

    modules = nn.ModuleDict({"encoder": encoder, "words": head})
    return Method(modules, views, encode, objective, encoder_of)


def words_for(train: Rows, words: str) -> list[str]:
    """The word of each class.

    Raises:
        Refusal: for another number of words than of classes.
    """
    classes = train.classes or []
    chosen = [word.strip() for word in words.split(",")] if words else [str(name) for name in classes]
    if len(chosen) != len(classes) or not all(chosen):
        raise Refusal(f"{len(classes)} words", len(chosen), where="--set words", remedy="one for each class")
    return chosen
