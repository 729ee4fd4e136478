"""Every family fitted to data: the same chains, with factors that keep what the layer's inputs make of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.asym3d import Asym3d
from onnxlr.schemes.base import leading, tail_error
from onnxlr.schemes.basis import Basis
from onnxlr.schemes.calibrated import UNCORRECTED, Calibrated
from onnxlr.schemes.cp import Cp3, Cp4
from onnxlr.schemes.fitted_cp import FittedCp
from onnxlr.schemes.fitted_mixed import FittedMixed
from onnxlr.schemes.mixed import Mixed
from onnxlr.schemes.observed import Observed, fill
from onnxlr.schemes.projection import Projection
from onnxlr.schemes.separable import Separable, axes_of
from onnxlr.schemes.tucker2 import Tucker2Scheme
from onnxlr.schemes.winograd import Winograd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.schemes.base import Array, Ranks, Scheme, Solver
    from onnxlr.schemes.lift import Fit, Lift
    from onnxlr.schemes.sampled import SampledLift
    from onnxlr_passes.chain import Chain


def calibrations(schemes: Sequence[Scheme], part: Observed) -> dict[str, Calibrated]:
    """Return, by scheme, what expectations are worth, as seen on a small part of a layer: for all of its shape."""
    found: dict[str, Calibrated] = {}
    for scheme in schemes:
        if isinstance(scheme, Cp3 | Cp4) and scheme.refusal(part.layer.shape) is None:
            found[scheme.name] = FittedCp(scheme, part).calibrate()
    return found


def fitted_solver(scheme: Scheme, observed: Observed, calibrated: Calibrated = UNCORRECTED) -> Solver:
    """Return the solver of ``scheme`` for a layer whose inputs are known; ``calibrated`` corrects its expectations."""
    if isinstance(scheme, Basis):
        return FittedBasis(scheme, observed)
    if isinstance(scheme, Cp3 | Cp4):
        return FittedCp(scheme, observed, calibrated)
    if isinstance(scheme, Mixed):
        return FittedMixed(scheme, observed)
    if isinstance(scheme, Winograd):
        return scheme.solver(observed.layer)
    if isinstance(scheme, Projection | Separable | Tucker2Scheme | Asym3d):
        return BetterOfTwo(FittedLift(scheme, observed), scheme, observed)
    raise ValueError(f"no fit to data for {scheme.name}")


def refined(scheme: Scheme, observed: Observed, chain: Chain, ranks: Ranks) -> Chain:
    """Return the chain fitted to a kernel and metric a little different from those ``chain`` was fitted to."""
    if isinstance(scheme, Cp3 | Cp4):
        return FittedCp(scheme, observed).refined(chain)
    if isinstance(scheme, Mixed):
        return FittedMixed(scheme, observed).refined(chain)
    if isinstance(scheme, Projection | Separable | Tucker2Scheme | Asym3d):
        return FittedLift(scheme, observed).chain(ranks)
    return fitted_solver(scheme, observed).chain(ranks)


@dataclass(frozen=True, slots=True, eq=False)
class BetterOfTwo:
    """An iterative fit may end in a worse optimum than the weights-only form: whichever loses less is kept.

    ``error`` is the fit's, which bounds that of both together.
    """

    fit: Solver
    scheme: Scheme
    observed: Observed

    def error(self, ranks: Ranks) -> float:
        """Return the error to expect of the fit."""
        return self.fit.error(ranks)

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at ``ranks`` that loses less on the data."""
        fitted = self.fit.chain(ranks)
        blind = self.scheme.solver(self.observed.layer).chain(ranks)
        return blind if self.observed.error(blind) < self.observed.error(fitted) else fitted


@dataclass(frozen=True, eq=False)
class FittedBasis:
    """W^ = U U^T W with U the leading eigenvectors of the output covariance W C W^T: exact at every rank."""

    scheme: Basis
    observed: Observed

    @cached_property
    def _spectrum(self) -> tuple[Array, Array]:
        kernel = self.observed.layer.grouped()
        rows = kernel.reshape(*kernel.shape[:2], -1)
        return leading(self.observed.metric.inner(rows, rows))

    def error(self, ranks: Ranks) -> float:
        """Return the exact relative error."""
        return tail_error(self._spectrum[1], ranks[0])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (r,), norms shared."""
        (r,) = ranks
        layer = self.observed.layer
        kernel = layer.grouped()
        mix = self._spectrum[0][:, :, :r]
        filters = mix.transpose(0, 2, 1) @ kernel.reshape(*kernel.shape[:2], -1)
        scale = np.sqrt(np.linalg.norm(filters, axis=2))
        scale[scale == 0.0] = 1.0
        weights = {"basis": filters / scale[:, :, None], "mix": mix * scale[:, None, :]}
        return fill(self.scheme.template(layer.shape, ranks), weights)


@dataclass(frozen=True, slots=True, eq=False)
class FittedLift:
    """The families of :mod:`onnxlr.schemes.lift`; ``error`` is that of the start, an upper bound of the fit's."""

    scheme: Projection | Separable | Tucker2Scheme | Asym3d
    observed: Observed

    def error(self, ranks: Ranks) -> float:
        """Return the relative error before the alternation."""
        k, r = self._inner(ranks)
        lifts = self._lifts()
        total = sum(lift.total for lift in lifts)
        return sqrt(sum(lift.lost(k, r) * lift.total for lift in lifts) / total) if total > 0.0 else 0.0

    def chain(self, ranks: Ranks) -> Chain:
        """Return the fitted chain."""
        fits = [lift.fit(*self._inner(ranks)) for lift in self._lifts()]
        first, core = np.stack([fit.first for fit in fits]), np.stack([fit.core for fit in fits])
        out = np.stack([fit.out for fit in fits])
        if isinstance(self.scheme, Tucker2Scheme | Asym3d):
            last = {"kernel": core, "second": core, "expand": out}
        else:
            joined = np.stack([_joined(fit) for fit in fits])
            last = {"kernel": joined, "second": joined}
        weights = {"reduce": first, "first": first} | last
        return fill(self.scheme.template(self.observed.layer.shape, ranks), weights)

    def _lifts(self) -> tuple[Lift | SampledLift, ...]:
        if isinstance(self.scheme, Separable | Asym3d):
            return self.observed.lifts(axes_of(self.observed.layer.geometry, self.scheme.order)[0])
        return self.observed.lifts(())

    def _inner(self, ranks: Ranks) -> tuple[int, int]:
        """Return the channels between and the output rank; two-stage families have all of it."""
        k, *rest = ranks
        return k, rest[0] if rest else self.observed.layer.shape.T


def _joined(fit: Fit) -> Array:
    """Return out core, (T, k, b)."""
    return np.tensordot(fit.out, fit.core, (1, 0))
