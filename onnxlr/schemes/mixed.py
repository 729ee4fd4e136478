"""``mixed``: filters of different shapes side by side, joined by a 1x1 (Ioannou et al. 2015), as a projection.

Horizontal (1 x kw), vertical (kh x 1) and, optionally, full filters see the same input. To approximate a trained
kernel the first two reach a cross only: what lies in the corners is lost unless full filters carry it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array, Layer, LayerShape, Ranks

SHARES = (1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3)
"""Shares of the dense layer's parameters at which ranks are offered."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """[(m_h,S,1,kw) | (m_v,S,kh,1) | (m_f,S,kh,kw)] concatenated, then (T, m, 1, 1). Ranks are (m_h, m_v, m_f)."""

    name: str = "mixed"
    family: str = "mixed"

    def refusal(self, shape: LayerShape) -> str | None:
        """Refuse what cannot be seen by a cross: not 2-D, grouped, or without padding to hold the arms in place."""
        geometry = shape.geometry
        if geometry.rank != 2 or min(geometry.kernel) < 2:
            return "needs a 2-D kernel with both sides above 1"
        if geometry.group != 1:
            return "grouped: concatenated branches would interleave the groups"
        if geometry.auto_pad != "NOTSET":
            return "pads known only at run time"
        if _centre(geometry, 0) is None or _centre(geometry, 1) is None:
            return "too little padding: a one-dimensional branch would need a negative pad"
        return None

    def full_rank(self, shape: LayerShape) -> Ranks:
        """Return every branch at its own full rank; the full filters alone make it exact."""
        kh, kw = shape.geometry.kernel
        return tuple(min(shape.T, shape.S * taps) for taps in (kw, kh, kh * kw))

    def literal(self, rank: int, shape: LayerShape) -> Ranks:
        """Return ``rank`` filters in all: a quarter full, the rest shared by the two directions (lr-join-wfull)."""
        full = self.full_rank(shape)
        if rank >= full[2]:
            return full
        whole = -(-rank // 4)
        return (min((rank - whole + 1) // 2, full[0]), min((rank - whole) // 2, full[1]), whole)

    def candidates(self, shape: LayerShape, block: int) -> tuple[Ranks, ...]:
        """Return equal arms with as many full filters or none: block multiples at some shares of the parameters."""
        limit = min(self.full_rank(shape)[:2])
        kh, kw = shape.geometry.kernel
        cross = shape.S * (kh + kw) + 2 * shape.T
        found = set()
        for whole, each in ((0, cross), (1, cross + shape.S * shape.taps + shape.T)):
            for share in SHARES:
                wanted = share * shape.T * shape.S * shape.taps / each
                unit = block if wanted >= block else next((u for u in (8, 4, 2) if u <= wanted), 1)
                arm = int(wanted / unit) * unit
                if 0 < arm < limit:
                    found.add((arm, arm, whole * arm))
        return tuple(sorted(found))

    def template(self, shape: LayerShape, ranks: Ranks) -> Chain:
        """Return the chain with blank weights."""
        shapes = branches(shape.geometry)
        filters = [blank(m, shape.S, *branch.kernel) for m, branch in zip(ranks, shapes, strict=True)]
        return _chain(shape.geometry, filters, blank(shape.T, sum(ranks)))

    def solver(self, layer: Layer) -> MixedSolver:
        """Keep the kernel and its energy; the branches depend on each other and are fitted per ranks."""
        return MixedSolver(layer, layer.leading((0,))[0])


@dataclass(frozen=True, slots=True, eq=False)
class MixedSolver:
    """Block coordinate descent: given the other branches, the best filters of one are a truncated SVD of what is left.

    Every update lowers the error over one branch and its part of the join, so it never rises.
    ``vectors`` are the output directions of the whole kernel, where the full filters start.
    """

    layer: Layer
    vectors: Array

    def error(self, ranks: Ranks) -> float:
        """Return the error after one sweep, an upper bound of what ``chain`` reaches."""
        rest = self._descend(ranks, sweeps=1)[1]
        norm = float(np.linalg.norm(self.layer.weight))
        return float(np.linalg.norm(rest)) / norm if norm > 0.0 else 0.0

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at (m_h, m_v, m_f)."""
        joins, _ = self._descend(ranks, sweeps=8)
        geometry = self.layer.geometry
        parts = [
            _balanced(u, filters.reshape(-1, self.layer.shape.S, *branch.kernel))
            for (u, filters), branch in zip(joins, branches(geometry), strict=True)
        ]
        return _chain(geometry, [filters for _, filters in parts], np.concatenate([u for u, _ in parts], axis=1))

    def _descend(self, ranks: Ranks, sweeps: int) -> tuple[list[tuple[Array, Array]], Array]:
        """Return (join, filters) per branch, and the part of the kernel that none of them reaches."""
        weight = self.layer.weight
        windows = [window(self.layer.geometry, branch) for branch in branches(self.layer.geometry)]
        start = self.vectors[0, :, : ranks[2]]
        whole = np.tensordot(start, weight, (0, 0))
        rest = weight - np.tensordot(start, whole, 1)
        empty = (np.zeros((weight.shape[0], 0)), np.zeros((0,)))
        joins = [empty, empty, (start, whole)]
        norm = float(np.linalg.norm(weight))
        before = float(np.linalg.norm(rest))
        for sweep in range(sweeps):
            for i, seen in enumerate(windows):
                if ranks[i] == 0 or (sweep == 0 and i == 2):
                    continue
                u, filters = joins[i]
                if filters.size:
                    rest[seen] += np.tensordot(u, filters, 1)
                u = _directions(rest[seen], u if u.shape[1] else self.vectors[0, :, : ranks[i]])
                filters = np.tensordot(u, rest[seen], (0, 0))
                rest[seen] -= np.tensordot(u, filters, 1)
                joins[i] = (u, filters)
            after = float(np.linalg.norm(rest))
            if before - after <= 1e-5 * norm:
                break
            before = after
        return joins, rest


def branches(geometry: Geometry) -> tuple[Geometry, Geometry, Geometry]:
    """Return the geometry of the horizontal, vertical and full branches.

    An arm keeps the layer's stride; on the axis where it is one tap wide its pads are what is left of the layer's
    after moving that tap to the centre.
    """
    return _arm(geometry, 0), _arm(geometry, 1), geometry


def _arm(geometry: Geometry, flat: int) -> Geometry:
    centre = _centre(geometry, flat)
    if centre is None:
        raise ValueError(f"no place for a branch in {geometry}")
    begin, end = geometry.pads[flat]
    dilation = geometry.dilations[flat]
    left = (begin - centre * dilation, end - (geometry.kernel[flat] - 1 - centre) * dilation)
    return replace(
        geometry,
        kernel=tuple(1 if axis == flat else k for axis, k in enumerate(geometry.kernel)),
        dilations=tuple(1 if axis == flat else d for axis, d in enumerate(geometry.dilations)),
        pads=tuple(left if axis == flat else p for axis, p in enumerate(geometry.pads)),
    )


def _centre(geometry: Geometry, axis: int) -> int | None:
    """Return the tap nearest the middle where a one-tap branch needs no negative pad, if there is one."""
    taps, dilation = geometry.kernel[axis], geometry.dilations[axis]
    begin, end = geometry.pads[axis]
    fits = [c for c in range(taps) if begin >= c * dilation and end >= (taps - 1 - c) * dilation]
    return min(fits, key=lambda c: abs(2 * c - (taps - 1))) if fits else None


def window(geometry: Geometry, branch: Geometry) -> tuple[slice, ...]:
    """Return where the branch lies in a kernel (T, S, kh, kw)."""
    window = [slice(None), slice(None)]
    for axis in range(2):
        first = (geometry.pads[axis][0] - branch.pads[axis][0]) // geometry.dilations[axis]
        window.append(slice(first, first + branch.kernel[axis]))
    return tuple(window)


def _directions(part: Array, start: Array) -> Array:
    """Turn orthonormal ``start`` (T, m) towards the leading output directions of ``part`` (T, ...).

    Two steps of orthogonal iteration: the energy held never falls, and it is many times cheaper than an
    eigendecomposition for the few directions a branch has.
    """
    rows = part.reshape(part.shape[0], -1)
    gram = rows @ rows.T
    for _ in range(2):
        start, _ = np.linalg.qr(gram @ start)
    return start


def _balanced(join: Array, filters: Array) -> tuple[Array, Array]:
    """Share every filter's norm with its column of the join, whose columns are of unit norm."""
    if filters.shape[0] == 0:
        return join, filters
    scale = np.sqrt(np.linalg.norm(filters.reshape(filters.shape[0], -1), axis=1))
    scale[scale == 0.0] = 1.0
    return join * scale, filters / scale[:, None, None, None]


def _chain(geometry: Geometry, filters: list[Array], join: Array) -> Chain:
    """Return the branches that have filters, and the join (T, m)."""
    stages = tuple(
        Stage(suffix, weight, branch)
        for suffix, weight, branch in zip(("h", "v", "full"), filters, branches(geometry), strict=True)
        if weight.shape[0]
    )
    return Chain((stages, (Stage("join", join.reshape(*join.shape, 1, 1), Geometry.plain((1, 1))),)))
