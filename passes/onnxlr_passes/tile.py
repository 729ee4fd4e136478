"""Tiles: neighbouring outputs of a convolution computed together, with fewer multiplications, exactly (Winograd).

m outputs of a filter of r taps, y_i = sum_j g_j d_(i+j), take m + r - 1 multiplications instead of m r (Toom and Cook;
Winograd 1980; for convolutions Lavin and Gray 2016, "Fast algorithms for convolutional neural networks")::

    y = A^T [(G g) * (B^T d)]

``d`` are the m + r - 1 inputs that the m outputs see. The matrices of an axis come from as many points of evaluation:
0, 1, -1, 2, -2 and infinity at most, for with more of them single precision is soon lost. ``B^T`` holds integers; the
filter, transformed once and for all, takes the fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import gcd, prod
from typing import TYPE_CHECKING

import numpy as np

from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

FINITE = (0.0, 1.0, -1.0, 2.0, -2.0)
"""Finite points of evaluation, in the order they are taken; the last point of an axis is always infinity."""

CONSTANT = 1
"""The point, of value 1, whose product is added to every output of its tile: there a bias can go."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis along which ``outputs`` m, two or more, are computed together by a filter of ``taps`` r.

    Raises
    ------
    ValueError
        When that takes more points than there are.
    """

    outputs: int
    taps: int

    def __post_init__(self) -> None:
        if self.outputs < 2 or self.taps < 2 or self.points > len(FINITE) + 1:
            raise ValueError(f"no tile of {self.outputs} outputs for {self.taps} taps")

    @property
    def points(self) -> int:
        """Multiplications per tile, which are inputs per tile as well: m + r - 1."""
        return self.outputs + self.taps - 1

    def take(self) -> Array:
        """Return B^T, (points, points): at a finite point the product of (x - q) over the others, at last over all."""
        finite = FINITE[: self.points - 1]
        rows = [[*np.poly([q for q in finite if q != p])[::-1], 0.0] for p in finite]
        return np.array([*rows, [*np.poly(finite)[::-1]]])

    def transform(self) -> Array:
        """Return G, (points, r): powers of each point, divided by the product of its distances from the others."""
        finite = FINITE[: self.points - 1]
        rows = [[p**j / prod(p - q for q in finite if q != p) for j in range(self.taps)] for p in finite]
        return np.array([*rows, [0.0] * (self.taps - 1) + [1.0]])

    def give(self) -> Array:
        """Return A^T, (m, points): powers of the points."""
        finite = FINITE[: self.points - 1]
        columns = [[p**i for i in range(self.outputs)] for p in finite]
        return np.array([*columns, [0.0] * (self.outputs - 1) + [1.0]]).T


@dataclass(frozen=True, slots=True)
class Tile:
    """How many outputs are computed together along each spatial axis; 1 leaves an axis as it is."""

    outputs: tuple[int, ...]

    def axes(self, geometry: Geometry) -> dict[int, Axis]:
        """Return the tiled axes of a convolution, by number.

        Raises
        ------
        ValueError
            When the convolution cannot be tiled, or not so.
        """
        if len(self.outputs) != geometry.rank or max(self.outputs) < 2 or untiled(geometry) is not None:
            raise ValueError(f"no tile of {self.outputs} for {geometry}")
        return {at: Axis(m, geometry.kernel[at]) for at, m in enumerate(self.outputs) if m > 1}

    def points(self, geometry: Geometry) -> int:
        """Return the products that make a tile: those of all axes, multiplied."""
        return prod(axis.points for axis in self.axes(geometry).values())

    def constant(self, geometry: Geometry) -> int:
        """Return the number of the point whose product every output of a tile holds once, of those of all axes."""
        return reduce(lambda at, axis: at * axis.points + CONSTANT, self.axes(geometry).values(), 0)

    def transform(self, weight: Array, geometry: Geometry) -> Array:
        """Return the filters (T, S, *kernel) at every point, (points, T, S, *kernel), 1 wide along tiled axes."""
        axes = self.axes(geometry)
        for at, axis in axes.items():
            weight = np.moveaxis(np.tensordot(axis.transform(), weight, (1, 2 + at)), 0, 2 + at)
        apart = np.moveaxis(weight, [2 + at for at in axes], range(len(axes)))
        kernel = [1 if at in axes else taps for at, taps in enumerate(geometry.kernel)]
        t, s = apart.shape[len(axes) : len(axes) + 2]
        return np.ascontiguousarray(apart).reshape(-1, t, s, *kernel)

    def gives(self, geometry: Geometry) -> tuple[Array, ...]:
        """Return, for every tiled axis, A^T, which makes outputs of products."""
        return tuple(axis.give() for axis in self.axes(geometry).values())

    def takes(self, geometry: Geometry) -> tuple[tuple[tuple[Array, Geometry], ...], ...]:
        """Return, for every tiled axis, the convolution at each of its points: its numbers and its geometry.

        They pad as the layer does, and behind by as much more as an incomplete tile may need. Zeros are left out, at
        the ends of a row of B^T as far as pads allow, and between its numbers where every other one is zero.
        """
        found = []
        for at, axis in self.axes(geometry).items():
            rows = [_without_zeros(row, geometry.pads[at][0]) for row in axis.take()]
            found.append(tuple((numbers, _taking(geometry, at, axis, numbers, *where)) for numbers, *where in rows))
        return tuple(found)

    def products(self, geometry: Geometry) -> Geometry:
        """Return the geometry of the convolution that multiplies, a group for every point."""
        left = [at for at in range(geometry.rank) if at not in self.axes(geometry)]
        return geometry.only(*left, group=self.points(geometry))

    def grid(self, geometry: Geometry, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of tiles along each axis for a spatial input ``size``; outputs where it is not tiled."""
        return tuple(-(-n // m) for n, m in zip(geometry.output_size(size), self.outputs, strict=True))

    def parameters(self, weight: tuple[int, ...], geometry: Geometry) -> int:
        """Return the number of transformed weights of a kernel of shape ``weight`` (T, S, *kernel)."""
        kept = [taps for at, taps in enumerate(geometry.kernel) if self.outputs[at] == 1]
        return weight[0] * weight[1] * prod(kept) * self.points(geometry)

    def macs(self, weight: tuple[int, ...], geometry: Geometry, size: tuple[int, ...]) -> int:
        """Return the multiply-adds for one sample, those of taking inputs and giving outputs included."""
        total, made = 0, weight[1]
        for take in self.takes(geometry):
            size = take[0][1].output_size(size)
            total += made * prod(size) * sum(numbers.size for numbers, _ in take)
            made *= len(take)
        size = self.products(geometry).output_size(size)
        total += prod(size) * self.parameters(weight, geometry)
        made = weight[0] * prod(size) * self.points(geometry)
        for give in self.gives(geometry):
            total += made * len(give)
            made = made // give.shape[1] * len(give)
        return total


def _without_zeros(row: Array, pad: int) -> tuple[Array, int, int]:
    """Return the numbers of a row of B^T that count, where the first stands, and how far apart they are.

    The first may stand at ``pad`` at most, for pads are never negative.
    """
    places = np.flatnonzero(row)
    first = min(int(places[0]), pad)
    step = gcd(*(int(place) - first for place in places)) or 1
    return row[first : places[-1] + 1 : step], first, step


def _taking(layer: Geometry, at: int, axis: Axis, numbers: Array, first: int, step: int) -> Geometry:
    """Return the geometry of a convolution along ``at`` whose ``numbers`` are those of a row of B^T."""
    begin, end = layer.pads[at]
    unread = axis.points - 1 - (first + step * (numbers.size - 1))
    sizes = [(1, 1, 1, (0, 0))] * layer.rank
    sizes[at] = (numbers.size, axis.outputs, step, (begin - first, end + axis.outputs - 1 - unread))
    kernel, strides, dilations, pads = zip(*sizes, strict=True)
    return Geometry(kernel, strides, dilations, pads)


def untiled(geometry: Geometry) -> str | None:
    """Return why a convolution cannot be computed by tiles, or None when it can."""
    if not 1 <= geometry.rank <= 2 or geometry.taps == 1:
        return "no kernel along one or two axes"
    if geometry.group > 1:
        return "channels in groups"
    if set(geometry.strides) != {1} or set(geometry.dilations) != {1}:
        return "strides or dilations"
    return "pads that depend on the input's size" if geometry.auto_pad != "NOTSET" else None
