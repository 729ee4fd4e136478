"""Reports as rich renderables; printing them is the command line's business."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from onnxlr.cost.timing import Timing
    from onnxlr.report.findings import Inspection
    from onnxlr.report.summary import LayerRow, Measured, SkippedRow, Summary
    from onnxlr.validate.latency import BenchResult
    from onnxlr.validate.numeric import OutputDifference
    from onnxlr.validate.verdict import Verdict


def render_summary(summary: Summary) -> RenderableType:
    """Return layers, skipped nodes, totals, measurements and warnings, in this order."""
    parts: list[RenderableType] = [_layers(summary.layers)]
    if summary.skipped:
        parts.append(_skipped(summary.skipped))
    parts.append(_totals(summary))
    if summary.measured is not None:
        parts.append(_measured(summary.measured))
    parts += [Text(f"note: {note}", style="dim") for note in _shortened(summary.notes)]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in summary.warnings]
    return Group(*parts)


def render_inspection(found: Inspection) -> RenderableType:
    """Return every Conv, Gemm and MatMul in one table, and what it means."""
    table = _table("node", "op", "shape", ">MACs", ">of MACs", ">of time", ">rank for 95 %", "families that can pay")
    for f in found.findings:
        table.add_row(
            f.node,
            f.op,
            f.shape,
            "" if f.macs is None else count(f.macs),
            "" if f.mac_share is None else f"{f.mac_share:.1%}",
            "" if f.time_share is None else f"{f.time_share:.1%}",
            "" if f.rank95 is None else f"{f.rank95} of {f.full_rank}",
            " ".join(f.families) if f.skipped is None else Text(f"skipped: {f.skipped}", style="dim"),
        )
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in found.shapes.items())
    latency = "" if found.latency_ms is None else f", {found.latency_ms:.3g} ms a run while profiled"
    head = f"{found.model}: {count(found.macs)} MACs at {shapes or 'no inputs'}{latency}"
    return Group(Text(head, style="bold"), table, *(Text(f"note: {note}", style="dim") for note in found.notes))


def render_bench(result: BenchResult) -> RenderableType:
    """Return latencies side by side, and where they were measured."""
    table = _table("model", ">size", ">median", ">10 to 90 %", ">spread", ">runs", ">faster than the first")
    for model in result.models:
        timing, gain = model.timing, model.speedup
        table.add_row(
            model.model,
            f"{count(model.size)}B",
            f"{timing.median_ms:.4g} ms",
            f"{timing.low_ms:.4g} to {timing.high_ms:.4g}",
            f"{timing.spread:.1%}" + (" unstable" if timing.unstable else ""),
            str(timing.runs),
            "" if gain is None else Text(f"{gain.ratio:.2f}x [{gain.low:.2f} to {gain.high:.2f}]", style="bold"),
        )
    where = result.target
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result.shapes.items())
    device = where.gpu or where.cpu
    line = f"{where.provider} provider, {where.threads} threads, ONNX Runtime {where.onnxruntime}, {device}; {shapes}"
    parts: list[RenderableType] = [table, Text(line, style="dim")]
    if result.unstable:
        parts.append(Text("warning: unstable timing: another process may be using the cores", style="yellow"))
    return Group(*parts)


def render_verdict(verdict: Verdict) -> RenderableType:
    """Return the differences and the verdict."""
    parts: list[RenderableType] = [_differences("output", verdict.outputs)] if verdict.outputs else []
    if verdict.passed:
        parts.append(Text(f"passed on {verdict.feeds} feeds", style="bold green"))
    parts += [Text(f"FAILED: {reason}", style="bold red") for reason in verdict.reasons]
    return Group(*parts)


def count(number: float) -> str:
    """Return a count with three digits and K, M or G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}"


def milliseconds(timing: Timing) -> str:
    """Return median and the 10 to 90 % range."""
    mark = " (unstable)" if timing.unstable else ""
    return f"{timing.median_ms:.3g} ms [{timing.low_ms:.3g} to {timing.high_ms:.3g}]{mark}"


def _table(*columns: str, title: str | None = None) -> Table:
    """Return a table; a column that starts with > is for numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _layers(rows: Sequence[LayerRow]) -> Table:
    table = _table("node", "shape", "scheme", ">ranks", ">MACs before", ">after", ">kept", ">weight error")
    for row in rows:
        table.add_row(
            row.node,
            row.shape,
            row.scheme,
            " ".join(map(str, row.ranks)),
            count(row.macs_before),
            count(row.macs_after),
            Text(f"{row.macs_after / row.macs_before:.0%}", style="" if row.pays else "yellow"),
            f"{row.error:.3f}",
        )
    return table


def _skipped(rows: Sequence[SkippedRow]) -> Table:
    """Return the reasons, each with its nodes: all of a few, the first of many."""
    table = _table("skipped", ">nodes", "which")
    ordered = sorted(rows, key=lambda row: row.reason)
    for reason, group in groupby(ordered, key=lambda row: row.reason):
        names = [row.node for row in group]
        table.add_row(reason, str(len(names)), ", ".join(names[:4]) + (", ..." if len(names) > 4 else ""))
    return table


def _totals(summary: Summary) -> Table:
    before, after = summary.before, summary.after
    table = _table("whole model", ">before", ">after", ">ratio")
    for name, old, new, text in (
        ("MACs", before.macs, after.macs, count),
        ("parameters", before.parameters, after.parameters, count),
        ("file", before.size, after.size, lambda n: f"{count(n)}B"),
    ):
        table.add_row(name, text(old), text(new), f"{old / new:.2f}x" if new else "")
    if summary.measured is not None:
        measured = summary.measured
        gain = measured.speedup
        table.add_row(
            f"latency ({measured.target.provider}, {measured.target.threads} threads)",
            milliseconds(measured.latency_before),
            milliseconds(measured.latency_after),
            Text(f"{gain.ratio:.2f}x [{gain.low:.2f} to {gain.high:.2f}]", style="bold"),
        )
    return table


def _measured(measured: Measured) -> RenderableType:
    line = f"graph check: outputs equal those of the contracted kernels to {measured.surgery:.1e} (relative L2)"
    return Group(_differences("output, random input", measured.outputs), Text(line, style="dim"))


def _differences(head: str, outputs: Sequence[OutputDifference]) -> Table:
    table = _table(head, ">relative L2", ">cosine", ">max abs", ">same top-1")
    for output in outputs:
        table.add_row(
            output.name,
            f"{output.relative_l2:.3g}",
            f"{output.cosine:.4f}",
            f"{output.max_abs:.3g}",
            "" if output.top1 is None else f"{output.top1:.0%}",
        )
    return table


def _shortened(notes: Iterable[str], most: int = 6) -> list[str]:
    every = list(notes)
    return every if len(every) <= most else [*every[:most], f"and {len(every) - most} more (all in --json)"]
