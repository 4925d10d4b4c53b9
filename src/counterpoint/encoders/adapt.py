"""What trains beside the frozen weights of a text encoder: adapters, folded into them when it is saved; prefixes, kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib import util
from typing import Any, Literal

from torch import nn

from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal
from counterpoint.papers import paper

# The projections that make queries and values, as families of backbones name them; where one matrix makes queries,
# keys and values together, that one.
QUERY_AND_VALUE = (
    ("query", "value"),  # BERT, RoBERTa, ELECTRA
    ("q_proj", "v_proj"),  # Qwen, Llama, Mistral, Gemma
    ("q", "v"),  # MPNet, T5
    ("q_lin", "v_lin"),  # DistilBERT
    ("query_proj", "value_proj"),  # DeBERTa
    ("Wqkv",),  # ModernBERT, NomicBERT
    ("c_attn",),  # GPT-2
    ("query_key_value",),  # GPT-NeoX, Falcon
    ("qkv_proj",),  # Phi-3, GTE
)
Targets = Literal["attention", "linear"]


@paper(reference="Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685, 2021")
def lora(
    encoder: TextEncoder, *, rank: int = 8, alpha: float | None = None, targets: Targets = "attention"
) -> TextEncoder:
    """LoRA: every chosen matrix W of the backbone acts as W + (alpha / rank) B A; A and B train, all else is frozen.

    B starts at 0, so the encoder gives the vectors that it gave before. `merge` and `encoders.folder.save` fold the
    products into W, so that what is saved is as large and as fast as the model was.

    Args:
        encoder: changed in place.
        rank: r, rows of A and columns of B; from 1 to the smallest side of a chosen matrix.
        alpha: scale of the adapters' contribution, > 0; None: twice the rank, as the authors train RoBERTa.
        targets: "attention" adapts the projections to queries and values, as the paper does; "linear" every linear layer
            of the backbone but its pooler.

    Returns:
        The encoder.

    Raises:
        Refusal: peft is not installed, no matrix to adapt is found, or the rank does not fit.

    Differs:
        Where one matrix makes queries, keys and values, keys are adapted too. No dropout before A.

    References:
        Hu et al. 2021, arXiv:2106.09685; alpha from the authors' examples/NLU/roberta_base_mnli.sh. A drawn as in peft.
    """
    if util.find_spec("peft") is None:
        raise Refusal("the package peft for --lora", "none", remedy="pip install 'counterpoint[peft]'")
    backbone = backbone_of(encoder)
    chosen = {} if backbone is None else matrices(backbone, targets)
    if backbone is None or not chosen:
        other = "its layers have other names; in Python, lora(encoder, targets='linear') adapts every one"
        remedy = other if backbone is not None and targets == "attention" else "train it without adapters"
        raise Refusal("linear layers to adapt", "none that are known", where="--lora", remedy=remedy)
    smallest = min(min(module.weight.shape) for module in chosen.values())
    if not 1 <= rank <= smallest:
        raise Refusal(f"a rank from 1 to {smallest}, the smallest side of a matrix", rank, where="--lora")
    alpha = 2.0 * rank if alpha is None else alpha
    if not alpha > 0:
        raise Refusal("an alpha above 0", alpha, where="--lora")
    from peft import LoraConfig, inject_adapter_in_model

    encoder.requires_grad_(False)
    transposed = any(not isinstance(module, nn.Linear) for module in chosen.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # it is divided by the rank; any number does
        target_modules=list(chosen),
        lora_dropout=0.0,
        fan_in_fan_out=transposed,
    )
    inject_adapter_in_model(config, backbone)
    return encoder


@paper(row=119)
def prefixed(encoder: TextEncoder, *, tokens: int = 16) -> TextEncoder:
    """P-tuning v2: trained keys and values stand before those of the text in every layer; all else is frozen.

    The model that is saved has its prefix, and needs this package to be loaded. One that has a prefix keeps it.

    Args:
        encoder: changed in place.
        tokens: of a new prefix, at least 1; 16 in the authors' run of BERT, 10 in that of RoBERTa.

    Returns:
        The encoder.

    Raises:
        Refusal: fewer than one token, or a model whose attention takes no prefix.

    Differs:
        A prefix starts as in the authors' code, from small random numbers: what every text pays attention to from then on,
        and so its vector, is another from the start. No start leaves vectors as they are and lets all of it learn: keys
        without weight, or values behind a closed gate, have gradient 0.

    References:
        Liu et al. 2021 (P-Tuning v2), arXiv:2110.07602; `encoders.prompted.Prefix` for the formula.
    """
    if tokens < 1:
        raise Refusal("at least 1 token in a prefix", tokens)
    from counterpoint.encoders.prompted import PromptedTransformer, Transformer

    module: Any = next((m for m in encoder.model if hasattr(m, "auto_model")), None)
    if not isinstance(module, Transformer):
        raise Refusal("a transformer for a prefix", "another model")
    if type(module) is Transformer:
        module.__class__ = PromptedTransformer  # the same module, with more to it
    if not isinstance(module, PromptedTransformer):
        raise Refusal("a transformer of sentence-transformers for a prefix", type(module).__name__)
    encoder.requires_grad_(False)
    prefix = module.soft if module.soft is not None else module.give_prefix(tokens)
    prefix.requires_grad_(True)
    return encoder


def backbone_of(encoder: TextEncoder) -> Any:
    """The transformers model inside a text encoder; None for static embeddings and other models without one."""
    return next((module.auto_model for module in encoder.model if hasattr(module, "auto_model")), None)


def matrices(backbone: nn.Module, targets: Targets) -> dict[str, Any]:
    """The modules to adapt, by name: linear layers, and GPT-2's transposed ones.

    >>> attention = nn.ModuleDict({"query": nn.Linear(2, 2), "key": nn.Linear(2, 2), "value": nn.Linear(2, 2)})
    >>> list(matrices(nn.ModuleDict({"attention": attention, "pooler": nn.Linear(2, 2)}), "attention"))
    ['attention.query', 'attention.value']
    """
    kinds = ("Linear", "Conv1D")  # by name, since the latter lives in transformers
    found = {
        name: module
        for name, module in backbone.named_modules()
        if type(module).__name__ in kinds and "pooler" not in name.split(".")
    }
    if targets == "linear":
        return found
    for family in QUERY_AND_VALUE:
        chosen = {name: module for name, module in found.items() if name.split(".")[-1] in family}
        if {name.split(".")[-1] for name in chosen} == set(family):
            return chosen
    return {}


def adapters(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The adapted layers of a module, by name."""
    return ((name, m) for name, m in module.named_modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A"))


def merge(module: nn.Module) -> nn.Module:
    """Fold adapters into the weights beside them, in place; a module without adapters stays as it is.

    Returns:
        The module, with the layers, names and vectors of an ordinary one.
    """
    for name, layer in list(adapters(module)):
        layer.merge()
        above, _, last = name.rpartition(".")
        setattr(module.get_submodule(above), last, layer.base_layer)
    return module


def merged(module: nn.Module) -> nn.Module:
    """The module with its adapters folded in: itself where it has none, else a copy."""
    return merge(copy.deepcopy(module)) if any(True for _ in adapters(module)) else module
