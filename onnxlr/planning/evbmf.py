"""Empirical variational Bayes matrix factorization: the rank of a matrix seen through Gaussian noise of unknown size.

Nakajima, Sugiyama, Babacan & Tomioka 2013, the analytic global solution (theorem 2, corollary 1); the rank rule of
Kim et al. 2016 for Tucker-2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

from onnxlr.errors import UsageError
from onnxlr.schemes.base import Unfolded

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array, Layer, Ranks, Scheme

_TAU = 2.5129  # root of the equation of theorem 2, per sqrt(alpha)


def evbmf_rank(energy: Array, rows: int, columns: int) -> int:
    """Return how many components stand out of the noise; ``energy`` holds the squared singular values, descending."""
    small, large = min(rows, columns), max(rows, columns)
    values = np.maximum(energy[:small], 1e-300)
    if energy.sum() <= 0.0:
        return 0
    alpha = small / large
    tau = _TAU * np.sqrt(alpha)
    bar = (1.0 + tau) * (1.0 + alpha / tau)
    tail = min(int(np.ceil(small / (1.0 + alpha))), small - 1)
    upper = float(values.sum() / (small * large))
    lower = float(max(values[tail] / (large * bar), values[tail:].mean() / large))
    sigma2 = lower
    if lower < upper:
        found = minimize_scalar(_free_energy, args=(values, small, large, bar), bounds=(lower, upper), method="bounded")
        sigma2 = float(found.x)
    return int((values > large * sigma2 * bar).sum())


def evbmf_ranks(scheme: Scheme, layer: Layer) -> Ranks:
    """Return the rank of each unfolding of the scheme, the largest over the groups, at least 1.

    Raises
    ------
    UsageError
        When the scheme's ranks are not those of unfoldings.
    """
    if not isinstance(scheme, Unfolded):
        raise UsageError(
            f"--rank evbmf is not defined for {scheme.family}",
            "use it with basis, projection, separable, tucker2 or asym3d",
        )
    ranks = []
    for rows in scheme.unfoldings(layer.shape):
        energy = layer.energy(rows)
        _, m, n = layer.unfold(rows).shape
        ranks.append(max(1, *(evbmf_rank(of_group, m, n) for of_group in energy)))
    return tuple(min(rank, full) for rank, full in zip(ranks, scheme.full_rank(layer.shape), strict=True))


def _free_energy(sigma2: float, values: Array, small: int, large: int, bar: float) -> float:
    """Free energy as a function of the noise variance (equation 28), constants left out."""
    alpha = small / large
    x = values / (large * sigma2)
    signal, noise = x[x > bar], x[x <= bar]
    shifted = signal - (1.0 + alpha)
    tau = 0.5 * (shifted + np.sqrt(np.maximum(shifted**2 - 4.0 * alpha, 0.0)))
    return float(
        (noise - np.log(noise)).sum()
        + (signal - tau).sum()
        + np.log((tau + 1.0) / signal).sum()
        + alpha * np.log(tau / alpha + 1.0).sum()
    )
