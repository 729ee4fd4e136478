"""The part of a report that tells what was tried, what was found, and how accurate it is."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from onnxlr.report.table import Cell, Column, Table, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from onnxlr.evaluation import Estimate, Unit
    from onnxlr.report.front import Front
    from onnxlr.report.searched import Accuracy, LayerTime, Protocol, Searched, Trial

MOST_LAYERS = 40


def render_search(found: Searched, macs: int) -> list[RenderableType]:
    """Return the trials, the layers of the chosen one, and how it was judged; ``macs`` are those of the original."""
    head = f"models tried: {len(found.trials)} of at most {found.most_trials}; * is the one taken"
    parts: list[RenderableType] = [
        Text(head, style="bold"),
        trials_table(found.trials, found.protocol, macs, found.chosen),
        Text(protocol_line(found.protocol), style="dim"),
        Text(),
        *_realised(found.trial.layers),
    ]
    parts += [Text(printable(note), style="dim") for note in found.notes]
    if found.reverted:
        names = printable(", ".join(found.reverted))
        parts.append(Text(f"back to dense, not faster in the whole model: {names}", style="dim"))
    return parts


def _realised(layers: Sequence[LayerTime]) -> list[RenderableType]:
    """Return what each layer was predicted to take and takes, where the provider tells nodes apart."""
    if all(layer.realised_ms is None for layer in layers):
        return [Text("the provider does not tell what single nodes take", style="dim")]
    return [Text("predicted and realised, milliseconds a run in the whole model", style="bold"), _layers(layers)]


def trials_table(trials: Sequence[Trial], protocol: Protocol, macs: int, chosen: int | None = None) -> Table:
    """Return the trials, one a line, in the order given; ``chosen`` is None where there were no goals."""
    columns = (
        Column(""),
        Column("layers chosen by", shrinks=True, spare=2),
        Column("layers", right=True, spare=3),
        Column("MACs kept", right=True, spare=1),
        Column("predicted", right=True),
        Column("measured", right=True),
        Column("latency", right=True, spare=1),
        Column(f"loss ({protocol.metric})" if protocol.choosing else "output error", right=True),
        Column("likely", right=True, spare=2),
        Column("agreement", right=True, spare=2),
        Column(""),
    )
    rows = tuple(
        (
            Cell(f"{number + 1}{'*' if number == chosen else ''}"),
            Cell(trial.how),
            Cell(str(len(trial.choices))),
            Cell(f"{trial.macs / macs:.1%}"),
            Cell(f"{trial.predicted:.2f}x"),
            Cell(f"{trial.faster:.2f}x" + (" (unstable)" if trial.unstable else "")),
            Cell(f"{trial.latency_ms:.3g} ms"),
            Cell(with_error(trial.loss, trial.loss_error, protocol.unit, drop=True)),
            Cell(with_error(trial.likely, None, protocol.unit, drop=True) if trial.loss_error > 0.0 else ""),
            Cell("" if trial.agreement is None else f"{trial.agreement:.1%}"),
            Cell("meets the goals" if trial.met and chosen is not None else "", "green"),
        )
        for number, trial in enumerate(trials)
    )
    return Table(columns, rows)


def render_front(front: Front) -> RenderableType:
    """Return the models that none beats, and how they were judged."""
    best = [front.trials[index] for index in front.best]
    head = f"{printable(front.model)}: {len(best)} of {len(front.trials)} models tried are beaten by none"
    parts: list[RenderableType] = [Text(head, style="bold"), trials_table(best, front.protocol, front.macs)]
    parts.append(Text(protocol_line(front.protocol), style="dim"))
    if front.protocol.choosing:
        parts.append(Text("the losses here choose among models: report those of one on other samples", style="dim"))
    return Group(*parts, *(Text(printable(note), style="dim") for note in front.notes))


def render_accuracy(accuracy: Accuracy) -> list[RenderableType]:
    """Return the metric of both models on the samples reported on, with standard errors."""
    unit = accuracy.unit
    columns = tuple(Column(head, right=bool(head)) for head in ("", "original", "new", "drop"))
    row = (
        Cell(accuracy.metric),
        Cell(_estimate(accuracy.original, unit)),
        Cell(_estimate(accuracy.new, unit)),
        Cell(_estimate(accuracy.drop, unit, drop=True)),
    )
    where = "samples of the metric's own" if accuracy.own else f"{accuracy.samples} samples that no model was chosen by"
    line = f"{where}; ± is one standard error, of the drop a paired one"
    if accuracy.agreement is not None and accuracy.kl is not None:
        line += f"; same class as the original {accuracy.agreement:.2%}, KL {accuracy.kl:.3g} nats"
        line += f" on {accuracy.samples} samples that no model was chosen by" if accuracy.own else ""
    return [Table(columns, (row,)), Text(line, style="dim")]


def protocol_line(protocol: Protocol) -> str:
    """Say what was judged by what."""
    if not protocol.choosing:
        return "no evaluation data: judged by the relative L2 error of the outputs; accuracy not proven"
    if protocol.own:
        return (
            f"chosen by {protocol.metric} on samples of its own and by the loss that is likely where outputs differ as"
            f" much on {protocol.choosing} samples drawn with seed {protocol.seed}"
        )
    return (
        f"chosen by {protocol.metric} on {protocol.choosing} samples drawn with seed {protocol.seed} and by the loss"
        f" that is likely where outputs differ as much; the other {protocol.held} are only reported on"
    )


def with_error(value: float, error: float | None, unit: Unit, *, drop: bool = False) -> str:
    """Return a figure in its unit, with its standard error where there is one."""
    name = unit.drop_name if drop else unit.name
    digits = f"{value * unit.scale:.2f}" if unit.name else f"{value:.4f}"
    if error is not None and isfinite(error):
        digits += f" ± {error * unit.scale:.2f}" if unit.name else f" ± {error:.4f}"
    return f"{digits} {name}".rstrip()


def _estimate(of: Estimate, unit: Unit, *, drop: bool = False) -> str:
    return with_error(of.value, of.error, unit, drop=drop)


def _layers(rows: Sequence[LayerTime]) -> Table:
    columns = (
        Column("node", shrinks=True),
        Column("was", right=True),
        Column("predicted", right=True),
        Column("realised", right=True),
        Column(""),
    )
    shown = sorted(rows, key=lambda row: -(row.dense_ms or 0.0))[:MOST_LAYERS]
    cells = [
        (
            Cell(row.node),
            Cell(_ms(row.dense_ms)),
            Cell(_ms(row.predicted_ms)),
            Cell(_ms(row.realised_ms)),
            Cell("" if row.pays else "does not pay", "yellow"),
        )
        for row in shown
    ]
    if len(rows) > len(shown):
        blank = Cell("")
        cells.append((Cell(f"{len(rows) - len(shown)} more in --json"), blank, blank, blank, blank))
    return Table(columns, tuple(cells))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
