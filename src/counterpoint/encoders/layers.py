"""The layers of a backbone: where they are, how deep a weight lies, and which of them stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from counterpoint.errors import Refusal

# What transformers calls the list of layers: BERT, MPNet and DistilBERT; ModernBERT, Qwen and Llama; GPT-2; T5.
NAMES = ("layer", "layers", "h", "block")
# What it calls a norm after the last layer: Llama and Qwen; ModernBERT; GPT-2; T5.
LAST_NORMS = ("norm", "final_norm", "ln_f", "final_layer_norm")


def stack_of(encoder: nn.Module, *, where: str | None = None) -> tuple[str, int]:
    """The name of the list that holds an encoder's layers, and how many it holds.

    A list inside another, such as the sublayers of each block of T5, does not count.

    Args:
        encoder: any module with one such list in it.
        where: the flag that asks for it, for the refusal.

    Returns:
        The list's name within the encoder and its length.

    Raises:
        Refusal: no list of layers, or several side by side.

    >>> stack_of(nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}))
    ('layers', 2)
    """
    named = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.ModuleList) and n.split(".")[-1] in NAMES}
    outermost = [n for n in named if not any(n.startswith(f"{other}.") for other in named)]
    if len(outermost) != 1:
        came = f"several: {', '.join(outermost)}" if outermost else "none"
        raise Refusal(f"a model with one list of layers named {', '.join(NAMES)}", came, where=where)
    return outermost[0], len(named[outermost[0]])


def depths(encoder: nn.Module, *, where: str | None = None) -> dict[str, int]:
    """How deep each weight lies: 0 for embeddings, i for the i-th layer, the number of layers for all that comes after.

    Weights outside the list of layers lie before it where they are made before it, as embeddings are, and after it where
    they are made after it, as a last norm or a projection is; embeddings are embeddings wherever they are made.

    Args:
        encoder: any module with one list of layers.
        where: the flag that asks for it, for the refusal.

    Raises:
        Refusal: as for `stack_of`.

    >>> layers = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(3)])
    >>> depths(nn.ModuleDict({"words": nn.Embedding(5, 1), "layers": layers, "norm": nn.LayerNorm(1, bias=False)}))
    {'words.weight': 0, 'layers.0.weight': 1, 'layers.1.weight': 2, 'layers.2.weight': 3, 'norm.weight': 3}
    """
    name, count = stack_of(encoder, where=where)
    tables = {f"{n}.weight" for n, m in encoder.named_modules() if isinstance(m, nn.Embedding)}
    found, passed = {}, False
    for parameter, _ in encoder.named_parameters():
        at = re.match(rf"{re.escape(name)}\.(\d+)\.", parameter)
        passed = passed or at is not None
        outside = count if passed and parameter not in tables else 0
        found[parameter] = outside if at is None else int(at.group(1)) + 1
    return found


def freeze(encoder: nn.Module, layers: int) -> None:
    """Embeddings and the first layers stay as they are: they get no gradient, and nothing is kept for one.

    Args:
        encoder: any module with one list of layers.
        layers: how many of the first layers, from 0 (embeddings alone) to one less than there are.

    Raises:
        Refusal: no list of layers, or not enough of them.
    """
    _, count = stack_of(encoder, where="--freeze")
    if not 0 <= layers < count:
        remedy = "one layer at least has to train"
        raise Refusal(f"at most {count - 1} of {count} layers to freeze", layers, where="--freeze", remedy=remedy)
    found = depths(encoder)
    for name, parameter in encoder.named_parameters():
        if found[name] <= layers:
            parameter.requires_grad_(False)


def alive(encoder: nn.Module) -> float:
    """The share of the layers that the backward pass goes through: those from the first one with a weight to train.

    Returns:
        From 0 (nothing trains) to 1; 1 where there is no list of layers and something trains.
    """
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    if not trained:
        return 0.0
    try:
        found, (_, count) = depths(encoder), stack_of(encoder)
    except Refusal:
        return 1.0
    first = min(found[name] for name in trained)
    return (count - max(first, 1) + 1) / count if count else 1.0


def embeddings_at(model: Any, features: Mapping[str, Any], layer: int) -> dict[str, Tensor]:
    """The embeddings of some texts by all layers, and by the first few alone, in one pass.

    Args:
        model: a sentence-transformers model whose first module is a transformer.
        features: of a tokenizer.
        layer: how many layers come before the early embedding, from 1 to all.

    Returns:
        "z", those of the whole model, and "early", those of `reshaped.truncated` with so many layers; [n, d] each.

    Raises:
        Refusal: as for `stack_of`.
    """
    name, _ = stack_of(model)
    above = model.get_submodule(name.rpartition(".")[0])
    norm = next(
        (getattr(above, n) for n in LAST_NORMS if isinstance(getattr(above, n, None), nn.Module)), nn.Identity()
    )
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _given: Any, made: Any) -> None:
        caught.append(made[0] if isinstance(made, tuple) else made)

    hook = model.get_submodule(name)[layer - 1].register_forward_hook(catch)
    try:
        whole = model[0](dict(features))
    finally:
        hook.remove()
    early = {**whole, "token_embeddings": norm(caught[0])}
    for module in list(model)[1:]:
        whole, early = module(whole), module(early)
    return {"z": whole["sentence_embedding"].float(), "early": early["sentence_embedding"].float()}
