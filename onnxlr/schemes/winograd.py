"""``winograd``: the layer as it is, computed a tile of outputs at a time. Exact, and faster where a runtime does not.

No factors are truncated: the filter's transform by Toom and Cook is a decomposition of the convolution itself, of rank
m + r - 1 for m outputs of r taps (Lavin and Gray 2016). Fewer multiplications are bought with more memory traffic,
so that only measured latency can tell where it pays; on targets whose runtime does the same inside it never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.tile import FINITE, Tile, untiled

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks
    from onnxlr_passes.geometry import Geometry

OUTPUTS = (2, 4)
"""How many neighbouring outputs may be computed together."""


@dataclass(frozen=True, slots=True)
class Winograd:
    """The dense kernel; its ranks are how many outputs are computed together along each axis."""

    name: str = "winograd"
    family: str = "winograd"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse what cannot be tiled."""
        refusal = untiled(shape.geometry)
        if refusal is None and not self.candidates(shape, 1):
            return "a kernel too long for tiles"
        return refusal

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return the largest tile of all axes; every tile is exact."""
        return tuple(_most(taps) for taps in shape.geometry.kernel)

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the largest tile not above ``rank``, along the first axis that can be tiled."""
        full = self.full_rank(shape)
        first = next(at for at, most in enumerate(full) if most > 1)
        outputs = max((m for m in OUTPUTS if m <= min(rank, full[first])), default=OUTPUTS[0])
        return tuple(outputs if at == first else 1 for at in range(len(full)))

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:  # noqa: ARG002
        """Return the tiles that are no wider than they are high: rows are put side by side faster than columns."""
        full = self.full_rank(shape)
        every = product(*([m for m in (1, *OUTPUTS) if m <= most] for most in full))
        return tuple(
            ranks
            for ranks in every
            if max(ranks) > 1 and all(a >= b or most == 1 for a, b, most in zip(ranks, ranks[1:], full, strict=False))
        )

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        return _chain(blank(shape.out_channels, shape.S, *shape.geometry.kernel), shape.geometry, ranks)

    def solver(self, layer: Layer) -> WinogradSolver:
        """Return the layer: there is nothing to solve."""
        return WinogradSolver(layer)


@dataclass(frozen=True, slots=True, eq=False)
class WinogradSolver:
    """Exact whatever the tile."""

    layer: Layer

    def error(self, ranks: Ranks) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0

    def chain(self, ranks: Ranks) -> Chain:
        """Return the dense kernel by tiles of ``ranks``."""
        return _chain(self.layer.weight, self.layer.geometry, ranks)


def _most(taps: int) -> int:
    """Return the largest tile for a filter, 1 where there is none."""
    return max((m for m in OUTPUTS if taps > 1 and m + taps - 1 <= len(FINITE) + 1), default=1)


def _chain(weight: Array, geometry: Geometry, ranks: Ranks) -> Chain:
    return Chain(((Stage("tile", weight, geometry, Tile(tuple(ranks))),),))
