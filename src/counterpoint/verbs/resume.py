"""`resume`: go on with a run that was stopped or killed."""

from __future__ import annotations

import os
from pathlib import Path

from counterpoint.errors import Refusal
from counterpoint.verbs import folder
from counterpoint.verbs.fit import Trained, fit


def resume(run: str | Path, *, quiet: bool = False) -> Trained | None:
    """Finish an unfinished run, with the data and settings that it began with.

    Args:
        run: the run folder that was to be written, or the unfinished one.
        quiet: print nothing.

    Raises:
        Refusal: there is nothing to go on with, or its data changed.
    """
    place = Path(os.path.realpath(str(run).removesuffix(folder.ENDING)))
    known = folder.began_with(place)
    if known is None:
        came = "a finished run" if (place / "run.json").exists() else "no checkpoint"
        raise Refusal("an unfinished run", came, where=str(run), remedy=folder.nearby(place))
    if known["data"] is None:
        remedy = "call counterpoint.fit again with the same data and settings"
        raise Refusal(
            "a run that began with a file", "one that began with data in memory", where=str(run), remedy=remedy
        )
    settings = {**known["settings"], "allow": tuple(known["settings"]["allow"]), "out": str(place)}
    files = [Path(path) for path in known["data"]]
    return fit(files if len(files) > 1 else files[0], quiet=quiet, **settings)
