"""What a factorization family is: a layer's kernel in, chains of any rank out. Knows numpy and Chain, never ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from onnxlr_passes.chain import Chain

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ranks = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The shape of a convolution: ``out_channels`` T and ``in_channels`` are totals over all groups."""

    out_channels: int
    in_channels: int
    geometry: Geometry

    @property
    def group(self) -> int:
        """Number of groups g."""
        return self.geometry.group

    @property
    def T(self) -> int:  # noqa: N802
        """Output channels of one group."""
        return self.out_channels // self.geometry.group

    @property
    def S(self) -> int:  # noqa: N802
        """Input channels of one group."""
        return self.in_channels // self.geometry.group

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return self.geometry.taps

    @property
    def parameters(self) -> int:
        """Weights of the dense layer, without bias."""
        return self.out_channels * self.S * self.taps


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One convolution to factorize: ``weight`` is (T g, S, *kernel) in float64, S the channels of one group."""

    weight: Array
    geometry: Geometry

    @property
    def shape(self) -> LayerShape:
        """Shape of the layer."""
        return LayerShape(self.weight.shape[0], self.weight.shape[1] * self.geometry.group, self.geometry)

    def grouped(self) -> Array:
        """Return the weight by group, shape (g, T, S, *kernel)."""
        group = self.geometry.group
        return self.weight.reshape(group, self.weight.shape[0] // group, *self.weight.shape[1:])


class Solver(Protocol):
    """A layer whose decompositions have been done once, ready to answer for any ranks."""

    def error(self, ranks: Ranks) -> float:
        """Return the relative Frobenius error ||W - W^|| / ||W|| to expect of ``chain(ranks)``.

        Exact for the families with a closed form; for the iterative ones an estimate made to compare candidates.
        A layer of zeros has error 0.
        """
        ...

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at ``ranks``, without bias, deterministic."""
        ...


class Scheme(Protocol):
    """A factorization family. Ranks are per group; every stage of a chain is grouped alike."""

    @property
    def name(self) -> str:
        """How the command line and plans call the family."""
        ...

    def refusal(self, shape: LayerShape) -> str | None:
        """Return why the family cannot express this layer, or None when it can."""
        ...

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return ranks at which every kernel of this shape is reproduced exactly."""
        ...

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return the ranks meant by the single number ``rank``, clipped to the full rank."""
        ...

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return ranks worth trying: multiples of the runtime's channel ``block`` below the full rank."""
        ...

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain at ``ranks`` with blank weights, for counting."""
        ...

    def solver(self, layer: Layer) -> Solver:
        """Decompose the layer once for all ranks."""
        ...


def relative_error(weight: Array, approximation: Array) -> float:
    """Return ||W - W^||_F / ||W||_F; 0 for a layer of zeros that is reproduced."""
    norm = float(np.linalg.norm(weight))
    gap = float(np.linalg.norm(weight - approximation))
    if norm > 0.0:
        return gap / norm
    return 0.0 if gap == 0.0 else np.inf


def blocked(limit: int, block: int) -> tuple[int, ...]:
    """Return the multiples of ``block`` below ``limit``, at most 32 of them evenly spread; (1, ...) below one block."""
    ranks = list(range(block, limit, block))
    small = [rank for rank in (1, 2, 4, 8) if rank < min(block, limit)]
    if len(ranks) > 32:
        ranks = [ranks[round(i * (len(ranks) - 1) / 31)] for i in range(32)]
    return tuple(small + ranks)
