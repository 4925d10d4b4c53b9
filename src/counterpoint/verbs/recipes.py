"""From roles to a recipe and a metric, by one table; from a name to a function; from words to its arguments."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.data.roles import Samples
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
    Choice(("anchor", "positive", "value"), "simcse", "spearman", "pairs with a value: trained without labels, the values "
        "measure it"),
    Choice(("anchor", "positive", "negative"), "pairs_with_negatives", "mrr@10", "positive pairs with given negatives"),
    Choice(("anchor", "positive"), "pairs", "mrr@10", "positive pairs; the other rows of a batch are the negatives"),
    Choice(("anchor", "label"), "supcon", "accuracy", "texts with a label: equal labels are positive pairs"),
    Choice(("anchor",), "simcse", "mrr@10", "texts alone: each is its own positive under two dropout masks; measured by "
        "whether the first half of a text finds its second"),
)  # fmt: skip
# recipe -> roles that it cannot do without.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "pairs": ("anchor", "positive"),
    "pairs_with_negatives": ("anchor", "positive", "negative"),
    "simcse_supervised": ("anchor", "positive", "negative"),
    "supcon": ("anchor", "label"),
}


def choose(samples: Samples, recipe: str) -> tuple[str, Choice]:
    """The recipe's name and the row of the table that the data match.

    Raises:
        Refusal: for a recipe whose roles the data do not have.
    """
    match = next(c for c in AUTO if all(samples.has(r) for r in c.roles))
    if recipe == "auto":
        return match.recipe, match
    for role in NEEDS.get(recipe, ()):
        if not samples.has(role):
            raise Refusal(
                f"data with a {role} for --recipe {recipe}",
                f"roles {', '.join(samples.columns)}",
                where=samples.source,
                remedy=f"name the column with --{role} COLUMN, or leave the recipe to --recipe auto ({match.recipe})",
            )
    return recipe, match


def function_of(recipe: str) -> Callable:
    """The function of a recipe, ours by name or a user's by path/to/file.py:function."""
    if ".py:" in recipe:
        path, _, name = recipe.rpartition(":")
        spec = importlib.util.spec_from_file_location("counterpoint_user_recipe", path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise Refusal("a Python file with a recipe", "no such file", where=f"--recipe {recipe}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(getattr(module, name, None)):
            raise Refusal(f"a function '{name}' in {path}", "none", where=f"--recipe {recipe}")
        return getattr(module, name)
    from counterpoint.recipes import text

    if recipe not in text.__all__:
        raise Refusal("a recipe", f"'{recipe}'", where="--recipe", remedy=closest(recipe, ["auto", *text.__all__]))
    return getattr(text, recipe)


def arguments_of(function: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a recipe with the values they will have: its defaults, then what was set, checked by type.

    Raises:
        Refusal: for an argument that the recipe does not have, or a value of another type.
    """
    known = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    hints = typing.get_type_hints(function)
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        where = f"--set {name}={value}"
        if name not in known:
            raise Refusal(f"an argument of {function.__name__}", f"'{name}'", where=where, remedy=closest(name, known))
        values[name] = _as_type(value, hints.get(name, type(known[name].default)), where)
        if name == "temperature" and not values[name] > 0:
            raise Refusal("a temperature above 0", value, where=where)
    return values


def _as_type(value: Any, hint: Any, where: str) -> Any:  # noqa: ANN401 - whatever a recipe declares
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    if choices:
        if value not in choices:
            raise Refusal("one of " + ", ".join(map(str, choices)), f"'{value}'", where=where)
        return value
    if isinstance(value, str) and hint is not str:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise Refusal(f"a value of type {getattr(hint, '__name__', hint)}", f"'{value}'", where=where) from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise Refusal(f"a value of type {hint.__name__}", f"'{value}'", where=where)
    return value
