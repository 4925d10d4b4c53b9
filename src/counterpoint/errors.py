"""The one way to say no: what was wanted, what came, where, and what to do about it.

A `Refusal` is shown to a person as one line and ends the command with exit code 2. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class Refusal(ValueError):
    """Input that cannot be used, said in one line.

    Args:
        wanted: what the program needs, in the user's words.
        came: what it got instead.
        where: file, row and column, as far as they are known.
        remedy: the likely cause or the thing to type.

    >>> print(Refusal("a learning rate above 0", "-1.0", where="--lr", remedy="2e-5 is a common choice"))
    wanted a learning rate above 0, got -1.0 (--lr): 2e-5 is a common choice
    """

    exit_code = 2

    def __init__(self, wanted: str, came: object, *, where: str | None = None, remedy: str | None = None) -> None:
        self.parts = (wanted, str(came), where, remedy)
        line = f"wanted {wanted}, got {came}"
        line += f" ({where})" if where else ""
        line += f": {remedy}" if remedy else ""
        super().__init__(" ".join(line.split()))

    def at(self, place: str) -> Refusal:
        """The same, with the larger thing named that it is about.

        >>> print(Refusal("texts", "none", where="row 3").at("--eval general"))
        wanted texts, got none (--eval general, row 3)
        """
        wanted, came, where, remedy = self.parts
        return Refusal(wanted, came, where=f"{place}, {where}" if where else place, remedy=remedy)


def closest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the known word nearest to a mistyped one, else all of them.

    >>> closest("simsce", ["simcse", "pairs"])
    "did you mean 'simcse'?"
    """
    known = sorted(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
