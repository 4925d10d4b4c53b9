"""What differs from one kind of data to another: which encoder, and what else is measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from counterpoint._ops.unit import to_unit
from counterpoint.data.arrays import Arrays
from counterpoint.data.batches import Rows
from counterpoint.encoders import fresh, mlp, static
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.mlp import MLP
from counterpoint.encoders.reshaped import pooled
from counterpoint.encoders.sizes import parsed
from counterpoint.encoders.text import TextEncoder
from counterpoint.encoders.text import load as load_text
from counterpoint.errors import Refusal
from counterpoint.verbs.settings import Run

Embed = Callable[[Sequence[str], str], Tensor]
FITTED = 5_000  # rows that principal components are taken from; more would cost time and change little
RAW = "the numbers themselves, standardised"


def load_encoder(run: Run, rows: Rows, device: str) -> Encoder:
    """The encoder that a run starts from.

    Raises:
        Refusal: no such model, one of another kind of data, or settings that its kind does not have.
    """
    if not isinstance(rows.items, Arrays):
        if mlp.is_saved(_folder(str(run.model))):
            raise Refusal("a model of texts", "one of arrays", where=f"--model {run.model}")
        return _pooled(_of_texts(run, rows, device), run)
    for flag, given in (("--prompt", run.prompts), ("--length", run.lengths), ("--pooling", run.pooling)):
        if given:
            raise Refusal(f"texts for {flag}", "arrays", where=flag, remedy="leave the flag out")
    if is_new(run):
        torch.manual_seed(run.seed)
        shape = rows.items.shape
        return MLP(shape, parsed(str(run.model), mlp.Sizes())).fitted(rows.items.take(known(rows))).to(device)
    folder = _folder(str(run.model))
    if not mlp.is_saved(folder):
        remedy = "leave the flag out, or name 'mlp', 'mlp:depth=2,hidden=64', or a run that was trained on arrays"
        raise Refusal("a model of arrays", f"'{run.model}'", where="--model", remedy=remedy)
    encoder = mlp.load(folder, device=device)
    encoder.standardised(rows.items.take(rows.anchors[:1]))  # refuses another shape
    return encoder


def _of_texts(run: Run, rows: Rows, device: str) -> TextEncoder:
    if is_new(run):
        return new_text(run, known(rows), device)
    code = run.trust_remote_code
    return load_text(str(run.model), prompts=run.prompts, lengths=run.lengths, device=device, trust_remote_code=code)


def _pooled(encoder: TextEncoder, run: Run) -> TextEncoder:
    """The encoder with the pooling that was asked for."""
    if run.pooling is None:
        return encoder
    torch.manual_seed(run.seed)  # of latent attention
    return pooled(encoder, run.pooling)  # type: ignore[arg-type]


def is_new(run: Run) -> bool:
    """Whether the encoder starts from nothing."""
    return str(run.model).partition(":")[0] in (mlp.NAME, fresh.NAME, static.NAME)


def new_text(run: Run, texts: Sequence[str], device: str) -> TextEncoder:
    """An encoder of texts that starts from nothing, with a tokenizer of the training texts."""
    name = str(run.model).partition(":")[0]
    if name == mlp.NAME:
        raise Refusal("a model of texts", "one of arrays", where=f"--model {run.model}")
    if name == static.NAME:
        encoder = static.fresh_static(texts, parsed(str(run.model), static.Sizes()), seed=run.seed, device=device)
    else:
        encoder = fresh.fresh(texts, parsed(str(run.model), fresh.Sizes()), seed=run.seed, device=device)
    encoder.prompts |= run.prompts
    encoder.lengths |= run.lengths
    return encoder


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    return path / "model" if (path / "run.json").exists() else path


def known(rows: Rows) -> list[str]:
    """All keys of the rows, each once."""
    cells = [*rows.positives, *rows.negatives]
    return list(dict.fromkeys([*rows.anchors, *(key for cell in cells for key in cell)]))


def raw_features(encoder: MLP, items: Arrays) -> Embed:
    """The numbers themselves as embeddings: what one has without any training."""
    return lambda keys, _: to_unit(encoder.standardised(items.take(keys)).cpu())


def principal_components(encoder: MLP, rows: Rows, items: Arrays, *, seed: int) -> Embed | None:
    """The numbers in as many principal components of the training rows as the encoder has dimensions.

    None where there are no more numbers than that: all components keep every angle of the numbers themselves.
    """
    from sklearn.decomposition import PCA

    keys = known(rows)
    width = min(encoder.width, len(keys) - 1)
    if width >= len(encoder.mean):  # type: ignore[arg-type]
        return None
    picked = np.random.default_rng(seed).permutation(len(keys))[:FITTED]
    train = encoder.standardised(items.take([keys[i] for i in picked])).cpu().numpy()
    fitted = PCA(width, random_state=seed).fit(train)

    def embed(keys: Sequence[str], _role: str) -> Tensor:
        numbers = fitted.transform(encoder.standardised(items.take(keys)).cpu().numpy())
        return to_unit(torch.from_numpy(numbers.astype(np.float32)))

    return embed
