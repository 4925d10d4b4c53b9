"""Which step to keep where no labels say it: by the rank of the embeddings, or by how far two views agree on neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from counterpoint._ops.geometry import rankme, shared_neighbours
from counterpoint.training.cached import pieces, random_state, same_random
from counterpoint.training.method import Method
from counterpoint.training.sample import matched, sample
from counterpoint.types import Batch, Embeddings

Select = Literal["dev", "rankme", "neighbours", "last"]
Score = Literal["rankme", "neighbours"]
NEAREST = 10  # neighbours that two views have to agree on; fewer make the score coarser, more look past a class
MICRO = 64  # rows of a pass; nothing looks across rows, so the number decides memory alone


@contextmanager
def dropout_alone(modules: nn.Module) -> Iterator[None]:
    """Dropout is on, so that views that differ by nothing else differ; batch norm neither averages nor learns."""
    before = {module: module.training for module in modules.modules()}
    modules.train()
    for module in modules.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@torch.no_grad()
def two_views(
    method: Method, batch: Batch, *, seed: int, autocast: torch.autocast, micro: int = MICRO
) -> tuple[Tensor, Tensor]:
    """The anchors of some rows that have a positive, and that positive, embedded by the method as it is now.

    For labelled pairs the two are the sides of a pair; for a method that makes views, two views of a sample. The same
    seed makes the same views, whatever the weights. No random number of the run is used up and no module is changed.

    Args:
        method: what is trained.
        batch: rows to look at; the same each time, so that scores compare.
        seed: of the views and of dropout.
        autocast: precision of the encoders.
        micro: rows of a pass.
    """
    found: dict[str, list[Embeddings]] = {}
    with same_random(random_state()), dropout_alone(method.modules), autocast:
        torch.manual_seed(seed)
        for piece in pieces(method.views(batch, torch.Generator().manual_seed(seed)), micro):
            for name, rows in method.encode(method.modules, piece).items():
                found.setdefault(name, []).append(rows)
    pairs = sample(method.objective, {name: Embeddings.cat(sets) for name, sets in found.items()}, len(batch["id"]))
    return matched(pairs) if pairs is not None else (torch.empty(0, 0), torch.empty(0, 0))


def label_free(
    score: Score,
    method: Method,
    batch: Batch,
    *,
    seed: int,
    autocast: torch.autocast,
    k: int = NEAREST,
) -> Callable[[], float]:
    """A number to raise that needs no labels, for the loop to choose the step it keeps.

    Args:
        score: "rankme": RankMe of the anchors. "neighbours": the share of the k nearest that the two views of a sample
            have in common, the mean over samples.
        method: what is trained; the number is that of its weights at the time of the call.
        batch: rows to look at, the same each time; some hundreds of training rows do.
        seed: of the views.
        autocast: precision of the encoders.
        k: neighbours to compare, for "neighbours".

    Returns:
        A function of nothing; higher is taken as better. -inf where the number is not known.

    Differs:
        RankMe was proposed to choose among finished runs; choosing a step of one run by it is our use. Neither score
        replaces labels. On 120 runs of an MLP on digits, many of them set badly on purpose (`make proof NAME=selection`,
        `evidence/selection.json`), Spearman's correlation with the accuracy of a nearest-neighbour vote was, with 95 %
        intervals, for RankMe 0.52 (0.45 to 0.60) over the steps of a run and 0.85 (0.79 to 0.90) over the ends of runs;
        for neighbours 0.46 (0.35 to 0.55) and 0.53 (0.38 to 0.66). Keeping the step that RankMe chose cost 0.023 of
        accuracy against the best step; that of neighbours 0.070, which is no better than the last step (0.069).
        Agreement between successive checkpoints, measured beside them, rises as a run slows down: it cost 0.080, so it
        is not offered. One data set, one kind of model: where you can label a hundred pairs, do.

    References:
        RankMe: Garrido et al. 2023, arXiv:2210.02885. Agreement of neighbours between two embeddings as their quality
        is old (Venna and Kaski 2006, doi:10.1016/j.neunet.2006.05.014, for projections).
    """

    def number() -> float:
        x, y = two_views(method, batch, seed=seed, autocast=autocast)
        value = rankme(x) if score == "rankme" else shared_neighbours(x, y, k)
        return -math.inf if math.isnan(value) else value

    return number
