"""`prove`: does a recipe keep what every method has to keep? On a small model and random data, in seconds."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.errors import Refusal
from counterpoint.testing import (
    assert_method_caches,
    assert_method_encodes_rows,
    assert_method_goes_on,
    assert_method_is_finite,
    assert_method_over_processes,
    assert_processes_agree,
)
from counterpoint.training.method import Method
from counterpoint.verbs.console import Screen
from counterpoint.verbs.job import make_method
from counterpoint.verbs.recipes import CROSS, arguments_of, function_of, needs, only
from counterpoint.verbs.small import KINDS, ROLES, small_encoder, small_rows

ROWS = 12  # of the batch, at least
MOST = 16  # processes
# What gets no gradient in the small models: a pooler that nothing reads; what all scores of a softmax share.
UNUSED: Mapping[str, tuple[str, ...]] = {
    "text": ("pooler", "key.bias"),
    "cross_encoder": ("key.bias",),
    "cross_encoder_listwise": ("key.bias", "classifier.bias"),
}


@dataclass(frozen=True)
class Proved:
    """One contract: what it says, and how it is broken; None where it is kept."""

    contract: str
    problem: str | None

    @property
    def kept(self) -> bool:
        """Whether it is kept."""
        return self.problem is None


def prove(
    recipe: str,
    *,
    settings: Mapping[str, Any] | None = None,
    processes: Sequence[int] = (2, 4),
    kind: str | None = None,
    quiet: bool = False,
) -> tuple[Proved, ...]:
    """Try every contract of a method on a recipe, and say which are kept and how the others are broken.

    Args:
        recipe: a name of ours, or path/to/file.py:function.
        settings: arguments of the recipe.
        processes: how many to try, each from 2 to 16.
        kind: "text" or "arrays"; None: arrays for a recipe that works on them alone, else text.
        quiet: print nothing.

    Raises:
        Refusal: no such recipe or argument, or a recipe that does not run.

    >>> [p.kept for p in prove("supcon", kind="arrays", processes=(2,), quiet=True)]
    [True, True, True, True, True]
    """
    _refuse_counts(processes)
    function = function_of(recipe)
    arguments = arguments_of(function, settings or {})
    kind = _kind_of(recipe, kind)
    rows = small_rows(kind, _rows_for(processes), roles=("anchor", *(needs(recipe) or ROLES)))
    screen = Screen(quiet=quiet)
    with tempfile.TemporaryDirectory() as folder:
        encoder = small_encoder(kind, rows, Path(folder) / "tiny", pairs=recipe in CROSS)

        def make() -> Method:
            made = encoder()
            torch.manual_seed(0)  # of what the recipe adds, such as a head
            return make_method(function, made, rows, arguments)

        make()  # what a recipe refuses is said before anything is tried
        batch = rows.take(np.arange(len(rows)))
        unused = UNUSED.get(recipe, UNUSED.get(kind, ()))
        counts = ", ".join(map(str, (1, *processes)))
        return _tried(
            [
                (f"{counts} processes: one loss, one gradient", partial(assert_method_over_processes, processes=processes)),
                ("caching gives the gradient of the whole batch", assert_method_caches),
                ("each row is encoded by itself", assert_method_encodes_rows),
                ("finite in fp32 and bf16, a gradient for all", partial(assert_method_is_finite, unused=unused)),
                ("a checkpoint holds all that it remembers", assert_method_goes_on),
            ],
            (make, batch),
            screen,
        )  # fmt: skip


def prove_objective(name: str, *, processes: Sequence[int] = (2, 4), quiet: bool = False) -> tuple[Proved, ...]:
    """Try on an objective that several processes give the loss and the gradients of one.

    Args:
        name: module:function, or path/to/file.py:function, of (anchors, candidates) -> outcome.
        processes: how many to try, each from 2 to 16.
        quiet: print nothing.

    Raises:
        Refusal: no such function.

    >>> prove_objective("counterpoint.objectives.softmax:infonce", processes=(2,), quiet=True)[0].kept
    True
    """
    _refuse_counts(processes)
    objective = _objective_of(name)
    counts = ", ".join(map(str, (1, *processes)))
    contract = (f"{counts} processes: one loss, one gradient", partial(assert_processes_agree, processes=processes))
    return _tried([contract], (objective,), Screen(quiet=quiet))


def _tried(
    contracts: Sequence[tuple[str, Callable[..., None]]], given: tuple[Any, ...], screen: Screen
) -> tuple[Proved, ...]:
    """Each contract, and a line for each as it is done."""
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a small model gains nothing from more, and forks go on with what threads hold
    try:
        for contract, proves in contracts:
            try:
                proves(*given)
                problem = None
            except AssertionError as error:
                problem = str(error)
            except Exception as error:  # whatever else a recipe does is its own
                problem = f"{type(error).__name__}: {_last_line(error)}"
            found.append(Proved(contract, problem))
            style = "green" if problem is None else "bold red"
            screen.say(
                f"{'kept' if problem is None else 'broken':<7} {contract}{f': {problem}' if problem else ''}", style
            )
    finally:
        torch.set_num_threads(threads)
    return tuple(found)


def _last_line(error: Exception) -> str:
    """The end of a message: where another process failed, what its traceback ends with."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def _kind_of(recipe: str, kind: str | None) -> str:
    if kind is not None and kind not in KINDS:
        raise Refusal("a kind: " + ", ".join(KINDS), f"'{kind}'", where="--kind")
    alone = only(recipe)
    if alone is not None and kind not in (None, alone):
        raise Refusal(f"{alone} for {recipe}", f"'{kind}'", where="--kind")
    return alone or kind or "text"


def _refuse_counts(processes: Sequence[int]) -> None:
    bad = next((count for count in processes if not 2 <= count <= MOST), None)
    if bad is not None or not processes:
        raise Refusal(f"from 2 to {MOST} processes", "none" if bad is None else bad, where="--processes")


def _rows_for(processes: Sequence[int]) -> int:
    """Enough for uneven shares."""
    return max(ROWS, *(count * (count + 1) // 2 for count in processes))


def _objective_of(name: str) -> Callable[..., Any]:
    """The function that a name says."""
    import importlib

    if ".py:" in name:
        return function_of(name)
    home, colon, word = name.partition(":")
    try:
        function = getattr(importlib.import_module(home), word, None) if colon else None
    except ImportError as error:
        raise Refusal("a module with an objective", str(error), where=f"--objective {name}") from error
    if not callable(function) or inspect.isclass(function):
        remedy = "such as counterpoint.objectives.softmax:infonce"
        raise Refusal("module:function of an objective", f"'{name}'", where=f"--objective {name}", remedy=remedy)
    return function
