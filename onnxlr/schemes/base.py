"""What a factorization family is: a layer's kernel in, chains of any rank out. Knows numpy and Chain, never ONNX."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd, prod
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from onnxlr_passes.chain import Chain
    from onnxlr_passes.geometry import Geometry

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
    """One convolution to factorize: ``weight`` is (g T, S, *kernel) in float64, S the channels of one group.

    Its unfoldings are decomposed once and shared by every family that asks for them.
    """

    weight: Array
    geometry: Geometry
    _leading: dict[tuple[int, ...], tuple[Array, Array]] = field(default_factory=dict, repr=False)
    _energy: dict[tuple[int, ...], Array] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> LayerShape:
        """Shape of the layer."""
        return LayerShape(self.weight.shape[0], self.weight.shape[1] * self.geometry.group, self.geometry)

    def grouped(self) -> Array:
        """Return the weight by group, shape (g, T, S, *kernel)."""
        group = self.geometry.group
        return self.weight.reshape(group, self.weight.shape[0] // group, *self.weight.shape[1:])

    def unfold(self, rows: tuple[int, ...]) -> Array:
        """Return the matrices (g, m, n) whose rows run over ``rows`` and whose columns over all other modes.

        Modes are 0 for output channels, 1 for input channels, 2, 3, ... for the spatial axes.
        """
        weight = self.grouped()
        columns = tuple(mode for mode in range(weight.ndim - 1) if mode not in rows)
        moved = weight.transpose(0, *(1 + mode for mode in rows + columns))
        return np.ascontiguousarray(moved).reshape(weight.shape[0], prod(moved.shape[1 : 1 + len(rows)]), -1)

    def leading(self, rows: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the left singular vectors (g, m, m) and squared singular values (g, m) of ``unfold(rows)``."""
        if rows not in self._leading:
            self._leading[rows] = leading(self._gram(rows))
        return self._leading[rows]

    def energy(self, rows: tuple[int, ...]) -> Array:
        """Return the squared singular values (g, m) of ``unfold(rows)``, largest first.

        Without vectors they take a fraction of the time of :meth:`leading`, which counts on large matrices.
        """
        if rows not in self._energy:
            known = self._leading.get(rows)
            values = np.linalg.eigvalsh(self._gram(rows))[..., ::-1] if known is None else known[1]
            self._energy[rows] = np.maximum(values, 0.0)
        return self._energy[rows]

    def _gram(self, rows: tuple[int, ...]) -> Array:
        matrices = self.unfold(rows)
        return matrices @ matrices.transpose(0, 2, 1)


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
        """How plans call the scheme: the family, and the variant where a family has several."""
        ...

    @property
    def family(self) -> str:
        """How the command line calls it."""
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


@runtime_checkable
class Unfolded(Protocol):
    """A scheme each of whose ranks is the rank of one unfolding of the kernel."""

    def unfoldings(self, shape: LayerShape) -> tuple[tuple[int, ...], ...]:
        """Return, per rank, the modes that make the rows of its unfolding."""
        ...


def leading(gram: Array) -> tuple[Array, Array]:
    """Return eigenvectors (g, m, m) and clipped eigenvalues (g, m) of symmetric matrices, largest first."""
    values, vectors = np.linalg.eigh(gram)
    return vectors[..., ::-1], np.maximum(values[..., ::-1], 0.0)


def tail_error(energy: Array, rank: int) -> float:
    """Return sqrt(energy beyond ``rank`` / all energy) of squared singular values (g, m); 0 when there is none."""
    total = float(energy.sum())
    return float(np.sqrt(energy[:, rank:].sum() / total)) if total > 0.0 else 0.0


def truncate(matrices: Array, vectors: Array, rank: int) -> tuple[Array, Array]:
    """Return left (g, m, r) and right (g, r, n): M projected on its ``rank`` leading left singular vectors.

    Projecting keeps the full-rank result exact to rounding however small the last singular values are. Each
    component's norm is shared equally by its two factors.
    """
    left = vectors[:, :, :rank]
    right = left.transpose(0, 2, 1) @ matrices
    scale = np.sqrt(np.linalg.norm(right, axis=2))
    scale[scale == 0.0] = 1.0
    return left * scale[:, None, :], right / scale[:, :, None]


def relative_error(weight: Array, approximation: Array) -> float:
    """Return ||W - W^||_F / ||W||_F; 0 for a layer of zeros that is reproduced."""
    norm = float(np.linalg.norm(weight))
    # Channel by channel, for a third copy of the largest layers would be their peak of memory.
    gap = float(np.sqrt(sum(float(np.square(w - a).sum()) for w, a in zip(weight, approximation, strict=True))))
    if norm > 0.0:
        return gap / norm
    return 0.0 if gap == 0.0 else np.inf


def blocked(limit: int, shape: LayerShape, block: int, most: int = 32) -> tuple[int, ...]:
    """Return ranks below ``limit`` whose channels, over all groups, fill whole blocks; at most ``most``, evenly spread.

    Ranks under one block (1, 2, 4, 8) are offered too: they cost what a block costs, but small layers have no other.
    """
    step = block // gcd(block, shape.group)
    ranks = list(range(step, limit, step))
    if len(ranks) > most:
        ranks = [ranks[round(i * (len(ranks) - 1) / (most - 1))] for i in range(most)]
    return tuple(rank for rank in (1, 2, 4, 8) if rank < min(step, limit)) + tuple(ranks)
