"""``projection``: a 1x1 that projects the input channels, then the layer's kernel on what is left.

The mirror of ``basis``. On a strided layer its 1x1 runs at the input resolution, which the count of MACs shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks, blocked, tail_error, truncate
from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Projection:
    """(g r, S, 1...), then (g T, r, *k) with the layer's geometry; r at most min(S, T taps)."""

    name: str = "projection"
    family: str = "projection"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse pointwise layers, where ``basis`` is the same thing without the wasted resolution."""
        if shape.taps == 1:
            return "pointwise: basis is the same factorization"
        return "one input channel per group" if shape.S < 2 else None

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (min(S, T taps),)."""
        return (min(shape.S, shape.T * shape.taps),)

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the rank, clipped."""
        return (min(rank, *self.full_rank(shape)),)

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return block multiples below the full rank."""
        return tuple((rank,) for rank in blocked(self.full_rank(shape)[0], shape, block))

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        (r,) = ranks
        g = shape.group
        return _chain(shape.geometry, blank(g * r, shape.S), blank(g * shape.T, r, *shape.geometry.kernel))

    def unfoldings(self, shape: LayerShape) -> tuple[tuple[int, ...], ...]:  # noqa: ARG002
        """Return the modes whose spectrum rules the rank."""
        return ((1,),)

    def solver(self, layer: Layer) -> ProjectionSolver:
        """Decompose the unfolding by input channel, (g, S, T taps)."""
        return ProjectionSolver(layer)


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionSolver:
    """Truncated SVD of the unfolding by input channel: exact at every rank."""

    layer: Layer

    def error(self, ranks: Ranks) -> float:
        """Return the exact relative error."""
        return tail_error(self.layer.energy((1,)), ranks[0])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (r,)."""
        (r,) = ranks
        shape = self.layer.shape
        reduce, kernels = truncate(self.layer.unfold((1,)), self.layer.leading((1,))[0], r)
        kernels = kernels.reshape(shape.group, r, shape.T, *shape.geometry.kernel)
        kernels = np.moveaxis(kernels, 2, 1).reshape(-1, r, *shape.geometry.kernel)
        return _chain(shape.geometry, reduce.transpose(0, 2, 1).reshape(-1, shape.S), kernels)


def _chain(geometry: Geometry, reduce: Array, kernels: Array) -> Chain:
    """Return the two stages; ``reduce`` (g r, S)."""
    first = Geometry.plain((1,) * geometry.rank, geometry.group)
    return Chain(
        (
            (Stage("reduce", reduce.reshape(*reduce.shape, *first.kernel), first),),
            (Stage("kernel", kernels, geometry),),
        )
    )
