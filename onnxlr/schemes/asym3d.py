"""``asym3d``: one axis, the other axes, then a 1x1 (the asymmetric 3-D decomposition of Zhang et al. 2015).

W[t,s,i,j] ~ sum A[t,r] B[r,k,j] V[k,s,i] is a Tucker-2 of the kernel seen as (T) x (S kh) x (kw), so the same HOOI
fits both of its inner ranks at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks, blocked
from onnxlr.schemes.hooi import Hosvd, hooi, hosvd
from onnxlr.schemes.separable import axes_of, refuse_inseparable
from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Asym3d:
    """(g K, S, first axes), (g r, K, other axes), (g T, r, 1...). Ranks are (K, r); orders as in ``separable``."""

    order: str
    family: str = "asym3d"

    @property
    def name(self) -> str:
        """Return ``asym3d-vh`` or ``asym3d-hv``."""
        return f"asym3d-{self.order}"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse kernels with fewer than two axes to separate."""
        return refuse_inseparable(shape)

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (K, r) at which both unfoldings have no tail."""
        first, second = axes_of(shape.geometry, self.order)
        near = shape.S * prod(shape.geometry.kernel[a] for a in first)
        far = prod(shape.geometry.kernel[a] for a in second)
        return (min(near, shape.T * far), min(shape.T, near * far))

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the rank for both, clipped."""
        full = self.full_rank(shape)
        return (min(rank, full[0]), min(rank, full[1]))

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return a grid of block multiples."""
        full = self.full_rank(shape)
        between, out = (blocked(limit, shape, block, most=10) for limit in full)
        return tuple((k, r) for k in between for r in out)

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        k, r = ranks
        g = shape.group
        one, two = _geometries(shape.geometry, self.order)
        return _chain(one, two, blank(g * k, shape.S, *one.kernel), blank(g * r, k, *two.kernel), blank(g * shape.T, r))

    def unfoldings(self, shape: LayerShape) -> tuple[tuple[int, ...], ...]:
        """Return the modes whose spectra rule K and r."""
        first, _ = axes_of(shape.geometry, self.order)
        return ((1, *(2 + a for a in first)), (0,))

    def solver(self, layer: Layer) -> Asym3dSolver:
        """Decompose the tensor (g, T, (s, first taps), other taps)."""
        first, second = axes_of(layer.geometry, self.order)
        weight = layer.grouped().transpose(0, 1, 2, *(3 + a for a in first), *(3 + a for a in second))
        rows = layer.shape.S * prod(layer.geometry.kernel[a] for a in first)
        tensor = np.ascontiguousarray(weight).reshape(layer.shape.group, layer.shape.T, rows, -1)
        into = layer.leading((1, *(2 + a for a in first)))[0]
        return Asym3dSolver(layer.shape, self.order, hosvd(tensor, layer.leading((0,))[0], into))


@dataclass(frozen=True, slots=True, eq=False)
class Asym3dSolver:
    """HOOI from the truncated HOSVD; the error of the latter, an upper bound, is what candidates are compared by."""

    shape: LayerShape
    order: str
    start: Hosvd

    def error(self, ranks: Ranks) -> float:
        """Return the error of the truncated HOSVD."""
        return self.start.error(ranks[1], ranks[0])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (K, r)."""
        k, r = ranks
        one, two = _geometries(self.shape.geometry, self.order)
        fit = hooi(self.start, r, k)
        before = fit.into.transpose(0, 2, 1).reshape(-1, self.shape.S, *one.kernel)
        return _chain(one, two, before, fit.core.reshape(-1, k, *two.kernel), fit.out.reshape(-1, r))


def _geometries(geometry: Geometry, order: str) -> tuple[Geometry, Geometry]:
    first, second = axes_of(geometry, order)
    return geometry.only(*first), geometry.only(*second)


def _chain(one: Geometry, two: Geometry, before: Array, after: Array, expand: Array) -> Chain:
    """Return the three stages; ``expand`` (g T, r)."""
    point = Geometry.plain((1,) * one.rank, one.group)
    return Chain(
        (
            (Stage("first", before, one),),
            (Stage("second", after, two),),
            (Stage("expand", expand.reshape(*expand.shape, *point.kernel), point),),
        )
    )
