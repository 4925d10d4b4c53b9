"""Run folders: made beside their final place, renamed when they are whole, never overwritten.

What is being made is called <name>.unfinished. It vanishes when it fails, unless it holds a checkpoint to go on from.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterpoint.errors import Refusal

SCHEMA = 1
# Folders that are being written; an interrupt removes them (see `cli`).
unfinished: set[Path] = set()
LONGEST = 100  # characters of a name that is made up; systems allow 255 bytes
ENDING, CHECKPOINTS, BEGUN, LOCK = ".unfinished", "checkpoints", "begun.json", "lock"
GROWING = (CHECKPOINTS, BEGUN, "steps.jsonl", "events.")  # beginnings of names that a run goes on with


def next_name(data: str, recipe: str, parent: Path = Path("runs"), begun: Mapping[str, Any] | None = None) -> Path:
    """runs/<data>-<recipe>-<n> with the smallest n that is free, or whose unfinished run began with just this."""
    stem = slug(f"{data}-{recipe}")
    n = 1
    while True:
        place = parent / f"{stem}-{n}"
        if not place.exists() and (not scratch_of(place).exists() or (begun and began_with(place) == begun)):
            return place
        n += 1


def slug(words: str) -> str:
    """Words as a name of a folder.

    >>> slug("My Clicks.csv-pairs")
    'my-clicks-csv-pairs'
    """
    return "".join(ch if ch.isalnum() or ch in "-_" else "-" for ch in words).strip("-").lower()[:LONGEST]


def scratch_of(place: Path) -> Path:
    """Where a run is made."""
    return place.parent / f"{place.name}{ENDING}"


def began_with(place: Path) -> dict[str, Any] | None:
    """What an unfinished run began with; None where there is none to go on with."""
    path = scratch_of(place) / BEGUN
    return read_json(path)["begun"] if path.exists() and resumable(scratch_of(place)) else None


def resumable(scratch: Path) -> bool:
    """Whether an unfinished run has a checkpoint, and a note of what it began with: one without belongs to nobody."""
    try:
        return (scratch / BEGUN).exists() and any((scratch / CHECKPOINTS).glob("step-*"))
    except OSError:  # a name too long, a folder that may not be read
        return False


def nearby(place: Path) -> str:
    """A remedy that names the unfinished runs beside a place."""
    found = [p for p in sorted(place.parent.glob(f"*{ENDING}")) if resumable(p)] if place.parent.is_dir() else []
    names = ", ".join(str(p) for p in found)
    return f"unfinished here: {names}" if found else "counterpoint fit DATA starts a run"


def begin(scratch: Path, begun: Mapping[str, Any], mark: str) -> None:
    """Note what a run begins with, or compare it with what the unfinished run there began with.

    Args:
        scratch: of the run.
        begun: data and settings.
        mark: of the content of the training rows.

    Raises:
        Refusal: other settings, or other data.
    """
    path = scratch / BEGUN
    if not path.exists():
        write_json(path, {"schema": SCHEMA, "begun": begun, "rows": mark})
        return
    known = read_json(path)
    place = scratch.name.removesuffix(ENDING)
    remedy = f"name another folder with --out, or remove {scratch} to begin anew"
    before, now = _flat(known["begun"]), _flat(begun)
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            wanted = f"the {name} that the unfinished run {place} began with: {before.get(name)}"
            raise Refusal(wanted, now.get(name), where=f"--out {place}", remedy=remedy)
    if known["rows"] != mark:
        wanted = f"the training rows that the unfinished run {place} began with"
        raise Refusal(wanted, "others: the data file was changed", where=f"--out {place}", remedy=remedy)


def _flat(begun: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": begun["data"], **begun["settings"]}


def discard(scratch: Path) -> bool:
    """Remove an unfinished run, unless there is a checkpoint in it; says whether it is gone."""
    if resumable(scratch):
        return False
    shutil.rmtree(scratch, ignore_errors=True)
    return True


def refuse_existing(out: Path) -> None:
    """What is there already is never written over, and a place that cannot take a folder is refused before any work.

    Raises:
        Refusal: something stands there, or above it something that is no folder, or it is a disk of its own.
    """
    with _file_errors(out):
        place = Path(os.path.realpath(out))
        if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
            raise Refusal(
                "a run folder that does not exist yet",
                "one that does",
                where=f"--out {out}",
                remedy="a finished run is never overwritten; name another folder",
            )
        if place.is_mount():
            remedy = f"--out {out / 'run'} is one"
            raise Refusal("a new run folder", "a mounted disk", where=f"--out {out}", remedy=remedy)
        above = next(p for p in place.parents if p.exists())
        if not above.is_dir():
            remedy = "name another folder with --out"
            raise Refusal("a folder to write the run in", f"the file {above}", where=f"--out {out}", remedy=remedy)


@contextmanager
def writing(out: Path, *, needed: int) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its place when the block ends well, and vanishes when it does not.

    Folders above it that were made for it vanish with it.

    Args:
        out: the final place.
        needed: bytes that will be written, to refuse a full disk before any work is done.

    Raises:
        Refusal: the place exists, may not be written, or its disk is or becomes full.
    """
    refuse_existing(out)
    place = Path(os.path.realpath(out))
    scratch = scratch_of(place)
    made = [parent for parent in place.parents if not parent.exists()]
    with contextlib.ExitStack() as undo, _file_errors(out):
        undo.callback(_remove_empty, made)
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        undo.enter_context(_locked(scratch, out))
        refuse_existing(out)  # whoever had the lock until now may have finished
        unfinished.add(scratch)
        undo.callback(unfinished.discard, scratch)
        undo.callback(discard, scratch)
        for path in scratch.iterdir():
            if path.name != LOCK and not (resumable(scratch) and path.name.startswith(GROWING)):
                _remove(path)
        free = shutil.disk_usage(scratch).free
        if free < needed:
            wanted, came = f"{needed / 1e6:,.0f} MB of free disk", f"{free / 1e6:,.0f} MB"
            raise Refusal(wanted, came, where=f"--out {out}", remedy="free some, or name another disk with --out")
        yield scratch
        refuse_existing(out)
        scratch.replace(place)  # first: what is killed from here on has its result, and before it, its checkpoints
        for name in (CHECKPOINTS, BEGUN, LOCK):
            with contextlib.suppress(OSError):
                _remove(place / name)


def _remove(path: Path) -> None:
    """A file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(scratch: Path, out: Path) -> Iterator[None]:
    """One process at a time works on an unfinished run; the system lets go of the lock when that process ends.

    Raises:
        Refusal: another one does.
    """
    with (scratch / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or name another folder"
            raise Refusal("a run that nobody works on", "one under way", where=f"--out {out}", remedy=remedy) from None
        yield


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to one that holds something."""
    with contextlib.suppress(OSError):
        for path in folders:
            path.rmdir()


@contextmanager
def _file_errors(out: Path) -> Iterator[None]:
    """What the system says of a folder that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        wanted = "room on the disk" if full else "a place to write the run"
        raise Refusal(wanted, error.strerror or error, where=f"--out {out}", remedy=_what_is_left(out)) from error
    except Exception as error:  # safetensors reports a failed write as an error of its own
        if "No space left" in str(error) or "File too large" in str(error) or "Disk quota" in str(error):
            raise Refusal("room on the disk", error, where=f"--out {out}", remedy=_what_is_left(out)) from error
        raise


def how_to_go_on(out: Path) -> str:
    """The command that goes on with an unfinished run, where there is a checkpoint to go on from."""
    left = resumable(scratch_of(Path(os.path.realpath(out))))
    return f"go on with: counterpoint resume {out}" if left else "no checkpoint was kept: begin anew"


def _what_is_left(out: Path) -> str:
    """What a person can do after a failed write."""
    left = resumable(scratch_of(Path(os.path.realpath(out))))
    return f"mend that, and {how_to_go_on(out)}" if left else "nothing was kept"


def write_json(path: Path, value: object) -> None:
    """Sorted, indented, ended by a line break: the same value gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # a byte of a file name that is no text


def read_json(path: Path) -> dict:
    """One of our json files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal("a file that a run wrote", str(error).splitlines()[0], where=str(path)) from error
