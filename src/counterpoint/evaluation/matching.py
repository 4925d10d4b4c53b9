"""Pair classification: pairs that were judged to belong together have to score above pairs that were judged not to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from counterpoint.evaluation.rerank import Score
from counterpoint.evaluation.tasks import Embed, Measured


@dataclass(frozen=True)
class PairClassification:
    """Judged pairs.

    Args:
        left, right: [n] the two sides of each pair.
        together: [n] whether it was judged to belong together.
        unit: [n] pairs of one unit are not independent.
        measures: "ap" and "auroc" of the score, "accuracy@best" and "f1@best" at the cut-off that suits these pairs best.

    Differs:
        MTEB takes accuracy and F1 at the best cut-off of the test pairs too: they say what a good cut-off could reach, not
        what one that was chosen elsewhere does.
    """

    left: Sequence[str]
    right: Sequence[str]
    together: np.ndarray
    unit: np.ndarray
    metric: str = "ap"
    measures: Sequence[str] = ("ap", "auroc", "accuracy@best", "f1@best")

    def sizes(self) -> tuple[int, int]:
        """Pairs; each is judged by itself."""
        return len(self.left), 1

    def texts(self) -> int:
        """Both sides."""
        return len(self.left) + len(self.right)

    def measure(self, embed: Embed) -> Measured:
        """Cosine beside judgement, row by row; the left sides are read as anchors and the right ones as positives."""
        return self.by_scores((embed(self.left, "anchor") * embed(self.right, "positive")).sum(1))

    def by_scores(self, score: Float[Tensor, " n"]) -> Measured:
        """The same with the score of each pair, higher for pairs that belong together."""
        both = np.stack([score.double().numpy(), self.together.astype(float)], axis=1)
        return Measured(dict.fromkeys(self.measures, both), self.unit, 1)

    def scored(self, score: Score) -> Measured:
        """The same by a model that reads both sides together."""
        return self.by_scores(score(self.left, self.right))
