"""Pairs of texts for a cross-encoder: each row's query beside one positive and some negatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from counterpoint._ops.hashed import hashed_uniform
from counterpoint.data.identity import content_ids
from counterpoint.types import Batch, Relation

Views = Callable[[Batch, torch.Generator], dict[str, Batch]]
LARGEST = 2**62  # of a salt


def query_and_candidates(relation: Relation, pool: Sequence[str], *, negatives: int) -> Views:
    """The view "pair": for each row its query beside one of its positives, and beside negatives.

    Negatives are drawn from the row's own; where it lists fewer, from the pool. Known positives of the query are never
    among them. What a row draws depends on its number and the generator alone, not on the rest of the batch.

    Args:
        relation: what is known of the queries.
        pool: texts to fill up from; may be empty.
        negatives: for each row, at least 1.

    >>> views = query_and_candidates(Relation.of([], []), ["x", "y"], negatives=2)
    >>> row = {"id": torch.tensor([1]), "row": torch.tensor([0]), "anchor": ["q"], "positive": [["p"]], "negative": [["n"]]}
    >>> pair = views(row, torch.Generator().manual_seed(0))["pair"]
    >>> pair["other"][:2], len(pair["other"]), pair["positive"].tolist()
    (['p', 'n'], 3, [True, False, False])
    """

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        salt = int(torch.randint(LARGEST, (1,), generator=generator))
        left, right, at, positive = [], [], [], []
        for i, (query, row) in enumerate(zip(batch["id"].tolist(), batch["row"], strict=True)):
            known = {query, *relation.positives(query)}
            chosen = _shuffled(batch["positive"][i], row, salt)[:1]
            given = dict.fromkeys(batch["negative"][i])
            others = _shuffled(_unknown(given, known, chosen), row, salt)[:negatives]
            others += _filled(pool, known, [*chosen, *others], key=(salt, row), count=negatives - len(others))
            left += [batch["anchor"][i]] * (len(chosen) + len(others))
            right += chosen + others
            at += [i] * (len(chosen) + len(others))
            positive += [True] * len(chosen) + [False] * len(others)
        rows = torch.tensor(at, dtype=torch.int64)
        return {
            "pair": {
                "text": left, "other": right, "id": batch["id"][rows], "row": batch["row"][rows],
                "positive": torch.tensor(positive, dtype=torch.bool), "role": "pair",
            }
        }  # fmt: skip

    return views


def _shuffled(texts: Sequence[str], row: Int[Tensor, ""], salt: int) -> list[str]:
    """The texts in an order that the row and the salt decide."""
    if len(texts) < 2:
        return list(texts)
    drawn = hashed_uniform(salt, row.expand(len(texts)), content_ids(texts)).tolist()
    return [text for _, text in sorted(zip(drawn, texts, strict=True))]


def _unknown(texts: Mapping[str, None], known: set[int], taken: Sequence[str]) -> list[str]:
    return [t for t, i in zip(texts, content_ids(texts).tolist(), strict=True) if i not in known and t not in taken]


def _filled(
    pool: Sequence[str], known: set[int], taken: Sequence[str], *, key: tuple[int, Tensor], count: int
) -> list[str]:
    """Up to `count` other texts of the pool; fewer where most of it is known or taken."""
    if count <= 0 or not pool:
        return []
    tries = 4 * count + len(known)  # enough unless the pool is hardly larger than what is asked
    places = (hashed_uniform(key[0], key[1].expand(tries), torch.arange(tries)) * len(pool)).long().tolist()
    return _unknown(dict.fromkeys(pool[i] for i in places), known, taken)[:count]
