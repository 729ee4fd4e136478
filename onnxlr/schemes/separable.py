"""``separable``: one spatial axis, then the others (Tai et al. 2015, theorem 1: the closed form is globally optimal).

Two orders. ``vh`` runs the first axis that has a kernel (vertical in 2-D, temporal in 3-D) first, ``hv`` last. Their
errors differ and, on strided or oblong layers, so do their costs; both are offered and the planner takes its pick.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks, blocked, tail_error, truncate
from onnxlr_passes.chain import Chain, Stage, blank

if TYPE_CHECKING:
    from onnxlr_passes.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Separable:
    """(g K, S, kernel on the first axes), then (g T, K, kernel on the other axes).

    K is at most min(S times the first taps, T times the other taps).
    """

    order: str
    family: str = "separable"

    @property
    def name(self) -> str:
        """Return ``separable-vh`` or ``separable-hv``."""
        return f"separable-{self.order}"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse kernels with fewer than two axes to separate."""
        return refuse_inseparable(shape)

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (K,) at which M has no tail."""
        first, second = axes_of(shape.geometry, self.order)
        taps = shape.geometry.kernel
        return (min(shape.S * prod(taps[a] for a in first), shape.T * prod(taps[a] for a in second)),)

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the rank, clipped."""
        return (min(rank, *self.full_rank(shape)),)

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return block multiples below the full rank."""
        return tuple((rank,) for rank in blocked(self.full_rank(shape)[0], shape, block))

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        (k,) = ranks
        first, second = axes_of(shape.geometry, self.order)
        one, two = shape.geometry.only(*first), shape.geometry.only(*second)
        g = shape.group
        return _chain(one, two, blank(g * k, shape.S, *one.kernel), blank(g * shape.T, k, *two.kernel))

    def unfoldings(self, shape: LayerShape) -> tuple[tuple[int, ...], ...]:
        """Return the modes of the smaller side of M, whose spectrum rules the rank."""
        kernel = shape.geometry.kernel
        first, second = axes_of(shape.geometry, self.order)
        near, far = shape.S * prod(kernel[a] for a in first), shape.T * prod(kernel[a] for a in second)
        return ((1, *(2 + a for a in first)) if near <= far else (0, *(2 + a for a in second)),)

    def solver(self, layer: Layer) -> SeparableSolver:
        """Decompose M[(s, first taps), (t, other taps)]."""
        return SeparableSolver(layer, self.order, self.unfoldings(layer.shape)[0])


@dataclass(frozen=True, slots=True, eq=False)
class SeparableSolver:
    """Tai et al., equation 4: V[k,s,i] = P[(s,i),k] sqrt(D_k), H[t,k,j] = sqrt(D_k) Q[(j,t),k]."""

    layer: Layer
    order: str
    rows: tuple[int, ...]

    def error(self, ranks: Ranks) -> float:
        """Return the exact relative error."""
        return tail_error(self.layer.energy(self.rows), ranks[0])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (K,)."""
        (k,) = ranks
        shape = self.layer.shape
        one, two = (shape.geometry.only(*axes) for axes in axes_of(shape.geometry, self.order))
        left, right = truncate(self.layer.unfold(self.rows), self.layer.leading(self.rows)[0], k)
        if self.rows[0] == 0:  # decomposed from the output side, the smaller one
            left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
        before = left.transpose(0, 2, 1).reshape(-1, shape.S, *one.kernel)
        after = np.moveaxis(right.reshape(shape.group, k, shape.T, *two.kernel), 2, 1)
        return _chain(one, two, before, after.reshape(-1, k, *two.kernel))


def refuse_inseparable(shape: LayerShape) -> str | None:
    """Return why a kernel has no two axes to take apart."""
    if shape.geometry.rank == 0 or shape.taps == 1:
        return "pointwise: no spatial axes to separate"
    if sum(k > 1 for k in shape.geometry.kernel) < 2:
        return "the kernel has one spatial axis: nothing to separate"
    return None


def axes_of(geometry: Geometry, order: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes of the first and of the second stage."""
    lead = next(axis for axis, k in enumerate(geometry.kernel) if k > 1)
    rest = tuple(axis for axis in range(geometry.rank) if axis != lead)
    return ((lead,), rest) if order == "vh" else (rest, (lead,))


def _chain(one: Geometry, two: Geometry, before: Array, after: Array) -> Chain:
    return Chain(((Stage("first", before, one),), (Stage("second", after, two),)))
