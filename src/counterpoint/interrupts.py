"""Ctrl-C, SIGTERM and SIGUSR1 end a command within a moment, whatever it is doing, with nothing half-written.

A backward pass is one call that can take many seconds, and Python runs its signal handlers only between calls. So the
signal's number is written to a pipe by the interpreter itself, and a thread that reads the pipe ends the process. While a
model trains, the first signal is kept for the loop, which saves after its step; a second one ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


@dataclass
class _Asked:
    """Whether a loop is there that can end well, and which signal asked it to."""

    polite: bool = False
    name: str | None = None


_asked = _Asked()


@contextlib.contextmanager
def politely() -> Iterator[Callable[[], bool]]:
    """While the block runs, a first signal only makes the function that it yields say True; a second ends the process."""
    _asked.polite, _asked.name = True, None
    try:
        yield lambda: _asked.name is not None
    finally:
        _asked.polite = False
    if _asked.name is not None:  # it came after the last step
        _end(_asked.name)


def asked_by() -> str:
    """The signal that a loop was ended by."""
    return _asked.name or "a signal to another process"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """While the block runs, signals remove what is unfinished and end the process with code 130."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        writer.close()


def _wait(reader: socket.socket) -> None:
    """Read numbers until one of ours arrives or the block has ended."""
    with reader:
        while received := reader.recv(1):
            if received[0] not in SIGNALS:
                continue
            name = signal.Signals(received[0]).name
            if not _asked.polite or _asked.name is not None:
                _end(name)
            _asked.name = name
            say(f"\ncounterpoint: {name}: the run is saved after this step; once more ends it at once")


def say(line: str) -> None:
    """A line on standard error, from the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _end(name: str) -> None:
    folder = sys.modules.get("counterpoint.verbs.folder")
    scratch = list(folder.unfinished) if folder is not None else []
    kept = [path for path in scratch if folder is not None and not folder.discard(path)]
    for path in scratch:
        with contextlib.suppress(OSError):  # a folder that holds other runs stays
            path.parent.rmdir()
    if kept:
        said = f"go on with: counterpoint resume {kept[0]}"
    elif scratch:
        said = "the unfinished run was removed; finished runs and the model you had are as they were"
    else:
        said = "nothing was written"
    say(f"\ncounterpoint: stopped by {name}: {said}")
    os._exit(INTERRUPTED)
