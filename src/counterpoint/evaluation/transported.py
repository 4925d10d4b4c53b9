"""Prototypes of a few examples, moved to where the rows lie that they are to sort."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.scores import squared
from counterpoint._ops.sinkhorn import sinkhorn
from counterpoint.papers import paper
from counterpoint.types import Embeddings


@paper(row=10)
@torch.no_grad()
def transported(
    prototypes: Float[Tensor, "k d"],
    queries: Float[Tensor, "n d"],
    *,
    eps: float = 0.05,
    iterations: int = 100,
    passes: int = 1,
) -> Float[Tensor, "k d"]:
    """Each prototype becomes a mean of queries, those that the entropic plan brings to it (OpTA of BECLR).

    With C_ij = |p_i - z_j|^2 / max |p - z|^2 and the plan pi of uniform marginals that costs least,

        p_i <- sum_j pi_ij z_j / sum_j pi_ij,    pi = exp((a_i + b_j - C_ij) / eps)

    Args:
        prototypes: one row a class, such as the mean of its labelled examples, or the one example there is.
        queries: the rows that are to be sorted, without labels, about as many of each class.
        eps: > 0, how soft the plan is: 0 gives each query to one prototype, infinity the mean of all to each.
        iterations: of Sinkhorn, at least 1.
        passes: how often prototypes move, at least 1.

    Returns:
        [k, d]: new prototypes; a query then belongs to the nearest.

    Raises:
        ValueError: for an eps that is not above 0, or iterations or passes below 1.

    Differs:
        The authors stop once potentials stand still; here the number of iterations is given.

    Relations:
        Means of the queries of each class, equally many of each and apart, stay as they are when eps goes to 0. The same
        `sinkhorn` makes the codes of SwAV.

    References:
        Poulakakis-Daktylidis, Jamali-Rad 2024, arXiv:2402.02444; utils/optimal_transport.py of
        github.com/stypoumic/BECLR.

    >>> queries = torch.tensor([[0.0], [0.2], [3.0], [3.2]])
    >>> transported(torch.tensor([[1.0], [2.5]]), queries, eps=0.001)
    tensor([[0.1000],
            [3.1000]])
    """
    if not eps > 0 or iterations < 1 or passes < 1:
        raise ValueError(
            f"wanted an eps above 0, iterations and passes of at least 1, got {eps}, {iterations}, {passes}"
        )
    for _ in range(passes):
        cost = squared().of((queries,), (prototypes,), "fp32")
        scale = -1 / (eps * float(cost.max().clamp(min=torch.finfo(cost.dtype).tiny)))
        plan = sinkhorn(
            Embeddings.of(queries), Embeddings.of(prototypes), scale=scale, iterations=iterations, score=squared()
        )
        share = (scale * cost + plan.rows[:, None] + plan.columns).softmax(0)
        prototypes = share.T @ queries
    return prototypes
