"""From roles to a recipe and a metric, by one table; from a name to a function; from words to its arguments."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import math
import numbers
import pkgutil
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from counterpoint.data.roles import Samples
from counterpoint.data.sources import short
from counterpoint.errors import Refusal, closest


@dataclass(frozen=True)
class Choice:
    """One row of the table: roles that must be there -> recipe, metric, and why."""

    roles: tuple[str, ...]
    recipe: str
    metric: str
    why: str


# Read from the top; the first row whose roles are all there is taken. This is what --recipe auto means.
AUTO = (
    Choice(("anchor", "positive", "value"), "simcse", "spearman", "pairs with a value: trained without labels, the "
        "values measure it"),
    Choice(("anchor", "positive", "negative"), "pairs_with_negatives", "mrr@10", "positive pairs with given negatives"),
    Choice(("anchor", "positive"), "pairs", "mrr@10", "positive pairs; the other rows of a batch are the negatives"),
    Choice(("anchor", "label"), "supcon", "accuracy", "texts with a label: equal labels are positive pairs"),
    Choice(("anchor",), "simcse", "mrr@10", "texts alone: each is its own positive under two dropout masks; measured "
        "by whether the first half of a text finds its second"),
)  # fmt: skip
# The same for arrays.
AUTO_OF_ARRAYS = (
    Choice(("anchor", "positive", "value"), "scarf", "spearman", "pairs with a value: trained without labels, the "
        "values measure it"),
    *AUTO[1:3],
    Choice(("anchor", "label"), "supcon", "accuracy", "arrays with a label: equal labels are positive pairs"),
    Choice(("anchor",), "scarf", "mrr@10", "arrays alone: each has to find itself among others when most of its numbers "
        "are replaced; measured by the same on rows that were held out"),
)  # fmt: skip
CROSS = ("cross_encoder", "cross_encoder_listwise")  # recipes whose model scores pairs
# Arguments that have to be positive -> the least that fp32 can divide by, or that counts.
ABOVE_ZERO: Mapping[str, float] = {"temperature": 2.0**-126, "hard_weight": 2.0**-126, "negatives": 1} | {
    "positive_weight": 2.0**-126
}


def recipes() -> dict[str, Callable]:
    """All recipes of ours by name: what the modules of `counterpoint.recipes` list in `__all__`.

    >>> recipes()["simcse"].__name__
    'simcse'
    """
    return {name: getattr(module, name) for module in _modules() for name in module.__all__}


def needs(recipe: str) -> tuple[str, ...]:
    """The roles that a recipe of ours cannot do without, beside anchor: `NEEDS` of its module.

    >>> needs("supcon")
    ('anchor', 'label')
    """
    return next((m.NEEDS[recipe] for m in _modules() if recipe in getattr(m, "NEEDS", {})), ())


def only(recipe: str) -> str | None:
    """The kind of data that alone a recipe of ours works on: `KIND` of its module; None: any."""
    return next((getattr(m, "KIND", None) for m in _modules() if recipe in m.__all__), None)


def reader(recipe: str) -> str | None:
    """What reads the vectors that a recipe of ours trains, where that is not the model's own: `READ` of its module.

    >>> reader("colbert"), reader("pairs")
    ('encoders.tokens.nearest_sets', None)
    """
    return next((m.READ[recipe] for m in _modules() if recipe in getattr(m, "READ", {})), None)


@functools.cache
def _modules() -> tuple[ModuleType, ...]:
    import counterpoint.recipes as room

    found = (importlib.import_module(f"{room.__name__}.{m.name}") for m in pkgutil.iter_modules(room.__path__))
    return tuple(sorted((m for m in found if hasattr(m, "__all__")), key=lambda m: m.__name__))


def choose(samples: Samples, recipe: str, *, mined: bool = False) -> tuple[str, Choice]:
    """The recipe's name and the row of the table that the data match.

    Args:
        samples: the data.
        recipe: its name, or "auto".
        mined: negatives will be mined while training, so the data need not have any.

    Raises:
        Refusal: for a recipe whose roles the data do not have; where negatives are mined, for one that takes none.
    """
    table = AUTO if samples.items.kind == "text" else AUTO_OF_ARRAYS
    match = next(c for c in table if all(samples.has(r) for r in c.roles))
    if recipe == "auto" and mined and match.recipe in ("pairs", "pairs_with_negatives"):
        return "pairs_with_negatives", match
    if recipe == "auto" and not mined:
        return match.recipe, match
    if mined and ".py:" not in recipe and "negative" not in needs(recipe):
        remedy = "--recipe pairs_with_negatives does"
        raise Refusal("a recipe that takes negatives for --mine-every", f"'{recipe}'", where="--recipe", remedy=remedy)
    if (only(recipe) or samples.items.kind) != samples.items.kind:
        remedy = f"--recipe auto takes {match.recipe}"
        raise Refusal(f"{only(recipe)} for --recipe {recipe}", samples.items.kind, where=samples.source, remedy=remedy)
    for role in needs(recipe):
        if not samples.has(role) and not (mined and role == "negative"):
            raise Refusal(
                f"data with a {role} for --recipe {recipe}",
                f"roles {', '.join(samples.columns)}",
                where=samples.source,
                remedy=f"name the column with --{role} COLUMN, or leave the recipe to --recipe auto ({match.recipe})",
            )
    return recipe, match


def function_of(recipe: str) -> Callable:
    """The function of a recipe, ours by name or a user's by path/to/file.py:function.

    Raises:
        Refusal: no such recipe, or a file that Python cannot run.
    """
    if ".py:" in recipe:
        return _own(recipe)
    ours = recipes()
    if recipe not in ours:
        remedy = closest(recipe, ["auto", *ours])
        if recipe.endswith(".py"):
            remedy = f"name the function in it: {recipe}:FUNCTION"
        raise Refusal("a recipe", f"'{recipe}'", where="--recipe", remedy=remedy)
    return ours[recipe]


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    """A user's folder gets no __pycache__ from us."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _own(recipe: str) -> Callable:
    path, _, name = recipe.rpartition(":")
    where = f"--recipe {recipe}"
    spec = importlib.util.spec_from_file_location("counterpoint_user_recipe", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise Refusal("a Python file with a recipe", "no such file", where=where)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclasses look for it
    try:
        with _no_bytecode():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file does wrong is the user's to mend
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        came = f"{type(error).__name__}: {error}"
        raise Refusal("a Python file that runs", came, where=f"{where}, line {line}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise Refusal(f"a function '{name}' in {path}", "none", where=where)
    try:
        inspect.signature(function).bind_partial(None, None)
    except (TypeError, ValueError) as error:
        remedy = f"def {name}(encoder, train, *, ...): settings come after the star"
        raise Refusal("a recipe that takes encoder and train", error, where=where, remedy=remedy) from error
    return function


def arguments_of(function: Callable, given: Mapping[str, Any], *, flag: str = "--set") -> dict[str, Any]:
    """All arguments of a recipe or an order with the values they will have: its defaults, then what was set, checked by type.

    Raises:
        Refusal: for an argument that the recipe does not have, or a value of another type.
    """
    known = {
        n: p for n, p in inspect.signature(function).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    hints = _hints_of(function)
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        where = f"{flag} {short(f'{name}={value}')}"
        if name not in known:
            raise Refusal(f"an argument of {function.__name__}", f"'{name}'", where=where, remedy=closest(name, known))
        values[name] = _as_type(value, hints.get(name, type(known[name].default)), where)
        if name in ABOVE_ZERO and not values[name] >= ABOVE_ZERO[name]:
            raise Refusal(f"a {name} above 0", short(str(value)), where=where)
    missing = next((name for name, value in values.items() if value is inspect.Parameter.empty), None)
    if missing is not None:
        raise Refusal(f"a value for the argument '{missing}'", "none", remedy=f"{flag} {missing}=VALUE")
    return values


def _hints_of(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (
        NameError,
        TypeError,
        AttributeError,
    ):  # of a user's recipe, under TYPE_CHECKING; the defaults have types too
        return {}


def _as_type(value: Any, hint: Any, where: str) -> Any:
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    if choices:
        if value not in choices:
            raise Refusal("one of " + ", ".join(map(str, choices)), f"'{value}'", where=where)
        return value
    if isinstance(value, str) and hint is not str:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:  # all that literal_eval may raise
            name = getattr(hint, "__name__", hint)
            raise Refusal(f"a value of type {name}", f"'{short(value)}'", where=where) from error
    if hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of a whole number that no float holds; not a float then
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise Refusal("a finite number", value, where=where)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise Refusal(f"a value of type {hint.__name__}", f"'{short(str(value))}'", where=where)
    return value
