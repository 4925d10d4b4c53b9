"""A text encoder in another shape: pooled in another way, fewer layers, narrower, or reading in both directions.

Each function leaves the encoder as it is and returns a new one. What it saves is an ordinary model folder.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from counterpoint.encoders.adapt import backbone_of
from counterpoint.encoders.folder import pooling_config, save, write_json
from counterpoint.encoders.fresh import made
from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal
from counterpoint.papers import paper

Pooling = Literal["mean", "cls", "last", "weighted", "max", "latent", "prompt"]
# Ours -> what sentence-transformers calls it.
MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken", "weighted": "weightedmean", "max": "max"}
LATENT = "counterpoint.encoders.pooling.LatentAttention"
AT_MASK = "counterpoint.encoders.pooling.AtMask"
PROMPTED = "counterpoint.encoders.prompted.PromptedTransformer"
MASK = "[MASK]"  # in a template; the token of the model's own tokenizer stands there
TEMPLATE = 'This sentence : "{}" means [MASK].'
KINDS = "sentence_transformers.models."  # where its modules lie by the name that all versions know


def rewritten(encoder: TextEncoder, change: Callable[[Path], None]) -> TextEncoder:
    """The encoder of a copy of its folder in which something was changed.

    Args:
        encoder: what to start from; its weights are those that it has now.
        change: edits the files of a sentence-transformers folder.
    """

    def write(scratch: Path) -> Path:
        folder = scratch / "model"
        save(encoder, folder)
        change(folder)
        return folder

    new = made(write, device=str(encoder.device))
    new.prompts, new.lengths = dict(encoder.prompts), dict(encoder.lengths)
    return new.train(encoder.training)


def _entries(folder: Path) -> list[dict[str, Any]]:
    """What modules.json says."""
    return json.loads((folder / "modules.json").read_text(encoding="utf-8"))


def pooled(
    encoder: TextEncoder,
    pooling: Pooling,
    *,
    include_prompt: bool | None = None,
    latents: int = 512,
    heads: int = 8,
    template: str = TEMPLATE,
) -> TextEncoder:
    """The encoder with another way to make one vector of its token states.

    Args:
        encoder: a transformer with a pooling module.
        pooling: "mean"; "cls", the first token; "last", the last one, for models that read from left to right;
            "weighted", a mean in which the i-th token weighs i (Muennighoff 2022, arXiv:2202.08904); "max" of each
            coordinate; "latent", `encoders.pooling.LatentAttention` with new weights, drawn from torch's generator;
            "prompt", the state at the mask of a template around the text, `encoders.pooling.AtMask`.
        include_prompt: whether the tokens of a prompt are pooled; None: as before.
        latents: rows of the dictionary of "latent".
        heads: of "latent"; they divide the width of a state.
        template: of "prompt": words with one {} for the text and one [MASK]. Texts are cut so that it stays whole.

    Raises:
        Refusal: a model without token states, heads that do not divide its width, a model without a mask token, or a
            template without room for a text.
    """
    backbone = backbone_of(encoder)
    kinds = [type(module).__name__ for module in encoder.model]
    at = next((i for i, kind in enumerate(kinds) if kind in ("Pooling", "LatentAttention", "AtMask")), None)
    if backbone is None or at is None:
        raise Refusal("a transformer with a pooling module", ", ".join(kinds), where="--pooling")
    before: Any = encoder.model[at]
    width = int(getattr(before, "embedding_dimension", 0) or before.width)
    kept = before.include_prompt if include_prompt is None else include_prompt
    if pooling == "latent" and (heads < 1 or width % heads or latents < 1):
        raise Refusal(f"latents, and heads that divide the width {width}", f"{latents} and {heads}", where="--pooling")
    mask = _mask_of(encoder, template) if pooling == "prompt" else 0

    def change(folder: Path) -> None:
        entries = _entries(folder)
        place = folder / entries[at]["path"]
        _put_template(encoder, folder, entries, template if pooling == "prompt" else None)
        for file in place.glob("*"):
            file.unlink()
        if pooling == "latent":
            from counterpoint.encoders.pooling import LatentAttention

            LatentAttention(width, latents, heads, kept).save(str(place))
        elif pooling == "prompt":
            write_json(place / "config.json", {"width": width, "token": mask, "last": _mask_is_last(template)})
        else:
            write_json(place / "config.json", pooling_config(width, MODES[pooling], include_prompt=kept))
        entries[at]["type"] = {"latent": LATENT, "prompt": AT_MASK}.get(pooling, f"{KINDS}Pooling")
        write_json(folder / "modules.json", entries)

    return rewritten(encoder, change)


def _mask_is_last(template: str) -> bool:
    """Whether the mask of a template stands after the text."""
    return template.index(MASK) > template.index("{}")


def _mask_of(encoder: TextEncoder, template: str) -> int:
    """The id of the model's mask token, where the template and the model suit each other."""
    token = getattr(encoder.model.tokenizer, "mask_token_id", None)
    if token is None:
        remedy = "BERT, RoBERTa, MPNet and such have one"
        raise Refusal("a model with a mask token for --pooling prompt", "none", where="--pooling", remedy=remedy)
    if template.count("{}") != 1 or template.count(MASK) != 1:
        raise Refusal(f"a template with one {{}} and one {MASK}", f"'{template}'", where="--pooling")
    return int(token)


def _put_template(encoder: TextEncoder, folder: Path, entries: list[dict[str, Any]], template: str | None) -> None:
    """Have the transformer of a folder put its texts into a template; None: into none."""
    at = next(i for i, module in enumerate(encoder.model) if hasattr(module, "auto_model"))
    if template is not None:
        entries[at]["type"] = PROMPTED
        template = template.replace(MASK, encoder.model.tokenizer.mask_token)
    if entries[at]["type"] == PROMPTED:
        write_json(folder / entries[at]["path"] / "prompts_of_ours.json", {"template": template})


def _backbone_config(encoder: TextEncoder, folder: Path, change: Callable[[Any], None]) -> None:
    """Edit the configuration of the transformer in a folder."""
    at = next(i for i, module in enumerate(encoder.model) if hasattr(module, "auto_model"))
    config = copy.deepcopy(backbone_of(encoder).config)
    change(config)
    config.save_pretrained(folder / _entries(folder)[at]["path"])


@paper(row=266)
def bidirectional(encoder: TextEncoder) -> TextEncoder:
    """A model that was made to read from left to right, with every token seeing every other.

    Args:
        encoder: of a decoder, such as Llama, Qwen or Mistral. One of an encoder stays as it is.

    Raises:
        Refusal: for a model without a transformer, or one of a family whose mask cannot be set.

    Differs:
        The setting is `is_causal` of transformers from 5.2 on; older ones read such a folder from left to right.

    References:
        Lee et al. 2024, arXiv:2405.17428; BehnamGhader et al. 2024 (LLM2Vec), arXiv:2404.05961.
    """
    if backbone_of(encoder) is None:
        raise Refusal("a transformer to read in both directions", "another model")
    new = rewritten(encoder, lambda folder: _backbone_config(encoder, folder, lambda c: setattr(c, "is_causal", False)))
    if _reads_forward(new):
        raise Refusal("a model whose mask can be lifted", type(backbone_of(encoder)).__name__)
    return new


@torch.no_grad()
def _reads_forward(encoder: TextEncoder) -> bool:
    """Whether the first token does not see the last."""
    backbone, training = backbone_of(encoder), encoder.training
    tokens = torch.arange(4, device=encoder.device)[None] % backbone.config.vocab_size
    other = torch.cat([tokens[:, :-1], tokens[:, :1]], 1)
    encoder.eval()
    first, second = (backbone(input_ids=ids).last_hidden_state[0, 0] for ids in (tokens, other))
    encoder.train(training)
    return bool(torch.equal(first, second))


def truncated(encoder: TextEncoder, *, layers: int | None = None, width: int | None = None) -> TextEncoder:
    """The encoder cut off in depth, in width, or both: faster, and with smaller vectors.

    Args:
        encoder: a transformer, or a static table for the width alone.
        layers: how many of the first layers stay, from 1 to all; what comes after the last layer stays too. None: all.
        width: coordinates that stay, the first ones, from 1 to all; scaled to length 1 anew where they were before. None: all.

    Raises:
        Refusal: for numbers out of range, or layers of a model without any.

    Relations:
        `objectives.wrappers.matryoshka` trains models that bear it in width, `matryoshka_layers` in depth.

    References:
        Kusupati et al. 2022, arXiv:2205.13147; Li et al. 2024, arXiv:2402.14776.
    """
    backbone = backbone_of(encoder)
    if width is not None and not 1 <= width <= encoder.width:
        raise Refusal(f"a width from 1 to {encoder.width}", width, where="--width")
    if layers is not None:
        if backbone is None:
            raise Refusal("a transformer for --layers", "a model without layers", where="--layers")
        count = int(backbone.config.num_hidden_layers)
        if not 1 <= layers <= count:
            raise Refusal(f"from 1 to {count} layers", layers, where="--layers")

    def cut(config: Any) -> None:
        config.num_hidden_layers = layers
        for name, value in vars(config).items():  # such as which layers attend to all tokens
            if name in ("layer_types", "mlp_layer_types") and isinstance(value, list):
                setattr(config, name, value[:layers])

    def change(folder: Path) -> None:
        if layers is not None:
            _backbone_config(encoder, folder, cut)
        if width is not None and width < encoder.width:
            _narrow(encoder, folder, width)

    return rewritten(encoder, change)


def _narrow(encoder: TextEncoder, folder: Path, width: int) -> None:
    """Let a folder's model give the first coordinates: a table is cut; any other gets a matrix that selects them."""
    entries = _entries(folder)
    kinds = [type(module).__name__ for module in encoder.model]
    if kinds == ["StaticEmbedding"]:
        file = folder / entries[0]["path"] / "model.safetensors"
        save_file({name: table[:, :width].contiguous() for name, table in load_file(file).items()}, file)
        return
    added: list[tuple[str, dict[str, Any]]] = [("Dense", {"in_features": encoder.width, "out_features": width,
              "bias": False, "activation_function": "torch.nn.modules.linear.Identity"})]  # fmt: skip
    added += [("Normalize", {})] if "Normalize" in kinds else []
    for kind, config in added:
        place = f"{len(entries)}_{kind}"
        entries.append({"idx": len(entries), "name": str(len(entries)), "path": place, "type": f"{KINDS}{kind}"})
        write_json(folder / place / "config.json", config)
        if kind == "Dense":
            save_file({"linear.weight": torch.eye(width, encoder.width)}, folder / place / "model.safetensors")
    write_json(folder / "modules.json", entries)
