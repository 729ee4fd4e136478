"""A layer and what it sees: what every family fitted to data starts from, and the regression that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.base import Layer
from onnxlr.schemes.lift import Lift, make_lift
from onnxlr.schemes.metric import Metric, Rows, root, solve_right
from onnxlr.schemes.sampled import SampledLift, make_sampled_lift

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxlr.schemes.base import Array
    from onnxlr.schemes.turn import Turn
    from onnxlr_passes.chain import Chain
    from onnxlr_passes.geometry import Geometry

SAMPLE = 64
"""Channels per side of the part of a layer that estimates are made on."""

SEED = 20_151
"""Which channels those are derives from it."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a layer sees, and the coordinates of its answers in which all errors count alike, None for those it has."""

    metric: Metric
    turn: Turn | None

    def of(self, layer: Layer) -> Observed:
        """Return the layer, in these coordinates, with what it sees."""
        return Observed(layer if self.turn is None else self.turn.layer(layer), self.metric)

    def there(self, chain: Chain) -> Chain:
        """Return what a chain for the layer is in these coordinates, without its bias."""
        return replace(chain, bias=None) if self.turn is None else self.turn.chain(chain)

    def back(self, chain: Chain) -> Chain:
        """Return what a chain for the layer in these coordinates is for the layer."""
        return chain if self.turn is None else self.turn.undone(chain)


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

    def sample(self) -> Observed:
        """Return a small layer like this one: some of the channels of its first group, and what those see."""
        kernel = self.layer.grouped()[0]
        t, s = kernel.shape[:2]
        random = np.random.default_rng(SEED)
        out, into = (np.sort(random.permutation(size)[:SAMPLE]) for size in (t, s))
        taps = self.layer.shape.taps
        columns = (into[:, None] * taps + np.arange(taps)).reshape(-1)
        part = np.ascontiguousarray(kernel[out][:, into])
        return Observed(Layer(part, replace(self.layer.geometry, group=1)), self.metric.part(columns))

    def error(self, chain: Chain) -> float:
        """Return the relative error sqrt(tr(D C D^T) / tr(W C W^T)) of a finished chain, D its difference."""
        kernel = self.layer.grouped()
        lost = self.metric.energy(kernel - chain.contract(self.layer.geometry).reshape(kernel.shape))
        total = self.metric.energy(kernel)
        return sqrt(max(lost, 0.0) / total) if total > 0.0 else 0.0


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


def levelled(chain: Chain, geometry: Geometry, mean: Array, level: Array) -> Chain:
    """Return the chain with the bias that makes its answer to the ``mean`` input (g, D) be ``level`` (g T,)."""
    group, columns = mean.shape
    kernel = chain.contract(geometry).reshape(group, -1, columns)
    return chain.with_bias(level - np.einsum("gtd,gd->gt", kernel, mean).reshape(-1))


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
