"""The command line: arguments into verbs, errors into one line and an exit code. Nothing heavy is imported at the top."""

from __future__ import annotations

import sys

from counterpoint.cli import training, comparison, data, diagnosis, reshape, use  # isort: skip - the order of commands in --help
from counterpoint.cli.app import INTERRUPTED, app
from counterpoint.cli.training import fit
from counterpoint.errors import Refusal

__all__ = ["app", "comparison", "data", "diagnosis", "fit", "main", "reshape", "training", "use"]


def main() -> None:
    """The entry point: 0 done, 1 our bug, 2 bad input, 3 a requirement not met, 130 interrupted."""
    from counterpoint.interrupts import ended_by_signals, say

    with ended_by_signals():
        try:
            sys.exit(app(standalone_mode=False) or 0)
        except Refusal as refusal:
            say(f"counterpoint: {refusal}")
            sys.exit(refusal.exit_code)
        except Exception as error:
            sys.exit(_exit_of(error))
        finally:
            _leave()


def _leave() -> None:
    """Leave the other processes before the interpreter ends: their threads abort one that still listens."""
    processes = sys.modules.get("counterpoint.training.processes")
    if processes is not None:  # its module needs torch
        processes.finish()


def _exit_of(error: Exception) -> int:
    """Wrong usage is one line and 2; whatever else arrives here is our bug: a traceback and 1."""
    import traceback

    from counterpoint.interrupts import say

    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        say(f"counterpoint: {error.format_message()} (counterpoint --help)")
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return 0
    if type(error).__name__ == "Stopped":  # its module needs torch
        return INTERRUPTED
    traceback.print_exc()
    print("counterpoint: this is a bug; the lines above say where", file=sys.stderr)
    return 1
