"""What commands print with: reports on stdout, progress on stderr and only for a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnxlr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a callback that draws one bar per stage; on anything but a terminal it draws nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {}

        def tell(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=share)

        yield tell
