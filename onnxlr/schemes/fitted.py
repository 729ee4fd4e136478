"""Every family fitted to data: the same chains, with factors that keep what the layer's inputs make of the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.asym3d import Asym3d
from onnxlr.schemes.base import Layer, leading, tail_error
from onnxlr.schemes.basis import Basis
from onnxlr.schemes.lift import Fit, Lift, make_lift
from onnxlr.schemes.metric import Metric, Rows, root, solve_right
from onnxlr.schemes.projection import Projection
from onnxlr.schemes.sampled import SampledLift, make_sampled_lift
from onnxlr.schemes.separable import Separable, axes_of
from onnxlr.schemes.tucker2 import Tucker2Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxlr.schemes.base import Array, Ranks, Scheme, Solver
    from onnxlr_passes.chain import Chain, Step


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """A layer and what it sees. Regressions are set up once and shared by the families that ask for them."""

    layer: Layer
    metric: Metric
    _lifts: dict[tuple[int, ...], tuple[Lift | SampledLift, ...]] = field(default_factory=dict, repr=False)
    _roots: list[tuple[Array, Array]] = field(default_factory=list, repr=False)

    def lifts(self, axes: tuple[int, ...]) -> tuple[Lift | SampledLift, ...]:
        """Return, per group, the regression behind a first stage that takes the channels and ``axes``."""
        if axes not in self._lifts:
            self._lifts[axes] = tuple(self._lift(group, axes) for group in range(self.layer.geometry.group))
        return self._lifts[axes]

    def _lift(self, group: int, axes: tuple[int, ...]) -> Lift | SampledLift:
        kernel = self.layer.grouped()[group]
        rank = kernel.ndim - 2
        rest = tuple(axis for axis in range(rank) if axis not in axes)
        columns = kernel.shape[1:]
        near = (0, *(1 + axis for axis in axes))
        far = tuple(1 + axis for axis in rest)
        n, b = prod(columns[i] for i in near), prod(columns[i] for i in far)
        order = near + far
        if isinstance(self.metric, Rows):
            return make_sampled_lift(kernel, self.metric, self.roots(), group, near, far)
        moved = self.metric.covariance[group].reshape(columns + columns)
        moved = moved.transpose(*order, *(len(columns) + i for i in order)).reshape(n, b, n, b)
        rows = kernel.transpose(0, *(1 + i for i in order)).reshape(-1, n, b)
        return make_lift(np.ascontiguousarray(rows), np.ascontiguousarray(moved), n)

    def roots(self) -> Sequence[tuple[Array, Array]]:
        """Return square root and inverse of the marginal of every mode of the columns, scaled to a mean energy of 1."""
        if not self._roots:
            columns = self.layer.grouped().shape[2:]
            for mode, size in enumerate(columns):
                marginal = self.metric.marginal(columns, mode)
                scale = float(np.trace(marginal)) / size
                self._roots.append(root(marginal / scale if scale > 0.0 else np.eye(size)))
        return self._roots

    def error(self, chain: Chain) -> float:
        """Return the relative error sqrt(tr(D C D^T) / tr(W C W^T)) of a finished chain, D its difference."""
        kernel = self.layer.grouped()
        lost = self.metric.energy(kernel - chain.contract(self.layer.geometry).reshape(kernel.shape))
        total = self.metric.energy(kernel)
        return sqrt(max(lost, 0.0) / total) if total > 0.0 else 0.0


def fitted_solver(scheme: Scheme, observed: Observed) -> Solver:
    """Return the solver of ``scheme`` for a layer whose inputs are known."""
    if isinstance(scheme, Basis):
        return FittedBasis(scheme, observed)
    if isinstance(scheme, Projection | Separable | Tucker2Scheme | Asym3d):
        return BetterOfTwo(FittedLift(scheme, observed), scheme, observed)
    return BetterOfTwo(Regressed(scheme, observed), scheme, observed)


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


@dataclass(frozen=True, eq=False)
class Regressed:
    """``cp3``, ``cp4`` and ``mixed``: the weights-only fit, finished by the exact regression of the last 1x1.

    CP is fitted to the kernel whitened by the marginals of its modes, and un-whitened stage by stage; mixed branches
    are those of the kernel as it is. ``error`` is what the inner fit expects on the whitened kernel.
    """

    scheme: Scheme
    observed: Observed

    @cached_property
    def _inner(self) -> Solver:
        layer = self.observed.layer
        if self.scheme.family == "mixed":
            return self.scheme.solver(layer)
        weight = layer.weight
        for mode, (forward, _) in enumerate(self.observed.roots(), start=1):
            weight = np.moveaxis(np.tensordot(weight, forward, (mode, 0)), -1, mode)
        return self.scheme.solver(Layer(weight, layer.geometry))

    def error(self, ranks: Ranks) -> float:
        """Return the error expected on the whitened kernel."""
        return self._inner.error(ranks)

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain with its last stage regressed."""
        chain = self._inner.chain(ranks)
        if self.scheme.family != "mixed":
            chain = replace(chain, steps=tuple(self._unwhiten(chain, i) for i in range(len(chain.steps))))
        return regress_last(chain, self.observed)

    def _unwhiten(self, chain: Chain, index: int) -> Step:
        (stage,) = chain.steps[index]
        if index == len(chain.steps) - 1:
            return (stage,)
        weight = stage.weight
        for mode in range(1, weight.ndim):
            inverse = self.observed.roots()[mode - 1][1]
            if weight.shape[mode] == inverse.shape[0] and weight.shape[mode] > 1:
                weight = np.moveaxis(np.tensordot(weight, inverse, (mode, 0)), -1, mode)
        return (replace(stage, weight=weight),)


def regress_last(chain: Chain, observed: Observed) -> Chain:
    """Return the chain with its last, pointwise stage replaced by the exact regression of y on that stage's input."""
    (last,) = chain.steps[-1]
    layer = observed.layer
    group = layer.geometry.group
    if last.geometry.taps != 1:
        raise ValueError("the last stage is not pointwise")
    inputs = (
        replace(chain, steps=chain.steps[:-1]).contract(layer.geometry)
        if len(chain.steps[-2]) == 1
        else _parallel(chain, layer)
    )
    lifted = inputs.reshape(group, -1, layer.shape.S * layer.shape.taps)
    kernel = layer.grouped().reshape(group, layer.shape.T, -1)
    moments, cross = observed.metric.inner(lifted, lifted), observed.metric.inner(kernel, lifted)
    rows = [solve_right(moment, right) for moment, right in zip(moments, cross, strict=True)]
    mixed = np.stack(rows).reshape(last.weight.shape)
    return replace(chain, steps=(*chain.steps[:-1], (replace(last, weight=mixed),)))


def _parallel(chain: Chain, layer: Layer) -> Array:
    """Return the kernel of parallel branches, contracted through an identity join."""
    (last,) = chain.steps[-1]
    channels = last.in_channels
    join = replace(last, weight=np.eye(channels).reshape(channels, channels, *last.geometry.kernel))
    return replace(chain, steps=(*chain.steps[:-1], (join,))).contract(layer.geometry)


def fill(template: Chain, weights: Mapping[str, Array]) -> Chain:
    """Return the template with each stage's weight, by suffix; groups lead and are folded into the channels."""
    steps = tuple(
        tuple(
            replace(stage, weight=np.ascontiguousarray(weights[stage.suffix]).reshape(stage.weight.shape))
            for stage in step
        )
        for step in template.steps
    )
    return replace(template, steps=steps)


def _joined(fit: Fit) -> Array:
    """Return out core, (T, k, b)."""
    return np.tensordot(fit.out, fit.core, (1, 0))
