"""Run folders: made beside their final place, renamed when they are whole, never overwritten."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from counterpoint.errors import Refusal

# Folders that are being written; an interrupt removes them (see `cli`).
unfinished: set[Path] = set()
LONGEST = 100  # characters of a name that is made up; systems allow 255 bytes


def next_name(data: str, recipe: str, parent: Path = Path("runs")) -> Path:
    """runs/<data>-<recipe>-<n> with the smallest n that is free."""
    stem = "".join(ch if ch.isalnum() or ch in "-_" else "-" for ch in f"{data}-{recipe}").strip("-").lower()[:LONGEST]
    n = 1
    while (parent / f"{stem}-{n}").exists():
        n += 1
    return parent / f"{stem}-{n}"


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
    scratch = place.parent / f".{place.name}.unfinished-{os.getpid()}"
    made = [parent for parent in place.parents if not parent.exists()]
    with contextlib.ExitStack() as undo, _file_errors(out):
        undo.callback(_remove_empty, made)
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        unfinished.add(scratch)
        undo.callback(unfinished.discard, scratch)
        undo.callback(shutil.rmtree, scratch, ignore_errors=True)
        free = shutil.disk_usage(scratch).free
        if free < needed:
            wanted, came = f"{needed / 1e6:,.0f} MB of free disk", f"{free / 1e6:,.0f} MB"
            raise Refusal(wanted, came, where=f"--out {out}", remedy="free some, or name another disk with --out")
        yield scratch
        refuse_existing(out)
        scratch.replace(place)


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
        raise Refusal(wanted, error.strerror or error, where=f"--out {out}", remedy="nothing was kept") from error
    except Exception as error:  # safetensors reports a failed write as an error of its own
        if "No space left" in str(error) or "File too large" in str(error) or "Disk quota" in str(error):
            raise Refusal("room on the disk", error, where=f"--out {out}", remedy="nothing was kept") from error
        raise


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
