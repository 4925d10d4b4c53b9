"""Tokenized texts in passes of like length, and what a model makes of each pass as rows in the order of the texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint._ops.pace import passes

CHUNK = 16  # texts in one pass; sorted by length first, so that a long text does not pad all others
TOKENS = {"cpu": 4096}  # in one pass without gradients: what a pass makes stays in the cache of a core
OF_DEVICES = 16_384
SPARE = "a"  # the text of a pass that is made only because other processes make one


def tokens_of(model: nn.Module) -> int | None:
    """How many tokens a pass of this model may hold as it is now; None: passes are of equally many texts.

    That is so while it trains, where the passes decide which random numbers dropout draws for which text.

    >>> tokens_of(nn.Linear(2, 2)) is None
    True
    """
    if model.training or torch.is_grad_enabled():
        return None
    return TOKENS.get(next(model.parameters()).device.type, OF_DEVICES)


def passes_of(
    features: Mapping[str, Any], texts: int, *, beside: Mapping[str, Tensor] | None = None, tokens: int | None = None
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Tokenized texts dealt out to passes by length, so that little is padding, and the order in which they come.

    Args:
        features: of a tokenizer; what is not a column of all texts goes to every pass. Without an attention mask there is
            one pass.
        texts: how many they are.
        beside: columns of the texts that are no tokens; each pass gets its rows.
        tokens: in one pass, padding included, at most; a longer text has a pass of its own. None: `CHUNK` texts.

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
    for at in order.split(CHUNK if tokens is None else _fitting(lengths[order].tolist(), tokens)):
        longest = int(lengths[at].max())
        kept = slice(mask.shape[1] - longest, None) if left else slice(longest)
        column = {k: isinstance(v, Tensor) and v.shape[:2] == mask.shape for k, v in features.items()}
        own = {k: v[at, kept] if column[k] else v for k, v in features.items()}
        parts.append(own | {k: v[at] for k, v in beside.items()})
    return order, parts


def _fitting(lengths: Sequence[int], tokens: int) -> list[int]:
    """How many texts each pass takes, of lengths that grow, so that as many tokens fit as the longest needs for all.

    >>> _fitting([1, 1, 2, 3, 9], 6)
    [3, 1, 1]
    """
    sizes = [0]
    for length in lengths:
        if sizes[-1] and (sizes[-1] + 1) * length > tokens:
            sizes.append(0)
        sizes[-1] += 1
    return sizes


def by_passes(
    one: Callable[[dict[str, Any]], dict[str, Tensor]],
    features: Mapping[str, Any],
    texts: int,
    *,
    beside: Mapping[str, Tensor] | None = None,
    tokens: int | None = None,
) -> dict[str, Tensor]:
    """The rows of all texts in their order, from a model that takes a part of them; as many passes as processes need.

    Args:
        one: features of some texts -> {name: their rows}.
        features: of all texts; of any one text where there is none.
        texts: how many they are.
        beside: columns of the texts that are no tokens.
        tokens: as `passes_of`.
    """
    if not texts:
        beside = {name: column.new_zeros(1, *column.shape[1:]) for name, column in (beside or {}).items()}
    order, parts = passes_of(features, max(texts, 1), beside=beside, tokens=tokens)
    own = len(parts) if texts else 0
    spare = max(1, passes(own)) - own  # asked before the first pass, in which all processes meet
    found = [one(part) for part in parts[:own]]
    found += [{name: rows[:0] for name, rows in one(parts[0]).items()} for _ in range(spare)]
    back = torch.argsort(order[:texts])
    return {name: torch.cat([rows[name] for rows in found])[back.to(found[0][name].device)] for name in found[0]}
