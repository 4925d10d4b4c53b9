"""Ctrl-C and SIGTERM end a command within a moment, whatever it is doing, with nothing half-written.

A backward pass is one call that can take many seconds, and Python runs its signal handlers only between calls. So the
signal's number is written to a pipe by the interpreter itself, and a thread that reads the pipe ends the process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM remove what is unfinished and end the process with code 130."""
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
            if received[0] in SIGNALS:
                _end(signal.Signals(received[0]).name)


def _end(name: str) -> None:
    folder = sys.modules.get("counterpoint.verbs.folder")
    scratch = list(folder.unfinished) if folder is not None else []
    for path in scratch:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder that holds other runs stays
            path.parent.rmdir()
    kept = (
        "the unfinished run was removed; finished runs and the model you had are as they were"
        if scratch
        else "nothing was written"
    )
    sys.stderr.write(f"\ncounterpoint: stopped by {name}: {kept}\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
