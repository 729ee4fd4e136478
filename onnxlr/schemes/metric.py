"""How much a difference of kernels matters: the covariance of the patches the layer really sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array

# Directions this far below the average energy are not in the data: nothing may be fitted along them.
FLOOR = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """Patch statistics of one layer, by group, patches in the order (s, *kernel) of the kernel's columns.

    ``covariance`` (g, S taps, S taps), ``mean`` (g, S taps), float64. The error of a kernel W^ is
    E||y - y^||^2 = tr((W - W^) C (W - W^)^T) once the bias is b + (W - W^) mean.
    """

    covariance: Array
    mean: Array

    def energy(self, kernels: Array) -> float:
        """Return tr(W C W^T) summed over the groups, for ``kernels`` (g, T, S, *kernel)."""
        rows = kernels.reshape(*kernels.shape[:2], -1)
        return float(np.einsum("gtd,gtd->", rows @ self.covariance, rows))

    def shift(self, difference: Array) -> Array:
        """Return (W - W^) mean, the bias that makes up for a ``difference`` (g, T, S, *kernel); shape (g T,)."""
        rows = difference.reshape(*difference.shape[:2], -1)
        moved: Array = np.einsum("gtd,gd->gt", rows, self.mean)
        return moved.reshape(-1)


def factor(moment: Array) -> Array:
    """Return the lower Cholesky factor of a positive semidefinite matrix, with the floor on its diagonal.

    Rounding may leave such a matrix with negative eigenvalues above the floor, where next to nothing was seen: the
    diagonal is then raised until it factors.
    """
    n = moment.shape[0]
    energy = float(np.trace(moment)) / n
    ridge = FLOOR * energy if energy > 0.0 else 1.0
    while True:
        try:
            lower: Array = cholesky(moment + ridge * np.eye(n), lower=True, check_finite=False)
        except LinAlgError:
            if not np.isfinite(moment).all():
                raise
            ridge *= 100.0
        else:
            return lower


def solve_right(moment: Array, cross: Array) -> Array:
    """Return X with X A = B for a symmetric positive semidefinite ``moment`` A (n, n) and ``cross`` B (m, n)."""
    solution: Array = cho_solve((factor(moment), True), cross.T, check_finite=False).T
    return solution


def root(moment: Array) -> tuple[Array, Array]:
    """Return the symmetric square root of a positive semidefinite matrix, and the inverse of it where it has one.

    Directions below the floor are not in the data. The inverse takes them as if they had the mean energy: the floor's
    would blow up whatever rounding leaves there.
    """
    values, vectors = np.linalg.eigh(moment)
    top = float(values[-1])
    if top <= 0.0:
        return np.eye(len(values)), np.eye(len(values))
    scale = np.sqrt(np.maximum(values, FLOOR * top))
    back = np.where(values > FLOOR * top, scale, np.sqrt(np.mean(scale**2)))
    return (vectors * scale) @ vectors.T, (vectors / back) @ vectors.T
