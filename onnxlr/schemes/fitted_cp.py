"""``cp3`` and ``cp4`` fitted to data: drafts from the weights, then Gauss-Newton in the metric of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.base import Layer
from onnxlr.schemes.calibrated import UNCORRECTED, Calibrated
from onnxlr.schemes.cp_fit import DRAFT, ESTIMATE, FIT
from onnxlr.schemes.cp_observed import Problem, polish
from onnxlr.schemes.observed import Observed, fill, regress_last

if TYPE_CHECKING:
    from onnxlr.schemes.base import Ranks
    from onnxlr.schemes.cp import Cp3, Cp4, CpSolver
    from onnxlr_passes.chain import Chain, Stage, Step

ENTRIES = 2
"""Fits of the kernel as it is that are polished on the data: which of two minima is lower there is open."""

FEW = 0.5
"""Share of the dense parameters up to which the whitened kernel is a start: what little is kept, it chooses better.

Of many terms it ends at larger errors than the kernel as it is (docs/adr/0022).
"""


@dataclass(frozen=True, eq=False)
class FittedCp:
    """The best fits of the kernel as it is; of few terms also a draft of it whitened by the marginals of its modes.

    Each is polished on the data; the one that loses least there is kept. ``error`` is what the fit of the whitened
    kernel expects, corrected by what the polish makes of such expectations on a small layer like this one.
    """

    scheme: Cp3 | Cp4
    observed: Observed
    calibrated: Calibrated = UNCORRECTED

    @cached_property
    def _plain(self) -> CpSolver:
        return self.scheme.solver(self.observed.layer)

    @cached_property
    def _whitened(self) -> CpSolver:
        layer = self.observed.layer
        weight = layer.weight
        for mode, (forward, _) in enumerate(self.observed.roots(), start=1):
            weight = np.moveaxis(np.tensordot(weight, forward, (mode, 0)), -1, mode)
        return self.scheme.solver(Layer(weight, layer.geometry))

    def expected(self, ranks: Ranks) -> float:
        """Return the relative error to expect of the whitened kernel's fit."""
        return self._whitened.error(ranks)

    def error(self, ranks: Ranks) -> float:
        """Return the relative error to expect on the data."""
        return self.calibrated.error(self.expected(ranks))

    def calibrate(self) -> Calibrated:
        """Return what expectations are worth on this layer."""
        fit = partial(self._best, plain=DRAFT, whitened=ESTIMATE)
        return Calibrated.on(self.scheme, self.observed, self.expected, fit)

    def chain(self, ranks: Ranks) -> Chain:
        """Return the fitted chain at (R,)."""
        return self._best(ranks, FIT, DRAFT)

    def _best(self, ranks: Ranks, plain: float, whitened: float) -> Chain:
        """Return the best chain after about ``plain`` multiply-adds on the kernel, ``whitened`` on it whitened."""
        starts = self._plain.chains(ranks, plain, ENTRIES)
        if starts[0].parameters <= FEW * self.observed.layer.weight.size:
            starts += map(self._unwhitened, self._whitened.chains(ranks, whitened, 1))
        return min(map(self.refined, starts), key=self.observed.error)

    def refined(self, chain: Chain) -> Chain:
        """Return a chain with all its factors fitted to the outputs, the last stage exactly."""
        layer = self.observed.layer
        kernel = layer.grouped()
        group, t = kernel.shape[:2]
        stages = [stage for (stage,) in chain.steps]
        columns = (layer.shape.S, *(stage.geometry.taps for stage in stages[1:-1]))
        marginals = [self.observed.metric.marginal(columns, mode) for mode in range(len(columns))]
        parts = [stage.weight.reshape(group, -1, size) for stage, size in zip(stages[:-1], columns, strict=True)]
        last = stages[-1].weight.reshape(group, t, -1)
        fits = []
        for index in range(group):
            times, roughly = partial(self.observed.metric.times, group=index), self.observed.metric.roughly(index)
            problem = Problem.of(kernel[index].reshape(t, -1), columns, times, roughly, marginals)
            fits.append(polish(problem, (last[index], *(part[index].T for part in parts))))
        weights = {stage.suffix: np.stack([fit[1 + i].T for fit in fits]) for i, stage in enumerate(stages[:-1])}
        weights[stages[-1].suffix] = np.stack([fit[0] for fit in fits])
        return regress_last(fill(chain, weights), self.observed)

    def _unwhitened(self, chain: Chain) -> Chain:
        """Return what a chain for the whitened kernel is for the kernel."""
        return replace(chain, steps=(*(self._undone(stage) for (stage,) in chain.steps[:-1]), chain.steps[-1]))

    def _undone(self, stage: Stage) -> Step:
        weight = stage.weight
        for mode in range(1, weight.ndim):
            inverse = self.observed.roots()[mode - 1][1]
            if weight.shape[mode] == inverse.shape[0] and weight.shape[mode] > 1:
                weight = np.moveaxis(np.tensordot(weight, inverse, (mode, 0)), -1, mode)
        return (replace(stage, weight=weight),)
