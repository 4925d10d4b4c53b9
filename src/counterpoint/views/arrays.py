"""Views of arrays: features replaced by values that other rows have there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint.types import Batch
from counterpoint.views.draws import uniform
from counterpoint.views.items import Views


def corrupted(
    rows: Float[Tensor, "n ..."],
    numbers: Tensor,
    marginals: Float[Tensor, "m ..."],
    *,
    rate: float,
    generator: torch.Generator,
) -> Float[Tensor, "n ..."]:
    """Rows in which a share of the features, drawn anew for each row, has the value of a random other row.

    Args:
        rows: n arrays.
        numbers: [n] their row numbers, on which the draws depend.
        marginals: m arrays; a feature's new value is that of one of them, drawn for each feature by itself.
        rate: share of the features that are replaced, in [0, 1]; floor(rate * features) of them.
        generator: of the draws.

    >>> x = torch.zeros(2, 10)
    >>> corrupted(x, torch.arange(2), x + 1, rate=0.6, generator=torch.Generator()).sum(1).tolist()
    [6.0, 6.0]
    """
    flat, pool = rows.flatten(1), marginals.flatten(1)
    features = flat.shape[1]
    order = uniform(generator, numbers, features).argsort(dim=1)[:, : int(rate * features)]
    donors = (uniform(generator, numbers, features) * len(pool)).long()
    values = pool[donors.gather(1, order), order]
    return flat.scatter(1, order, values).reshape(rows.shape)


def clean_and_corrupted(marginals: Float[Tensor, "m ..."], *, rate: float) -> Views:
    """Each array as it is, and with a share of its features corrupted.

    Args:
        marginals: arrays that new values are taken from.
        rate: share of the features that are replaced, in [0, 1].
    """

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        shared = {"id": batch["id"], "role": "anchor"}
        other = corrupted(batch["anchor"], batch["row"], marginals, rate=rate, generator=generator)
        return {
            "first": {**shared, "array": batch["anchor"], "view": 0},
            "second": {**shared, "array": other, "view": 1},
        }

    return views
