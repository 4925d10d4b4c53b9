"""Some rows of a step with their pairs: what health and model selection look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from counterpoint.objectives.custom import Rule
from counterpoint.training.method import Contrast
from counterpoint.types import Embeddings, PairRule, Pairs, same_sample


class Sample(NamedTuple):
    """At most so many anchors, the candidates of their pairs, and for each anchor its first positive (-1: none)."""

    anchors: Embeddings
    candidates: Embeddings
    pairs: Pairs
    partner: Int[Tensor, " n"]


def evenly(n: int, most: int) -> Int[Tensor, " k"]:
    """At most so many of n places, evenly apart; no random number is drawn.

    >>> evenly(10, 3).tolist(), evenly(2, 3).tolist()
    ([0, 4, 9], [0, 1])
    """
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most, dtype=torch.float64).round().long()


def sides(objective: Any, sets: Mapping[str, Embeddings]) -> tuple[Embeddings, Embeddings, Rule] | None:
    """Anchors, candidates and rule of an objective.

    Those of a `Contrast` are its own. Of any other objective the first set is compared with the second by
    `same_sample`, or with itself where there is one; None where there is no set.
    """
    if isinstance(objective, Contrast):
        both = [[sets[name] for name in names if name in sets] for names in (objective.anchors, objective.candidates)]
        if not all(both):
            return None
        a, c = (rows[0] if len(rows) == 1 else Embeddings.cat(rows) for rows in both)
        return a, c, objective.rule
    known = list(sets.values())[:2]
    return (known[0], known[-1], same_sample) if known else None


def plain(rows: Embeddings) -> Embeddings:
    """Rows without their graph, in fp32 on the CPU; of a set of tokens the mean."""
    z = rows.z.detach().float().cpu()
    facts = {name: fact.detach().cpu() for name, fact in rows.facts.items()}
    columns = {name: getattr(rows, name).cpu() for name in ("id", "view", "part", "age")}
    return replace(rows, z=z if z.ndim == 2 else z.flatten(1, -2).mean(1), facts=facts, **columns)


@torch.no_grad()
def sample(objective: Any, sets: Mapping[str, Embeddings], most: int) -> Sample | None:
    """Some anchors of a step, evenly apart, with one positive of each and some candidates evenly apart.

    Args:
        objective: of the method.
        sets: of the step; local rows.
        most: anchors at most; candidates at most twice as many. A rule that cannot list its pairs is asked about four
            times as many candidates, and positives beyond them are not found.

    Returns:
        None where there is nothing to look at, as with pairs that are scored and have no vectors.
    """
    found = sides(objective, sets)
    if found is None or not all(rows.z.numel() for rows in found[:2]):
        return None
    a, c, rule = found
    a = a.rows(evenly(len(a), most).to(a.z.device))
    if isinstance(rule, PairRule) and rule.elsewhere is not None:
        edges = rule.edges(a, c)
        row, col = (at[edges.attract > 0].cpu() for at in (edges.row, edges.col))
        first = torch.full((len(a),), len(c)).scatter_reduce(0, row, col, "amin")
        chosen = torch.cat([first[first < len(c)], evenly(len(c), most)]).unique()
    else:
        chosen = evenly(len(c), 4 * most)
    c = c.rows(chosen.to(c.z.device))
    pairs = Pairs(*(weight.float().cpu() for weight in rule(a, c)))
    strongest, partner = pairs.attract.max(1)
    return Sample(plain(a), plain(c), pairs, torch.where(strongest > 0, partner, -1))


def matched(found: Sample) -> tuple[Tensor, Tensor]:
    """Anchors that have a positive, and that positive, row by row."""
    has = found.partner >= 0
    return found.anchors.z[has], found.candidates.z[found.partner[has]]
