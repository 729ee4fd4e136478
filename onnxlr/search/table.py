"""Every layer with what it could become: the cost of each option in all that a goal may limit, and its error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from onnxlr.planning.plan import Choice
from onnxlr.schemes.registry import by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from onnxlr.planning.candidates import Choices, Workload


class Latency(Protocol):
    """Tells how long a layer takes on the target."""

    def __call__(self, workload: Workload, scheme: str | None, ranks: tuple[int, ...]) -> float:
        """Return milliseconds a run of the model; ``scheme`` None is the layer as it is."""
        ...


@dataclass(frozen=True, slots=True)
class Option:
    """One thing a layer could be; ``scheme`` None is the layer as it is. ``ms``, ``macs``, ``parameters`` are costs."""

    scheme: str | None
    ranks: tuple[int, ...]
    ms: float
    macs: int
    parameters: int
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
    """The rows; ``other_macs``, ``original_ms`` and ``bytes_each`` (of a parameter) turn sums into whole models."""

    rows: tuple[Row, ...]
    original_ms: float
    other_macs: int
    size: int
    bytes_each: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the original."""
        return self.other_macs + sum(row.dense.macs for row in self.rows)

    def predicted_ms(self, picks: Mapping[str, Option]) -> float:
        """Return the latency of the whole model: the original's, less what each chosen layer saves."""
        saved = sum(row.dense.ms - picks[row.site].ms for row in self.rows if row.site in picks)
        return max(self.original_ms - saved, 1e-6)

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

    def corrected(self, factors: Mapping[str, float]) -> Table:
        """Return the table with the latencies of each layer's chains multiplied by what the full model showed."""
        rows = tuple(
            replace(row, options=tuple(replace(o, ms=o.ms * factors.get(row.site, 1.0)) for o in row.options))
            for row in self.rows
        )
        return replace(self, rows=rows)


def tabulate(
    choices: Sequence[Choices],
    latency: Latency,
    *,
    original_ms: float,
    other_macs: int,
    size: int,
    progress: Callable[[float], None],
) -> Table:
    """Ask for the latency of every candidate; those that are not faster than their layer are left out.

    ``size`` is that of the original in bytes, ``other_macs`` the multiply-adds of layers that stay whatever happens.
    """
    rows = []
    for done, of in enumerate(choices, start=1):
        workload = of.workload
        dense = Option(None, (), latency(workload, None, ()), workload.macs, workload.site.parameters, 0.0)
        options = [
            Option(
                candidate.scheme,
                candidate.ranks,
                latency(workload, candidate.scheme, candidate.ranks),
                candidate.macs,
                by_name(candidate.scheme).template(workload.shape, candidate.ranks).parameters,
                candidate.error,
            )
            for candidate in of.candidates
        ]
        rows.append(Row(workload, dense, tuple(option for option in options if option.ms < dense.ms)))
        progress(done / len(choices))
    return Table(tuple(rows), original_ms, other_macs, size, 4)


@dataclass(frozen=True, slots=True)
class ByMacs:
    """Latency in proportion to the multiply-adds: ``ms_each`` milliseconds for one."""

    ms_each: float

    def __call__(self, workload: Workload, scheme: str | None, ranks: tuple[int, ...]) -> float:
        """Return milliseconds a run of the model."""
        if scheme is None:
            return workload.macs * self.ms_each
        return workload.extent.macs(by_name(scheme).template(workload.shape, ranks)) * self.ms_each
