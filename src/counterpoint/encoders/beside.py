"""Parts that are kept beside a text encoder: what embeds texts has no use for them, but they are saved and found with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from counterpoint.encoders.text import TextEncoder

Make = Callable[[Mapping[str, Tensor]], nn.Module]


def has_beside(encoder: TextEncoder, name: str) -> bool:
    """Whether the encoder has a part of this name, or was saved with one."""
    return name in encoder.__dict__.get("beside", {}) or (encoder.folder / f"{name}.safetensors").exists()


def beside(encoder: TextEncoder, name: str, make: Make) -> nn.Module:
    """The part of a name: the one that the encoder has, or was saved with; else a new one.

    Args:
        encoder: what it stands beside; `folder.save` writes it too.
        name: of the part, and of its file.
        make: makes the part for some weights (their shapes are its sizes); {}: a new one.
    """
    parts = encoder.__dict__.setdefault("beside", {})
    if name not in parts:
        file = encoder.folder / f"{name}.safetensors"
        stored = load_file(file) if file.exists() else {}
        part = make(stored)
        if stored:
            part.load_state_dict(stored)
        parts[name] = part.to(encoder.device)
    return parts[name]


def save_beside(encoder: TextEncoder, target: Path) -> None:
    """Write all parts that stand beside an encoder into its new folder."""
    for name, part in encoder.__dict__.get("beside", {}).items():
        state = {key: tensor.detach().contiguous().cpu() for key, tensor in part.state_dict().items()}
        save_file(state, target / f"{name}.safetensors")
