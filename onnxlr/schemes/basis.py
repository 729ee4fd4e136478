"""``basis``: r basis filters, then a 1x1 that mixes them (BasisConv, Tayyab & Mahalanobis 2019; Zhang et al. 2015).

On 1x1 convolutions, Gemm and MatMul the same algebra is the truncated SVD into two linear maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks, blocked, tail_error, truncate
from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Basis:
    """(g r, S, *k) with the layer's geometry, then (g T, r, 1...); r at most min(T, S taps)."""

    name: str = "basis"
    family: str = "basis"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse only what has nothing to save: a single output channel or weight per group."""
        return "every rank costs more than the layer" if min(self.full_rank(shape)) < 2 else None

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (min(T, S taps),)."""
        return (min(shape.T, shape.S * shape.taps),)

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
        return _chain(shape.geometry, blank(g * r, shape.S, *shape.geometry.kernel), blank(g * shape.T, r))

    def unfoldings(self, shape: LayerShape) -> tuple[tuple[int, ...], ...]:  # noqa: ARG002
        """Return the modes whose spectrum rules the rank."""
        return ((0,),)

    def solver(self, layer: Layer) -> BasisSolver:
        """Decompose Wm, (g, T, S taps)."""
        return BasisSolver(layer)


@dataclass(frozen=True, slots=True, eq=False)
class BasisSolver:
    """Truncated SVD of Wm: exact at every rank (Eckart-Young)."""

    layer: Layer

    def error(self, ranks: Ranks) -> float:
        """Return the exact relative error."""
        return tail_error(self.layer.energy((0,)), ranks[0])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (r,)."""
        (r,) = ranks
        shape = self.layer.shape
        mix, filters = truncate(self.layer.unfold((0,)), self.layer.leading((0,))[0], r)
        return _chain(shape.geometry, filters.reshape(-1, shape.S, *shape.geometry.kernel), mix.reshape(-1, r))


def _chain(geometry: Geometry, filters: Array, mix: Array) -> Chain:
    """Return the two stages; ``mix`` (g T, r)."""
    last = Geometry.plain((1,) * geometry.rank, geometry.group)
    return Chain(
        (
            (Stage("basis", filters, geometry),),
            (Stage("mix", mix.reshape(*mix.shape, *last.kernel), last),),
        )
    )
