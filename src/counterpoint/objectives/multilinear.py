"""Scores of more than two things at once: the sum over coordinates of the product of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.join import matches
from counterpoint._ops.processes import everywhere
from counterpoint.objectives.custom import Output, Side, per_row, sweep, times
from counterpoint.objectives.positives import beside, mean_cost, per_positive
from counterpoint.objectives.softmax import LOGITS, WEIGHTS, Temperature, between, compare, cooled, gaps, logits
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

Notes = dict[str, Tensor]
MADE = -1  # the id of a product whose parts are of different samples


def _products(parts: Sequence[Embeddings], at: Sequence[Tensor]) -> Embeddings:
    """Element-wise products of the rows at the given places, one index list for each part.

    A product has the id of its parts where they agree, so that rules see a positive only where all are of one sample.
    """
    chosen = [rows.rows(index) for rows, index in zip(parts, at, strict=True)]
    id = chosen[0].id
    for rows in chosen[1:]:
        id = torch.where(rows.id == id, id, torch.full_like(id, MADE))
    z = reduce(torch.mul, (rows.z for rows in chosen))
    return replace(Embeddings.of(z, id=id, view=MADE), placement="replicated")


def _matched(parts: Sequence[Embeddings]) -> Embeddings:
    """The product of every sample's own rows."""
    at = [torch.arange(len(parts[0]), device=parts[0].id.device)]
    for rows in parts[1:]:
        left, right = matches(parts[0].id[at[0]], rows.id)
        at = [*(index[left] for index in at), right]
    return _products(parts, at)


def _all(parts: Sequence[Embeddings]) -> Embeddings:
    """The product of every row of one part with every row of each other."""
    places = [torch.arange(len(rows), device=rows.id.device) for rows in parts]
    at = torch.cartesian_prod(*places) if len(parts) > 1 else places[0][:, None]
    return _products(parts, list(at.T))


def _shuffled(parts: Sequence[Embeddings], generator: torch.Generator | None) -> Embeddings:
    """As many products as the shortest part has rows, each part in an order of its own."""
    least = min(len(rows) for rows in parts)
    at = [torch.randperm(len(rows), generator=generator)[:least].to(rows.id.device) for rows in parts]
    return _products(parts, at)


def _pulled(
    scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    """What attracts: the logits of a row's own products, and how many they are."""
    return {"pull": times(pairs.attract, scores["s"]), "attract": pairs.attract}


def _turn(own: Embeddings, right: Embeddings, wrong: Embeddings, t: Temperature, *, unit: bool) -> tuple[Tensor, Notes]:
    """The loss of one kind's rows against products of the others, and its notes."""
    own, right, t, _ = cooled(own, right, t, unit=False)
    bound = 1 / float(t.detach().min()) + WEIGHTS if unit and t.numel() else None
    found = compare(logits(False), own, wrong, rule=same_sample, directions="forward", bounds=between(bound))
    pulled = sweep(_pulled, own, right, scores=LOGITS, rule=same_sample, rows={"pull": "total", "attract": "total"})
    first = replace(found, rows={**found.rows, **pulled.rows})
    level = first.rows["denominator"], None
    swept = per_positive(beside, first, level=level, sides=(own, right), rule=same_sample)
    return per_row(partial(mean_cost, compete=False), swept, "forward"), gaps(t, swept.rows)


@paper(row=45)
def symile(
    sets: Sequence[Embeddings | Float[Tensor, "n d"]],
    *,
    temperature: Temperature = 0.05,
    negatives: Literal["all", "shuffled"] = "shuffled",
    generator: torch.Generator | None = None,
    unit: bool = True,
) -> Outcome:
    """Each row has to pick its sample's rows of all other kinds, taken together, out of mixed-up ones (Symile).

    For a row x_i of one kind, the product p of one row of each other kind (element by element) and the multilinear score
    <x_i, p> = sum_d x_id p_d,

        loss_i = log( 1 + sum_k exp((<x_i, p_k> - <x_i, p_i>) / t) )

    over the negatives p_k, and p_i of sample i alone. The result is the mean over rows that have a product of their own
    sample and a negative, averaged over which kind has its turn. A product is of a sample only if all its parts are.

    Args:
        sets: the rows of each kind, at least 2, paired by id: [n, d] each. Plain tensors pair by position.
        temperature: t > 0; a number, or the name of a fact that all sets have.
        negatives: "all" takes every product but the anchor's own: with N rows of each of M kinds N^(M-1) products are
            held, so it is for small batches. "shuffled" takes N, each kind in a random order.
        generator: of the orders; over several processes it has to be in the same state on each.
        unit: scale rows to length 1 first.

    Returns:
        One term, "symile", in nats; with "all" log N^(M-1) where all rows are equal. No notes but those of `infonce` for
        the first kind's rows.

    Raises:
        ValueError: for fewer than two sets, plain tensors of different length, other negatives, or a temperature that is
            not above 0.

    Differs:
        The authors' fast form puts a row's own product in the place of one of the N shuffled ones; here it stands beside
        them, so a row has N negatives and not N - 1. A shuffled product that is of the row's own sample is left out; there
        it counts as a negative. Where a sample lacks a kind its rows of the others have no turn.

    Relations:
        With two kinds "all" is `infonce` with `directions="both"`. With a third kind whose rows are all ones (unscaled),
        each of N products stands N times.

    References:
        Saporta et al. 2024, arXiv:2411.01053; src/losses.py at github.com/rajesh-lab/symile.

    >>> e = torch.eye(2)
    >>> round(symile([e, e, e], temperature=1.0, negatives="all").loss.item(), 4)      # log(1 + 3 exp(-1))
    0.7437
    """
    if len(sets) < 2:
        raise ValueError(f"wanted at least 2 sets of rows, got {len(sets)}")
    if negatives not in ("all", "shuffled"):
        raise ValueError(f"wanted 'all' or 'shuffled' negatives, got '{negatives}'")
    lengths = [len(rows) for rows in sets if isinstance(rows, Tensor)]
    if len(set(lengths)) > 1:
        raise ValueError(f"wanted plain tensors of equal length, got {lengths}")
    given = [rows if isinstance(rows, Embeddings) else Embeddings.of(rows, view=k) for k, rows in enumerate(sets)]
    given = [replace(rows, z=rows.z.to(torch.promote_types(rows.z.dtype, torch.float32))) for rows in given]
    if unit:
        given = [rows.to_unit() for rows in given]
    whole = [everywhere(rows) for rows in given]
    losses, notes = [], []
    for turn, own in enumerate(given):
        others = whole[:turn] + whole[turn + 1 :]
        wrong = _all(others) if negatives == "all" else _shuffled(others, generator)
        loss, note = _turn(own, _matched(others), wrong, temperature, unit=unit)
        losses.append(loss)
        notes.append(note)
    return Outcome({"symile": torch.stack(losses).sum() / len(losses)}, {"symile": 1.0}, notes[0])
