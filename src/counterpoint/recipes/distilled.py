"""Recipes whose student reads texts one by one and gives pairs the scores of a teacher that reads them together."""

from __future__ import annotations

from typing import cast

from torch import nn

from counterpoint._ops.reduce import mean
from counterpoint.data.batches import Rows
from counterpoint.data.mined import pool_of
from counterpoint.encoders.cross import CrossEncoder, load_cross
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.pairs import PAIRS, Kind, pair_head_of, read_once
from counterpoint.encoders.text import TextEncoder, inference
from counterpoint.objectives.rerank import binary, scored_pairs
from counterpoint.papers import paper
from counterpoint.recipes.masked import texts_of
from counterpoint.recipes.text import encoder_of
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome
from counterpoint.views.cross import query_and_candidates

__all__ = ["dse"]
KIND = "text"
READ = {"dse": "encoders.pairs.pair_head_of"}
NEEDS = {"dse": ("anchor", "positive")}
TEACHER = "teacher"  # the fact of its score, and its module
SIDES = (("text", "anchor"), ("other", "positive"))  # the columns of a pair, and their roles
COLUMNS = (
    ("query", "id"),
    ("positive", "positive"),
    ("row", "row"),
)  # what a scored pair is called by, and where it stands


def encode_pairs(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each pair with the student's score and, where there is one, the teacher's; the student reads each text once."""
    encoder, sets = cast(TextEncoder, modules["encoder"]), {}
    for name, batch in views.items():
        left, right = (read_once(encoder, batch[column], role) for column, role in SIDES)
        score = modules[PAIRS](left, right)
        rows = {key: batch[column].to(score.device) for key, column in COLUMNS}
        found = scored_pairs(score, **rows)
        if TEACHER in modules:
            teacher = cast(CrossEncoder, modules[TEACHER])
            with inference(teacher):
                judged = teacher(batch["text"], batch["other"])
            found = found.told(**{TEACHER: judged.to(score.dtype, copy=True)})
        sets[name] = found
    return sets


def distance(pairs: Embeddings) -> Outcome:
    """The mean square between the student's and the teacher's score of a pair."""
    apart = (pairs.facts["score"] - pairs.facts[TEACHER]).square()
    return Outcome.term("scored", mean(apart))


@paper(row=251)
def dse(
    encoder: Encoder,
    train: Rows,
    *,
    teacher: str | None = None,
    share: float = 1.0,
    head: Kind = "compare",
    hidden: int = 512,
    negatives: int = 4,
) -> Method:
    """DSE: a model that reads texts one by one learns the scores that a cross-encoder gives to pairs of them.

        loss = a mean (s_ij - v_ij)^2 + (1 - a) task,    s = head(u_i, v_j)

    v is the teacher's score before any sigmoid, and the task says of each pair whether it belongs together. The head is
    saved beside the model: `encoders.pairs.pair_head_of` finds it, and scores vectors that were made long before.

    Args:
        encoder: the student; encodes both sides.
        train: rows with anchor and positive.
        teacher: folder or name of a cross-encoder, such as `--recipe cross_encoder` trains; None: the task alone.
        share: a, of the teacher's part, from 0 to 1.
        head: "compare", layers on [u, v, u * v, |u - v|]; or "dot", the dot product and a line, which an index can search.
        hidden: width of the layer between, of "compare".
        negatives: beside each positive, from the row's own, filled up at random from all texts; at least 1.

    Raises:
        Refusal: no such teacher, or one with several outputs.

    Differs:
        The encoder pools as it is made to, where the paper joins the means of the last four layers. A teacher with one
        output; the authors add its outputs' squares. Their dot product has no line after it.

    Relations:
        `objectives.judged.scored` is the same loss of two sets whose teacher's scores are listed.

    References:
        Barkan et al. 2020, arXiv:1908.05161; dse_trainer.py at github.com/microsoft/Distilled-Sentence-Embedding.
    """
    encoder = texts_of(encoder, "dse")
    modules = nn.ModuleDict({"encoder": encoder, PAIRS: pair_head_of(encoder, head, hidden=hidden)})
    weights = {"task": 1.0}
    if teacher is not None:
        modules[TEACHER] = load_cross(teacher, device=str(encoder.device)).requires_grad_(False)
        weights = {name: w for name, w in {"scored": share, "task": 1 - share}.items() if w}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        losses = {"scored": distance, "task": binary}
        return Outcome.of(**{name: (weight, losses[name](sets["pair"])) for name, weight in weights.items()})

    views = query_and_candidates(train.relation, pool_of(train), negatives=negatives)
    return Method(modules, views, encode_pairs, objective, encoder_of)
