"""Saving an encoder. That of a text encoder is a copy of the folder it came from, in which only the weights change."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from counterpoint.encoders import mlp, sparse
from counterpoint.encoders.adapt import merged
from counterpoint.encoders.beside import save_beside
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.masked import FILE
from counterpoint.encoders.text import PROMPT_NAMES, WEIGHTS, TextEncoder

LEFT_OUT = (*WEIGHTS, "onnx", "openvino", ".git", ".cache", "checkpoint-*")


def save(encoder: Encoder, target: Path) -> None:
    """Write a folder that holds the encoder; of texts, one that every sentence-transformers loads with the same vectors.

    Of a text encoder everything but weights is copied from the base folder. Weights are written as safetensors in the
    type that the base had; the base's weights in other formats (.bin, onnx) are left out, since they would be stale. A
    bare backbone gets the files that say how its tokens are pooled. Adapters are folded into the weights. Prompts are
    written where they differ from the base's.

    Args:
        encoder: the model.
        target: a folder that does not exist yet.
    """
    if isinstance(encoder, mlp.MLP):
        mlp.save(encoder, target)
        return
    shutil.copytree(encoder.folder, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    modules = target / "modules.json"
    if not modules.exists():
        _describe_backbone(encoder, target)
    entries = json.loads(modules.read_text(encoding="utf-8"))
    for module, entry in zip(encoder.model, entries, strict=True):
        _write_weights(module, encoder, target / entry["path"])
        own = f"{type(module).__module__}.{type(module).__name__}"
        if own.startswith("counterpoint.") and entry["type"] != own:  # it has become one of ours since it was loaded
            entry["type"] = own
            write_json(modules, entries)
    _write_prompts(encoder, target)
    save_beside(encoder, target)
    if (words := encoder.__dict__.get("words")) is not None:
        _write_beside(words.state_dict(), target / FILE)
    if (codes := encoder.__dict__.get("codes")) is not None:
        _write_beside(sparse.tensors_of(codes), target / sparse.FILE)


def _write_beside(tensors: dict[str, Tensor], file: Path) -> None:
    """A head that is no part of the model."""
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, file)


def _write_weights(module: Any, encoder: TextEncoder, folder: Path) -> None:
    if not any(True for _ in module.parameters()):
        return
    with tempfile.TemporaryDirectory(dir=folder.parent if folder.parent.exists() else None) as scratch:
        if hasattr(module, "auto_model"):
            backbone: Any = merged(module.auto_model)
            state = {name: tensor.to(encoder.stored).cpu() for name, tensor in backbone.state_dict().items()}
            backbone.save_pretrained(scratch, state_dict=state)
        else:
            module.save(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(module, "save_own"):
            module.save_own(folder)
        for pattern in ("*.safetensors", "*.safetensors.index.json"):
            for file in Path(scratch).glob(pattern):
                shutil.move(file, folder / file.name)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def pooling_config(width: int, mode: str, *, include_prompt: bool = True) -> dict[str, Any]:
    """How tokens are pooled, as sentence-transformers has written it since its version 2, which every version reads.

    Args:
        width: of a token's state.
        mode: the name since version 6, such as "mean" or "lasttoken".
        include_prompt: whether tokens of a prompt are pooled.
    """
    names = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    modes = {f"pooling_mode_{key}": mode == name for key, name in zip(keys, names, strict=True)}
    prompt = {} if include_prompt else {"include_prompt": False}
    return {"word_embedding_dimension": width, **modes, **prompt}


def _describe_backbone(encoder: TextEncoder, target: Path) -> None:
    """The files that sentence-transformers has written since its version 2, which every version reads."""
    pooling: Any = encoder.model[1]
    described = pooling_config(encoder.width, pooling.pooling_mode, include_prompt=pooling.include_prompt)
    write_json(target / "1_Pooling" / "config.json", described)
    write_json(target / "sentence_bert_config.json", {"max_seq_length": encoder.longest, "do_lower_case": False})
    tokenizer = target / "tokenizer_config.json"
    described = json.loads(tokenizer.read_text(encoding="utf-8")) if tokenizer.exists() else {}
    if (
        described.get("tokenizer_class") == "TokenizersBackend"
    ):  # the name since transformers 5; both know the one before
        write_json(tokenizer, described | {"tokenizer_class": "PreTrainedTokenizerFast"})
    entries = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    write_json(
        target / "modules.json",
        [
            {"idx": i, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (name, path, kind) in enumerate(entries)
        ],
    )


def _write_prompts(encoder: TextEncoder, target: Path) -> None:
    before = encoder.model.prompts
    changed = {}
    for role, prompt in encoder.prompts.items():
        name = next((n for n in PROMPT_NAMES[role] if before.get(n)), PROMPT_NAMES[role][0])
        if prompt != before.get(name, ""):
            changed[name] = prompt
    if changed:
        path = target / "config_sentence_transformers.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(path, config | {"prompts": config.get("prompts", {}) | changed})
