"""What the latency cache holds, as rich renderables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from onnxlr.report.table import Cell, Column, Table, printable
from onnxlr.report.words import size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxlr.cost.cache import Contents


def render_contents(found: Contents) -> tuple[RenderableType, ...]:
    """Return the path and size, a line a target, and what could not be read."""
    head = f"{printable(str(found.path))}: {found.entries} measurements, {size(found.size)}"
    notes = tuple(Text(f"note: {printable(note)}", style="dim") for note in found.notes)
    if not found.targets:
        return (Text(head), *notes)
    columns = (Column("target", shrinks=True), Column("measurements", right=True))
    rows = tuple((Cell(target), Cell(str(count))) for target, count in found.targets)
    return (Text(head), Table(columns, rows), *notes)
