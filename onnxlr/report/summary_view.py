"""The report of a rewrite as rich renderables: layers, what stays, totals, proof, notes, warnings."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from onnxlr.report.search_view import render_accuracy, render_search
from onnxlr.report.summary import is_slower
from onnxlr.report.table import Cell, Column, Table, printable
from onnxlr.report.words import count, milliseconds, setting, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from onnxlr.report.allocated import Allocated
    from onnxlr.report.summary import LayerRow, Measured, SkippedRow, Summary
    from onnxlr.validation.numeric import OutputDifference

MOST_LAYERS = 40  # more than this, and layers that became the same share a row
_NAMES = 4


def render_summary(summary: Summary) -> RenderableType:
    """Return the whole report."""
    parts: list[RenderableType] = [Text(f"{printable(summary.model)}: {summary.budget}", style="bold")]
    parts += [_layers(summary.layers), Text()]
    parts += [*_skipped(summary.skipped), Text()] if summary.skipped else []
    parts.append(_totals(summary))
    if summary.allocated is not None:
        parts += [Text(), *_allocation(summary.allocated)]
    if summary.measured is not None:
        parts += [Text(), *_proof(summary.measured)]
    if summary.searched is not None:
        parts += [Text(), *render_search(summary.searched, summary.before.macs)]
    if summary.accuracy is not None:
        parts += [Text(), *render_accuracy(summary.accuracy), Text()]
    parts += [Text(f"note: {printable(note)}", style="dim") for note in summary.notes]
    parts += [Text(f"warning: {printable(warning)}", style="bold yellow") for warning in summary.warnings]
    return Group(*parts)


def differences(head: str, outputs: Sequence[OutputDifference]) -> Table:
    """Return a table of how far each output is off."""
    scores = any(output.top1 is not None for output in outputs)
    heads = ("relative L2", "cosine", "max abs", *(["same top-1"] if scores else []))
    rows = []
    for output in outputs:
        texts = [output.name, f"{output.relative_l2:.3g}", f"{output.cosine:.4f}", f"{output.max_abs:.3g}"]
        texts += ["" if output.top1 is None else f"{output.top1:.0%}"] if scores else []
        rows.append(tuple(Cell(text) for text in texts))
    return Table((Column(head, shrinks=True), *(Column(text, right=True) for text in heads)), tuple(rows))


def _layers(rows: Sequence[LayerRow]) -> RenderableType:
    columns = (
        Column("node", shrinks=True),
        Column("shape", spare=1),
        Column("scheme"),
        Column("ranks", right=True),
        Column("MACs", right=True, spare=2),
        Column("after", right=True, spare=3),
        Column("kept", right=True),
        Column("output error" if _on_data(rows) else "weight error", right=True),
        Column(""),
    )
    groups = [[row] for row in rows]
    if len(rows) > MOST_LAYERS:
        alike: dict[tuple[object, ...], list[LayerRow]] = {}
        for row in rows:
            alike.setdefault((row.shape, row.scheme, row.ranks, row.macs_before, row.macs_after), []).append(row)
        groups = list(alike.values())
    if len(groups) == len(rows):
        return Table(columns, tuple(_layer(group) for group in groups))
    first, *others = columns
    counted = tuple(
        (cells[0], Cell(str(len(group))), *cells[1:]) for group, cells in zip(groups, map(_layer, groups), strict=True)
    )
    table = Table((first, Column("layers", right=True), *others), counted)
    line = f"{len(rows)} layers; of one shape, scheme and rank they share a row (each one is in --json and --save-plan)"
    return Group(table, Text(line, style="dim"))


def _on_data(rows: Sequence[LayerRow]) -> bool:
    return any(row.output_error is not None for row in rows)


def _layer(group: Sequence[LayerRow]) -> tuple[Cell, ...]:
    row = group[0]
    errors = sorted({f"{one.error if one.output_error is None else one.output_error:.3f}" for one in group})
    return (
        Cell(row.node if len(group) == 1 else f"{row.node}, ..."),
        Cell(row.shape),
        Cell(row.scheme),
        Cell(" ".join(map(str, row.ranks))),
        Cell(count(row.macs_before)),
        Cell(count(row.macs_after)),
        Cell(f"{row.macs_after / row.macs_before:.0%}", "" if row.pays else "yellow"),
        Cell(errors[0] if len(errors) == 1 else f"{errors[0]} to {errors[-1]}"),
        Cell("" if row.pays else "does not pay", "yellow"),
    )


def _skipped(rows: Sequence[SkippedRow]) -> list[Text]:
    """Return the reasons, each with its nodes: all of a few, the first of many."""
    lines = []
    for reason, group in groupby(sorted(rows, key=lambda row: row.reason), key=lambda row: row.reason):
        names = [row.node for row in group]
        which = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
        lines.append(Text(f"{len(names)} left as they are ({printable(reason)}): {printable(which)}", style="dim"))
    return lines


def _totals(summary: Summary) -> Table:
    before, after = summary.before, summary.after
    columns = ("whole model", "before", "after", "ratio")
    rows = [
        (Cell(name), Cell(text(old)), Cell(text(new)), Cell(f"{old / new:.2f}x" if new else ""))
        for name, old, new, text in (
            ("MACs", before.macs, after.macs, count),
            ("parameters", before.parameters, after.parameters, count),
            ("file", before.size, after.size, size),
        )
    ]
    if summary.measured is not None:
        old, new, gain = summary.measured.latency_before, summary.measured.latency_after, summary.measured.speedup
        style = "bold red" if is_slower(gain) else "bold green" if gain.significant else "bold yellow"
        rows += [
            (Cell("latency"), Cell(milliseconds(old)), Cell(milliseconds(new)), Cell(f"{gain.ratio:.2f}x", style)),
            (
                Cell("  10 to 90 % of runs; 95 % interval"),
                Cell(f"{old.low_ms:.3g} to {old.high_ms:.3g} ms"),
                Cell(f"{new.low_ms:.3g} to {new.high_ms:.3g} ms"),
                Cell(f"{gain.low:.2f} to {gain.high:.2f}x"),
            ),
        ]
    first, *others = columns
    return Table((Column(first, shrinks=True), *(Column(head, right=True) for head in others)), tuple(rows))


def _allocation(allocated: Allocated) -> list[RenderableType]:
    """Return the plans that were tried, and which was chosen."""
    heads = (Column("predicted", right=True), Column("measured", right=True), Column(""))
    rows = [
        (Cell(one.how), Cell(f"{one.predicted:.4f}"), Cell(f"{one.measured:.4f}"), Cell("*" if chosen else ""))
        for one, chosen in ((one, index == allocated.chosen) for index, one in enumerate(allocated.tried))
    ]
    line = "relative L2 error of the outputs before the refit: from single layers, and on calibration data held out"
    return [Table((Column("plan tried", shrinks=True), *heads), tuple(rows)), Text(line, style="dim")]


def _proof(measured: Measured) -> list[RenderableType]:
    parts: list[RenderableType] = (
        [differences(f"output ({measured.compared_on})", measured.outputs)] if measured.outputs else []
    )
    check = "graph check: no output is floating point, so nothing was checked"
    if measured.surgery is not None:
        check = f"graph check: outputs equal those of the contracted kernels to {measured.surgery:.1e} (relative L2)"
    return [*parts, *(Text(line, style="dim") for line in (check, setting(measured.target, measured.shapes)))]
