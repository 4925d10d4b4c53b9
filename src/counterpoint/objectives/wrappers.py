"""Wrappers: an objective of prefixes, of earlier layers, of pairs of views, without a copy of the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from counterpoint._ops.reduce import mean
from counterpoint.objectives.custom import Objective, Rule, as_embeddings
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome


def _of(objective: Callable[..., Outcome], rule: Rule | None, *sides: Embeddings) -> Outcome:
    """The objective under a rule, or under its own where none is given."""
    return objective(*sides) if rule is None else objective(*sides, rule=rule)


def _sides(anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None) -> tuple[Embeddings, ...]:
    """The one set or the two that the objective is called with."""
    if candidates is None:
        return (anchors if isinstance(anchors, Embeddings) else Embeddings.of(anchors),)
    return as_embeddings(anchors, candidates)


def _prefix(width: int, rows: Embeddings) -> Embeddings:
    """The first coordinates of each row, or of each of its tokens."""
    if not 1 <= width <= rows.z.shape[-1]:
        raise ValueError(f"wanted a width from 1 to {rows.z.shape[-1]}, got {width}")
    return replace(rows, z=rows.z[..., :width])


@paper(reference="Kusupati et al.: Matryoshka Representation Learning, arXiv:2205.13147, 2022")
def matryoshka(
    objective: Callable[..., Outcome], widths: Sequence[int], weights: Sequence[float] | None = None
) -> Objective:
    """The same objective on several prefixes of each row, so that embeddings can be cut off where they are used.

        loss = sum_m w_m objective(first m coordinates)

    Args:
        objective: of one set or two; one that scales to length 1 does so after the cut.
        widths: numbers of coordinates, each from 1 to d, without repetition; have d among them, or the rest is not trained.
        weights: of each, at least 0; None: 1.

    Returns:
        An objective with one term for each width, "width 64" and so on, from the widest on; its notes are the widest's.

    Raises:
        ValueError: for no widths, equal ones, weights of other number, or, when called, a width that rows do not have.

    Differs:
        The paper's classifiers of each width are proxies here: candidates, which are cut as well. Facts are not cut.

    Relations:
        With the full width alone the objective itself. Inside `matryoshka_layers` it is cut in two directions.

    References:
        Kusupati et al. 2022, arXiv:2205.13147, equation 1.

    >>> from counterpoint.objectives.softmax import infonce
    >>> from functools import partial
    >>> loss = matryoshka(partial(infonce, temperature=1.0), [1, 2])
    >>> {name: round(term.item(), 4) for name, term in loss(torch.eye(2), torch.eye(2)).terms.items()}
    {'width 2': 0.3133, 'width 1': 0.5032}
    """
    weights = [1.0] * len(widths) if weights is None else weights
    if not widths or len(set(widths)) != len(widths) or len(weights) != len(widths):
        raise ValueError(f"wanted different widths and a weight for each, got {list(widths)} and {list(weights)}")

    def loss(
        anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None = None, *, rule: Rule | None = None
    ) -> Outcome:
        sides = _sides(anchors, candidates)
        parts = {
            f"width {width}": (float(weight), _of(objective, rule, *(_prefix(width, rows) for rows in sides)))
            for width, weight in sorted(zip(widths, weights, strict=True), reverse=True)
        }
        return Outcome.of(**parts)

    return loss


def _divergence(rows: Embeddings, layer: str, temperature: float) -> Tensor:
    """KL( softmax(last / t) | softmax(layer / t) ) of each row, over its coordinates; the last is a constant."""
    last, early = ((z / temperature).log_softmax(-1) for z in (rows.z.detach(), rows.facts[layer]))
    return (last.exp() * (last - early)).sum(-1)


def _at(layer: str, rows: Embeddings) -> Embeddings:
    """The rows as an earlier layer has them."""
    if layer not in rows.facts:
        known = ", ".join(sorted(rows.facts)) or "none"
        raise KeyError(f"wanted the earlier layer as the fact '{layer}'; the rows have: {known}")
    return replace(rows, z=rows.facts[layer])


@paper(row=284)
def matryoshka_layers(
    objective: Callable[..., Outcome],
    layers: Mapping[str, float],
    *,
    last: float = 1.0,
    distil: float = 1.0,
    temperature: float = 0.3,
) -> Objective:
    """The same objective on earlier layers, which also follow the last one, so that encoders can be cut off in depth.

        loss   = w_last objective(z) + sum_k w_k objective(h_k) + w_distil distil
        distil = t sum_k mean_i KL( sg softmax(z_i / t) | softmax(h_ki / t) )

    Args:
        objective: of one set or two; `matryoshka(...)` for both directions at once.
        layers: name of the fact that holds an earlier layer's embeddings, [n, d] -> its weight, at least 0.
        last: weight of the last layer, whose embeddings are the rows themselves.
        distil: weight of each layer's divergence from the last, over coordinates, averaged over the rows of all sets.
        temperature: t > 0, of the two softmaxes.

    Returns:
        An objective with the terms "last", one for each layer by its name, and "distil"; its notes are the last layer's.

    Raises:
        ValueError: for a temperature that is not above 0.
        KeyError: when called, for rows without a layer.

    Differs:
        The paper draws one layer and one width a step; which, and with what weight, is the caller's here: sentence-
        transformers has 1 for each drawn layer, formerly 1 / (1 + k). Its target, as here, gets no gradient.

    Relations:
        Without layers the objective itself. Equal embeddings of all layers have no divergence.

    References:
        Li et al. 2024, arXiv:2402.14776; AdaptiveLayerLoss and Matryoshka2dLoss of sentence-transformers.

    >>> from counterpoint.objectives.softmax import infonce
    >>> loss = matryoshka_layers(infonce, {"early": 0.5})
    >>> one, two = (Embeddings.of(torch.eye(2), view=v, facts={"early": torch.eye(2)}) for v in (0, 1))
    >>> loss(one, two).terms["distil"].item()
    0.0
    """
    if not temperature > 0:
        raise ValueError(f"wanted a temperature above 0, got {temperature}")

    def loss(
        anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None = None, *, rule: Rule | None = None
    ) -> Outcome:
        sides = _sides(anchors, candidates)
        parts = {"last": (last, _of(objective, rule, *sides))}
        apart = sides[0].z.new_zeros(())
        for layer, weight in layers.items():
            parts[layer] = (float(weight), _of(objective, rule, *(_at(layer, rows) for rows in sides)))
            apart = apart + mean(torch.cat([_divergence(rows, layer, temperature) for rows in sides])) * temperature
        parts["distil"] = (distil, Outcome.term("distil", apart))
        return Outcome.of(**parts)

    return loss


def _view(view: int, rows: Embeddings) -> Embeddings:
    """The rows of one view."""
    return rows.rows(rows.view == view)


@paper(row=33)
def over_views(objective: Callable[..., Outcome], anchors: Sequence[int], candidates: Sequence[int]) -> Objective:
    """The mean of an objective over all pairs of a view of the anchors and a view of the candidates.

        loss = 1/(|A| |C|) sum_{u in A, v in C} objective(anchors of view u, candidates of view v)

    Args:
        objective: of two sets, such as `infonce` with both directions.
        anchors: numbers of the anchors' views, such as crops of an image.
        candidates: numbers of the candidates' views, such as rewritings of a text.

    Returns:
        An objective with one term for each pair of views, "0 with 2" and so on, with equal weights that add up to 1; its
        notes are those of the first pair.

    Raises:
        ValueError: without a view on either side.

    Differs:
        The paper's other systems are sums of terms: `Outcome.of` of `infonce` and of `prediction` (SiamLIP, and BYOLIP
        with a teacher's targets) or `barlow_twins` (BarLIP, of weight 0.025) across the two kinds.

    Relations:
        With one view a side the objective itself. One call with all views in both sets has one denominator for all.

    References:
        Fini et al. 2023, arXiv:2305.08675; github.com/facebookresearch/clip-rocket, losses.py.

    >>> from counterpoint.objectives.softmax import infonce
    >>> images, texts = (Embeddings.of(torch.eye(2), view=v) for v in (0, 1))
    >>> over_views(infonce, [0], [1])(images, texts).loss == infonce(images, texts).loss
    tensor(True)
    """
    pairs = [(u, v) for u in anchors for v in candidates]
    if not pairs:
        raise ValueError(f"wanted a view of each side, got {len(anchors)} and {len(candidates)}")

    def loss(
        anchors: Embeddings | Tensor, candidates: Embeddings | Tensor | None = None, *, rule: Rule | None = None
    ) -> Outcome:
        a, c = as_embeddings(anchors, candidates)
        parts = {f"{u} with {v}": (1 / len(pairs), _of(objective, rule, _view(u, a), _view(v, c))) for u, v in pairs}
        return Outcome.of(**parts)

    return loss
