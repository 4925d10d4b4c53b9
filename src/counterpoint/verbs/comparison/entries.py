"""Who takes part in a comparison, and what of each is tuned: the same number of trials for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from counterpoint.errors import Refusal, closest
from counterpoint.verbs import folder
from counterpoint.verbs.settings import Run, flag_of

# Settings that may differ between methods; all others are the same for all.
TUNABLE = ("lr", "schedule", "layer_decay", "head_lr", "freeze", "lora", "dropout", "batch")
OWN = ("recipe", "out", "settings", "seed", "split_seed")  # of a comparison, and not of what is tuned


@dataclass(frozen=True)
class Trial:
    """One choice of what is tuned: settings of the run, and arguments of the recipe."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """In words.

        >>> print(Trial({"lr": 1e-4}, {"temperature": "0.05"}), Trial(), sep="; ")
        lr=0.0001, temperature=0.05; defaults
        """
        return ", ".join(f"{k}={v}" for k, v in {**self.settings, **self.arguments}.items()) or "defaults"


@dataclass(frozen=True)
class Entry:
    """One training method of a comparison.

    Args:
        label: its name in tables and folders.
        recipe: as `fit` takes it.
        given: arguments that are set for it.
        trials: what is tried; one where nothing is tuned.
    """

    label: str
    recipe: str
    given: Mapping[str, Any]
    trials: tuple[Trial, ...]

    def run(self, base: Run, trial: Trial, *, seed: int, place: Path) -> Run:
        """The run of one trial and seed.

        Raises:
            Refusal: settings that no run has.
        """
        own = {**base.settings, **self.given, **trial.arguments}
        return replace(base, recipe=self.recipe, settings=own, seed=seed, out=str(place), **trial.settings)


def settings_of(settings: Mapping[str, Any], seeds: int) -> tuple[Run, dict[str, Any]]:
    """The settings that all runs share, and arguments of recipes; nothing is read.

    Args:
        settings: fields of `Run`; "settings" holds arguments of recipes.
        seeds: how many.

    Raises:
        Refusal: settings that a comparison has no use for.
    """
    own = next((name for name in ("recipe", "out") if name in settings), None)
    if own is not None:
        raise Refusal("settings that all methods share", f"'{own}'", remedy="recipes and out are arguments of compare")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise Refusal("at least one seed", seeds, where="--seeds", remedy="--seeds 5")
    base = Run(**{**settings, "settings": {}})
    return replace(base, split_seed=base.asked_by), dict(settings.get("settings", {}))


def label_of(recipe: str) -> str:
    """The name of a recipe in tables; one's own has that of its file in it.

    >>> label_of("pairs"), label_of("path/mine.py:recipe")
    ('pairs', 'mine.recipe')
    """
    path, _, name = recipe.rpartition(":")
    return f"{Path(path).stem}.{name}" if path.endswith(".py") else recipe


def entries_of(
    recipes: Sequence[str],
    *,
    tune: Mapping[str, Sequence[Any]],
    given: Mapping[str, Any],
    base: Run,
) -> list[Entry]:
    """The methods of a comparison with their grids.

    Args:
        recipes: names, or path/to/file.py:function.
        tune: "lr" or "simcse:temperature" -> the values to try; without a recipe for all of them.
        given: "temperature" or "simcse:temperature" -> an argument that is set.
        base: the settings that all share.

    Raises:
        Refusal: fewer than one recipe, one that is named twice, or tuning that is not the same for all.
    """
    if not recipes:
        raise Refusal("at least one recipe", "none", where="--recipes", remedy="--recipes pairs,simcse")
    labels = [label_of(recipe) for recipe in recipes]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        remedy = "name each once" if "." not in twice else "name one of the functions otherwise"
        raise Refusal("recipes of different names", f"'{twice}' twice", where="--recipes", remedy=remedy)
    found = []
    for recipe, label in zip(recipes, labels, strict=True):
        others = {*recipes, *labels} - {recipe, label}
        grid = {name: list(values) for name, values in _meant(tune, {recipe, label}, others, "--tune").items()}
        _refuse_grid(grid, base)
        trials = tuple(_trial(dict(zip(grid, chosen, strict=True))) for chosen in product(*grid.values()))
        found.append(Entry(label, recipe, _meant(given, {recipe, label}, others, "--set"), trials))
    counts = {entry.label: len(entry.trials) for entry in found}
    if len({*counts.values()}) > 1:
        said = ", ".join(f"{label} {count}" for label, count in counts.items())
        remedy = f"give each a grid as large, such as --tune {found[0].label}:lr=1e-5,5e-5"
        raise Refusal("the same number of trials for every recipe", said, where="--tune", remedy=remedy)
    return found


def _meant(words: Mapping[str, Any], own: set[str], others: set[str], flag: str) -> dict[str, Any]:
    """What is meant for one recipe: by its name, or for all; the former comes last and wins."""
    found: dict[str, Any] = {}
    for key, value in sorted(words.items(), key=lambda item: ":" in item[0]):
        target, _, name = key.rpartition(":")
        if not name:
            raise Refusal("RECIPE:NAME=VALUE", f"'{key}'", where=flag)
        if target and target not in own | others:
            raise Refusal(
                "a recipe of this comparison", f"'{target}'", where=flag, remedy=closest(target, own | others)
            )
        if not target or target in own:
            found[name] = value
    return found


def _refuse_grid(grid: Mapping[str, Sequence[Any]], base: Run) -> None:
    """Values to try that are none, are repeated, or would give one method more than another."""
    known = {f.name for f in fields(Run)}
    for name, values in grid.items():
        if not values:
            raise Refusal("values to try", "none", where=f"--tune {name}", remedy="--tune lr=1e-5,5e-5")
        if len({str(value) for value in values}) < len(values):
            raise Refusal("different values to try", ", ".join(map(str, values)), where=f"--tune {name}")
        if name in known and name not in TUNABLE:
            remedy = f"what may be tuned: {', '.join(TUNABLE)}, and arguments of recipes"
            raise Refusal(f"the same {name} for every run", "one to tune", where=f"--tune {name}", remedy=remedy)
        if name in TUNABLE and getattr(base, name) != getattr(Run, name):
            came = f"{flag_of(name)} {getattr(base, name)} too"
            raise Refusal(f"{flag_of(name)} once", came, where=f"--tune {name}", remedy="leave one of them out")
        if name == "batch" and (base.steps is not None or (base.epochs is None and base.minutes is None)):
            remedy = "a larger batch sees more rows in as many steps: give --epochs or --minutes"
            raise Refusal("the same budget for every run", "batches to tune", where="--tune batch", remedy=remedy)


def _trial(chosen: Mapping[str, Any]) -> Trial:
    settings = {name: value for name, value in chosen.items() if name in TUNABLE}
    return Trial(settings, {name: value for name, value in chosen.items() if name not in TUNABLE})


def place_of(out: Path, entry: Entry, *, seed: int) -> Path:
    """The run folder of a method and a seed."""
    return out / "runs" / f"{folder.slug(entry.label)}-seed{seed}"


def place_of_trial(out: Path, entry: Entry, number: int) -> Path:
    """Where a trial is noted; numbers begin at 1."""
    return out / "trials" / f"{folder.slug(entry.label)}-{number}"
