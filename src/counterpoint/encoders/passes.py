"""Tokenized texts in passes of like length, and what a model makes of each pass as rows in the order of the texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from counterpoint._ops.pace import passes

CHUNK = 16  # texts in one pass; sorted by length first, so that a long text does not pad all others
SPARE = "a"  # the text of a pass that is made only because other processes make one


def passes_of(
    features: Mapping[str, Any], texts: int, *, beside: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Tokenized texts dealt out to passes by length, so that little is padding, and the order in which they come.

    Args:
        features: of a tokenizer; what is not a column of all texts goes to every pass. Without an attention mask there is
            one pass.
        texts: how many they are.
        beside: columns of the texts that are no tokens; each pass gets its rows.

    >>> mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    >>> order, (one,) = passes_of({"attention_mask": mask}, 2, beside={"draw": torch.tensor([0.5, 0.25])})
    >>> order.tolist(), one["attention_mask"].tolist(), one["draw"].tolist()
    ([1, 0], [[1, 0, 0], [1, 1, 1]], [0.25, 0.5])
    """
    mask, beside = features.get("attention_mask"), beside or {}
    if mask is None or len(mask) != texts:
        return torch.arange(texts), [{**features, **beside}]
    lengths = mask.sum(1)
    order, left = torch.argsort(lengths, stable=True), not bool(mask[:, 0].all())
    parts = []
    for at in order.split(CHUNK):
        longest = int(lengths[at].max())
        kept = slice(mask.shape[1] - longest, None) if left else slice(longest)
        column = {k: isinstance(v, Tensor) and v.shape[:2] == mask.shape for k, v in features.items()}
        own = {k: v[at, kept] if column[k] else v for k, v in features.items()}
        parts.append(own | {k: v[at] for k, v in beside.items()})
    return order, parts


def by_passes(
    one: Callable[[dict[str, Any]], dict[str, Tensor]],
    features: Mapping[str, Any],
    texts: int,
    *,
    beside: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The rows of all texts in their order, from a model that takes a part of them; as many passes as processes need.

    Args:
        one: features of some texts -> {name: their rows}.
        features: of all texts; of any one text where there is none.
        texts: how many they are.
        beside: columns of the texts that are no tokens.
    """
    if not texts:
        beside = {name: column.new_zeros(1, *column.shape[1:]) for name, column in (beside or {}).items()}
    order, parts = passes_of(features, max(texts, 1), beside=beside)
    own = len(parts) if texts else 0
    spare = max(1, passes(own)) - own  # asked before the first pass, in which all processes meet
    found = [one(part) for part in parts[:own]]
    found += [{name: rows[:0] for name, rows in one(parts[0]).items()} for _ in range(spare)]
    back = torch.argsort(order[:texts])
    return {name: torch.cat([rows[name] for rows in found])[back.to(found[0][name].device)] for name in found[0]}
