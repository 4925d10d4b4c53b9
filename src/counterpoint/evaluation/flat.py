"""A flat map of an embedding space: rows of many dimensions as points on a sheet, near rows near each other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint.evaluation.space import unit
from counterpoint.types import Embeddings, same_sample

NEAR = 15  # neighbours that are drawn together; perplexities of 30 to 50 look alike (Boehm, Berens, Kobak 2022)
STEPS, EARLY = 500, 150  # in all, and of those with attraction raised
EXAGGERATION = 12.0  # of attraction in the early steps; van der Maaten's code and scikit-learn
MOMENTUM = (0.5, 0.8)  # in the early steps and later; van der Maaten 2008
GAIN, LOSS, LEAST = 0.2, 0.8, 0.01  # of a coordinate's own step while it keeps or changes its direction; likewise
BEGIN = 1e-2  # spread of the start, and the least there is: so near together, forces are linear in the points
CELL, CELLS = 0.5, 256  # a cell of the sheet where it is small; cells on a side at most, then they grow


def flat(z: Float[Tensor, "n d"], start: Float[np.ndarray, "n 2"] | None = None) -> Float[np.ndarray, "n 2"]:
    """t-SNE of the rows by cosine: a point a row, such that near rows are near points. Distances between clusters mean little.

        p_ij = ( [j near i] + [i near j] ) / (2 k n),   q_ij = (1 + |y_i - y_j|^2)^-1 / sum,   KL(p | q) is made small

    Repulsion is half the gradient of phi(y) = sum_j 1 / (1 + |y - y_j|^2), which is one convolution on a grid of the sheet.

    Args:
        z: n >= 3 rows; scaled to length 1 here.
        start: points to begin from; None: the first two principal components. Only their arrangement is used, made small.

    Returns:
        Points; nothing is drawn at random, so the same rows give the same points on the same machine.

    Differs:
        The k = 15 nearest rows have equal weights, instead of a Gaussian of a given perplexity, after Boehm et al.; all other
        rows have 0. The convolution takes bilinear weights on cells of half a unit and more, where Linderman et al. interpolate
        in cells of one unit with three nodes; what the weights blur is divided out of the kernel, as in particle-mesh codes.
        Forces on a finished map are within 15 % of exact ones.

    References:
        van der Maaten, Hinton 2008, JMLR 9; Linderman et al. 2019, Nature Methods 16 (the convolution); Hockney, Eastwood
        1988, Computer Simulation Using Particles (the grid); Boehm, Berens, Kobak 2022, arXiv:2007.08902 (equal weights);
        Kobak, Linderman 2021, Nature Biotechnology 39 (the start decides about what is far apart).

    >>> y = flat(torch.eye(2).repeat_interleave(20, 0) + torch.linspace(0, 0.01, 40)[:, None])
    >>> bool(np.linalg.norm(y[:20].mean(0) - y[20:].mean(0)) > 2 * y[:20].std())
    True
    """
    u = unit(z.float())
    row, col, share = _near(u)
    first = np.flatnonzero(np.diff(row, prepend=-1))  # every row has neighbours, and they are sorted
    y = _components(u) if start is None else np.array(start, dtype=np.float64)
    y = ((y - y.mean(0)) / max(float(y.std(0).max()), 1e-12) * BEGIN).T.copy()
    rate, speed, gain = len(z) / EXAGGERATION, np.zeros_like(y), np.ones_like(y)
    for step in range(STEPS):
        right, up = (side[row] - side[col] for side in y.astype(np.float32))
        pull = share * (EXAGGERATION if step < EARLY else 1.0) / (1 + right * right + up * up)
        slope = np.stack([np.add.reduceat(side * pull, first) for side in (right, up)]) - _repulsion(y)
        gain = np.maximum(np.where(slope * speed < 0, gain + GAIN, gain * LOSS), LEAST)
        speed = MOMENTUM[step >= EARLY] * speed - rate * gain * slope
        y += speed
        y -= y.mean(1, keepdims=True)
        wide = max(float(y.std(1).max()), 1e-12)
        if wide < BEGIN:  # raised attraction may draw all points together: their arrangement counts, not their size
            y, speed = y * (BEGIN / wide), speed * (BEGIN / wide)
    return y.T


def _near(u: Float[Tensor, "n d"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who is near whom, both ways and sorted, with p."""
    from scipy.sparse import coo_array

    n = len(u)
    rows = Embeddings.of(u, id=torch.arange(n))
    index = neighbours(rows, rows, min(NEAR, n - 1), rule=same_sample).index.numpy()
    one = np.ones(index.size), (np.repeat(np.arange(n), index.shape[1]), index.ravel())
    near = coo_array(one, shape=(n, n)).tocsr()
    both = (near + near.T).tocoo()
    order = np.lexsort((both.col, both.row))
    return both.row[order], both.col[order], (both.data[order] / (2 * index.size)).astype(np.float32)


def _components(u: Float[Tensor, "n d"]) -> np.ndarray:
    """The first two principal components; the largest entry of each axis is positive, as its sign is arbitrary."""
    centred = (u - u.mean(0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, [-1, -2]] if axes.shape[1] > 1 else axes.expand(-1, 2)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (centred @ axes).numpy()


def _repulsion(y: Float[np.ndarray, "2 n"]) -> np.ndarray:
    """sum_j q_ij (y_i - y_j) / (1 + |y_i - y_j|^2) for each point."""
    low, high = y.min(1), y.max(1)
    cell = max(CELL, float((high - low).max()) / CELLS)
    size = next_fast_len(2 * (int((high - low).max() / cell) + 4), real=True)
    place = (y - low[:, None]) / cell + 1
    whole = place.astype(np.int64)
    part = place - whole
    corners = [
        (
            (whole[0] + a) * size + whole[1] + b,
            (part[0] if a else 1 - part[0]) * (part[1] if b else 1 - part[1]),
        )
        for a in (0, 1)
        for b in (0, 1)
    ]
    mass = np.sum([np.bincount(at, weight, size * size) for at, weight in corners], axis=0, dtype=np.float32)
    phi = irfft2(rfft2(mass.reshape(size, size)) * _kernel(size, round(cell, 9)), (size, size))
    steep = [(np.roll(phi, -1, axis) - np.roll(phi, 1, axis)).ravel() / (2 * cell) for axis in (0, 1)]
    phi = phi.ravel()
    felt = np.array([sum(weight * field[at] for at, weight in corners) for field in (phi, *steep)])
    return felt[1:] / -2 / (felt[0].sum() - len(felt[0]))


@lru_cache(maxsize=4)
def _kernel(size: int, cell: float) -> np.ndarray:
    """The transform of 1 / (1 + distance^2) on a ring of cells, with what bilinear weights blur, twice, taken back."""
    far = np.minimum(np.arange(size), size - np.arange(size)) * cell
    whole = rfft2((1 / (1 + far[:, None] ** 2 + far[None] ** 2)).astype(np.float32))
    blur = np.sinc(np.fft.fftfreq(size)).astype(np.float32) ** 4
    return whole / (blur[:, None] * blur[None, : whole.shape[1]])


def turned(y: Float[np.ndarray, "n 2"], onto: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """The same map, turned or mirrored so that its points lie as near to those of another as they can."""
    y, onto = y - y.mean(0), onto - onto.mean(0)
    return y @ orthogonal_procrustes(y, onto)[0]
