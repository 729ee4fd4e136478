"""Alternating least squares for CP: two matrix products with the kernel per sweep, for all fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_gram import solve
from onnxlr.schemes.cp_tensor import (
    along_tap,
    apart,
    beside,
    gram,
    others,
    relatives,
    sum_channels,
    sum_taps,
    tap_product,
    times_into,
    times_out,
    unit,
)

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors, Real, Slices


def als(tensor: Slices, start: Factors, sweeps: int, tolerance: float) -> tuple[Factors, Array]:
    """Return factors (fits, n, R) and relative errors (fits,) after at most ``sweeps`` from ``start``, of these shapes.

    A fit stops when a sweep gains less than ``tolerance``. The precision is that of the kernel. The input channels are
    solved first, so ``start`` need not know them.
    """
    found = tuple(factor.astype(tensor.data.dtype) for factor in start)
    errors = np.full(len(found[0]), np.inf)
    running = np.arange(len(errors))
    factors = tuple(beside(factor) for factor in found)
    for _ in range(sweeps):
        factors, reached = sweep(tensor, factors, len(running))
        going = ~(errors[running] - reached < tolerance * reached)
        errors[running] = reached
        if going.all():
            continue
        _keep(found, factors, running)
        running = running[going]
        if not len(running):
            return found, errors
        factors = tuple(beside(factor[running]) for factor in found)
    _keep(found, factors, running)
    return found, errors


def _keep(found: Factors, factors: Factors, running: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
    """Write factors that stand side by side to where they belong."""
    for kept, factor in zip(found, factors, strict=True):
        kept[running] = apart(factor, len(running))


def sweep(tensor: Slices, factors: Factors, fits: int) -> tuple[Factors, Array]:
    """Solve every mode of factors side by side, (n, fits R), once, given the others; return the relative errors.

    All columns but those of the last factor are of unit norm, which keeps the Gram matrices well scaled.
    """
    units = [unit(factor)[0] for factor in factors]
    weights = tap_product(tuple(units[2:]))
    parts = [gram(apart(factor, fits)) for factor in units]
    units[1] = _update(parts, 1, sum_taps(times_out(tensor, units[0]), weights))
    right = times_into(tensor, units[1])
    units[0] = _update(parts, 0, sum_taps(right, weights))
    field = sum_channels(right, units[0], tensor.dims)
    last = len(units) - 1
    for mode in range(2, last):
        units[mode] = _update(parts, mode, along_tap(field, tuple(units[2:]), mode - 2))
    target = apart(along_tap(field, tuple(units[2:]), last - 2), fits)
    joint = others(parts, last)
    solution = solve(joint, target)
    units[last] = beside(solution)
    inner = np.einsum("bir,bir->b", solution, target, dtype=np.float64)
    square = np.einsum("brs,brs->b", joint, gram(solution), dtype=np.float64)
    return tuple(units), relatives(tensor.energy - 2.0 * inner + square, tensor.energy)


def _update(parts: list[Real], mode: int, target: Real) -> Real:
    """Solve one mode, put its columns at unit norm and renew its Gram matrices in ``parts``."""
    fits = len(parts[mode])
    factor, _ = unit(beside(solve(others(parts, mode), apart(target, fits))))
    parts[mode] = gram(apart(factor, fits))
    return factor
