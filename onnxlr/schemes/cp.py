"""``cp4`` and ``cp3``: a kernel as a sum of rank-1 terms (Lebedev et al. 2014; Phan et al. 2020).

``cp4`` is a 1x1 in, one depthwise convolution per spatial axis, a 1x1 out; ``cp3`` keeps the spatial kernel whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, sqrt
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_fit import Kernel
from onnxlr.schemes.cp_start import exact_rank
from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks
    from onnxlr.schemes.cp_tensor import Factors

SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
"""Shares of the dense layer's parameters at which ranks are offered."""

FITTED_GROUPS = 4
"""Groups whose fits are estimated one by one; the others improve on their bounds as these do on average."""


@dataclass(frozen=True, slots=True)
class Cp3:
    """(g R, S, 1...), (g R, 1, *kernel) depthwise with the layer's geometry, (g T, R, 1...). Ranks are (R,)."""

    name: str = "cp3"
    family: str = "cp3"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse pointwise layers (``basis`` is the same factorization) and depthwise ones."""
        if shape.taps == 1:
            return "pointwise: basis is the same factorization with two stages less"
        return "one input channel per group" if shape.S == 1 else None

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (R,), the least of T S, T taps and S taps."""
        return (exact_rank((shape.T, shape.S, shape.taps)),)

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the rank, clipped."""
        return (min(rank, *self.full_rank(shape)),)

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return a handful of block multiples, from an eighth to three quarters of the dense parameters."""
        return _candidates(shape, (shape.taps,), block)

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        stages = (_spatial_axes(shape.geometry),)
        return _chain(shape.geometry, ("k",), stages, [_blank(shape, stages, *ranks)] * shape.group)

    def solver(self, layer: Layer) -> CpSolver:
        """Prepare every group's kernel as (T, S, taps)."""
        weight = layer.grouped()
        return CpSolver(layer.geometry, ("k",), (_spatial_axes(layer.geometry),), weight)


@dataclass(frozen=True, slots=True)
class Cp4:
    """(g R, S, 1...), one depthwise (g R, 1, ...) per axis with a kernel, (g T, R, 1...). Ranks are (R,).

    An axis with a stride or pads but no kernel goes with the first of the depthwise convolutions.
    """

    name: str = "cp4"
    family: str = "cp4"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse depthwise layers, and kernels with fewer than two axes to take apart."""
        if shape.taps == 1:
            return "pointwise: basis is the same factorization with two stages less"
        if len(_split(shape.geometry)) < 2:
            return "the kernel has one axis: cp3 is the same factorization"
        return "one input channel per group" if shape.S == 1 else None

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (R,), the least product of the sizes of all modes (T, S and each axis) but one."""
        return (exact_rank((shape.T, shape.S, *shape.geometry.kernel)),)

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the rank, clipped."""
        return (min(rank, *self.full_rank(shape)),)

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return a handful of block multiples, from an eighth to three quarters of the dense parameters."""
        return _candidates(shape, tuple(k for k in shape.geometry.kernel if k > 1), block)

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        stages = _split(shape.geometry)
        return _chain(shape.geometry, _names(stages), stages, [_blank(shape, stages, *ranks)] * shape.group)

    def solver(self, layer: Layer) -> CpSolver:
        """Prepare every group's kernel as (T, S, k_1, ..., k_n)."""
        stages = _split(layer.geometry)
        return CpSolver(layer.geometry, _names(stages), stages, layer.grouped())


class CpSolver:
    """The kernels of all groups, and the axes each depthwise stage carries."""

    def __init__(
        self, geometry: Geometry, names: tuple[str, ...], stages: tuple[tuple[int, ...], ...], weight: Array
    ) -> None:
        self._geometry = geometry
        self._names = names
        self._stages = stages
        sizes = [_taps(geometry, axes) for axes in stages]
        self._kernels = [Kernel(part.reshape(*part.shape[:2], *sizes)) for part in weight]
        self._estimates: dict[int, float] = {}
        self._fits: dict[int, Chain] = {}

    def error(self, ranks: Ranks) -> float:
        """Return an estimate of the error of ``chain(ranks)``; see :meth:`Kernel.estimate`."""
        (rank,) = ranks
        if rank not in self._estimates:
            self._estimates[rank] = self._estimate(rank)
        return self._estimates[rank]

    def chain(self, ranks: Ranks) -> Chain:
        """Return the fitted chain at (R,)."""
        (rank,) = ranks
        if rank not in self._fits:
            self._fits[rank] = self._chain([kernel.fit(rank) for kernel in self._kernels])
        return self._fits[rank]

    def chains(self, ranks: Ranks, budget: float, most: int) -> list[Chain]:
        """Return up to ``most`` chains at (R,) after about ``budget`` multiply-adds, the best first."""
        fits = [kernel.fits(ranks[0], budget, most) for kernel in self._kernels]
        return [self._chain(list(each)) for each in zip(*fits, strict=False)]

    def _chain(self, fits: list[Factors]) -> Chain:
        return _chain(self._geometry, self._names, self._stages, fits)

    def _estimate(self, rank: int) -> float:
        """Sum the residual energies of the groups."""
        total = sum(kernel.tensor.energy for kernel in self._kernels)
        if total <= 0.0:
            return 0.0
        every = -(-len(self._kernels) // FITTED_GROUPS)
        reached, bounds, all_bounds = 0.0, 0.0, 0.0
        for i, kernel in enumerate(self._kernels):
            bound = kernel.bound(rank) ** 2 * kernel.tensor.energy
            all_bounds += bound
            if i % every == 0:
                bounds += bound
                reached += kernel.estimate(rank) ** 2 * kernel.tensor.energy
        return sqrt(all_bounds * (reached / bounds) / total) if bounds > 0.0 else sqrt(all_bounds / total)


def _spatial_axes(geometry: Geometry) -> tuple[int, ...]:
    return tuple(range(geometry.rank))


def _split(geometry: Geometry) -> tuple[tuple[int, ...], ...]:
    """Return the axes of every depthwise stage: one with a kernel each, those without with the first."""
    wide = [axis for axis in range(geometry.rank) if geometry.kernel[axis] > 1]
    flat = [axis for axis in range(geometry.rank) if geometry.kernel[axis] == 1]
    return tuple((axis, *flat) if i == 0 else (axis,) for i, axis in enumerate(wide))


def _names(stages: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    return tuple(f"k{axes[0]}" for axes in stages)


def _taps(geometry: Geometry, axes: tuple[int, ...]) -> int:
    return geometry.only(*axes).taps


def _blank(shape: LayerShape, stages: tuple[tuple[int, ...], ...], rank: int) -> Factors:
    taps = [blank(_taps(shape.geometry, axes), rank) for axes in stages]
    return (blank(shape.T, rank), blank(shape.S, rank), *taps)


def _candidates(shape: LayerShape, taps: tuple[int, ...], block: int) -> tuple[Ranks, ...]:
    """Return ranks at the shares, rounded to blocks (over all groups), or to 2, 4, 8 where a block is too much."""
    full = exact_rank((shape.T, shape.S, *taps))
    step = block // gcd(block, shape.group)
    each = shape.T + shape.S + sum(taps)
    dense = shape.T * shape.S * shape.taps
    ranks = set()
    for share in SHARES:
        wanted = share * dense / each
        unit = step if wanted >= step else next((u for u in (8, 4, 2) if u <= wanted), 1)
        ranks.add(max(1, round(wanted / unit)) * unit)
    return tuple((rank,) for rank in sorted(ranks) if rank < full and rank * each < dense)


def _chain(
    geometry: Geometry, names: tuple[str, ...], stages: tuple[tuple[int, ...], ...], fits: list[Factors]
) -> Chain:
    """Return the stages of factors (T, R), (S, R), (taps, R)... per group."""
    group = len(fits)
    rank = fits[0][0].shape[1]
    point = Geometry.plain((1,) * geometry.rank, group)
    channels = group * rank
    into = _stacked([fit[1].T for fit in fits])
    out = _stacked([fit[0] for fit in fits])
    steps = [(Stage("s", into.reshape(*into.shape, *point.kernel), point),)]
    for i, (name, axes) in enumerate(zip(names, stages, strict=True)):
        taps = geometry.only(*axes, group=channels)
        steps.append((Stage(name, _stacked([fit[2 + i].T for fit in fits]).reshape(channels, 1, *taps.kernel), taps),))
    steps.append((Stage("t", out.reshape(*out.shape, *point.kernel), point),))
    return Chain(tuple(steps))


def _stacked(parts: list[Array]) -> Array:
    """Return the groups' matrices one below the other; blank ones stay without memory."""
    if len(parts) == 1:
        return parts[0]
    if all(part.strides == (0, 0) for part in parts):
        return blank(len(parts) * parts[0].shape[0], parts[0].shape[1])
    return np.concatenate(parts)
