"""Recipes for models that are cut off where they are used: in width, in depth, in both, or to a few units of a sparse code."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.layers import embeddings_at, stack_of
from counterpoint.encoders.sparse import SparseCode, keep_codes, scaled
from counterpoint.errors import Refusal
from counterpoint.objectives import sparse, wrappers
from counterpoint.objectives.softmax import Directions
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import encode_items, encoder_of, pairs
from counterpoint.training.method import Contrast, Method
from counterpoint.training.method import replace as replaced
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.draws import uniform
from counterpoint.views.items import anchors_and_candidates

__all__ = ["csr", "matryoshka", "two_dimensional"]
KIND = "text"
READ = {"csr": "encoders.sparse.embed_sparse"}
NEEDS = dict.fromkeys(__all__, ("anchor", "positive"))
NARROWEST = 8  # coordinates of the smallest prefix, as in the paper's experiments
AT = "layer "  # the fact that holds the embeddings of an early layer is called "layer 3"


def halves(width: int) -> tuple[int, ...]:
    """A width and its halves, down to 8: the nesting of Kusupati et al. 2022.

    >>> halves(384), halves(4)
    ((384, 192, 96, 48, 24, 12), (4,))
    """
    found = [width]
    while found[-1] // 2 >= NARROWEST:
        found.append(found[-1] // 2)
    return tuple(found)


def widths_of(encoder: Encoder, widths: tuple[int, ...]) -> tuple[int, ...]:
    """The widths that were asked for, or the encoder's own and its halves.

    Raises:
        Refusal: for widths out of range or twice the same.
    """
    widths = tuple(widths) or halves(int(encoder.width))
    if len(set(widths)) != len(widths) or not all(type(w) is int and 1 <= w <= encoder.width for w in widths):
        came = ", ".join(map(str, widths))
        raise Refusal(f"different widths from 1 to {encoder.width}", came, where="--set widths=...")
    return widths


@paper(reference="Kusupati et al.: Matryoshka Representation Learning, arXiv:2205.13147, 2022")
def matryoshka(
    encoder: Encoder,
    train: Rows,
    *,
    widths: tuple[int, ...] = (),
    temperature: float = 0.05,
    directions: Directions = "both",
) -> Method:
    """Labelled pairs at several widths at once, so that vectors may be cut off to their first coordinates afterwards.

    `counterpoint truncate RUN OUT --width 64` does it.

    Args:
        encoder: encodes both sides.
        train: rows with anchor and positive.
        widths: numbers of coordinates, such as [384, 64]; none: the encoder's own and its halves down to 8. Have the
            encoder's own among them, or the rest is not trained.
        temperature: divides the cosine; > 0.
        directions: "both" also lets each candidate pick its anchors.

    Raises:
        Refusal: for widths that the encoder does not have.

    Differs:
        Contrast of pairs in place of classification.

    Relations:
        With the encoder's own width alone it is `pairs`.

    References:
        Kusupati et al. 2022, arXiv:2205.13147.
    """
    method = pairs(encoder, train, temperature=temperature, directions=directions)
    loss = cast(Contrast, method.objective).loss
    return replaced(method, objective=wrappers.matryoshka(loss, widths_of(encoder, widths)))


@paper(row=284)
def two_dimensional(
    encoder: Encoder,
    train: Rows,
    *,
    widths: tuple[int, ...] = (),
    temperature: float = 0.05,
    directions: Directions = "both",
    early: float = 1.0,
    distil: float = 1.0,
    distil_temperature: float = 0.3,
) -> Method:
    """2D Matryoshka: labelled pairs at several widths, by all layers and by the first few, of which a step draws how many.

    `counterpoint truncate RUN OUT --layers 3 --width 64` cuts the model off in both directions.

    Args:
        encoder: a transformer with at least two layers.
        train: rows with anchor and positive.
        widths: as of `matryoshka`.
        temperature: divides the cosine; > 0.
        directions: "both" also lets each candidate pick its anchors.
        early: weight of the loss of the early layer, at least 0.
        distil: weight of the divergence of its embeddings from the last layer's, at least 0.
        distil_temperature: of the two softmaxes of that divergence; > 0.

    Raises:
        Refusal: for a model without two layers, or widths that it does not have.

    Differs:
        All widths in each step, where the paper draws one. Contrast of pairs in place of AnglE's loss.

    Relations:
        Without weight for the early layer and the divergence it is `matryoshka`.

    References:
        Li et al. 2024, arXiv:2402.14776; the numbers as in AdaptiveLayerLoss of sentence-transformers.
    """
    encoder = texts_of(encoder, "two_dimensional")
    _, count = stack_of(encoder)
    if count < 2:
        raise Refusal("a model of at least 2 layers for two_dimensional", count)
    method = matryoshka(encoder, train, widths=widths, temperature=temperature, directions=directions)
    contrast = cast(Contrast, method.objective)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        drawn = 1 + int(uniform(generator, torch.zeros(1, dtype=torch.int64), 1) * (count - 1))
        return {name: {**view, "layer": drawn} for name, view in method.views(batch, generator).items()}

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        (layer,) = {fact for rows in sets.values() for fact in rows.facts if fact.startswith(AT)}
        loss = wrappers.matryoshka_layers(contrast.loss, {layer: early}, distil=distil, temperature=distil_temperature)
        return replace(contrast, loss=loss)(modules, sets)

    return replace(method, views=views, encode=encode_early, objective=objective)


def encode_early(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each batch by all layers, and by the first few as the fact "layer 3", or how many they are."""
    found = {}
    for name, batch in views.items():
        layer = int(batch["layer"])

        def one(model: Any, features: dict[str, Any], layer: int = layer) -> dict[str, Tensor]:
            return embeddings_at(model, features, layer)

        rows = modules["encoder"].read(batch["text"], batch["role"], one=one)  # type: ignore[operator]
        found[name] = Embeddings.of(
            rows["z"], id=batch["id"], view=batch.get("view", 0), facts={f"{AT}{layer}": rows["early"]}
        )
    return found


@paper(row=132)
def csr(
    encoder: Encoder,
    train: Rows,
    *,
    units: int = 4,
    k: int = 32,
    temperature: float = 0.2,
    dead: int = 30,
    dead_k: int = 64,
) -> Method:
    """Sparse codes of a frozen model: a head that keeps few of many units, gives back the vector, and tells pairs apart.

    The model itself stays as it is, and so does what `fit` measures of it. The head is saved beside it, in
    codes.safetensors; `encoders.sparse.embed_sparse(counterpoint.load(run).encoder, texts, k=16)` gives the codes.

    Args:
        encoder: stays as it is; its dropout is set to 0.
        train: rows with anchor and positive.
        units: of a code, as a multiple of the encoder's width; at least 1.
        k: units of a code that may be above 0; at most all.
        temperature: divides the cosine of codes; > 0.
        dead: steps after which an unused unit is dead.
        dead_k: dead units that write what a code leaves over; at most all units count.

    Raises:
        Refusal: for numbers out of range.

    Differs:
        Vectors come in at length sqrt(d), where the authors take them as they are. k is 32 for any width. Contrast of
        labelled pairs, as in the authors' code for two kinds of data; what else the data pair does not repel.

    References:
        Wen et al. 2025, arXiv:2503.01776; github.com/neilwen987/CSR_Adaptive_Rep.
    """
    encoder = texts_of(encoder, "csr")
    most = units * encoder.width
    if units < 1 or not k >= 1 or dead_k < 1:
        raise Refusal("units, k and dead_k of at least 1", f"{units}, {k} and {dead_k}", where="--set")
    head = SparseCode(encoder.width, most, k=min(k, most), dead=dead, dead_k=min(dead_k, most)).to(encoder.device)
    encoder.requires_grad_(False)
    encoder.set_dropout(0.0)
    keep_codes(encoder, head)
    loss = partial(sparse.csr, temperature=temperature)
    objective = Contrast(("anchor",), ("candidate",), listed(train.relation), loss)

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        code = cast(SparseCode, modules["code"])
        with torch.no_grad():
            plain = {name: replace(rows, z=scaled(rows.z)) for name, rows in encode_items(modules, views).items()}
        return {
            name: replace(rows, z=code(rows.z), facts={**rows.facts, **code.facts(rows.z)})
            for name, rows in plain.items()
        }

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        cast(SparseCode, modules["code"]).observe(torch.cat([rows.z for rows in sets.values()]))

    modules = nn.ModuleDict({"encoder": encoder, "code": head})
    return Method(modules, anchors_and_candidates(negatives=0), encode, objective, encoder_of, after)
