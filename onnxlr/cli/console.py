"""What commands print with: reports on stdout, progress on stderr, a bar on a terminal and else a line a minute."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from onnxlr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from onnxlr.progress import Progress

_PIPED_WIDTH = 1000  # columns of a report in a file or a pipe: nothing is cut or wrapped there


def show(*parts: RenderableType) -> None:
    """Print to stdout, as wide as the terminal (or COLUMNS), and without a limit where there is none."""
    console = _stdout()
    try:
        for part in parts:
            console.print(part)
    except OSError as error:
        sys.stdout = None  # what is left in it could not be written at the exit either
        raise ModelError(f"cannot write the report ({error.strerror})", "free some space, or use --json") from error


def _stdout() -> Console:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console
    return Console(highlight=False, markup=False, emoji=False, width=_PIPED_WIDTH)


EVERY = 60.0
"""Seconds between two lines of progress, where there is no terminal to draw on."""


@dataclass(slots=True)
class Lines:
    """Says on stderr how far a stage is, at most once every ``EVERY`` seconds: enough for a log."""

    clock: Callable[[], float] = monotonic
    start: float = field(init=False)
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.last = self.clock()

    def tell(self, stage: str, share: float) -> None:
        """Take note, and say so where it is time."""
        now = self.clock()
        if now - self.last >= EVERY:
            self.last = now
            minutes = (now - self.start) / 60.0
            print(f"onnxlr: {stage} {share:.0%}, {minutes:.0f} min", file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a callback that draws one bar per stage; on anything but a terminal it says so in a line a minute."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines().tell
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks = {}

        def tell(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=share)

        yield tell
