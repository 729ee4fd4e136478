"""Alternating least squares for CP: two matrix products with the kernel per sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_tensor import (
    along_tap,
    grams,
    others,
    relative,
    sum_channels,
    sum_taps,
    tap_product,
    times_into,
    times_out,
    unit,
)

if TYPE_CHECKING:
    from onnxlr.schemes.cp_tensor import Factors, Real, Slices


def als(tensor: Slices, start: Factors, sweeps: int, tolerance: float) -> tuple[Factors, float]:
    """Return factors and relative error after at most ``sweeps``, stopping when one gains less than ``tolerance``.

    The precision is that of the kernel. The input channels are solved first, so ``start`` need not know them.
    """
    factors = tuple(factor.astype(tensor.data.dtype, copy=False) for factor in start)
    before = np.inf
    error = np.inf
    for _ in range(sweeps):
        factors, error = sweep(tensor, factors)
        if before - error < tolerance * error:
            break
        before = error
    return factors, error


def sweep(tensor: Slices, factors: Factors) -> tuple[Factors, float]:
    """Solve every mode once, given the others, and return the relative error.

    All columns but those of the last factor are of unit norm, which keeps the Gram matrices well scaled.
    """
    units = [unit(factor)[0] for factor in factors]
    weights = tap_product(tuple(units[2:]))
    parts = grams(tuple(units))
    units[1] = _update(parts, 1, sum_taps(times_out(tensor, units[0]), weights))
    right = times_into(tensor, units[1])
    units[0] = _update(parts, 0, sum_taps(right, weights))
    field = sum_channels(right, units[0], tensor.dims)
    last = len(units) - 1
    for mode in range(2, last):
        units[mode] = _update(parts, mode, along_tap(field, tuple(units[2:]), mode - 2))
    target = along_tap(field, tuple(units[2:]), last - 2)
    gram = others(parts, last)
    units[last] = solve(gram, target)
    inner = float(np.einsum("ir,ir->", units[last], target, dtype=np.float64))
    square = float(np.einsum("rs,rs->", gram, units[last].T @ units[last], dtype=np.float64))
    return tuple(units), relative(tensor.energy - 2.0 * inner + square, tensor.energy)


def _update(parts: list[Real], mode: int, target: Real) -> Real:
    """Solve one mode, put its columns at unit norm and renew its Gram matrix in ``parts``."""
    factor, _ = unit(solve(others(parts, mode), target))
    parts[mode] = factor.T @ factor
    return factor


def solve(gram: Real, target: Real) -> Real:
    """Return U with U (gram + ridge) = target; the ridge is 10 eps of the mean diagonal. A zero ``gram`` gives zeros.

    By numpy's own LU: scipy's Cholesky would bring a second BLAS, whose idle threads spin against the first's.
    """
    if not float(np.trace(gram)) > 0.0:
        return np.zeros_like(target)
    solution: Real = np.linalg.solve(ridged(gram), target.T)
    return np.ascontiguousarray(solution.T)


def ridged(gram: Real, damping: float = 0.0) -> Real:
    """Return a Gram matrix made invertible: ``damping`` and 10 eps of the mean diagonal added to its diagonal."""
    safe = gram.copy()
    diagonal = np.diag_indices_from(safe)
    safe[diagonal] += damping + 10.0 * float(np.finfo(gram.dtype).eps) * float(np.mean(gram[diagonal]))
    return safe
