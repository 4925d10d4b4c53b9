"""What can be asked: a model by its name, and what one has without any training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint._ops.unit import to_unit
from counterpoint.data.arrays import Arrays
from counterpoint.data.items import Items
from counterpoint.encoders import mlp
from counterpoint.encoders.cross import is_cross_encoder, judge_pairs, load_cross
from counterpoint.encoders.text import TextEncoder, embed
from counterpoint.encoders.text import load as load_text
from counterpoint.errors import Refusal
from counterpoint.evaluation.matching import PairClassification
from counterpoint.evaluation.rerank import Reranking, Score
from counterpoint.evaluation.tasks import Embed, Measured
from counterpoint.training.machine import pick_device, pick_precision
from counterpoint.verbs.console import Screen
from counterpoint.verbs.kinds import principal_components, raw_features
from counterpoint.verbs.questions import Question, Questions, texts_of
from counterpoint.verbs.settings import Run
from counterpoint.verbs.spaces import RAW, folder_for

RANDOM = "random"  # in place of a model: the first model's architecture with weights that nothing was learned by
NUMBERS, PCA, FRESH = "numbers", "PCA", "random weights"
PAIR = "pair"  # the role of both texts together, in lengths
CHUNK = 1024  # items between two movements of the bar


@dataclass(frozen=True)
class System:
    """Something that answers.

    Args:
        name: for tables.
        embed: items of one role -> unit vectors; None of a model that scores pairs.
        score: two lists of texts -> the score of each pair; None of a model that embeds.
        encoder: the model, where there is one.
    """

    name: str
    embed: Embed | None = None
    score: Score | None = None
    encoder: Any = None

    def answers(self, question: Question) -> bool:
        """Whether it can be asked: a model that scores pairs has no vectors to search, vote or cluster with."""
        return self.embed is not None or isinstance(question.task, Reranking | PairClassification)


def ask(system: System, questions: Sequence[Question], screen: Screen) -> dict[str, Measured]:
    """The answers of one system, by the name of the question; every item is embedded once.

    Args:
        system: who answers.
        questions: what is asked; those that it cannot answer are left out.
        screen: shows the bar.
    """
    asked = [question for question in questions if system.answers(question)]
    if system.embed is None:
        total = sum(_pairs(question) for question in asked)
        with screen.stage(f"measuring {system.name}", total=total):
            return {question.name: _scored(question.task, system.score) for question in asked}
    with screen.stage(f"measuring {system.name}", total=texts_of(asked)) as tick:
        remembered = remembering(system.embed, tick)
        return {question.name: _embedded(question.task, remembered) for question in asked}


def _pairs(question: Question) -> int:
    return question.task.texts() if isinstance(question.task, Reranking) else question.task.sizes()[0]


def _embedded(task: Any, embed: Embed) -> Measured:
    return task.by_cosine(embed) if isinstance(task, Reranking) else task.measure(embed)


def _scored(task: Any, score: Any) -> Measured:
    return task.measure(score) if isinstance(task, Reranking) else task.scored(score)


def remembering(embed: Embed, tick: Callable[[int], None] = lambda _: None) -> Embed:
    """The same, with every item of a role embedded once however often it is asked for.

    >>> calls = []
    >>> def lengths(keys, role):
    ...     calls.append(list(keys))
    ...     return torch.tensor([[float(len(key))] for key in keys])
    >>> again = remembering(lengths)
    >>> again(["a", "bb", "a"], "anchor").T, again(["bb", "ccc"], "anchor").T, calls
    (tensor([[1., 2., 1.]]), tensor([[2., 3.]]), [['a', 'bb'], ['ccc']])
    """
    place: dict[str, dict[str, int]] = {}
    known: dict[str, Tensor] = {}

    def of(keys: Sequence[str], role: Any) -> Tensor:
        at = place.setdefault(role, {})
        fresh = sorted((key for key in dict.fromkeys(keys) if key not in at), key=len)
        at.update(zip(fresh, range(len(at), len(at) + len(fresh)), strict=True))
        tick(len(keys) - len(fresh))
        for start in range(0, len(fresh), CHUNK):
            vectors = embed(fresh[start : start + CHUNK], role)
            known[role] = torch.cat([known[role], vectors]) if role in known else vectors
            tick(len(vectors))
        return known[role][torch.tensor([at[key] for key in keys], dtype=torch.int64)]

    return of


def system_of(name: str, items: Items, run: Run, screen: Screen, *, first: str | None = None) -> System:
    """Load a model.

    Args:
        name: whatever `--model` of `fit` takes; "raw": arrays as they are; "random": the architecture of `first` with
            weights drawn by the seed.
        items: what it has to read.
        run: prompts, lengths, precision, device, seed.
        screen: shows the stage.
        first: the model that "random" is made of.

    Raises:
        Refusal: no such model, or one of another kind of data.
    """
    if name == RANDOM and first is not None:
        return _random(first, items, run, screen)
    inner = folder_for(name, items)
    if name == RAW:
        return System(name, lambda keys, _: to_unit(items.take(keys).flatten(1)))
    device = pick_device(run.device)
    with screen.stage(f"loading {name}"):
        if isinstance(items, Arrays):
            return _of_arrays(name, mlp.load(inner, device=device), items)
        if _is_cross(name):
            return _cross(name, run, device)
        code, prompts, lengths = run.trust_remote_code, run.prompts, run.lengths
        encoder = load_text(name, prompts=prompts, lengths=lengths, device=device, trust_remote_code=code)
    return _of_texts(name, encoder, run)


def _of_arrays(name: str, encoder: mlp.MLP, items: Arrays) -> System:
    if tuple(encoder.shape) != tuple(items.shape):
        raise Refusal(f"arrays of shape {tuple(encoder.shape)}", f"the shape {tuple(items.shape)}", where="MODEL")
    return System(name, lambda keys, role: embed(encoder, items.take(keys), role), encoder=encoder)


def _of_texts(name: str, encoder: TextEncoder, run: Run) -> System:
    precision = pick_precision(run.precision, str(encoder.device))
    return System(name, lambda keys, role: embed(encoder, list(keys), role, precision=precision), encoder=encoder)


def _is_cross(name: str) -> bool:
    try:
        return is_cross_encoder(name)
    except Refusal:  # a model without a transformers config, or none at all, which loading will say
        return False


def _cross(name: str, run: Run, device: str) -> System:
    if run.prompts or any(role != PAIR for role in run.lengths):
        raise Refusal("no --prompt, and no --length but pair=TOKENS", "others", where=f"the cross-encoder {name}")
    longest = run.lengths.get(PAIR)
    encoder = load_cross(name, device=device, longest=longest, trust_remote_code=run.trust_remote_code)
    precision = pick_precision(run.precision, device)
    return System(
        name, score=lambda left, right: judge_pairs(encoder, left, right, precision=precision), encoder=encoder
    )


def _random(first: str, items: Items, run: Run, screen: Screen) -> System:
    model = system_of(first, items, run, Screen(quiet=True))
    with screen.stage("drawing random weights"):
        torch.manual_seed(run.seed)
        if isinstance(model.encoder, mlp.MLP) and isinstance(items, Arrays):
            return replace(_of_arrays(FRESH, fresh_arrays(model.encoder), items), name=RANDOM)
        if not isinstance(model.encoder, TextEncoder):
            raise Refusal("a model that embeds for --against random", f"'{first}'", where="--against random")
        forget(model.encoder)
    return _of_texts(RANDOM, model.encoder, run)


def fresh_arrays(encoder: mlp.MLP) -> mlp.MLP:
    """An encoder of the same sizes that standardises alike, with weights from torch's generator."""
    fresh = mlp.MLP(encoder.shape, encoder.sizes)
    fresh.mean.copy_(encoder.mean)  # type: ignore[operator, arg-type]
    fresh.scale.copy_(encoder.scale)  # type: ignore[operator, arg-type]
    return fresh.to(encoder.device)


def forget(encoder: nn.Module) -> None:
    """Draw all weights of a text model anew from torch's generator, as its own classes do before any training."""
    from transformers import PreTrainedModel

    backbones = [module for module in encoder.modules() if isinstance(module, PreTrainedModel)]
    inside = {id(part) for module in backbones for part in module.modules()}
    for module in backbones:
        module.load_state_dict(type(module)(module.config).state_dict())
    for part in encoder.modules():
        reset: Any = getattr(part, "reset_parameters", None)
        if id(part) not in inside and reset is not None:
            reset()


def without_training(model: System, questions: Questions, run: Run) -> list[System]:
    """What one has without the model, where it reads arrays: the numbers, principal components, its random weights.

    Components are those of the known rows, at most as many as the model has dimensions; none where that keeps all angles.
    """
    encoder, items, rows = model.encoder, questions.items, questions.known
    if not isinstance(encoder, mlp.MLP) or not isinstance(items, Arrays) or rows is None:
        return []
    found = [System(NUMBERS, raw_features(encoder, items))]
    if (reduced := principal_components(encoder, rows, items, seed=run.seed)) is not None:
        found.append(System(PCA, reduced))
    torch.manual_seed(run.seed)
    return [*found, _of_arrays(FRESH, fresh_arrays(encoder), items)]
