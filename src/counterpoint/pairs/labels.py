"""Class labels: rows of one class are positives."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from counterpoint._ops.join import matches
from counterpoint.types import Edges, Embeddings, Pairs, densify


@dataclass(frozen=True)
class Labelled:
    """The rule that reads the fact `label`; made by `labelled`."""

    fact: str

    elsewhere = (0.0, 1.0)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        return densify(self.edges(a, c), self.elsewhere, a, c)

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
