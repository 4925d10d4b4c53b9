"""`distil` and `truncate`: a smaller model of texts out of a large one, without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from counterpoint.data.sources import read
from counterpoint.encoders.folder import save
from counterpoint.encoders.reshaped import truncated
from counterpoint.encoders.static import distil as distil_encoder
from counterpoint.encoders.text import TextEncoder
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal
from counterpoint.training.machine import pick_device
from counterpoint.verbs import folder
from counterpoint.verbs.console import Screen


def distil(
    model: str | Path,
    out: str | Path,
    *,
    width: int = 256,
    texts: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a static table of tokens, made from a model of texts: a folder for `--model` and for sentence-transformers.

    Args:
        model: whatever `--model` of `fit` takes.
        out: a folder that does not exist yet.
        width: dimensions, at least 1, and at most the model's own.
        texts: a data file; how common words are is counted in all its columns of text. None: taken from the vocabulary.
        device: "auto", "cuda", "mps" or "cpu".
        trust_remote_code: run code that the model's folder carries.
        quiet: print nothing.

    Returns:
        The folder.

    Raises:
        Refusal: for input that cannot be used; nothing is left behind.
    """
    known = None if texts is None else _words_of(texts)
    screen = Screen(quiet=quiet)

    def make(encoder: TextEncoder) -> TextEncoder:
        with screen.stage("encoding each token"):
            return distil_encoder(encoder, known, width=width)

    return _written(model, out, make, device=device, trust_remote_code=trust_remote_code, screen=screen)


def truncate(
    model: str | Path,
    out: str | Path,
    *,
    layers: int | None = None,
    width: int | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a model of texts with fewer layers, narrower vectors, or both.

    Args:
        model: whatever `--model` of `fit` takes.
        out: a folder that does not exist yet.
        layers: how many of the first layers stay; None: all.
        width: how many of the first coordinates stay; None: all.
        device: "auto", "cuda", "mps" or "cpu".
        trust_remote_code: run code that the model's folder carries.
        quiet: print nothing.

    Returns:
        The folder.

    Raises:
        Refusal: for numbers out of range, or neither; nothing is left behind.
    """
    if layers is None and width is None:
        raise Refusal("--layers, --width, or both", "neither")
    return _written(
        model, out, lambda encoder: truncated(encoder, layers=layers, width=width), device=device,
        trust_remote_code=trust_remote_code, screen=Screen(quiet=quiet),
    )  # fmt: skip


def _written(
    model: str | Path,
    out: str | Path,
    make: Callable[[TextEncoder], TextEncoder],
    *,
    device: str,
    trust_remote_code: bool,
    screen: Screen,
) -> Path:
    """What is made of a model, in a folder that is whole or not there."""
    place = Path(out).expanduser()
    if place.exists() or place.is_symlink():
        raise Refusal("a new folder", "one that exists", where=str(out))
    with screen.stage("loading the model"):
        encoder = load_encoder(str(model), device=pick_device(device), trust_remote_code=trust_remote_code)
    made = make(encoder)
    weights = sum(p.numel() * p.element_size() for p in made.parameters())
    with folder.writing(place, needed=2 * weights) as scratch:
        save(made, scratch / "model")
        for path in (scratch / "model").iterdir():
            path.replace(scratch / path.name)
        (scratch / "model").rmdir()
    before = sum(p.numel() for p in encoder.parameters())
    after = sum(p.numel() for p in made.parameters())
    screen.say(f"{place}: {after:,} weights of {before:,}, vectors of {made.width} in place of {encoder.width}")
    return place


def _words_of(path: str | Path) -> list[str]:
    """All cells of text in a data file, each once.

    Raises:
        Refusal: for a file without any.
    """
    frame = read(path)
    columns = [name for name, kind in frame.schema.items() if kind == pl.String]
    cells = [cell for name in columns for cell in frame[name].drop_nulls().unique(maintain_order=True) if cell.strip()]
    if not cells:
        raise Refusal("a column of text", f"columns {', '.join(frame.columns)}", where=f"--texts {Path(path).name}")
    return cells
