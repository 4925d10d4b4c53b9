"""Edits of a text where it enters a transformer: tokens or coordinates cut off, positions shuffled, a step against the model.

Each is a function for `TextEncoder.read`: of a model and the features of a pass, with the random numbers "draws" [n, l] of
the texts, one for each token or coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from counterpoint._ops.hashed import hashed_uniform
from counterpoint.errors import Refusal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from counterpoint.encoders.text import TextEncoder

One = Callable[["SentenceTransformer", dict[str, Any]], dict[str, Tensor]]
# The matrix of a pass, which of its rows are tokens, the draws of the texts -> the matrix that the layers get.
Edit = Callable[[Float[Tensor, "n t d"], Bool[Tensor, "n t"], Float[Tensor, "n l"]], Float[Tensor, "n t d"]]
BITS = 24  # of a draw, which fp32 holds


def backbone_in(model: SentenceTransformer) -> Any:
    """The transformers model inside a text model.

    Raises:
        Refusal: for a model that is no transformer, such as static embeddings.
    """
    found = next((module.auto_model for module in model if hasattr(module, "auto_model")), None)
    if found is None:
        raise Refusal("a transformer, whose inside can be read", "another model")
    return found


def entrance(model: SentenceTransformer) -> nn.Module:
    """The layer of a text model whose output is the matrix of token embeddings, with positions where it adds them there."""
    backbone = backbone_in(model)
    return getattr(backbone, "embeddings", None) or backbone.get_input_embeddings()


def draws_for(encoder: TextEncoder) -> int:
    """How many random numbers a text needs: one for each token that it may have, or for each coordinate of a token."""
    width = backbone_in(encoder.model).get_input_embeddings().weight.shape[1]
    return max(width, encoder.longest, *encoder.lengths.values())


@contextmanager
def entering(model: SentenceTransformer, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the layers of a model get a changed matrix of token embeddings."""
    hook = entrance(model).register_forward_hook(lambda _layer, _inputs, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def changed(edit: Edit) -> One:
    """The embeddings of texts whose token embeddings are edited on their way in.

    Raises:
        Refusal: for a backbone whose matrix of a pass is not [texts, tokens, coordinates].
    """

    def one(model: SentenceTransformer, features: dict[str, Any]) -> dict[str, Tensor]:
        draws, mask = features.pop("draws"), features["attention_mask"].bool()

        def change(states: Tensor) -> Tensor:
            if states.shape[:2] != mask.shape:
                raise Refusal(f"token embeddings of shape {list(mask.shape)} and a width", list(states.shape))
            return edit(states, mask, draws.to(states.device))

        with entering(model, change):
            return {"z": model(features)["sentence_embedding"].float()}

    return one


def unchanged(model: SentenceTransformer, features: dict[str, Any]) -> dict[str, Tensor]:
    """The embeddings of texts as they are; the draws go unused."""
    return {"z": model({k: v for k, v in features.items() if k != "draws"})["sentence_embedding"].float()}


def feature_cutoff(rate: float) -> Edit:
    """Some coordinates are 0 in all tokens of a text: floor(rate * d) of them, others for each text.

    Args:
        rate: share of the coordinates, in [0, 1).

    References:
        Shen et al. 2020, arXiv:2009.13818; Yan et al. 2021, arXiv:2105.11741 (ConSERT), 0.2 there.

    >>> states, mask = torch.ones(1, 2, 4), torch.ones(1, 2).bool()
    >>> feature_cutoff(0.5)(states, mask, torch.tensor([[0.3, 0.1, 0.9, 0.2]]))[0].tolist()
    [[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    """
    _share(rate)

    def edit(states: Tensor, _mask: Tensor, draws: Tensor) -> Tensor:
        width = states.shape[2]
        kept = _ranks(draws[:, :width]) >= int(rate * width)
        return states * kept[:, None, :]

    return edit


def token_cutoff(rate: float) -> Edit:
    """Some tokens of a text are 0 in all coordinates: floor(rate * tokens) of them.

    Args:
        rate: share of the tokens, special ones among them, in [0, 1).

    References:
        Shen et al. 2020, arXiv:2009.13818; Yan et al. 2021, arXiv:2105.11741 (ConSERT), 0.15 there.

    >>> states, mask = torch.ones(1, 4, 1), torch.tensor([[True, True, True, False]])
    >>> token_cutoff(0.4)(states, mask, torch.tensor([[0.3, 0.1, 0.9, 0.0]]))[0, :, 0].tolist()
    [1.0, 0.0, 1.0, 1.0]
    """
    _share(rate)

    def edit(states: Tensor, mask: Tensor, draws: Tensor) -> Tensor:
        ranks = _ranks(torch.where(mask, draws[:, : mask.shape[1]], 2.0))
        cut = mask & (ranks < (rate * mask.sum(1, keepdim=True)).floor())
        return states * ~cut[:, :, None]

    return edit


def element_cutoff(rate: float) -> Edit:
    """Each number of the matrix is by chance 0; unlike in a dropout layer the others stay as they are.

    Args:
        rate: how likely, in [0, 1).

    References:
        Yan et al. 2021, arXiv:2105.11741 (ConSERT), its "dropout"; 0.2 there.
    """
    _share(rate)

    def edit(states: Tensor, _mask: Tensor, draws: Tensor) -> Tensor:
        n, t, d = states.shape
        keys = (draws[:, :1] * 2**BITS).long()  # a text's own, so that neither its batch nor its padding matters
        kept = hashed_uniform(0, keys, torch.arange(t * d)).view(n, t, d) >= rate
        return states * kept.to(states.device)

    return edit


def shuffled(model: SentenceTransformer, features: dict[str, Any]) -> dict[str, Tensor]:
    """The embeddings of texts whose tokens, special ones too, have each other's positions.

    The tokens change places on their way in, and their states change back before they are pooled: the same as other
    position ids, for any kind of positions.

    References:
        Yan et al. 2021, arXiv:2105.11741 (ConSERT), "token shuffling".
    """
    draws, mask = features.pop("draws"), features["attention_mask"].bool()
    order = orders(draws.to(mask.device), mask)
    moved = {k: v.gather(1, order) if _column(v, mask) else v for k, v in features.items()}
    first, *rest = model
    states = {**first(moved), **{k: v for k, v in features.items() if _column(v, mask)}}
    back = order.argsort(1)[:, :, None].expand_as(states["token_embeddings"])
    states["token_embeddings"] = states["token_embeddings"].gather(1, back)
    for module in rest:
        states = module(states)
    return {"z": states["sentence_embedding"].float()}


def orders(draws: Float[Tensor, "n l"], mask: Bool[Tensor, "n t"]) -> Int[Tensor, "n t"]:
    """For each place of a text the token that comes there: tokens in the order of their draws, padding where it is.

    >>> orders(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[False, True, True, True]])).tolist()
    [[0, 3, 2, 1]]
    """
    by_draw = torch.where(mask, draws[:, : mask.shape[1]], 2.0).argsort(stable=True, dim=1)
    places = (~mask).byte().argsort(stable=True, dim=1)
    return torch.empty_like(places).scatter(1, places, by_draw)


def adversarial(norm: float, *, other: One = shuffled) -> One:
    """The embeddings of texts after one step of each token away from another view of the same text.

        e' = e + norm * g / |g|,   g = d(-cos(f(e), f_other)) / de   for each token

    Args:
        norm: length of the step, at least 0.
        other: makes the view that it steps away from; it is a constant of the step.

    Differs:
        The paper steps up its supervised loss. Without labels this steps up the distance to a positive, which needs no
        other row. The step is a constant of the gradient, as there.

    References:
        Yan et al. 2021, arXiv:2105.11741 (ConSERT); Rozsa et al. 2016, arXiv:1605.01775 (fast gradient value).
    """

    def one(model: SentenceTransformer, features: dict[str, Any]) -> dict[str, Tensor]:
        seen: list[Tensor] = []

        def watched(states: Tensor) -> Tensor:
            seen.append(states.detach().requires_grad_())
            return seen[0]

        with torch.enable_grad():  # the step has to be there also where no gradient is asked for
            target = other(model, dict(features))["z"].detach()
            with entering(model, watched):
                own = unchanged(model, dict(features))["z"]
            (slope,) = torch.autograd.grad(-cosine_similarity(own, target).sum(), seen[0])
        step = norm * slope / slope.norm(dim=2, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
        with entering(model, lambda states: states + step):
            return unchanged(model, features)

    return one


def _ranks(keys: Tensor) -> Tensor:
    return keys.argsort(stable=True, dim=1).argsort(1)


def _column(value: Any, mask: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape[:2] == mask.shape


def _share(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"wanted a rate from 0 to below 1, got {rate}")
