"""Two-stage fits where the covariance of the inputs would not fit in memory: marginals, and regressions on the sample.

As :mod:`onnxlr.schemes.lift`, but C is only known through the marginal of every mode, from which the first stage comes,
and through the rows themselves, on which the rest is regressed exactly. The first stage is not improved further.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.base import leading
from onnxlr.schemes.lift import Fit, balanced, regress
from onnxlr.schemes.metric import solve_right

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.schemes.base import Array
    from onnxlr.schemes.metric import Rows

_MOST = 4096
"""Inputs of a regression solved exactly; with more the second stage is the kernel projected on the first."""


@dataclass(frozen=True, slots=True, eq=False)
class SampledLift:
    """One group's problem.

    ``kernel`` W (T, n, b): n runs over what the first stage sees, b over the taps it leaves; ``columns`` are the sizes
    of the kernel's own modes and ``order`` takes those to (n, b). ``starts`` (m, n) holds the first stage's rows, best
    first, and ``tail`` (m,) the share of the whitened energy held by as many of them; ``outputs`` (T, T) and ``held``
    (T,) the same of the output covariance. ``total`` is tr(W C W^T).
    """

    kernel: Array
    metric: Rows
    group: int
    columns: tuple[int, ...]
    order: tuple[int, ...]
    starts: Array
    explained: Array
    outputs: Array
    held: Array
    total: float

    def lost(self, k: int, rank: int) -> float:
        """Return the share of energy to expect lost: what ``k`` first channels and ``rank`` outputs leave, added."""
        if self.total <= 0.0:
            return 0.0
        tails = (1.0 - float(self.explained[k - 1])) + (1.0 - float(self.held[min(rank, len(self.held)) - 1]))
        return min(max(tails, 0.0), 1.0)

    def fit(self, k: int, rank: int) -> Fit:
        """Return the fit at ``k`` first channels and output rank ``rank``."""
        first = self.starts[:k]
        t, _, b = self.kernel.shape
        through = np.einsum("kn,tnb->tkb", first, self.kernel, optimize=True)
        apart = first @ first.T
        if k * b > _MOST:
            dense = solve_right(apart, through.transpose(0, 2, 1).reshape(t * b, k)).reshape(t, b, k)
            out = self.outputs[:, :rank]
            return balanced(Fit(first, np.tensordot(out.T, dense.transpose(0, 2, 1), 1), out))
        moment, cross = self._moments(first)
        ridge = float(self.metric.ridge[self.group])
        moment += ridge * np.kron(apart, np.eye(b))
        cross += ridge * through.reshape(t, k * b)
        return balanced(regress(first, moment, cross, rank, b)[0])

    def _moments(self, first: Array) -> tuple[Array, Array]:
        """Return E[z z^T] and E[y z^T] over the rows, z = first x at every tap."""
        t, n, b = self.kernel.shape
        size = len(first) * b
        moment, cross = np.zeros((size, size)), np.zeros((t, size))
        flat = self.kernel.reshape(t, n * b)
        for chunk in self.metric.chunks():
            x = chunk[self.group].reshape(-1, *self.columns)
            x = np.ascontiguousarray(x.transpose(0, *(1 + i for i in self.order))).reshape(-1, n, b)
            z = np.matmul(first, x).reshape(-1, size)
            moment += z.T @ z
            cross += (flat @ x.reshape(-1, n * b).T) @ z
        count = self.metric.rows.shape[1]
        return moment / count, cross / count


def make_sampled_lift(
    kernel: Array,
    metric: Rows,
    roots: Sequence[tuple[Array, Array]],
    group: int,
    near: tuple[int, ...],
    far: tuple[int, ...],
) -> SampledLift:
    """Prepare one group: ``kernel`` (T, S, *k), whose column modes ``near`` the first stage sees, ``far`` the second.

    ``roots`` are the square root and its inverse of every mode's marginal.
    """
    t, *columns = kernel.shape
    n, b = prod(columns[i] for i in near), prod(columns[i] for i in far)
    order = near + far
    white = kernel
    for mode, (forward, _) in enumerate(roots):
        white = np.moveaxis(np.tensordot(white, forward, (1 + mode, 0)), -1, 1 + mode)
    white = white.transpose(*(1 + i for i in order[: len(near)]), 0, *(1 + i for i in far)).reshape(n, t * b)
    if n <= t * b:
        vectors, energy = leading(white @ white.T)
    else:
        right, energy = leading(white.T @ white)
        vectors = white @ right
        norms = np.linalg.norm(vectors, axis=0)
        vectors = vectors / np.where(norms > 0.0, norms, 1.0)
    starts = vectors.T.reshape(-1, *(columns[i] for i in near))
    for position, mode in enumerate(near, start=1):
        starts = np.moveaxis(np.tensordot(starts, roots[mode][1], (position, 0)), -1, position)
    flat = np.zeros((metric.rows.shape[0], t, n * b))
    flat[group] = kernel.reshape(t, n * b)
    outputs, held = leading(metric.inner(flat, flat)[group])
    total = float(held.sum())
    return SampledLift(
        np.ascontiguousarray(kernel.transpose(0, *(1 + i for i in order))).reshape(t, n, b),
        metric,
        group,
        tuple(columns),
        order,
        starts.reshape(-1, n),
        _shares(energy),
        outputs,
        _shares(held),
        total,
    )


def _shares(energy: Array) -> Array:
    """Return the share of all energy in the first 1, 2, ... values."""
    total = float(energy.sum())
    shares: Array = energy.cumsum() / total if total > 0.0 else np.ones_like(energy)
    return shares
