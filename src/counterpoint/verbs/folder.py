"""Run folders: made beside their final place, renamed when they are whole, never overwritten."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from counterpoint.errors import Refusal

# Folders that are being written; an interrupt removes them (see `cli`).
unfinished: set[Path] = set()


def next_name(data: str, recipe: str, parent: Path = Path("runs")) -> Path:
    """runs/<data>-<recipe>-<n> with the smallest n that is free."""
    stem = "".join(ch if ch.isalnum() or ch in "-_" else "-" for ch in f"{data}-{recipe}").strip("-").lower()
    n = 1
    while (parent / f"{stem}-{n}").exists():
        n += 1
    return parent / f"{stem}-{n}"


def refuse_existing(out: Path) -> None:
    """A folder or file that is there already is never written over."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(
            "a run folder that does not exist yet",
            "one that does",
            where=f"--out {out}",
            remedy="a finished run is never overwritten; name another folder",
        )


@contextmanager
def writing(out: Path, *, needed: int) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its place when the block ends well, and vanishes when it does not.

    Args:
        out: the final place.
        needed: bytes that will be written, to refuse a full disk before any work is done.

    Raises:
        Refusal: the place exists, may not be written, or its disk is or becomes full.
    """
    refuse_existing(out)
    scratch = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    with _file_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
    unfinished.add(scratch)
    try:
        with _file_errors(out):
            free = shutil.disk_usage(scratch).free
            if free < needed:
                raise Refusal(
                    f"{needed / 1e6:,.0f} MB of free disk", f"{free / 1e6:,.0f} MB", where=str(out.parent), remedy="free some, or name another disk with --out"
                )
            yield scratch
            refuse_existing(out)
            scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        unfinished.discard(scratch)


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
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """One of our json files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal("a file that a run wrote", str(error).splitlines()[0], where=str(path)) from error
