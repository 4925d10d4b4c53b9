"""Using a finished run: `load` its model, `search` its corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint.data.sources import short
from counterpoint.encoders import mlp
from counterpoint.encoders.cross import is_cross_encoder
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.text import TextEncoder, embed
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal
from counterpoint.types import Embeddings, same_sample


class Hit(NamedTuple):
    """One item that was found and its cosine with the query, in [-1, 1]; of an array the text says its row."""

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

    encoder: Encoder
    run: Path | None

    def encode(
        self, items: Sequence[str] | str | np.ndarray | Tensor, *, role: str = "anchor", batch: int | None = None
    ) -> np.ndarray:
        """Unit-length embeddings, [n, d]; a role's prompt is put before each text.

        Args:
            items: one text or many; one array or many, of the shape that the model was made for.
            role: "anchor" for queries, "positive" for documents.
            batch: items at a time, of which texts are dealt out to passes by their tokens; None: 512 texts, 64 arrays.

        Raises:
            Refusal: another role, words for a model of arrays or the reverse, numbers that are not finite.
        """
        if role not in ("anchor", "positive"):
            raise Refusal("the role anchor or positive", f"'{role}'")
        if isinstance(self.encoder, TextEncoder):
            if isinstance(items, np.ndarray | Tensor) and getattr(items.dtype, "kind", "f") not in "UOS":
                raise Refusal("texts", "numbers", remedy="this model reads texts")
            texts = [items] if isinstance(items, str) else list(items)
            return embed(self.encoder, texts, role, batch=batch).numpy()
        return embed(self.encoder, _arrays(items, self.encoder.shape), role, batch=batch).numpy()

    def search(self, query: str | int | np.ndarray | Tensor, k: int = 10) -> list[Hit]:
        """The k items of the run's corpus nearest to the query.

        Args:
            query: words; of arrays an array, or the number of a row of the corpus (from 1), which is then left out.
            k: how many, at least 1.

        Raises:
            Refusal: no corpus, no words, no such row, or k below 1.
        """
        if k < 1:
            raise Refusal("at least 1 result", k, where="-k")
        if isinstance(self.encoder, TextEncoder) and not (isinstance(query, str) and query.strip()):
            came = "an empty text" if isinstance(query, str) else type(query).__name__
            raise Refusal("words to search for", came)
        corpus = self._corpus()
        vectors = torch.from_numpy(corpus["vector"].to_numpy().copy())
        places = Embeddings.of(vectors)
        if not isinstance(query, int) and (isinstance(self.encoder, TextEncoder) or not isinstance(query, str)):
            asked = Embeddings.of(torch.from_numpy(self.encode(query))[:1], id=torch.tensor([-1]))
        else:
            at = _place(query, corpus, str(self.run))
            asked = Embeddings.of(vectors[at : at + 1], id=torch.tensor([at]))
        found = neighbours(asked, places, k, rule=same_sample)
        texts = corpus["text"]
        hits = zip(found.score[0].tolist(), found.index[0].tolist(), strict=True)
        return [Hit(float(s), texts[int(i)]) for s, i in hits if i >= 0]

    def _corpus(self) -> pl.DataFrame:
        path = (self.run or Path()) / "corpus.parquet"
        if self.run is None or not path.exists():
            raise Refusal("a run folder with a corpus to search", "none", where=str(self.run or "a model alone"))
        try:
            corpus = pl.read_parquet(path)
            corpus = corpus.select("text", "vector", *({"rows"} & set(corpus.columns)))
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
    inner = folder / "model" if run else folder
    if mlp.is_saved(inner):
        if lengths:
            raise Refusal("a model of texts for lengths", "one of arrays", where=str(path))
        return Model(mlp.load(inner, device=device), run)
    if run is not None and is_cross_encoder(run):
        remedy = "a cross-encoder scores pairs: use it with 'counterpoint mine --filter'"
        raise Refusal("a model that embeds texts", "a cross-encoder", where=str(path), remedy=remedy)
    return Model(load_encoder(str(path), lengths=lengths, device=device, trust_remote_code=trust_remote_code), run)


def _arrays(items: object, shape: tuple[int, ...]) -> Tensor:
    """Arrays of a shape, [n, ...], from many of them or one.

    Raises:
        Refusal: words, another shape, numbers that are not finite.
    """
    try:
        rows = torch.as_tensor(np.asarray(items, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise Refusal(
            f"arrays of shape {shape}", "something else", remedy="this model reads arrays of numbers"
        ) from error
    rows = rows[None] if tuple(rows.shape) == shape else rows
    if tuple(rows.shape[1:]) != shape or not rows.ndim:
        raise Refusal(f"arrays of shape {shape}, or one of them", f"the shape {tuple(rows.shape)}")
    bad = (~rows.flatten(1).isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise Refusal("finite numbers", "NaN or infinite ones", where=f"row {int(bad[0]) + 1}")
    return rows


def _place(row: object, corpus: pl.DataFrame, where: str) -> int:
    """Where in the corpus a row of the data is.

    Raises:
        Refusal: words, or a row that is not in the corpus.
    """
    text = str(row).strip()
    rows = corpus["rows"].to_list() if "rows" in corpus.columns else []
    if not text.isdecimal():
        remedy = f"this run is of arrays, which words cannot search; type the number of a row, such as {rows[0]}"
        raise Refusal("the number of a row", f"'{short(text)}'", where=where, remedy=remedy)
    if int(text) not in rows:
        near = min(rows, key=lambda r: abs(r - int(text)))
        remedy = (
            f"it holds {len(rows):,} of the rows, such as {near}; other arrays: counterpoint.load(...).search(array)"
        )
        raise Refusal("a row that the corpus holds", text, where=where, remedy=remedy)
    return rows.index(int(text))


def search(run: str | Path, query: str | int | np.ndarray, k: int = 10) -> list[Hit]:
    """The k items of a run's corpus nearest to the query.

    Args:
        run: a run folder.
        query: words; of arrays an array, or the number of a row of the corpus.
        k: how many, at least 1.
    """
    return load(run).search(query, k)
