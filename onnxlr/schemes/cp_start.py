"""What is known of a CP fit in closed form: an upper bound at every rank, exact ranks, starting points, compression.

Rotate every tap mode by its singular vectors: the K slices of the rotated kernel have mutually orthogonal tap
patterns, so the truncated SVDs of all slices together are a CP decomposition whose error is the energy of the
singular values left out. It bounds the best error from above at every rank, and is where iterations start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.base import leading
from onnxlr.schemes.cp_tensor import Slices, relative, unit

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors, Real

NEGLIGIBLE = 1e-14
"""Share of the energy that compression may drop: far below what float32 weights can carry."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceSpectrum:
    """The singular values of the rotated slices, all together, largest first.

    ``tail[r]`` is the energy beyond the ``r`` largest; ``slice_of`` and ``index`` say which they are; ``vectors``
    (K, m, m) are left singular vectors, ``rotated`` (K, T, S) the slices and ``bases`` the rotations of the tap modes.
    """

    tail: Array
    slice_of: np.ndarray[tuple[int], np.dtype[np.intp]]
    index: np.ndarray[tuple[int], np.dtype[np.intp]]
    vectors: Array
    rotated: Array
    bases: tuple[Array, ...]

    def bound(self, rank: int, energy: float) -> float:
        """Return the relative error of the slice-wise SVD at ``rank``."""
        return relative(float(self.tail[min(rank, len(self.tail) - 1)]), energy)

    def rank_at(self, bound: float, energy: float) -> int:
        """Return the least rank whose bound is no more than ``bound``, at least 1."""
        return max(1, int(np.searchsorted(-self.tail, -(bound**2) * energy)))


def slice_spectrum(tensor: Slices) -> SliceSpectrum:
    """Rotate the tap modes and decompose every slice by its smaller Gram matrix."""
    k, t, s = tensor.data.shape
    field = tensor.data.reshape(*tensor.dims, t, s)
    bases = []
    for axis, size in enumerate(tensor.dims):
        rows = np.moveaxis(field, axis, 0).reshape(size, -1)
        basis = leading((rows @ rows.T)[None])[0][0]
        field = np.moveaxis(np.tensordot(basis, field, (0, axis)), 0, axis)
        bases.append(basis)
    rotated = np.ascontiguousarray(field).reshape(k, t, s)
    if s < t:
        vectors, energies = leading(rotated.transpose(0, 2, 1) @ rotated)
    else:
        vectors, energies = leading(rotated @ rotated.transpose(0, 2, 1))
    flat = energies.reshape(-1)
    order = np.argsort(-flat, kind="stable")
    tail = np.append(np.cumsum(flat[order][::-1])[::-1], 0.0)
    slice_of, index = np.divmod(order, energies.shape[1])
    return SliceSpectrum(tail, slice_of, index, vectors, rotated, tuple(bases))


def slice_start(spectrum: SliceSpectrum, tensor: Slices, rank: int, seed: int, noise: float = 1.0) -> Factors:
    """Return the slice-wise SVD at ``rank`` as factors, its tap patterns disturbed by ``noise`` times their norm.

    Undisturbed, the terms of one slice share their tap pattern and the fit starts on a saddle that alternating least
    squares takes many sweeps to leave. Ranks beyond the slices' own get random terms.
    """
    random = np.random.default_rng(seed)
    known = min(rank, len(spectrum.slice_of))
    slice_of, index = spectrum.slice_of[:known], spectrum.index[:known]
    left = spectrum.vectors[slice_of, :, index].T
    across = spectrum.rotated.transpose(0, 2, 1) if tensor.data.shape[2] >= tensor.data.shape[1] else spectrum.rotated
    right = np.empty((across.shape[1], known))
    for k in range(across.shape[0]):
        chosen = slice_of == k
        right[:, chosen] = across[k] @ left[:, chosen]
    out, into = (left, right) if tensor.data.shape[2] >= tensor.data.shape[1] else (right, left)
    patterns = np.unravel_index(slice_of, tensor.dims)
    taps = [basis[:, pattern] for basis, pattern in zip(spectrum.bases, patterns, strict=True)]
    taps = [tap + noise * unit(random.standard_normal(tap.shape))[0] for tap in taps]
    return tuple(_extended(factor, rank, random) for factor in (out, into, *taps))


def random_start(shape: tuple[int, ...], rank: int, seed: int) -> Factors:
    """Return factors of independent normal entries, columns of unit norm."""
    random = np.random.default_rng(seed)
    return tuple(unit(random.standard_normal((size, rank)))[0] for size in shape)


def exact_rank(shape: tuple[int, ...]) -> int:
    """Return the least product of all mode sizes but one: every tensor of this shape is a sum of so many terms."""
    return prod(shape) // max(shape)


def exact(tensor: Slices) -> Factors:
    """Return the trivial decomposition at ``exact_rank``: unit vectors in all modes but the longest."""
    shape = tensor.shape
    longest = shape.index(max(shape))
    weight = tensor.data.transpose(1, 2, 0).reshape(shape)
    positions = np.unravel_index(np.arange(exact_rank(shape)), [n for mode, n in enumerate(shape) if mode != longest])
    factors = [np.eye(n)[:, at] for n, at in zip(shape[:longest] + shape[longest + 1 :], positions, strict=True)]
    factors.insert(longest, np.moveaxis(weight, longest, 0).reshape(shape[longest], -1))
    return tuple(factors)


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """A kernel in orthonormal bases of its channel modes: ``out`` (T, a), ``into`` (S, b), ``core`` of (a, b, ...)."""

    core: Slices
    out: Array
    into: Array

    def expand(self, factors: Factors) -> Factors:
        """Return the factors of the kernel from those of the core (CANDELINC, Carroll, Pruzansky and Kruskal 1980)."""
        return (self.out @ factors[0], self.into @ factors[1], *factors[2:])


def compress(tensor: Slices, negligible: float = NEGLIGIBLE) -> Compressed:
    """Drop the channel directions that together hold less than ``negligible`` of the energy, in each mode."""
    data = tensor.data
    bases = []
    for mode in (1, 2):
        rows = np.moveaxis(data, mode, 0).reshape(data.shape[mode], -1)
        vectors, energies = leading((rows @ rows.T)[None])
        tail = np.cumsum(energies[0][::-1])[::-1]
        kept = max(1, int((tail > negligible * tensor.energy).sum()))
        bases.append(vectors[0][:, :kept] if kept < data.shape[mode] else np.eye(data.shape[mode]))
        data = _project(data, bases[-1], mode)
    return Compressed(replace(tensor, data=np.ascontiguousarray(data)), bases[0], bases[1])


def _project(data: Real, basis: Array, mode: int) -> Real:
    """Project slices (K, T, S) on a basis of mode 1 or 2."""
    if basis.shape[0] == basis.shape[1]:
        return data
    projected: Real = np.matmul(basis.T, data) if mode == 1 else np.matmul(data, basis)
    return projected


def _extended(factor: Array, rank: int, random: np.random.Generator) -> Array:
    """Append random columns up to ``rank``."""
    missing = rank - factor.shape[1]
    if missing <= 0:
        return factor
    return np.concatenate([factor, unit(random.standard_normal((factor.shape[0], missing)))[0]], axis=1)
