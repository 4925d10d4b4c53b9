"""Positives that nobody saw: points between a row and a prototype that are still nearest to the row's own prototype."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.unit import to_unit
from counterpoint.pairs.synthetic import by_identity, made
from counterpoint.papers import paper
from counterpoint.types import Embeddings


def geodesic(start: Float[Tensor, "n d"], target: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Points on the great circle from unit rows to unit rows; t = 0 is the start, t = 1 the target.

        (sin((1 - t) w) x + sin(t w) y) / sin w,    cos w = x.y

    >>> middle = geodesic(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    >>> [round(x, 4) for x in middle[0].tolist()]
    [0.7071, 0.7071]
    """
    cosine = (start * target).sum(1).clamp(-1, 1)
    angle = (t * cosine.acos())[:, None]
    return angle.cos() * start + angle.sin() * to_unit(target - cosine[:, None] * start)


def border(
    start: Float[Tensor, "n d"], nearest: Float[Tensor, "n d"], target: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """How far along the geodesic to the target a point is as near to the target as to the prototype it came from.

        t = atan( sin w / (K + cos w) ) / w,    K = (1 - target.nearest) / (start.(nearest - target)),    cos w = start.target

    Args:
        start: n unit rows.
        nearest: the prototype of each, unit rows; at least as near as the target.
        target: another prototype, unit rows.

    Returns:
        From 0 (the start is on the border) to 1.

    >>> x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> border(x, x, y).item()
    0.5
    """
    cosine = (start * target).sum(1).clamp(-1, 1)
    angle, ahead = cosine.acos(), (start * (nearest - target)).sum(1)
    apart = 1 - (nearest * target).sum(1)
    turn = torch.atan2(ahead * angle.sin(), apart + ahead * cosine)
    return turn / torch.where(angle > 0, angle, torch.ones_like(angle))


@paper(row=226)
@torch.no_grad()
def hallucinated_positives(
    keys: Embeddings,
    prototypes: Embeddings,
    *,
    count: int,
    generator: torch.Generator,
    among: int | None = None,
    back: float = 0.8,
) -> Embeddings:
    """Positives between a key and a prototype near it, not beyond where they would belong to another prototype (HaLP).

    With p0 the key's nearest prototype, p* drawn from the next `among` ones and u from 0 to `back`,

        z' = geodesic(z, p*, (1 - u) border(z, p0, p*)),    kept where its nearest prototype is still p0

    Args:
        keys: n rows of samples; scaled to length 1.
        prototypes: at least 2 rows, replicated; scaled to length 1.
        count: points made of each key, at least 0.
        generator: one number is drawn from it; what a key draws depends on that, on its identity, and on nothing else.
        among: how many prototypes after the nearest are looked at; None: all.
        back: how far back from the border a point may lie, as a share of the way; from 0 to 1.

    Returns:
        Rows of length 1 without gradient, private to their sample (`private_to("sample")`), which they attract.

    Raises:
        ValueError: for fewer than two prototypes, a count below 0, or a share outside 0 to 1.

    Differs:
        From the public code: angles beyond a right one are not folded back, nothing is added to a denominator, and points
        of another prototype are left out here and not masked in the loss.

    Relations:
        The paper's term, - mu mean q.z' / t, is mu / t (`alignment` / 2 - 1) with `private_to("sample")`: `alignment` with
        weight mu / (2 t) has its gradient. Without points it is MoCo.

    References:
        Shah et al. 2023, arXiv:2304.00387; moco/generator.py at github.com/anshulbshah/HaLP, which makes 100
        points of each key with 20 prototypes.

    >>> keys, ends = Embeddings.of(torch.tensor([[1.0, 0.0]])), Embeddings.of(torch.eye(2), id=torch.tensor([-1, -2]))
    >>> found = hallucinated_positives(keys, ends, count=1, generator=torch.Generator(), back=0.0)
    >>> len(hallucinated_positives(keys, ends, count=3, generator=torch.Generator()))
    3
    """
    if len(prototypes) < 2 or count < 0 or not 0 <= back <= 1:
        raise ValueError(
            f"wanted 2 prototypes or more, a count of at least 0 and a share from 0 to 1, "
            f"got {len(prototypes)}, {count} and {back}"
        )
    keys, ends = replace(keys, facts={}).to_unit(), replace(prototypes, facts={}).to_unit()
    index = neighbours(keys, ends, len(ends) if among is None else among + 1).index
    owner = torch.arange(len(keys), device=index.device).repeat_interleave(count)
    drawn = by_identity(generator, keys.rows(owner), torch.arange(count, device=owner.device).repeat(len(keys)), 2)
    own, first = keys.rows(owner), index[owner, 0]
    target = index[owner, 1 + (drawn[:, 0] * (index.shape[1] - 1)).long()]
    t = (1 - back * drawn[:, 1]).to(own.z) * border(own.z, ends.z[first], ends.z[target])
    points = to_unit(geodesic(own.z, ends.z[target], t))
    kept = neighbours(replace(own, z=points), ends, 1).index[:, 0] == first
    return made(own.rows(kept), points[kept], attracts=1.0, facts={"t": t[kept], "target": ends.id[target[kept]]})
