"""The reports of inspect, bench and validate as rich renderables; printing is the command line's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from onnxlr.report.summary_view import differences
from onnxlr.report.table import Cell, Column, Table, printable
from onnxlr.report.words import count, milliseconds, setting, shapes_text, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from onnxlr.report.findings import Finding, Inspection
    from onnxlr.validation.latency import BenchResult
    from onnxlr.validation.verdict import Verdict

_LEGEND = (
    "families: those that can save MACs; 95 % rank: components of the output channels that hold 95 % of the kernel's "
    "energy, of how many"
)


def render_inspection(found: Inspection) -> RenderableType:
    """Return every Conv, Gemm and MatMul in one table, and what it means."""
    columns = (
        Column("node", shrinks=True),
        Column("op", spare=2),
        Column("shape"),
        Column("MACs", right=True, spare=3),
        Column("of MACs", right=True),
        Column("of time", right=True, spare=1),
        Column("95 % rank", right=True),
        Column("families", shrinks=True),
    )
    every = tuple(dict.fromkeys(family for finding in found.findings for family in finding.families))
    table = Table(columns, tuple(_finding(finding, every) for finding in found.findings))
    latency = "" if found.latency_ms is None else f", {found.latency_ms:.3g} ms a run while profiled"
    head = f"{printable(found.model)}: {count(found.macs)} MACs at {shapes_text(found.shapes)}{latency}"
    parts: list[RenderableType] = [Text(head, style="bold"), table]
    if len(every) > 1 and any(finding.families == every for finding in found.findings):
        parts.append(Text(f"all: {' '.join(every)}", style="dim"))
    parts.append(Text(_LEGEND, style="dim"))
    return Group(*parts, *(Text(f"note: {printable(note)}", style="dim") for note in found.notes))


def _finding(found: Finding, every: Sequence[str]) -> tuple[Cell, ...]:
    return (
        Cell(found.node),
        Cell(found.op),
        Cell(found.shape),
        Cell("" if found.macs is None else count(found.macs)),
        Cell("" if found.mac_share is None else f"{found.mac_share:.1%}"),
        Cell("" if found.time_share is None else f"{found.time_share:.1%}"),
        Cell("" if found.rank95 is None else f"{found.rank95} of {found.full_rank}"),
        Cell(_families(found.families, every)) if found.skipped is None else Cell(f"none: {found.skipped}", "dim"),
    )


def _families(own: Sequence[str], every: Sequence[str]) -> str:
    """Return the families, in few words where a layer has nearly all."""
    missing = [family for family in every if family not in own]
    if len(every) < 3 or len(missing) > 2:
        return " ".join(own)
    return f"all but {' '.join(missing)}" if missing else "all"


def render_bench(result: BenchResult) -> RenderableType:
    """Return latencies side by side, and where they were measured."""
    columns = (
        Column("model", shrinks=True),
        Column("size", right=True, spare=2),
        Column("median", right=True),
        Column("10 to 90 %", right=True, spare=1),
        Column("spread", right=True, spare=3),
        Column("runs", right=True, spare=4),
        Column("faster than the first", right=True),
    )
    rows = []
    for model in result.models:
        timing, gain = model.timing, model.speedup
        row = (
            model.model,
            size(model.size),
            milliseconds(timing),
            f"{timing.low_ms:.3g} to {timing.high_ms:.3g} ms",
            f"{timing.spread:.1%}",
            str(timing.runs),
            "" if gain is None else f"{gain.ratio:.2f}x [{gain.low:.2f} to {gain.high:.2f}]",
        )
        rows.append(tuple(Cell(text) for text in row))
    line = setting(result.target, result.shapes)
    parts: list[RenderableType] = [Table(columns, tuple(rows)), Text(line, style="dim")]
    if result.unstable:
        parts.append(Text("warning: unstable timing: another process may be using the cores", style="bold yellow"))
    return Group(*parts)


def render_verdict(verdict: Verdict) -> RenderableType:
    """Return the differences and the verdict."""
    parts: list[RenderableType] = [differences("output", verdict.outputs)] if verdict.outputs else []
    if verdict.passed:
        parts.append(Text(f"passed on {verdict.feeds} feeds", style="bold green"))
    parts += [Text(f"FAILED: {printable(reason)}", style="bold red") for reason in verdict.reasons]
    return Group(*parts)
