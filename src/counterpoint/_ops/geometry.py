"""How rows fill their space, as pure functions of embeddings: health, model selection and evaluation share them.

The other two of the kind, `alignment` and `uniformity`, are objectives as well and live in `objectives.spread`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.unit import to_unit
from counterpoint.types import Embeddings

EPSILON = 1e-7  # what RankMe adds to each share, for fp32 (Garrido et al. 2023, equation 2)


@torch.no_grad()
def rankme(z: Float[Tensor, "n d"]) -> float:
    """RankMe: how many directions the rows take up, counted softly.

        RankMe(Z) = exp(- sum_k p_k log p_k),    p_k = sigma_k / sum_j sigma_j + 1e-7

    over the min(n, d) singular values sigma of the rows as they are, not centred.

    Args:
        z: the rows; n limits the result as d does, so only ranks of equally many rows compare.

    Returns:
        From 1 (all rows on one line through the origin) to min(n, d) (orthogonal rows of equal length); NaN for no rows,
        rows of zero, or rows that are not finite.

    References:
        Garrido, Balestriero, Najman, LeCun 2023, arXiv:2210.02885; without the 1e-7 it is the effective rank of Roy and
        Vetterli 2007.

    >>> round(rankme(torch.eye(4)), 3), round(rankme(torch.ones(4, 4)), 3)
    (4.0, 1.0)
    """
    if not z.numel() or not bool(z.isfinite().all()):
        return float("nan")
    values = torch.linalg.svdvals(z.to(torch.promote_types(z.dtype, torch.float32)))
    if not float(values.sum()) > 0:
        return float("nan")
    share = values / values.sum() + EPSILON
    return float((-(share * share.log()).sum()).exp())


@torch.no_grad()
def width(z: Float[Tensor, "n d"]) -> float:
    """How far rows of length 1 are spread, by the standard deviation of each dimension.

        width = sqrt(d) * (1/d) sum_k std_i( z_ik / |z_i| )

    Args:
        z: the rows; scaled to length 1 here.

    Returns:
        From 0 (all rows equal) to 1 (each dimension varies with 1 / sqrt(d), as on an even sphere). For rows whose mean
        cosine is c it is at most sqrt(1 - c). NaN for no rows.

    References:
        Chen, He 2021, arXiv:2011.10566 (section 4.1: 1 / sqrt(d) is the value of an even sphere, 0 that of collapse).

    >>> round(width(torch.tensor([[1.0, 1.0], [-2.0, -2.0], [1.0, -1.0], [-1.0, 1.0]])), 6), width(torch.ones(3, 2))
    (1.0, 0.0)
    """
    if not z.numel():
        return float("nan")
    std = to_unit(z.to(torch.promote_types(z.dtype, torch.float32))).std(0, correction=0)
    return float(std.mean() * z.shape[1] ** 0.5)


def duplicates(*key: Int[Tensor, " n"]) -> float:
    """The share of rows whose key occurs more than once.

    Args:
        key: one column or several, such as content id and view, that together name a row.

    Returns:
        From 0 to 1; NaN for no rows.

    >>> duplicates(torch.tensor([5, 6, 5, 7]))
    0.5
    """
    if not len(key[0]):
        return float("nan")
    _, place, count = torch.stack(key).unique(dim=1, return_inverse=True, return_counts=True)
    return float((count[place] > 1).float().mean())


@torch.no_grad()
def shared_neighbours(x: Float[Tensor, "n d"], y: Float[Tensor, "m e"], k: int) -> float:
    """How far two sets of embeddings of the same samples agree on who is near whom.

        1/n sum_i | N_k(x_i) and N_k(y_i) in common | / k

    where N_k are the k rows of largest cosine in the same set, without the row itself.

    Args:
        x: the samples in one view, or as one checkpoint sees them.
        y: the same samples, row by row, in another view or as another checkpoint sees them; may have another width.
        k: neighbours of each row, at least 1; at most n - 1 are looked at.

    Returns:
        From 0 to 1; about k / (n - 1) where the two know nothing of each other. NaN for fewer than two rows.

    Raises:
        ValueError: for sets of different length.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> shared_neighbours(x, x, 1), shared_neighbours(x, x[[0, 2, 1, 3]], 1)
    (1.0, 0.0)
    """
    n = len(x)
    if len(y) != n:
        raise ValueError(f"wanted as many rows in both sets, got {n} and {len(y)}")
    if n < 2:
        return float("nan")
    k = min(k, n - 1)
    member = []
    for rows in (x, y):
        unit = Embeddings.of(to_unit(rows.to(torch.promote_types(rows.dtype, torch.float32))))
        index = neighbours(unit, unit, k + 1).index
        others = index != torch.arange(n, device=index.device)[:, None]
        others &= others.cumsum(1) <= k  # a row that equal rows pushed out of its own list gives up the last place
        member.append(torch.zeros(n, n, dtype=torch.bool, device=index.device).scatter(1, index, others))
    return float((member[0] & member[1]).sum()) / (n * k)
