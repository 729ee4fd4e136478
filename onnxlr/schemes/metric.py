"""How much a difference of kernels matters: the covariance of the patches the layer really sees."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from onnxlr.schemes.base import Array

    Single = NDArray[np.float32]

# Directions this far below the average energy are not in the data: nothing may be fitted along them.
FLOOR = 1e-10
_CHUNK = 1 << 22  # elements


@dataclass(frozen=True, slots=True, eq=False)
class Covariance:
    """Patch statistics of one layer, by group g, patches in the order (s, *kernel) of the kernel's D columns.

    ``covariance`` C (g, D, D), ``mean`` (g, D), float64. The error of a kernel W^ is
    E||y - y^||^2 = tr((W - W^) C (W - W^)^T) once the bias is b + (W - W^) mean.
    """

    covariance: Array
    mean: Array

    def inner(self, one: Array, other: Array) -> Array:
        """Return A C B^T, (g, p, q), of ``one`` A (g, p, D) and ``other`` B (g, q, D)."""
        found: Array = one @ self.covariance @ other.transpose(0, 2, 1)
        return found

    def times(self, kernels: Array, group: int) -> Array:
        """Return M C of one group, ``kernels`` M (p, D)."""
        product: Array = kernels @ self.covariance[group]
        return product

    def roughly(self, group: int) -> Callable[[Single], Single]:
        """Return what gives M C of one group in float32."""
        covariance = self.covariance[group].astype(np.float32)
        return lambda kernels: kernels @ covariance

    def part(self, columns: NDArray[np.int64]) -> Covariance:
        """Return what some of the columns of the first group see."""
        return Covariance(self.covariance[:1, columns][:, :, columns], self.mean[:1, columns])

    def energy(self, kernels: Array) -> float:
        """Return tr(W C W^T) summed over the groups, for ``kernels`` (g, T, S, *kernel)."""
        rows = kernels.reshape(*kernels.shape[:2], -1)
        return float(np.einsum("gtd,gtd->", rows @ self.covariance, rows))

    def marginal(self, columns: tuple[int, ...], mode: int) -> Array:
        """Return the second moment of one mode of the columns (S, *kernel), averaged over the others and all groups."""
        before, size, after = prod(columns[:mode]), columns[mode], prod(columns[mode + 1 :])
        moments = self.covariance.mean(axis=0).reshape(before, size, after, before, size, after)
        marginal: Array = np.einsum("axbayb->xy", moments) / (before * after)
        return marginal


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The same, holding the sample: C = X^T X / n + ridge, for layers whose C would not fit in memory.

    ``rows`` X (g, n, D) float32 less their mean, ``ridge`` (g,) in units of a variance.
    """

    rows: NDArray[np.float32]
    mean: Array
    ridge: Array

    def inner(self, one: Array, other: Array) -> Array:
        """Return A C B^T."""
        apart = one @ other.transpose(0, 2, 1) * self.ridge[:, None, None]
        x = self.answers(one)
        y = x if other is one else self.answers(other)
        found: Array = apart + x @ y.transpose(0, 2, 1) / self.rows.shape[1]
        return found

    def times(self, kernels: Array, group: int) -> Array:
        """Return M C of one group."""
        product: Array = kernels * self.ridge[group]
        for x in self.chunks():
            product += (kernels @ x[group].T) @ x[group] / self.rows.shape[1]
        return product

    def roughly(self, group: int) -> Callable[[Single], Single]:
        """Return what gives M C of one group in float32."""
        rows, ridge = self.rows[group], np.float32(self.ridge[group])
        return lambda kernels: (kernels @ rows.T) @ rows / np.float32(len(rows)) + ridge * kernels

    def part(self, columns: NDArray[np.int64]) -> Rows:
        """Return what some of the columns of the first group see."""
        return Rows(self.rows[:1, :, columns], self.mean[:1, columns], self.ridge[:1])

    def answers(self, kernels: Array) -> Array:
        """Return A X^T, (g, p, n)."""
        parts = [kernels @ x.transpose(0, 2, 1) for x in self.chunks()]
        return np.concatenate(parts, axis=2)

    def energy(self, kernels: Array) -> float:
        """Return tr(W C W^T)."""
        flat = kernels.reshape(*kernels.shape[:2], -1)
        seen = float(np.square(self.answers(flat)).sum() / self.rows.shape[1])
        return seen + float(np.einsum("gtd,gtd,g->", flat, flat, self.ridge))

    def marginal(self, columns: tuple[int, ...], mode: int) -> Array:
        """Return the second moment of one mode."""
        size = columns[mode]
        total = np.zeros((size, size))
        for x in self.chunks():
            by_mode = np.moveaxis(x.reshape(-1, *columns), 1 + mode, 0).reshape(size, -1)
            total += by_mode @ by_mode.T
        group, n, d = self.rows.shape
        marginal: Array = total / (group * n * (d // size)) + float(self.ridge.mean()) * np.eye(size)
        return marginal

    def chunks(self) -> Iterator[Array]:
        """Go through the rows in float64, (g, few, D) at a time."""
        few = max(_CHUNK // self.rows.shape[2], 1)
        for start in range(0, self.rows.shape[1], few):
            yield self.rows[:, start : start + few].astype(np.float64)


Metric: TypeAlias = Covariance | Rows
"""How much a difference of kernels matters."""


def factor(moment: Array) -> Array:
    """Return the lower Cholesky factor of a positive semidefinite matrix, with the floor on its diagonal.

    Rounding may leave such a matrix with negative eigenvalues above the floor, where next to nothing was seen: the
    diagonal is then raised until it factors.
    """
    n = moment.shape[0]
    energy = float(np.trace(moment)) / n
    ridge = FLOOR * energy if energy > 0.0 else 1.0
    while True:
        raised = np.array(moment)
        raised.flat[:: n + 1] += ridge
        try:
            lower: Array = cholesky(raised, lower=True, overwrite_a=True, check_finite=False)
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
