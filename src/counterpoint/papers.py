"""Which function implements which paper: a decorator for the function, and the index that is generated from it.

Nothing here imports torch, so `counterpoint papers` answers at once. `index.json` is written by `make index`; a test
fails when it is stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Implementation:
    """A function and the paper whose contribution it is; `row` is the paper's row in the bibliography, if it has one."""

    function: str
    row: int | None
    reference: str | None
    differs: str | None


@dataclass(frozen=True)
class System:
    """One row of the bibliography with what is known of it here; `formula` and `effect` are computed, never typed.

    `axes` are the nouns of the design that the paper contributes to, the most important one first.
    """

    row: int
    system: str
    title: str
    modality: str
    tier: str
    axes: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    formula: str = "none"
    effect: str = "none"
    deviations: tuple[str, ...] = ()


_registered: list[Implementation] = []


def paper(*, row: int | None = None, reference: str | None = None) -> Callable[[F], F]:
    """Marks the function that is a paper's contribution.

    Args:
        row: the paper's row in the bibliography.
        reference: authors, title, identifier and year, for a paper that the bibliography does not hold.

    >>> @paper(reference="An Example, 2026")
    ... def example(): ...
    >>> _registered.pop().reference
    'An Example, 2026'
    """
    if (row is None) == (reference is None):
        raise ValueError("wanted either a row of the bibliography or a reference, got both or none")

    def mark(function: F) -> F:
        name = f"{function.__module__}.{function.__qualname__}"
        _registered.append(Implementation(name, row, reference, section(function.__doc__, "Differs")))
        return function

    return mark


def registered() -> tuple[Implementation, ...]:
    """All marked functions of the modules that have been imported so far, by name."""
    return tuple(sorted(_registered, key=lambda i: (i.function, str(i.row), str(i.reference))))


def section(docstring: str | None, title: str) -> str | None:
    """The text of one section of a docstring, on one line.

    >>> section('''A. \\n\\n    Differs:\\n        Much.\\n        More.\\n\\n    Returns:\\n        x''', "Differs")
    'Much. More.'
    """
    lines = (docstring or "").splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() == f"{title}:"), None)
    if start is None:
        return None
    body = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        body.append(line.strip())
    return " ".join(body)


def bibliography() -> tuple[System, ...]:
    """The published systems that the library is to cover, in the order of their rows."""
    text = resources.files("counterpoint").joinpath("bibliography.jsonl").read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.splitlines())
    return tuple(System(**row | {"axes": tuple(row["axes"])}) for row in rows)


def index() -> dict[str, list[dict]]:
    """The generated index: "systems" (every row of the bibliography), "beyond" (papers that it does not hold), and
    "recipes" by name."""
    return json.loads(resources.files("counterpoint").joinpath("index.json").read_text(encoding="utf-8"))


def build_index(formula: dict[int | str, str], effect: dict[int | str, str]) -> dict[str, list[dict]]:
    """The index, from the functions registered so far and the facts computed from tests and evidence.

    Args:
        formula: row or reference -> "closed-form" or "reference".
        effect: row or reference -> "shown" or "not shown".
    """
    found = registered()
    systems = []
    for system in bibliography():
        mine = [i for i in found if i.row == system.row]
        facts = {
            "functions": tuple(i.function for i in mine),
            "formula": formula.get(system.row, "none"),
            "effect": effect.get(system.row, "none"),
            "deviations": tuple(i.differs for i in mine if i.differs),
        }
        systems.append(asdict(system) | facts)
    beyond: dict[str, dict] = {}
    for i in found:
        if i.reference is not None:
            entry = beyond.setdefault(i.reference, {"reference": i.reference, "functions": [], "deviations": []})
            entry["functions"].append(i.function)
            entry["deviations"] += [i.differs] if i.differs else []
            entry["formula"] = formula.get(i.reference, "none")
            entry["effect"] = effect.get(i.reference, "none")
    return {"systems": systems, "beyond": [beyond[name] for name in sorted(beyond)]}
