"""Parts of a text as token sets of their own, from one encoding of the whole: a part keeps the tokens that stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.scores import Score, maxsim
from counterpoint.encoders.text import TextEncoder, inference
from counterpoint.encoders.tokens import MASK, Part, token_sets, token_sets_of_parts
from counterpoint.types import Embeddings

UNITS, UNIT_IDS, WHOLE = "units", "unit_ids", "whole"  # facts: tokens of each part; ids of the parts; id of the whole


def units_of(wholes: Embeddings) -> Embeddings:
    """The parts of texts as rows: the tokens of the whole, of which only those of the part are there.

    Args:
        wholes: n token sets with the facts "units" [n p t], which tokens are of which part, and "unit_ids" [n p].

    Returns:
        A row for each part that has tokens, by its own id and with its number as `part`; the fact "whole" is the id of what
        it is a part of.

    >>> facts = {"units": torch.tensor([[[True, False], [False, True]]]), "unit_ids": torch.tensor([[7, 8]])}
    >>> parts = units_of(Embeddings.of(torch.eye(2)[None], id=torch.tensor([5]), facts=facts))
    >>> parts.id.tolist(), parts.facts["whole"].tolist(), parts.facts["mask"].tolist()
    ([7, 8], [5, 5], [[True, False], [False, True]])
    """
    row, part = wholes.facts[UNITS].any(-1).nonzero(as_tuple=True)
    rows = wholes.rows(row)
    facts = {MASK: rows.facts[UNITS][torch.arange(len(row), device=row.device), part], WHOLE: rows.id}
    return replace(rows, id=wholes.facts[UNIT_IDS][row, part], part=part, facts=facts)


def rank_units(
    encoder: TextEncoder,
    query: str,
    whole: str,
    parts: Sequence[Part],
    *,
    tokens: int = 128,
    marker: str = "",
    score: Score | None = None,
) -> Float[Tensor, " p"]:
    """How well each part of a text answers a query, from one encoding of the text.

        s_p = sum_t max_(u in p) q_t . d_u

    Args:
        encoder: a multi-vector model.
        query: any.
        whole: the text.
        parts: of the text, such as its sentences: for each its pieces, from a character to another.
        tokens: of the text that are read; a part behind them scores 0.
        marker: what stands before the query where it asks for parts.
        score: such as `maxsim(mask="mask")` (None).

    References:
        Reddy et al. 2024, arXiv:2405.15028.

    >>> from counterpoint.encoders.text import load
    >>> encoder = load("sentence-transformers/all-MiniLM-L6-v2")
    >>> rank_units(encoder, "who barks?", "Cats sleep. Dogs bark.", [[(0, 11)], [(12, 22)]]).argmax().item()
    1
    """
    score = maxsim(mask=MASK) if score is None else score
    with inference(encoder):
        asked = token_sets(encoder, [marker + query], "anchor", tokens=tokens)
        sets, where = token_sets_of_parts(encoder, [whole], [parts], tokens=tokens, role="positive")
        n = len(parts)
        x = (asked.z.expand(n, -1, -1), asked.mask.expand(n, -1))
        return score.on_pairs(x, (sets.z.expand(n, -1, -1), where[0, :n])).cpu()
