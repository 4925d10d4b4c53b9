"""Our models in MTEB: any of its tasks of texts, without a line of its kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.encoders.cross import CrossEncoder, is_cross_encoder, judge_pairs, load_cross
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import TextEncoder, embed, load
from counterpoint.errors import Refusal

# What mteb asks of a model and a folder of weights does not say.
UNSAID = (
    "revision", "release_date", "languages", "license", "open_weights", "max_tokens", "public_training_code",
    "public_training_data", "training_datasets",
)  # fmt: skip
Batches = Iterable[Mapping[str, Sequence[str]]]  # of mteb's data loader


def as_mteb(model: str | Path | Encoder | CrossEncoder, *, precision: str = "fp32", **settings: Any) -> Any:
    """A model that `mteb.evaluate` takes: embeddings by their roles, or scores of a cross-encoder.

    Queries are read as anchors and documents as positives, each with its own prompt and length; the texts of all other tasks
    as anchors. Similarity is the cosine.

    Args:
        model: whatever `--model` of `fit` takes, a run folder, or an encoder that is loaded.
        precision: "fp32" or "bf16" matrix products.
        settings: of the encoder, where it is to be loaded: prompts, lengths, device, trust_remote_code.

    Returns:
        An object of mteb's EncoderProtocol, or CrossEncoderProtocol.

    Raises:
        Refusal: mteb is not there, no such model, or one of arrays.

    References:
        Muennighoff, Tazi, Magne, Reimers 2023, MTEB, arXiv:2210.07316.

    >>> as_mteb("sentence-transformers/all-MiniLM-L6-v2").mteb_model_meta.embed_dim
    384
    """
    try:
        import mteb  # noqa: F401
    except ImportError as error:
        raise Refusal("mteb", "no such package", remedy="pip install 'counterpoint[eval]'") from error
    name = str(model) if isinstance(model, str | Path) else "model"
    if isinstance(model, str | Path):
        model = load_cross(model, **settings) if is_cross_encoder(model) else load(model, **settings)
    if isinstance(model, CrossEncoder):
        return OfPairs(model, name, precision)
    if not isinstance(model, TextEncoder):
        raise Refusal("a model of texts for mteb", type(model).__name__, where=name)
    return OfTexts(model, name, precision)


class OfTexts:
    """What mteb calls an encoder; made by `as_mteb`."""

    def __init__(self, encoder: TextEncoder, name: str, precision: str) -> None:
        self.encoder, self.precision = encoder, precision
        self.mteb_model_meta = _meta(encoder, name, int(encoder.width), "dense")

    def encode(self, inputs: Batches, *, prompt_type: Any = None, **others: Any) -> np.ndarray:
        """Unit-length embeddings, [n, d], in the order of the texts."""
        role = "positive" if prompt_type is not None and prompt_type.value == "document" else "anchor"
        batch = others.get("batch_size")
        return embed(self.encoder, texts_of(inputs), role, batch=batch, precision=self.precision).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """The cosine of each with each, [n, m]."""
        return np.atleast_2d(_unit(embeddings1)) @ np.atleast_2d(_unit(embeddings2)).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """The cosine of each pair, [n]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)


class OfPairs:
    """What mteb calls a cross-encoder; made by `as_mteb`."""

    def __init__(self, encoder: CrossEncoder, name: str, precision: str) -> None:
        self.encoder, self.precision = encoder, precision
        self.mteb_model_meta = _meta(encoder, name, None, "cross-encoder")

    def predict(self, inputs1: Batches, inputs2: Batches, **_: Any) -> np.ndarray:
        """The score of each pair, [n]."""
        left, right = texts_of(inputs1), texts_of(inputs2)
        return judge_pairs(self.encoder, left, right, precision=self.precision).numpy()


def texts_of(inputs: Batches) -> list[str]:
    """The texts of mteb's batches; a document's title is already part of its text.

    >>> texts_of([{"text": ["a", "b"]}, {"text": ["c"]}])
    ['a', 'b', 'c']

    Raises:
        Refusal: batches of images or sounds.
    """
    found: list[str] = []
    for batch in inputs:
        if "text" not in batch:
            raise Refusal("a task of texts", f"one of {', '.join(batch)}", where="mteb")
        found += batch["text"]
    return found


def _unit(vectors: Any) -> np.ndarray:
    known = np.asarray(vectors, dtype=np.float32)
    return known / np.maximum(np.linalg.norm(known, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def _meta(encoder: TextEncoder | CrossEncoder, name: str, width: int | None, kind: Any) -> Any:
    """What mteb writes beside its results; it wants a name of the form organization/model."""
    from mteb.models import ModelMeta

    weights = list(encoder.parameters())
    last = re.sub(r"[^\w.-]+", "-", Path(name).name) or "model"
    known: dict[str, Any] = dict.fromkeys(UNSAID)
    known |= {
        "loader": None,
        "name": f"counterpoint/{last}",
        "n_parameters": sum(p.numel() for p in weights),
        "memory_usage_mb": sum(p.numel() * p.element_size() for p in weights) / 2**20,
        "embed_dim": width,
        "framework": ["PyTorch"],
        "similarity_fn_name": "cosine",
        "use_instructions": any(encoder.prompts.values()),
        "model_type": [kind],
    }
    return ModelMeta(**known)
