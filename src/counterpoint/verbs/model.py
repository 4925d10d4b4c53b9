"""Using a finished run: `load` its model, `search` its corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from counterpoint._ops.neighbours import neighbours
from counterpoint.encoders.cross import is_cross_encoder
from counterpoint.encoders.text import TextEncoder, embed
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal
from counterpoint.types import Embeddings


class Hit(NamedTuple):
    """One text that was found and its cosine with the query, in [-1, 1]."""

    score: float
    text: str


@dataclass(frozen=True)
class Model:
    """A trained model and, where the run kept one, its corpus.

    >>> import counterpoint
    >>> model = counterpoint.load("sentence-transformers/all-MiniLM-L6-v2")
    >>> model.encode(["a text", "another"]).shape
    (2, 384)
    """

    encoder: TextEncoder
    run: Path | None

    def encode(self, texts: Sequence[str] | str, *, role: str = "anchor", batch: int = 64) -> np.ndarray:
        """Unit-length embeddings, [n, d]; a role's prompt is put before each text.

        Args:
            texts: one text or many.
            role: "anchor" for queries, "positive" for documents.
            batch: texts at a time.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if role not in ("anchor", "positive"):
            raise Refusal("the role anchor or positive", f"'{role}'")
        return embed(self.encoder, texts, role, batch=batch).numpy()

    def search(self, words: str, k: int = 10) -> list[Hit]:
        """The k texts of the run's corpus nearest to the words.

        Raises:
            Refusal: no corpus, no words, or k below 1.
        """
        if not words.strip():
            raise Refusal("words to search for", "an empty text")
        if k < 1:
            raise Refusal("at least 1 result", k, where="-k")
        corpus = self._corpus()
        vectors = torch.from_numpy(corpus["vector"].to_numpy().copy())
        query = Embeddings.of(torch.from_numpy(self.encode(words)), id=torch.tensor([-1]))
        found = neighbours(query, Embeddings.of(vectors), k)
        texts = corpus["text"]
        return [Hit(float(s), texts[int(i)]) for s, i in zip(found.score[0], found.index[0], strict=True)]

    def _corpus(self) -> pl.DataFrame:
        path = (self.run or Path()) / "corpus.parquet"
        if self.run is None or not path.exists():
            raise Refusal("a run folder with a corpus to search", "none", where=str(self.run or self.encoder.folder))
        try:
            corpus = pl.read_parquet(path, columns=["text", "vector"])
        except (pl.exceptions.PolarsError, OSError) as error:
            raise Refusal("the corpus that a run wrote", str(error).splitlines()[0], where=str(path)) from error
        if corpus.schema["vector"] != pl.Array(pl.Float32, self.encoder.width) or not len(corpus):
            came = f"{len(corpus)} rows of {corpus.schema['vector']}"
            raise Refusal(f"vectors of width {self.encoder.width}", came, where=str(path))
        return corpus


def load(
    path: str | Path,
    *,
    lengths: Mapping[str, int] | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Model:
    """The model of a run folder, a model folder or a name.

    Args:
        path: what `fit` wrote, or whatever `--model` takes.
        lengths: role -> tokens after which texts are cut; a role without one uses the model's own, as
            sentence-transformers does. The run was measured with those in its run.json.
        device: "cpu", "cuda", "mps".
        trust_remote_code: run code that the model's folder carries.

    Raises:
        Refusal: nothing there, or nothing that loads.
    """
    folder = Path(path).expanduser()
    run = folder if (folder / "run.json").exists() else None
    if run is not None and is_cross_encoder(run):
        remedy = "a cross-encoder scores pairs: use it with 'counterpoint mine --filter'"
        raise Refusal("a model that embeds texts", "a cross-encoder", where=str(path), remedy=remedy)
    return Model(load_encoder(str(path), lengths=lengths, device=device, trust_remote_code=trust_remote_code), run)


def search(run: str | Path, words: str, k: int = 10) -> list[Hit]:
    """The k texts of a run's corpus nearest to the words.

    Args:
        run: a run folder.
        words: the query.
        k: how many, at least 1.
    """
    return load(run).search(words, k)
