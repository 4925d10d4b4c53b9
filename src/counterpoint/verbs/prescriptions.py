"""What mends a fault: a command to type for what works here, and the systems of the bibliography that are about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from counterpoint.papers import index


@dataclass(frozen=True)
class Remedy:
    """How a fault is treated.

    Args:
        why: what the treatment does, in a sentence.
        flags: added to `counterpoint fit DATA --model MODEL`.
        mended: the data are mended first, by `--mended FILE`, and FILE is trained on.
        rows: of the bibliography: systems that are about this fault.
    """

    why: str
    flags: tuple[str, ...] = ()
    mended: bool = False
    rows: tuple[int, ...] = ()


DEFAULT_TEMPERATURE = ("--set", "temperature=0.05")
REMEDIES: Mapping[str, Remedy] = MappingProxyType(
    {
        "cone": Remedy("contrastive training pushes items apart in all directions", rows=(80, 106, 28)),
        "collapse": Remedy("contrastive training needs directions to tell items apart and opens them", rows=(28, 33, 218)),
        "length": Remedy("pairs of different length become positives, items of equal length negatives", rows=(280, 30)),
        "gap": Remedy("both sides are trained with one loss in both directions", rows=(0, 209)),
        "hubs": Remedy("in both directions each candidate has to pick its anchors too, which a hub cannot"),
        "false-negatives": Remedy(
            "what probably is a positive is listed as one and is pushed away no more", mended=True, rows=(102, 146, 12)
        ),
        "hot": Remedy("a lower temperature turns the gradient to the hard negatives", DEFAULT_TEMPERATURE, rows=(144, 187)),
        "cold": Remedy("a higher temperature lets all negatives teach", DEFAULT_TEMPERATURE, rows=(144, 187)),
        "subclass-collapse": Remedy("trained on the finer classes, they are kept apart", ("--fine",), rows=(124, 197)),
        "duplicates": Remedy("copies of held-out items leave train", mended=True),
        "unrelated": Remedy("training shows the model what pairs have in common; look at the columns first"),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """What was diagnosed, in the words that were typed.

    Args:
        model: as it was typed.
        data: likewise.
        roles: role -> column that was named.
        mended: where mended data are, or a name for them.
        fine: the column of finer classes.
        recipe: what `--recipe auto` takes for the data; None where nothing trains on them.
        trains: whether `fit` can start from the model.
    """

    model: str
    data: str
    roles: Mapping[str, str]
    mended: str
    fine: str | None
    recipe: str | None
    trains: bool


def commands(code: str, patient: Patient) -> list[str]:
    """What to type against a fault, in this order; nothing where the data cannot be trained on.

    >>> patient = Patient("all-MiniLM-L6-v2", "clicks.csv", {}, "mended.parquet", None, "pairs", True)
    >>> commands("cone", patient)
    ['counterpoint fit clicks.csv --model all-MiniLM-L6-v2 --recipe pairs']
    """
    remedy = REMEDIES[code]
    if patient.recipe is None:
        return []
    roles = {name: column for name, column in patient.roles.items() if not name.startswith("ignore:")}
    flags, data, recipe, first = list(remedy.flags), patient.data, patient.recipe, []
    if remedy.flags == ("--fine",):
        flags, recipe = [], "supcon"
        roles = roles | {"label": patient.fine or ""}
    typed = [word for name, column in roles.items() for word in (f"--{name}", column)]
    typed += [
        word for name, column in patient.roles.items() if name.startswith("ignore:") for word in ("--ignore", column)
    ]
    if remedy.mended:
        first = [["counterpoint", "diagnose", patient.model, patient.data, "--mended", patient.mended, *typed]]
        data, typed = patient.mended, []
    model = ["--model", patient.model] if patient.trains else []
    fit = ["counterpoint", "fit", data, *model, "--recipe", recipe, *typed, *flags]
    return [shlex.join(words) for words in (*first, fit)]


def systems(code: str) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the systems that are about a fault: those that work here, and those that do not yet.

    >>> systems("cone")[0]
    ('SimCSE', 'Alignment and Uniformity', 'WhitenedCSE (shuffled group whitening)')
    """
    known = {row["row"]: row for row in index()["systems"]}
    found = [known[row] for row in REMEDIES[code].rows if row in known]
    here = tuple(row["system"] for row in found if row["functions"])
    return here, tuple(row["system"] for row in found if not row["functions"])
