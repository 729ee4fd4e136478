"""First and second moments of patches, streamed: the covariance a data-aware fit is weighted by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 4096
_ROUNDING = 1e-14


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over ``count`` rows, by group: ``total`` (g, d) and ``outer`` (g, d, d), float64."""

    count: int
    total: Array
    outer: Array

    @classmethod
    def of(cls, rows: Array) -> Moments:
        """Return the moments of ``rows`` (g, n, d), in products of the rows' own type and sums in float64.

        Products are taken about the mean: about zero, float32 loses what varies little around a large value.
        """
        count = rows.shape[1]
        total = rows.sum(axis=1, dtype=np.float64)
        centre = (total / max(count, 1)).astype(rows.dtype)
        outer = np.zeros((*total.shape, total.shape[1]))
        for start in range(0, count, _CHUNK):
            apart = rows[:, start : start + _CHUNK] - centre[:, None, :]
            outer += np.matmul(apart.transpose(0, 2, 1), apart)
        middle = centre.astype(np.float64)
        rest = total - count * middle
        cross = middle[:, :, None] * (rest + count / 2 * middle)[:, None, :]
        outer += cross
        outer += cross.transpose(0, 2, 1)
        return cls(count, total, outer)

    def uncentred(self) -> Moments:
        """Return the same rows as if their mean were zero: what counts for a layer that cannot have a bias."""
        return Moments(self.count, np.zeros_like(self.total), self.outer)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Array:
        """Mean row, (g, d)."""
        mean: Array = self.total / max(self.count, 1)
        return mean

    @property
    def covariance(self) -> Array:
        """Covariance, (g, d, d); what a constant column leaves of rounding is taken out."""
        mean = self.mean
        covariance: Array = self.outer / max(self.count, 1)
        second = np.einsum("gii->gi", covariance).copy()
        covariance -= mean[:, :, None] * mean[:, None, :]
        constant = np.einsum("gii->gi", covariance) <= _ROUNDING * second
        covariance[constant[:, :, None] | constant[:, None, :]] = 0.0
        return covariance


def lifted(covariance: Array, ridge: float) -> Array:
    """Return ``covariance`` (g, d, d) with ``ridge`` times its mean variance added on the diagonal.

    The ridge stands for what a finite sample has not shown. A group that never varied takes that of the others, and
    the identity where none did: its weights are all there is to go by.
    """
    d = covariance.shape[-1]
    variance = np.trace(covariance, axis1=1, axis2=2) / d
    level = float(variance.mean())
    if level <= 0.0:
        return np.broadcast_to(np.eye(d), covariance.shape).copy()
    added = ridge * np.where(variance > 0.0, variance, level)
    raised = covariance.copy()
    raised[:, np.arange(d), np.arange(d)] += added[:, None]
    return raised
