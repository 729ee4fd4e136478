"""Tucker on the first two modes of a batch of three-way tensors: truncated HOSVD, then HOOI (De Lathauwer 2000)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tensorly import backend_context  # pyright: ignore[reportAttributeAccessIssue]
from tensorly.tenalg import multi_mode_dot  # pyright: ignore[reportAttributeAccessIssue]

from onnxlr.schemes.base import leading

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array


@dataclass(frozen=True, slots=True, eq=False)
class Tucker2:
    """X[t,m,n] ~ sum A[t,a] G[a,b,n] B[m,b], batched: ``out`` (g,T,a), ``core`` (g,a,b,N), ``into`` (g,M,b)."""

    out: Array
    core: Array
    into: Array


@dataclass(frozen=True, slots=True, eq=False)
class Hosvd:
    """Full orthogonal bases of the two modes of X (g,T,M,N), and the energy of the core by leading block.

    ``kept[g, a, b]`` is the energy that the leading a x b block of the core holds, so the error of the truncated
    HOSVD at any pair of ranks is a look-up.
    """

    tensor: Array
    out: Array
    into: Array
    kept: Array

    def error(self, a: int, b: int) -> float:
        """Return the relative error of the truncated HOSVD: what HOOI starts from and improves."""
        total = float(self.kept[:, -1, -1].sum())
        lost = total - float(self.kept[:, a, b].sum())
        return float(np.sqrt(max(lost, 0.0) / total)) if total > 0.0 else 0.0


def hosvd(tensor: Array, out: Array, into: Array) -> Hosvd:
    """Rotate a batch (g, T, M, N) by the singular vectors ``out`` (g, T, T) and ``into`` (g, M, M) of its modes."""
    g, t, m, _ = tensor.shape
    core = _project(tensor, out=out, into=into)
    kept = np.zeros((g, t + 1, m + 1))
    kept[:, 1:, 1:] = np.square(core).sum(axis=3).cumsum(axis=1).cumsum(axis=2)
    return Hosvd(tensor, out, into, kept)


def hooi(start: Hosvd, a: int, b: int, sweeps: int = 12, tolerance: float = 1e-3) -> Tucker2:
    """Return the Tucker-2 fit at ranks (a, b), alternating the two bases.

    It stops when a sweep recovers less than ``tolerance`` of the energy still lost. At full ranks there is nothing to
    alternate.
    """
    tensor = start.tensor
    g, t, m, n = tensor.shape
    out, into = start.out[:, :, :a], start.into[:, :, :b]
    total = float(start.kept[:, -1, -1].sum())
    before = float(start.kept[:, a, b].sum())
    for _ in range(sweeps if (a, b) != (t, m) else 0):
        out, _ = _subspace(_project(tensor, into=into).reshape(g, t, -1), a)
        narrow = np.ascontiguousarray(_project(tensor, out=out).transpose(0, 2, 1, 3)).reshape(g, m, a * n)
        into, kept = _subspace(narrow, b)
        if kept - before <= tolerance * (total - before):
            break
        before = kept
    return Tucker2(out, _project(tensor, out=out, into=into), into)


def _subspace(matrices: Array, rank: int) -> tuple[Array, float]:
    """Return ``rank`` leading left singular vectors of (g, m, n), and the energy they hold, by the smaller Gram."""
    _, m, n = matrices.shape
    if m <= n or rank >= n:
        vectors, energy = leading(matrices @ matrices.transpose(0, 2, 1))
        return vectors[:, :, :rank], float(energy[:, :rank].sum())
    right, energy = leading(matrices.transpose(0, 2, 1) @ matrices)
    vectors, _ = np.linalg.qr(matrices @ right[:, :, :rank])
    return vectors, float(energy[:, :rank].sum())


def _project(tensor: Array, *, out: Array | None = None, into: Array | None = None) -> Array:
    """Project the modes of a batch (g,T,M,N) on the bases ``out`` (g,T,a) and ``into`` (g,M,b): (g,a,b,N)."""
    modes, bases = zip(*((mode, basis) for mode, basis in enumerate((out, into)) if basis is not None), strict=True)
    with backend_context("numpy", local_threadsafe=True):  # whatever the program around us computes with
        cores = [multi_mode_dot(x, own, modes, transpose=True) for x, *own in zip(tensor, *bases, strict=True)]
    return np.stack(cores)
