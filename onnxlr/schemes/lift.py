"""Two-stage fits to data: a first map V of the input channels (and some axes), then a regression on what it gives.

``separable``, ``projection``, ``tucker2`` and ``asym3d`` are all of this form: x is lifted to z = V x at every tap of
the other axes, and y is regressed on z, with full or reduced rank. Everything is exact but V, which starts from the
Kronecker-whitened unfolding and is improved by alternating least squares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

from onnxlr.schemes.base import leading
from onnxlr.schemes.metric import factor, root, solve_right

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxlr.schemes.base import Array
    from onnxlr.schemes.metric import Single

_ROUNDS = 3
_STEPS = 8
_ENOUGH = 5e-3
"""Conjugate gradients end where the preconditioned residual, squared, has fallen to this share of what it was."""
_GAIN = 2e-3


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """y ~ out core z with z = first x: ``first`` (k, n), ``core`` (r, k, b), ``out`` (T, r)."""

    first: Array
    core: Array
    out: Array


@dataclass(frozen=True, slots=True, eq=False)
class Lift:
    """One group's regression problem.

    ``kernel`` W (T, n, b) and ``covariance`` C (n, b, n, b): n runs over what the first stage sees, b over the taps it
    leaves. ``cross`` is W C, (T, n, b); ``total`` is tr(W C W^T). ``starts`` (n, n) holds the rows V starts from, best
    first.
    """

    kernel: Array
    covariance: Array
    cross: Array
    total: float
    starts: Array
    _explained: list[Array] = field(default_factory=list, repr=False)
    _spectra: dict[int, Array] = field(default_factory=dict, repr=False)

    def lost(self, k: int, rank: int) -> float:
        """Return the share of energy lost by the start at ``k`` first channels and output rank ``rank``."""
        if self.total <= 0.0:
            return 0.0
        if k not in self._spectra:
            rows = self._explaining()[: k * self.kernel.shape[2]]
            self._spectra[k] = np.linalg.eigvalsh(rows.T @ rows)[::-1].cumsum()
        return max(1.0 - float(self._spectra[k][min(rank, self.kernel.shape[0]) - 1]) / self.total, 0.0)

    def _explaining(self) -> Array:
        """Return rows (n b, T): the energy a regression on the first k of ``starts`` explains is that of k b of them.

        Only estimates need them, and they are most of the work where n b is large.
        """
        if not self._explained:
            t, _, b = self.kernel.shape
            k = self.starts.shape[0]
            lifted = np.tensordot(self.starts, self.covariance, (1, 0))
            moment = np.tensordot(lifted, self.starts, (2, 1)).transpose(0, 1, 3, 2).reshape(k * b, k * b)
            right = np.tensordot(self.starts, self.cross, (1, 1)).transpose(0, 2, 1).reshape(k * b, t)
            self._explained.append(solve_triangular(factor(moment), right, lower=True, check_finite=False))
        return self._explained[0]

    def fit(self, k: int, rank: int) -> Fit:
        """Return the fit at ``k`` first channels and output rank ``rank``, alternating while it pays."""
        first = self.starts[:k]
        best, lost = self._regress(first, rank)
        if self.total <= 0.0:
            return balanced(best)
        equations = _equations(self.covariance)
        for _ in range(_ROUNDS):
            first = _update_first(self, best, equations)
            found, after = self._regress(first, rank)
            if not after < lost:
                break
            gain, best, lost = lost - after, found, after
            if gain < _GAIN * lost:
                break
        return balanced(best)

    def _regress(self, first: Array, rank: int) -> tuple[Fit, float]:
        """Return the exact rest for a given first stage, and the energy it loses."""
        k, (t, _, b) = first.shape[0], self.kernel.shape
        lifted = np.tensordot(first, self.covariance, (1, 0))
        moment = np.tensordot(lifted, first, (2, 1)).transpose(0, 1, 3, 2).reshape(k * b, k * b)
        cross = np.tensordot(self.cross, first, (1, 1)).transpose(0, 2, 1).reshape(t, k * b)
        fit, kept = regress(first, moment, cross, rank, b)
        return fit, self.total - kept


def regress(first: Array, moment: Array, cross: Array, rank: int, taps: int) -> tuple[Fit, float]:
    """Return the regression of y on z at output ``rank``, and the energy it explains.

    ``moment`` E[z z^T] (k b, k b) and ``cross`` E[y z^T] (T, k b) for z = ``first`` x at each of b ``taps``.
    """
    k, t = first.shape[0], cross.shape[0]
    dense = solve_right(moment, cross)
    explained = dense @ cross.T
    if rank < t:
        out = leading((explained + explained.T) / 2)[0][:, :rank]
        core = out.T @ dense
        kept = float(np.einsum("ri,ri->", core, out.T @ cross))
    else:
        out, core, kept = np.eye(t), dense, float(np.trace(explained))
    return Fit(first, core.reshape(-1, k, taps), out), kept


def make_lift(kernel: Array, covariance: Array, most: int) -> Lift:
    """Prepare one group: ``kernel`` (T, n, b), ``covariance`` (n, b, n, b), at most ``most`` first channels."""
    t, n, b = kernel.shape
    near, near_inverse = root(np.einsum("ibjb->ij", covariance) / b)
    far, _ = root(np.einsum("ibic->bc", covariance) / n)
    white = np.tensordot(np.tensordot(near, kernel, (1, 1)), far, (2, 0)).reshape(n, t * b)
    starts = leading(white @ white.T)[0][:, :most].T @ near_inverse
    flat = covariance.reshape(n * b, n * b)
    cross = (kernel.reshape(t, n * b) @ flat).reshape(t, n, b)
    total = float(np.einsum("tnb,tnb->", cross, kernel))
    return Lift(kernel, covariance, cross, total, starts)


@dataclass(frozen=True, slots=True, eq=False)
class _Equations:
    """What the normal equations of V need of a covariance C (n, b, n, b): single precision, in units of its ``level``.

    ``level`` is the mean of its diagonal. ``blocks`` (b, b n, n): for each tap j the C[m, j] of all taps m, one below
    the other. ``near`` (n, n) is the inverse of the mean C[j, j].
    """

    level: float
    blocks: Single
    near: Single


def _equations(covariance: Array) -> _Equations:
    n, b = covariance.shape[:2]
    level = float(np.einsum("ijij->", covariance)) / (n * b)
    unit = covariance / level
    blocks = unit.astype(np.float32).transpose(3, 1, 0, 2).reshape(b, b * n, n)
    _, near = root(np.einsum("ijkj->ik", unit) / b)
    return _Equations(level, blocks, (near @ near).astype(np.float32))


def _update_first(lift: Lift, fit: Fit, equations: _Equations) -> Array:
    """Improve V for a given rest: conjugate gradients on its normal equations, a sum of b^2 Kronecker products.

    sum_jm G[j,m] V C[m,j] = sum_j H_j^T (W C)_j with G[j,m] = H_j^T H_m; preconditioned by the mean Kronecker product.
    A few steps in single precision do (docs/adr/0034), of numbers near 1 whatever the scale of inputs and weights.
    """
    rest = np.tensordot(fit.out, fit.core, (1, 0))
    t, k, b = rest.shape
    size = float(np.linalg.norm(rest)) / sqrt(k * b) or 1.0
    unit = sqrt(equations.level)
    taps = (rest / size).transpose(2, 1, 0).reshape(b * k, t)
    gram = (taps @ taps.T).reshape(b, k, b, k)
    _, left = root(np.einsum("jkjl->kl", gram) / b)
    left = (left @ left).astype(np.float32)
    mixing = gram.transpose(0, 2, 1, 3).reshape(b, b * k, k).astype(np.float32)
    right = np.tensordot(rest / size, lift.cross / (size * unit), ((0, 2), (0, 2))).astype(np.float32)

    def apply(v: Single) -> Single:
        out = np.zeros_like(v)
        for mix, block in zip(mixing, equations.blocks, strict=True):
            mixed = (mix @ v).reshape(b, k, -1).transpose(1, 0, 2).reshape(k, -1)
            out += mixed @ block
        return out

    def precondition(residual: Single) -> Single:
        step: Single = (left @ residual @ equations.near).astype(np.float32, copy=False)
        return step

    start = (fit.first * unit).astype(np.float32)
    return _conjugate_gradients(apply, precondition, right, start).astype(np.float64) / unit


def _conjugate_gradients(
    apply: Callable[[Single], Single], precondition: Callable[[Single], Single], right: Single, start: Single
) -> Single:
    """Take a few preconditioned steps from ``start`` towards the solution of ``apply``(v) = ``right``."""
    v, residual = start.copy(), right - apply(start)
    step = precondition(residual)
    direction, power = step.copy(), float(np.vdot(residual, step))
    enough = _ENOUGH * power
    for _ in range(_STEPS):
        if power <= enough:
            break
        moved = apply(direction)
        curvature = float(np.vdot(direction, moved))
        if curvature <= 0.0:
            break
        length = power / curvature
        v += length * direction
        residual -= length * moved
        step = precondition(residual)
        power, before = float(np.vdot(residual, step)), power
        direction *= power / before
        direction += step
    return v


def balanced(fit: Fit) -> Fit:
    """Share norms between the stages, so that no factor is large where another is small."""
    near = np.linalg.norm(fit.first, axis=1)
    far = np.linalg.norm(fit.core, axis=(0, 2))
    scale = np.sqrt(np.where((near > 0.0) & (far > 0.0), near, 1.0) / np.where((near > 0.0) & (far > 0.0), far, 1.0))
    return Fit(fit.first / scale[:, None], fit.core * scale[None, :, None], fit.out)
