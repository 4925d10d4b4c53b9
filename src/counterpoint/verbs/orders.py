"""From `--order NAME` to a function: which order, its arguments, what it takes of the rows, what runs between epochs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data import orders
from counterpoint.data.deal import Order
from counterpoint.errors import Refusal, closest
from counterpoint.verbs.recipes import arguments_of
from counterpoint.verbs.settings import Run

if TYPE_CHECKING:
    from torch import Tensor

    from counterpoint.data.batches import Rows
    from counterpoint.data.roles import Samples
    from counterpoint.encoders.encoder import Encoder

FLAG = "--order-set"
ELSEWHERE = {"batch": "--batch", "seed": "--seed", "weights": "--source-weight"}  # arguments with a flag of their own
# What an order takes -> the role that has it, and how the data come by one.
ROLES = {
    "labels": ("label", "name the column with --label COLUMN"),
    "sources": ("source", "give several data files, or name the column with --source COLUMN"),
}
NEIGHBOURS = 64  # of each row in the table of `hard`: as many as the default batch; 256 bytes a row


def order_function(name: str) -> Callable[..., Order]:
    """The function of an order, by name.

    Raises:
        Refusal: no such order.

    >>> order_function("shuffled").__name__
    'shuffled'
    """
    if name not in orders.__all__:
        raise Refusal("an order of batches", f"'{name}'", where="--order", remedy=closest(name, orders.__all__))
    return getattr(orders, name)


def order_arguments(run: Run) -> dict[str, Any]:
    """All keyword arguments of the run's order but its batch: defaults, then what was set, checked by type.

    Raises:
        Refusal: an argument that the order does not have, of another type, or that has a flag of its own; weights for
            an order without sources.
    """
    function = order_function(run.order)
    own = next((name for name in run.order_settings if name in ELSEWHERE), None)
    if own is not None:
        raise Refusal(f"an argument of {run.order}", f"'{own}'", where=FLAG, remedy=f"that is {ELSEWHERE[own]}")
    given: dict[str, Any] = {**run.order_settings, "batch": run.batch, "seed": run.seed}
    if run.source_weights:
        if "weights" not in inspect.signature(function).parameters:
            remedy = "--order by_source or --order mixed"
            raise Refusal(
                "an order of several sources for --source-weight", f"'{run.order}'", where="--order", remedy=remedy
            )
        given["weights"] = dict(run.source_weights)
    arguments = arguments_of(function, given, flag=FLAG)
    return {name: value for name, value in arguments.items() if name != "batch"}


def needs_of(function: Callable[..., Order]) -> str:
    """What an order takes of the rows: the name of its first argument.

    >>> needs_of(orders.balanced)
    'labels'
    """
    return next(iter(inspect.signature(function).parameters))


def contents_of(rows: Rows) -> list[list[int]]:
    """The content ids that each row brings: of its anchor, its positives and its negatives."""
    others = {key: None for lists in (rows.positives, rows.negatives) for keys in lists for key in keys}
    number = dict(zip(others, rows.items.ids(others), strict=True))
    sides = zip(rows.ids.tolist(), rows.positives, rows.negatives, strict=True)
    return [[anchor, *(number[key] for key in (*positives, *negatives))] for anchor, positives, negatives in sides]


def refuse_missing(run: Run, samples: Samples) -> None:
    """Refuse data without the role that the run's order goes by.

    Raises:
        Refusal: no labels or sources.
    """
    role, remedy = ROLES.get(needs_of(order_function(run.order)), ("anchor", ""))
    if not samples.has(role):
        roles = f"roles {', '.join(samples.columns)}"
        raise Refusal(f"data with a {role} for --order {run.order}", roles, where=samples.source, remedy=remedy)


def column_of(rows: Rows, needs: str) -> Any:
    """What the rows bring for an order; `refuse_missing` has seen that they do."""
    if needs == "n":
        return len(rows)
    if needs == "ids":
        return contents_of(rows)
    if needs == "labels":
        assert rows.labels is not None
        return np.array(rows.classes)[rows.labels] if rows.classes else rows.labels.numpy()
    return rows.sources


def make_order(run: Run, rows: Rows, *, batch: int, tables: Mapping[str, Tensor] | None = None) -> Order:
    """The order that a run asks for, over its training rows: a pure function of the epoch.

    Args:
        run: order, order_settings, source_weights and seed.
        rows: the training rows.
        batch: rows of a global batch.
        tables: what `tables_of` made, for an order that needs it.

    Raises:
        Refusal: as the order's function, and for rows that lack what it needs.
    """
    function, arguments = order_function(run.order), order_arguments(run)
    needs = needs_of(function)
    first = tables["table"].numpy() if tables else None
    if needs == "table" and first is None:  # known is only how many batches there will be
        first = np.full((len(rows), NEIGHBOURS), -1)
    return function(column_of(rows, needs) if first is None else first, batch=batch, **arguments)


def needs_tables(run: Run) -> bool:
    """Whether the run's order is made anew from the current model before each epoch."""
    return needs_of(order_function(run.order)) == "table"


def tables_of(encoder: Encoder, rows: Rows, *, precision: str = "fp32") -> dict[str, Tensor]:
    """What an order of hard batches reads, from the model as it is now; a checkpoint keeps it for the rest of the epoch.

    Args:
        encoder: the current model.
        rows: n training rows.
        precision: "fp32" or "bf16" products of the encoder.

    Returns:
        "table": [n, k] the rows whose anchors are nearest to each row's, none of them of the same content.
    """
    from counterpoint.data.hard import table_of
    from counterpoint.encoders.text import embed
    from counterpoint.types import Embeddings

    anchors = Embeddings.of(embed(encoder, rows.items.take(rows.anchors), "anchor", precision=precision), id=rows.ids)
    return {"table": table_of(anchors, k=min(NEIGHBOURS, len(rows)))}


def order_line(run: Run, used: orders.Used) -> str:
    """One line of the plan: the order, its arguments, and what an epoch uses.

    >>> order_line(Run(), orders.Used(batches=2, rows=8, left=2, again=0))
    'shuffled: 2 batches an epoch, 2 rows left out of each'
    """
    said = [f"{name}={value}" for name, value in order_arguments(run).items() if name != "seed" and value is not None]
    line = f"{run.order}{' (' + ', '.join(said) + ')' if said else ''}: {used.batches:,} batches an epoch"
    line += f", {used.left:,} rows left out of each" if used.left else ""
    return line + (f", {used.again:,} places for rows used before in it" if used.again else "")
