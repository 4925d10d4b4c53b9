"""MTEB gives our models the scores that our own evaluation gives them."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.encoders.cross import load_cross, save_cross
from counterpoint.encoders.mlp import MLP, Sizes
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.evaluation.mteb_adapter import as_mteb, texts_of
from counterpoint.verbs.evaluate import evaluate
from tests.conftest import toy_rows

with warnings.catch_warnings():  # what other libraries warn of is theirs
    warnings.simplefilter("ignore")
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.mocks import mock_tasks
    from mteb.models import CrossEncoderProtocol, EncoderProtocol
    from sentence_transformers import CrossEncoder

ROWS = toy_rows(60)


class Ranked(mock_tasks.MockRetrievalTask):
    """Each query of the toy table has to find its document."""

    def load_data(self, *_: Any, **__: Any) -> None:
        queries = list(dict.fromkeys(row["query"] for row in ROWS))
        documents = list(dict.fromkeys(row["doc"] for row in ROWS))
        known: dict[str, dict[str, int]] = {}
        for row in ROWS:
            known.setdefault(f"q{queries.index(row['query'])}", {})[f"d{documents.index(row['doc'])}"] = 1
        data = {
            "corpus": Dataset.from_list([{"id": f"d{i}", "text": t, "title": ""} for i, t in enumerate(documents)]),
            "queries": Dataset.from_list([{"id": f"q{i}", "text": t} for i, t in enumerate(queries)]),
            "relevant_docs": known,
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": data, "val": data}}
        self.data_loaded = True


class Graded(mock_tasks.MockSTSTask):
    """Pairs with a value."""

    def load_data(self, *_: Any, **__: Any) -> None:
        columns = {"sentence1": [r["anchor"] for r in PAIRS], "sentence2": [r["positive"] for r in PAIRS]}
        self.dataset = DatasetDict(
            {"test": Dataset.from_dict({**columns, "score": [float(r["value"]) for r in PAIRS]})}
        )
        self.data_loaded = True


DRAW = random.Random(0)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # cosines of a model that was never trained differ by rounding only
THINGS = ("a dog", "a cat", "two men", "a girl in red", "the old bus", "a cup of tea", "my brother", "the sea")
DOINGS = ("runs", "sleeps", "waits for the rain to stop", "is not there", "plays the piano")
PAIRS: list[dict[str, Any]] = [
    {
        "anchor": f"{DRAW.choice(THINGS)} {doing}",
        "positive": f"{thing} {DRAW.choice(DOINGS)}",
        "value": DRAW.randrange(6),
    }
    for thing in THINGS
    for doing in DOINGS
]


def scores(model: Any, task: Any) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mteb.evaluate(model, [task], cache=None, show_progress_bar=False, co2_tracker=False)
    return found.task_results[0].scores["test"][0]


def test_retrieval_scores_alike(tiny: Path) -> None:
    theirs, ours = scores(as_mteb(tiny), Ranked()), evaluate(tiny, ROWS, quiet=True, precision="fp32")
    own = next(iter(ours.tasks[0].results.values()))
    for name, other in (("ndcg@10", "ndcg_at_10"), ("recall@10", "recall_at_10")):
        assert own[name]["value"] == pytest.approx(theirs[other], abs=1e-5), "mteb rounds to five digits"
    assert 0 < own["ndcg@10"]["value"] < 1


def test_similarity_scores_alike() -> None:
    theirs, ours = scores(as_mteb(MINILM), Graded()), evaluate(MINILM, PAIRS, quiet=True, precision="fp32")
    own = next(iter(ours.tasks[0].results.values()))
    assert own["spearman"]["value"] == pytest.approx(theirs["cosine_spearman"], abs=1e-6)
    assert own["pearson"]["value"] == pytest.approx(theirs["cosine_pearson"], abs=1e-6)
    assert abs(theirs["cosine_spearman"]) > 1e-3


def test_roles_take_their_prompts(tiny: Path) -> None:
    model = as_mteb(load(tiny, prompts={"anchor": "w1 w2 ", "positive": "w3 "}))
    plain = as_mteb(tiny)
    query, document = mteb.types.PromptType.query, mteb.types.PromptType.document
    for kind, prompt in ((query, "w1 w2 "), (document, "w3 "), (None, "w1 w2 ")):
        got = model.encode([{"text": ["q1 q2"]}], prompt_type=kind)
        want = plain.encode([{"text": [prompt + "q1 q2"]}])
        assert got == pytest.approx(want, abs=1e-6)
    assert model.mteb_model_meta.use_instructions
    assert not plain.mteb_model_meta.use_instructions


def test_similarities_are_cosines(tiny: Path) -> None:
    model = as_mteb(tiny)
    x, y = np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, -5.0]])
    assert model.similarity(x, y) == pytest.approx(np.array([[0.5**0.5, 0], [0.5**0.5, -1]]), abs=1e-6)
    assert model.similarity_pairwise(x, y) == pytest.approx([0.5**0.5, -1], abs=1e-6)
    assert isinstance(model, EncoderProtocol)


def test_cross_encoders_score_pairs(tiny: Path, tmp_path: Path) -> None:
    save_cross(load_cross(tiny), tmp_path / "cross")
    model = as_mteb(tmp_path / "cross")
    assert isinstance(model, CrossEncoderProtocol)
    pairs = [{"text": ["q1", "q2"]}], [{"text": ["d1", "d2"]}]
    theirs = CrossEncoder(str(tmp_path / "cross"), activation_fn=torch.nn.Identity())
    assert model.predict(*pairs) == pytest.approx(theirs.predict([("q1", "d1"), ("q2", "d2")]), abs=1e-6)
    assert model.predict(*pairs)[::-1] == pytest.approx(
        model.predict([{"text": ["q2", "q1"]}], [{"text": ["d2", "d1"]}])
    )
    assert model.mteb_model_meta.model_type == ["cross-encoder"]


def test_what_it_cannot_read_is_one_line(tiny: Path) -> None:
    with pytest.raises(Refusal, match="task of texts"):
        texts_of([{"image": ["x"]}])
    with pytest.raises(Refusal, match="a model of texts"):
        as_mteb(MLP((3,), Sizes()))
