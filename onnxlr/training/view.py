"""The report of a fine-tuning run as rich renderables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from onnxlr.report.table import Cell, Column, Table, printable
from onnxlr.report.words import count

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxlr.training.summary import FinetuneSummary
    from onnxlr.training.task import Evaluation


def render_finetune(summary: FinetuneSummary) -> RenderableType:
    """Return the held-out part before and after, what was trained, and notes."""
    columns = (
        Column(f"on {summary.held_out} held-out samples"),
        Column("loss", right=True),
        Column("class as the original", right=True),
        Column("class as labelled", right=True),
    )
    table = Table(columns, (_row("before", summary.before), _row("after", summary.after)))
    head = f"{printable(summary.model)}: {count(summary.weights)} weights, {summary.blocks} rewritten layers"
    what = f"trained on {summary.trained} samples, at most {summary.steps} steps, {summary.seconds:.0f} s"
    notes = (Text(f"note: {printable(note)}", style="dim") for note in summary.notes)
    return Group(Text(head, style="bold"), table, Text(what, style="dim"), *notes)


def _row(name: str, found: Evaluation) -> tuple[Cell, ...]:
    shares = ("" if share is None else f"{share:.2%}" for share in (found.agreement, found.accuracy))
    return (Cell(name), Cell(f"{found.loss:.4g}"), *(Cell(share) for share in shares))
