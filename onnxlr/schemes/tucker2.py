"""``tucker2``: a 1x1 in, the kernel on few channels, a 1x1 out (Kim et al. 2016), fitted by HOOI."""

from __future__ import annotations

from dataclasses import dataclass

from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks, blocked
from onnxlr.schemes.hooi import Hosvd, hooi, hosvd
from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Tucker2Scheme:
    """(g R3, S, 1...), (g R4, R3, *k) with the layer's geometry, (g T, R4, 1...). Ranks are (R3, R4)."""

    name: str = "tucker2"
    family: str = "tucker2"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse pointwise layers (``basis`` is the same with a stage less) and single-channel groups."""
        if shape.taps == 1:
            return "pointwise: basis is the same factorization with a stage less"
        return "one channel per group" if min(shape.S, shape.T) < 2 else None

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return (S, T), each no more than the other modes can span."""
        return (min(shape.S, shape.T * shape.taps), min(shape.T, shape.S * shape.taps))

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the rank in both modes, clipped."""
        full = self.full_rank(shape)
        return (min(rank, full[0]), min(rank, full[1]))

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return a grid of block multiples."""
        full = self.full_rank(shape)
        into, out = (blocked(limit, shape, block, most=10) for limit in full)
        return tuple((r3, r4) for r3 in into for r4 in out)

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        r3, r4 = ranks
        g, kernel = shape.group, shape.geometry.kernel
        return _chain(shape.geometry, blank(g * r3, shape.S), blank(g * r4, r3, *kernel), blank(g * shape.T, r4))

    def unfoldings(self, shape: LayerShape) -> tuple[tuple[int, ...], ...]:  # noqa: ARG002
        """Return the modes whose spectra rule R3 and R4."""
        return ((1,), (0,))

    def solver(self, layer: Layer) -> Tucker2Solver:
        """Decompose the two channel modes of (g, T, S, taps)."""
        weight = layer.grouped()
        tensor = weight.reshape(*weight.shape[:3], -1)
        return Tucker2Solver(layer.shape, hosvd(tensor, layer.leading((0,))[0], layer.leading((1,))[0]))


@dataclass(frozen=True, slots=True, eq=False)
class Tucker2Solver:
    """HOOI from the truncated HOSVD; the error of the latter, an upper bound, is what candidates are compared by."""

    shape: LayerShape
    start: Hosvd

    def error(self, ranks: Ranks) -> float:
        """Return the error of the truncated HOSVD."""
        return self.start.error(ranks[1], ranks[0])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (R3, R4)."""
        r3, r4 = ranks
        shape = self.shape
        fit = hooi(self.start, r4, r3)
        reduce = fit.into.transpose(0, 2, 1).reshape(-1, shape.S)
        kernels = fit.core.reshape(-1, r3, *shape.geometry.kernel)
        return _chain(shape.geometry, reduce, kernels, fit.out.reshape(-1, r4))


def _chain(geometry: Geometry, reduce: Array, kernels: Array, expand: Array) -> Chain:
    """Return the three stages; ``reduce`` (g R3, S), ``expand`` (g T, R4)."""
    point = Geometry.plain((1,) * geometry.rank, geometry.group)
    return Chain(
        (
            (Stage("reduce", reduce.reshape(*reduce.shape, *point.kernel), point),),
            (Stage("kernel", kernels, geometry),),
            (Stage("expand", expand.reshape(*expand.shape, *point.kernel), point),),
        )
    )
