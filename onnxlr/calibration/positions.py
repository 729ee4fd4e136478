"""Which output positions of a layer are looked at, and the patches that lie under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnxlr_passes.geometry import Geometry

    Ints = np.ndarray[Any, np.dtype[np.int64]]
    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Look:
    """Which output positions of one layer are looked at in one batch: ``each`` of every sample, all where it has fewer.

    They are drawn when the batch is there, for the size its samples have. ``first`` is the index of its first sample
    among all.
    """

    first: int
    samples: int
    each: int
    seed: int

    def positions(self, size: tuple[int, ...]) -> Ints:
        """Return the positions in an output of this ``size``, (samples, at most each, axes)."""
        return draw(self.first, self.samples, size, self.each, self.seed)

    def entries(self, available: int) -> Ints:
        """Return which of ``available`` rows are looked at where these are not positions: evenly spread."""
        wanted = min(self.each * self.samples, available)
        return np.linspace(0, max(available - 1, 0), wanted).astype(np.int64)


def draw(first: int, samples: int, size: tuple[int, ...], each: int, seed: int) -> Ints:
    """Draw ``each`` output positions for samples ``first``, ``first`` + 1, ..., shape (samples, each, axes).

    All positions where there are no more. Sample i gets the same positions whatever batch it comes in.
    """
    total = int(np.prod(size))
    if each >= total:
        every = np.stack(np.unravel_index(np.arange(total), size), axis=-1) if size else np.zeros((1, 0), np.int64)
        return np.broadcast_to(every, (samples, total, len(size)))
    rows = [np.random.default_rng([seed, first + i]).choice(total, each, replace=False) for i in range(samples)]
    return np.stack(np.unravel_index(np.stack(rows), size), axis=-1)


def patches(x: Array, geometry: Geometry, positions: Ints) -> Array:
    """Gather the patches under output ``positions``.

    ``x`` (n, channels, *size), ``positions`` (n, p, axes); the result (group, n p, channels / group * taps) has its
    columns in the order of a kernel's, (s, *kernel), and the dtype of ``x``.
    """
    n, channels = x.shape[:2]
    p, axes = positions.shape[1:]
    padded = np.moveaxis(np.pad(x, ((0, 0), (0, 0), *_pads(geometry, x.shape[2:]))), 1, -1)
    index: list[Array] = [np.arange(n).reshape(n, 1, *(1,) * axes)]
    for axis in range(axes):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        spread = [1] * axes
        spread[axis] = taps.size
        start = positions[:, :, axis] * geometry.strides[axis]
        index.append(start.reshape(n, p, *(1,) * axes) + taps.reshape(1, 1, *spread))
    taken = padded[tuple(index)]  # (n, p, *kernel, channels)
    by_group = taken.reshape(n * p, geometry.taps, geometry.group, channels // geometry.group)
    columns = channels // geometry.group * geometry.taps
    return np.ascontiguousarray(by_group.transpose(2, 0, 3, 1)).reshape(geometry.group, n * p, columns)


def values(y: Array, positions: Ints) -> Array:
    """Return the channels of ``y`` (n, channels, *size) at ``positions`` (n, p, axes), shape (n p, channels)."""
    n, channels = y.shape[:2]
    last = np.moveaxis(y, 1, -1)
    index = (np.arange(n)[:, None], *(positions[:, :, axis] for axis in range(positions.shape[2])))
    if positions.shape[2] == 0:
        index = (np.arange(n)[:, None],)
    taken: Array = last[index]
    return taken.reshape(-1, channels)


def _pads(geometry: Geometry, size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Resolve SAME pads, which depend on the input size, for this one."""
    if geometry.auto_pad == "NOTSET":
        return geometry.pads
    found = []
    for axis, n in enumerate(size):
        reach = (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1
        stride = geometry.strides[axis]
        total = max((-(-n // stride) - 1) * stride + reach - n, 0)
        less = total // 2
        found.append((less, total - less) if geometry.auto_pad == "SAME_UPPER" else (total - less, less))
    return tuple(found)
