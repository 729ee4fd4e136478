"""What each layer could become: every scheme and rank that costs less than the layer, with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.errors import ModelError
from onnxlr.parallel import side_by_side
from onnxlr.planning.knapsack import pareto
from onnxlr.schemes.base import Layer, LayerShape
from onnxlr.schemes.calibrated import UNCORRECTED
from onnxlr.schemes.fitted import calibrations, fitted_solver
from onnxlr.schemes.winograd import Winograd
from onnxlr_passes.base import PassError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.schemes.base import Ranks, Scheme, Solver
    from onnxlr.schemes.calibrated import Calibrated
    from onnxlr.schemes.observed import Observed, View
    from onnxlr_passes.extents import Extent
    from onnxlr_passes.sites import Site


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A site and what it sees: the unit of planning. ``tileable`` says that the model lets it be computed by tiles."""

    site: Site
    extent: Extent
    tileable: bool = False

    def refusal(self, scheme: Scheme) -> str | None:
        """Return why a scheme cannot express this layer where it stands, or None when it can."""
        if isinstance(scheme, Winograd) and not self.tileable:
            return scheme.refusal(self.shape) or "tiles need single precision and an input size fixed in the model"
        return scheme.refusal(self.shape)

    @property
    def shape(self) -> LayerShape:
        """The layer's shape as schemes know it."""
        return LayerShape(self.site.out_channels, self.site.in_channels, self.site.geometry)

    @property
    def macs(self) -> int:
        """Multiply-adds of the layer as it is."""
        return self.extent.dense_macs(self.site)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing a layer could become.

    ``error`` is relative: ||W - W^|| / ||W||, or that of the outputs in the metric of the data. ``macs`` count the
    whole model run.
    """

    scheme: str
    ranks: Ranks
    macs: int
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """A layer's candidates, each cheaper than the layer, none beaten by another in both MACs and error.

    Of ``of_each`` none is beaten by another of its own scheme: across schemes, MACs do not tell the time.
    """

    workload: Workload
    candidates: tuple[Candidate, ...]
    of_each: tuple[Candidate, ...]
    refusals: tuple[tuple[str, str], ...]


def read_layer(site: Site) -> Layer:
    """Read a site's kernel.

    Raises
    ------
    ModelError
        When its data cannot be read.
    """
    try:
        return Layer(site.kernel(), site.geometry)
    except PassError as error:
        raise ModelError(f"{site.label}: {error}", "leave the model's files alone meanwhile") from error


def enumerate_choices(
    workloads: Sequence[Workload],
    schemes: Sequence[Scheme],
    block: int,
    views: Mapping[str, View],
    progress: Callable[[float], None],
) -> tuple[Choices, ...]:
    """Return the choices of every workload, in order; sites that share a kernel are decomposed once.

    ``views`` gives, by site key, what layers see: their errors are then those of their outputs. A
    layer's decompositions are dropped before the next one's, so memory is bounded by the largest layers.
    """
    groups: dict[str, list[int]] = {}
    for index, workload in enumerate(workloads):
        key = workload.site.key if workload.site.key in views else workload.site.shared_key
        groups.setdefault(key, []).append(index)
    total = sum(workload.site.parameters for workload in workloads) or 1
    share = 0.0
    calibrated = _calibrated(workloads, schemes, views)

    def load(indices: list[int]) -> _Group:
        every = [workloads[index] for index in indices]
        view = views.get(every[0].site.key)
        return _Group(every, view, schemes, block, calibrated.get(every[0].shape, {}))

    def tell(indices: list[int]) -> None:
        nonlocal share
        share += sum(workloads[index].site.parameters for index in indices) / total
        progress(share)

    def size(indices: list[int]) -> int:
        return workloads[indices[0]].site.parameters

    every = list(groups.values())
    found: dict[int, Choices] = {}
    for indices, made in zip(every, side_by_side(every, load, _choices_of, size, tell), strict=True):
        for index, (candidates, refusals) in zip(indices, made, strict=True):
            of_each = tuple(
                c for scheme in schemes for c in _unbeaten([c for c in candidates if c.scheme == scheme.name])
            )
            found[index] = Choices(workloads[index], _unbeaten(candidates), of_each, refusals)
    return tuple(found[index] for index in range(len(workloads)))


def _calibrated(
    workloads: Sequence[Workload], schemes: Sequence[Scheme], views: Mapping[str, View]
) -> dict[LayerShape, dict[str, Calibrated]]:
    """Return what the schemes' expectations are worth, as seen on the first layer of every shape."""
    firsts: dict[LayerShape, Site] = {}
    for workload in workloads:
        if workload.site.key in views:
            firsts.setdefault(workload.shape, workload.site)

    def load(shape: LayerShape) -> tuple[Sequence[Scheme], Observed]:
        site = firsts[shape]
        return schemes, views[site.key].of(read_layer(site)).sample()

    shapes = list(firsts)
    made = side_by_side(shapes, load, _look, lambda _: 1.0, lambda _: None)
    return dict(zip(shapes, made, strict=True))


def _look(given: tuple[Sequence[Scheme], Observed]) -> dict[str, Calibrated]:
    """Return, by scheme, what expectations are worth on a part of a layer."""
    return calibrations(*given)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Workloads of one kernel, what it sees, and what it may become."""

    workloads: Sequence[Workload]
    view: View | None
    schemes: Sequence[Scheme]
    block: int
    calibrated: Mapping[str, Calibrated]


def _choices_of(group: _Group) -> list[tuple[list[Candidate], tuple[tuple[str, str], ...]]]:
    """Return every workload's candidates, and the schemes that do not apply, each with a reason."""
    solve = _solve_with(read_layer(group.workloads[0].site), group.view, group.calibrated)
    errors: dict[tuple[str, Ranks], float] = {}
    return [_choices(workload, solve, group.schemes, group.block, errors) for workload in group.workloads]


def _solve_with(layer: Layer, view: View | None, calibrated: Mapping[str, Calibrated]) -> Callable[[Scheme], Solver]:
    """Return what makes a scheme's solver for a layer: of its weights, or of its outputs where those are known."""
    if view is None:
        return lambda scheme: scheme.solver(layer)
    observed = view.of(layer)
    return lambda scheme: fitted_solver(scheme, observed, calibrated.get(scheme.name, UNCORRECTED))


def _choices(
    workload: Workload,
    solve: Callable[[Scheme], Solver],
    schemes: Sequence[Scheme],
    block: int,
    errors: dict[tuple[str, Ranks], float],
) -> tuple[list[Candidate], tuple[tuple[str, str], ...]]:
    """Return one workload's choices; ``errors`` remembers what a kernel's other sites have already asked."""
    shape, dense = workload.shape, workload.macs
    candidates: list[Candidate] = []
    refusals: list[tuple[str, str]] = []
    for scheme in schemes:
        refusal = workload.refusal(scheme)
        if refusal is not None:
            refusals.append((scheme.name, refusal))
            continue
        costs = [
            (ranks, workload.extent.macs(scheme.template(shape, ranks))) for ranks in scheme.candidates(shape, block)
        ]
        paying = [(ranks, macs) for ranks, macs in costs if macs < dense]
        if not paying:
            refusals.append((scheme.name, "every rank tried costs as much as the layer"))
            continue
        solver = solve(scheme) if any((scheme.name, ranks) not in errors for ranks, _ in paying) else None
        for ranks, macs in paying:
            key = (scheme.name, ranks)
            if key not in errors and solver is not None:
                errors[key] = solver.error(ranks)
            candidates.append(Candidate(scheme.name, ranks, macs, errors[key]))
    return candidates, tuple(refusals)


def _unbeaten(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(candidates[i] for i in pareto([c.macs for c in candidates], [c.error for c in candidates]))
