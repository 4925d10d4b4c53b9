"""Our objectives in other people's trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from counterpoint.objectives.custom import Objective, Rule
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Relation, same_sample


def as_sentence_transformers(objective: Objective) -> Callable[[nn.Module], nn.Module]:
    """Our objective as a loss of the sentence-transformers trainer.

    Columns are anchor, positive, then hard negatives, as for their `MultipleNegativesRankingLoss`; one column with labels
    trains by class; a text column beside itself is SimCSE. Equal texts, found by their tokens, are never each other's
    negatives, whatever their embeddings.

    Args:
        objective: (anchors, candidates, rule=) -> outcome, such as `infonce`, or `partial(infonce, temperature=0.02)`.

    Returns:
        model -> loss module; pass it as `loss=` to their trainer.

    Raises:
        ValueError: for one column without labels.

    Differs:
        Graded pairs (a `score` column) are not read.

    >>> from counterpoint.objectives.softmax import infonce
    >>> as_sentence_transformers(infonce)(nn.Identity())
    TheirLoss(
      (model): Identity()
    )
    """
    return lambda model: TheirLoss(model, objective)


class TheirLoss(nn.Module):
    """The module that their trainer calls; made by `as_sentence_transformers`."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """The loss of a batch: one dictionary of features for each column of the data."""
        columns = list(sentence_features)
        ids = content_of([row for column in columns for row in token_rows(column)])
        vectors = [self.model(column)["sentence_embedding"] for column in columns]
        n = len(vectors[0])
        if len(columns) == 1:
            if labels is None:
                raise ValueError("wanted an anchor and a positive column, or one column with labels; got one column")
            rows = Embeddings.of(vectors[0], id=torch.arange(n), facts={"label": labels.view(-1).to(vectors[0].device)})
            return self.objective(rows, rows, rule=labelled()).loss
        if ids[:n] == ids[n : 2 * n]:  # a text beside itself: two dropout views of one sample
            rule: Rule = same_sample
        else:
            given = [0.0] * (len(ids) - 2 * n)
            rule = listed(Relation.of([*ids[:n]] * (len(columns) - 1), ids[n:], [1.0] * n + given))
        anchors = Embeddings.of(vectors[0], id=torch.tensor(ids[:n]))
        candidates = Embeddings.of(torch.cat(vectors[1:]), id=torch.tensor(ids[n:]), view=1)
        return self.objective(anchors, candidates, rule=rule).loss


def token_rows(features: dict[str, Tensor]) -> list[tuple[int, ...]]:
    """The tokens of each row without padding: what makes two inputs the same."""
    tokens = features["input_ids"]
    mask = features.get("attention_mask", torch.ones_like(tokens)).bool()
    return [tuple(row[there].tolist()) for row, there in zip(tokens.cpu(), mask.cpu(), strict=True)]


def content_of(rows: list[tuple[int, ...]]) -> list[int]:
    """A number for each distinct content.

    >>> content_of([(5, 6), (7,), (5, 6)])
    [0, 1, 0]
    """
    seen: dict[tuple[int, ...], int] = {}
    return [seen.setdefault(row, len(seen)) for row in rows]
