"""Every layer with what it could become: the cost of each option in all that a goal may limit, and its error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx import helper

from onnxlr.cost.placement import Task, placement_of
from onnxlr.planning.plan import Choice
from onnxlr.schemes.registry import by_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnxlr.cost.measured import LayerCosts
    from onnxlr.planning.candidates import Choices, Workload
    from onnxlr.searching.corrections import Corrections

_MS = 1e3  # milliseconds in a second


@dataclass(frozen=True, slots=True)
class Option:
    """One thing a layer could be, with what it costs; ``scheme`` None is the layer as it is. ``size`` is in bytes."""

    scheme: str | None
    ranks: tuple[int, ...]
    ms: float
    macs: int
    size: int
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A layer: ``dense`` and the options that are faster."""

    workload: Workload
    dense: Option
    options: tuple[Option, ...]

    @property
    def site(self) -> str:
        """The layer's key."""
        return self.workload.site.key

    @property
    def all(self) -> tuple[Option, ...]:
        """Every option, the layer as it is first."""
        return (self.dense, *self.options)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows; ``original_ms``, ``other_macs`` and ``size`` (bytes), the original's, turn sums into whole models.

    ``gain`` is how much of what layers save, measured alone, the whole model saves.
    """

    rows: tuple[Row, ...]
    original_ms: float
    other_macs: int
    size: int
    gain: float = 1.0

    @property
    def macs(self) -> int:
        """Multiply-adds of the original."""
        return self.other_macs + sum(row.dense.macs for row in self.rows)

    def predicted_ms(self, picks: Mapping[str, Option]) -> float:
        """Return the latency of the whole model: the original's, less what the chosen layers save, times the gain."""
        saved = sum(row.dense.ms - picks[row.site].ms for row in self.rows if row.site in picks)
        return max(self.original_ms - self.gain * saved, 1e-3 * self.original_ms)

    @property
    def fastest(self) -> float:
        """Times faster than the original with the cheapest option everywhere."""
        cheapest = {row.site: min(row.all, key=lambda option: option.ms) for row in self.rows}
        return self.original_ms / self.predicted_ms(cheapest)

    def choices(self, picks: Mapping[str, Option]) -> tuple[Choice, ...]:
        """Return the plan's layers, those that stay dense left out."""
        return tuple(
            Choice(row.site, row.workload.site.label, scheme, picks[row.site].ranks)
            for row in self.rows
            if row.site in picks and (scheme := picks[row.site].scheme) is not None
        )

    def picks(self, choices: Sequence[Choice]) -> dict[str, Option]:
        """Return the options that a plan made from this table stands for."""
        wanted = {choice.site: choice for choice in choices}
        return {
            row.site: next(
                option
                for option in row.options
                if (option.scheme, option.ranks) == (wanted[row.site].scheme, wanted[row.site].ranks)
            )
            for row in self.rows
            if row.site in wanted
        }

    def without(self, sites: Collection[str]) -> Table:
        """Return the table with these layers left dense."""
        rows = tuple(replace(row, options=()) if row.site in sites else row for row in self.rows)
        return replace(self, rows=rows)

    def corrected(self, corrections: Corrections) -> Table:
        """Return the table with the latencies of each layer's chains multiplied by what the full model showed."""
        rows = tuple(
            replace(
                row,
                options=tuple(replace(o, ms=o.ms * corrections.of(row.site, o.scheme or "")) for o in row.options),
            )
            for row in self.rows
        )
        return replace(self, rows=rows)


def tasks_of(choices: Sequence[Choices]) -> tuple[Task, ...]:
    """Return what is to be timed: every layer with the chains of its candidates, in order."""
    return tuple(
        Task(
            placement_of(of.workload.site, of.workload.extent),
            tuple(by_name(one.scheme).template(of.workload.shape, one.ranks) for one in of.of_each),
            of.workload.extent.calls,
        )
        for of in choices
    )


def tabulate(
    choices: Sequence[Choices],
    costs: Sequence[LayerCosts],
    *,
    original_ms: float,
    other_macs: int,
    size: int,
) -> Table:
    """Put candidates and their latencies together; what is not faster than its layer is left out.

    ``size`` is that of the original in bytes, ``other_macs`` the multiply-adds of layers that stay whatever happens.
    """
    rows = []
    for of, cost in zip(choices, costs, strict=True):
        workload = of.workload
        each = helper.tensor_dtype_to_np_dtype(workload.site.dtype).itemsize
        dense = Option(None, (), cost.dense.seconds * _MS, workload.macs, workload.site.parameters * each, 0.0)
        options = [
            Option(
                candidate.scheme,
                candidate.ranks,
                chain.seconds * _MS,
                candidate.macs,
                by_name(candidate.scheme).template(workload.shape, candidate.ranks).parameters * each,
                candidate.error,
            )
            for candidate, chain in zip(of.of_each, cost.chains, strict=True)
        ]
        rows.append(Row(workload, dense, tuple(option for option in options if option.ms < dense.ms)))
    return Table(tuple(rows), original_ms, other_macs, size)
