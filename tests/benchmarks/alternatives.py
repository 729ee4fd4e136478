"""Other ways to choose ranks: one share everywhere, a threshold on energy, EVBMF, and a knapsack on MACs.

All get the calibration data and the fits of ``onnxlr``. The families are those each way is known with, ``tucker2`` or
``basis``, and all of low rank for the knapsack.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from onnxlr.planning.budget import Energy, Evbmf, choose
from onnxlr.planning.plan import Choice
from onnxlr.schemes.registry import by_family, by_name
from tests.benchmarks.layer_by_layer import candidates_of, within_macs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onnxlr.planning.candidates import Choices
    from onnxlr.prepare import Prepared
    from tests.benchmarks.layer_by_layer import Subject

UNIFORM = (0.75, 0.5, 0.35, 0.25)
ENERGY = (0.99, 0.97, 0.93, 0.85)
MACS = (0.6, 0.4, 0.25)


def others(subject: Subject) -> Iterator[tuple[str, str, Callable[[], Sequence[Choice]]]]:
    """Yield each way at several strengths, with what chooses its ranks; that raises BudgetError where none will do."""
    prepared, views = subject.prepared, subject.calibration.views

    def of_budget(budget: Energy | Evbmf, family: str) -> Sequence[Choice]:
        return choose(
            budget,
            prepared.workloads,
            by_family((family,)),
            other_macs=prepared.other_macs,
            block=1,
            views=views,
            progress=lambda _: None,
        )

    @cache
    def candidates() -> Sequence[Choices]:
        return candidates_of(subject, "auto")

    def of_macs(keep: float) -> Sequence[Choice]:
        return within_macs(subject, candidates(), keep)

    for share in UNIFORM:
        yield "uniform rank", f"{share:g}", partial(_uniform, prepared, share)
    for energy in ENERGY:
        yield "energy", f"{energy:g}", partial(of_budget, Energy(energy), "basis")
    yield "EVBMF Tucker", "", partial(of_budget, Evbmf(), "tucker2")
    for keep in MACS:
        yield "MACs", f"{keep:g}", partial(of_macs, keep)


def _uniform(prepared: Prepared, share: float) -> tuple[Choice, ...]:
    """Return this share of the full ranks for every layer where that has fewer multiply-adds."""
    scheme = by_name("tucker2")
    found: list[Choice] = []
    for workload in prepared.workloads:
        if scheme.refusal(workload.shape) is not None:
            continue
        ranks = tuple(max(round(share * full), 1) for full in scheme.full_rank(workload.shape))
        if workload.extent.macs(scheme.template(workload.shape, ranks)) < workload.macs:
            found.append(Choice(workload.site.key, workload.site.label, scheme.name, ranks))
    return tuple(found)
