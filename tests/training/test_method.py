"""Methods: replacing the loss and nothing else, and our losses in the sentence-transformers trainer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from counterpoint.data.batches import Rows
from counterpoint.encoders.text import load
from counterpoint.objectives.custom import custom, times
from counterpoint.objectives.softmax import infonce
from counterpoint.recipes.text import pairs, supcon
from counterpoint.training.adapters import as_sentence_transformers
from counterpoint.training.method import Contrast, Method, replace
from counterpoint.types import Embeddings, Outcome
from tests.conftest import toy_rows

negative = custom(lambda s, p, a, c, k: {"x": times(p.attract, s["s"])}, lambda r: -r["x"], rows={"x": "total"})


def rows() -> Rows:
    data = toy_rows(12)
    frame = {"anchor": [r["query"] for r in data], "positive": [[r["doc"]] for r in data], "label": ["x", "y"] * 6}
    return Rows.of(pl.DataFrame(frame))


@pytest.mark.parametrize("recipe", [pairs, supcon])
def test_replace_changes_the_loss_and_nothing_else(recipe: object, tiny: Path) -> None:
    method = recipe(load(str(tiny)), rows())  # type: ignore[operator]
    other = replace(method, objective=negative)
    assert (other.modules, other.views, other.encode) == (method.modules, method.views, method.encode)
    assert isinstance(other.objective, Contrast)
    assert (other.objective.anchors, other.objective.rule) == (method.objective.anchors, method.objective.rule)
    sets = other.encode(other.modules, other.views(rows().take(np.arange(6)), torch.Generator().manual_seed(0)))
    names = method.objective.anchors + method.objective.candidates
    assert set(names) == set(sets)
    assert set(other.objective(other.modules, sets).terms) == {"custom"}


def test_a_method_with_an_objective_of_its_own_says_why_it_cannot_take_a_loss() -> None:
    own = Method(nn.ModuleDict(), lambda b, g: {}, lambda m, v: {}, lambda m, s: Outcome({}, {}, {}), lambda m: m)
    with pytest.raises(TypeError, match="not a loss of two sets"):
        replace(own, objective=negative)
    assert replace(own, model=len).model is len


def features(texts: list[str], folder: Path) -> dict[str, torch.Tensor]:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").tokenize(texts)


class Lookup(nn.Module):
    """A bag of token vectors: small, and equal texts embed equally or not by a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(50, 6, dtype=torch.float64)

    def forward(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": self.table(x["input_ids"])}


def tokens(*rows: list[int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.ones(len(rows), len(rows[0]), dtype=torch.int64)}


def test_in_their_trainer_it_equals_their_loss_where_no_text_repeats() -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.manual_seed(0)
    model = Lookup()
    anchor, positive, hard = (
        tokens([1, 2], [3, 4], [5, 6]),
        tokens([7, 8], [9, 10], [11, 12]),
        tokens([1, 9], [2, 8], [3, 7]),
    )
    theirs = MultipleNegativesRankingLoss(model, scale=20.0)([anchor, positive, hard], torch.zeros(3))
    ours = as_sentence_transformers(partial(infonce, temperature=0.05))(model)([anchor, positive, hard], None)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)


def test_in_their_trainer_equal_texts_are_no_negatives() -> None:
    seen = []

    def spy(anchors: Embeddings, candidates: Embeddings | None = None, *, rule: object) -> Outcome:
        seen.append(rule(anchors, candidates))  # type: ignore[operator]
        return infonce(anchors, candidates, rule=rule)  # type: ignore[arg-type]

    hard = tokens([1, 9], [7, 8], [2, 2])  # the second is also the positive of the others
    loss = as_sentence_transformers(spy)(Lookup())(
        [tokens([1, 2], [3, 4], [1, 2]), tokens([7, 8], [9, 10], [7, 8]), hard]
    )
    assert torch.isfinite(loss)
    assert seen[0].attract.tolist() == [[1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0]]
    assert seen[0].repel.tolist() == [[0, 1, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]]


def test_in_their_trainer_one_column_needs_labels_and_a_text_beside_itself_is_two_views() -> None:
    torch.manual_seed(0)
    model = Lookup()
    loss = as_sentence_transformers(infonce)(model)
    column = tokens([1, 2], [3, 4], [5, 6])
    assert loss([column], torch.tensor([0, 0, 1])).item() > 0
    assert loss([column, column]).item() > 0
    with pytest.raises(ValueError, match="one column with labels"):
        loss([column])


def test_their_trainer_runs_it(tiny: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model = SentenceTransformer(str(tiny), device="cpu")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = Dataset.from_list([{"anchor": r["query"], "positive": r["doc"]} for r in toy_rows(8)])
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True, save_strategy="no"
    )
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=as_sentence_transformers(infonce))
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
