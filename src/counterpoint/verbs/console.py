"""What a person sees while waiting: stages with a bar and the time left, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Screen:
    """Where stages, tables and lines go; a quiet one shows nothing.

    Args:
        quiet: show nothing.
        lines: show more than the bars of stages.
    """

    def __init__(self, *, quiet: bool = False, lines: bool = True) -> None:
        self.console = Console(stderr=True, quiet=quiet or not lines, highlight=False)
        self._bars = self.console if lines else Console(stderr=True, quiet=quiet)
        self.seconds: dict[str, float] = {}

    def say(self, text: str = "", style: str | None = None) -> None:
        """One line or more; square brackets in it are plain text."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Callable[..., None]]:
        """A bar for one stage; call what it gives with the amount done, and `note=` for a few words beside the bar.

        The time it took is kept in `seconds` under the stage's name; on a screen that is no terminal one line is
        printed at its end.
        """
        started = time.monotonic()
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._bars, transient=True, disable=not self._bars.is_terminal) as bar:
            task = bar.add_task(name, total=total, note="")

            def tick(amount: float = 0, *, done: float | None = None, note: str | None = None) -> None:
                bar.update(task, advance=amount, completed=done)
                if note is not None:
                    bar.update(task, note=note)

            yield tick
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
        self.say(f"  {name:<28} {time.monotonic() - started:6.1f} s", style="dim")
