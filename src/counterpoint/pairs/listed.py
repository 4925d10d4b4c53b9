"""Labelled pairs: relevance as an edge list."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from counterpoint._ops.join import matches, spread_ranges
from counterpoint.types import Edges, Embeddings, Pairs, Relation, densify


@dataclass(frozen=True)
class Listed:
    """The rule that reads a `Relation`; made by `listed`."""

    relation: Relation
    negative_weight: float
    others: float = 1.0

    @property
    def elsewhere(self) -> tuple[float, float]:
        """Pairs that are not listed repel, all alike."""
        return 0.0, self.others

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """Equal ids first, then the relation, so that a listed pair of equal texts is still ignored."""
        ids, known, grade = self.relation.anchor_id.to(a.id.device), self.relation.candidate_id, self.relation.grade
        row, edge = spread_ranges(torch.searchsorted(ids, a.id), torch.searchsorted(ids, a.id, right=True))
        at, col = matches(known.to(a.id.device)[edge], c.id)
        value = torch.zeros_like(grade) if self.relation.value is None else self.relation.value
        row, grade, value = row[at], grade.to(a.z)[edge[at]], value.to(a.z)[edge[at]]
        related = a.id[row] != c.id[col]
        row, col, grade, value = row[related], col[related], grade[related], value[related]
        same_row, same_col = matches(a.id, c.id)
        nothing = torch.zeros(len(same_row)).to(a.z)
        repel = torch.where(grade > 0, 0.0, self.negative_weight).to(a.z)
        return Edges(
            torch.cat([same_row, row]),
            torch.cat([same_col, col]),
            torch.cat([nothing, grade]),
            torch.cat([nothing, repel]),
            torch.cat([nothing, value]),
        )


def listed(relation: Relation, *, negative_weight: float = 1.0, others: float = 1.0) -> Listed:
    """Pairs in the relation attract by their grade; equal texts are never each other's negatives; the rest repel.

    attract_ij = grade(id_i, id_j); repel_ij = 0 if id_i = id_j or grade > 0, negative_weight if grade = 0, else others.

    Args:
        relation: edges by content id, in the direction anchor -> candidate.
        negative_weight: how strongly a pair that is listed with grade 0 repels; 1 is a plain negative. The weight of an
            anchor's own hard negative in supervised SimCSE is this number.
        others: how strongly a pair that is not listed repels; with 0 listed pairs are all there is, and all that is
            computed: private negatives, or a teacher's list (`Relation.value`, which `edges` hands on).

    Relations:
        `same_sample` is the rule for views of one sample; `labelled` for class labels.

    >>> a, c = Embeddings.of(torch.eye(2), id=torch.tensor([1, 2])), Embeddings.of(torch.eye(2), id=torch.tensor([5, 6]))
    >>> listed(Relation.of([1, 1, 2], [5, 6, 6], [1.0, 0.0, 2.0]))(a, c).attract.tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    return Listed(relation, negative_weight, others)
