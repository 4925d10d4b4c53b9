"""Class labels: rows of one class are positives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from counterpoint._ops.join import matches
from counterpoint.types import Edges, Embeddings, Pairs


def _least(key: Int[Tensor, " n"], group: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The least key of each row's group."""
    return key.scatter_reduce(0, group, key, "amin", include_self=False)[group] if len(key) else key


@dataclass(frozen=True)
class Labelled:
    """The rule that reads the fact `label`; made by `labelled`."""

    fact: str

    elsewhere = (0.0, 1.0)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form, by comparing all with all."""
        label = a.facts[self.fact][:, None]
        alike = (label == c.facts[self.fact][None, :]) & (label >= 0)
        same = a.id[:, None] == c.id[None, :]
        repel = ~(alike | same)
        here = (a.age[:, None] == 0) & (c.age[None, :] == 0)
        oneself = (a.view[:, None] == c.view[None, :]) & (a.part[:, None] == c.part[None, :])
        attract = alike & ~(same & (oneself | ~here))
        return Pairs(attract.to(a.z), repel.to(a.z))

    def keys(self, a: Embeddings, c: Embeddings) -> tuple[Tensor, Tensor]:
        """One number for all rows of a label, and for all of an id: rows linked by either, or by a chain, share one."""
        label = torch.cat([a.facts[self.fact], c.facts[self.fact]])
        _, sample = torch.unique(torch.cat([a.id, c.id]), return_inverse=True)
        known = label >= 0
        _, group = torch.unique(label[known], return_inverse=True)
        key = torch.arange(len(label), device=label.device)
        while True:
            new = _least(key, sample)
            new[known] = _least(new[known], group)
            if bool((new == key).all()):
                return key[: len(a)], key[len(a) :]
            key = new

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """One edge for every pair of equal label or equal id; oneself and unlabelled equals are ignored."""
        label_a, label_c = a.facts[self.fact], c.facts[self.fact]
        row, col = matches(label_a, label_c)
        known = label_a[row] >= 0
        row, col = row[known], col[known]
        same = a.id[row] == c.id[col]
        oneself = same & (a.view[row] == c.view[col]) & (a.part[row] == c.part[col]) & (a.age[row] == c.age[col])
        stale = same & ((a.age[row] > 0) | (c.age[col] > 0))
        same_row, same_col = matches(a.id, c.id)
        unrelated = (label_a[same_row] != label_c[same_col]) | (label_a[same_row] < 0)
        same_row, same_col = same_row[unrelated], same_col[unrelated]
        attract = torch.cat([(~(oneself | stale)).to(a.z), torch.zeros(len(same_row)).to(a.z)])
        nothing = torch.zeros_like(attract)
        return Edges(torch.cat([row, same_row]), torch.cat([col, same_col]), attract, nothing, nothing)


def labelled(fact: str = "label") -> Labelled:
    """Rows of equal label attract, of other labels repel; oneself is ignored; a label below 0 means unlabelled.

    An unlabelled row is a negative of all others but itself.

    Args:
        fact: the name of the [n] integer fact that holds the class.

    Relations:
        With one label for each sample this is `same_sample`.

    >>> e = Embeddings.of(torch.eye(3), facts={"label": torch.tensor([4, 4, 9])})
    >>> labelled()(e, e).attract.tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return Labelled(fact)
