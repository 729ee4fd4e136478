"""Error-preserving correction of a degenerate CP fit (Phan et al., ECCV 2020; Phan, Tichavsky and Cichocki 2019).

A fit may reach its error by huge rank-1 terms that cancel: useless in float16 and for fine-tuning. The correction
minimises sum_r ||term r||^2 subject to ||X - CP|| <= bound. With the other factors at unit norm that sum is ||U||^2
for one mode's factor U, so each mode is a least-squares problem with a quadratic constraint: U = G (Gamma + rho I)^-1
with G the MTTKRP, Gamma the Gram matrix of the others, and rho >= 0 the root of a scalar secular equation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_tensor import balance, gram, mttkrp_of, others, term_norms, unit

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors, Slices

DEGENERATE = 4.0
"""A fit is degenerate when its terms' energies sum to more than this multiple of the kernel's.

Orthogonal terms sum to no more than 1. Uncorrected least-squares fits of trained kernels reach 10 to 100.
"""

TRIALS, ROUNDS = 64, 6
"""Values of log rho tried at once, and how often between the two next to the root: 1e-9 of the first interval."""

ROUNDING = 1e-12
"""What the secular equation may be off by, relative to the kernel's energy."""


def degeneracy(tensor: Slices, factors: Factors) -> float:
    """Return sum_r ||term r||^2 / ||X||^2, 0 for a kernel of zeros."""
    return float(np.square(term_norms(factors)).sum()) / tensor.energy if tensor.energy > 0.0 else 0.0


def correct(tensor: Slices, factors: Factors, bound: float, cycles: int, tolerance: float = 1e-2) -> Factors:
    """Return factors (balanced, float64) of smaller terms with ||X - CP||_F <= ``bound``, an absolute norm.

    ``tensor`` and ``factors`` are float64, and ``factors`` within the bound. Every update lowers the sum of energies
    or leaves it; at most ``cycles`` over all modes, fewer when one lowers it by less than ``tolerance``.
    """
    current = balance(factors)
    before = float(np.square(term_norms(current)).sum())
    for _ in range(cycles):
        for mode in range(len(current)):
            current = _shrink(tensor, current, mode, bound)
        after = float(np.square(term_norms(current)).sum())
        if before - after <= tolerance * before:
            break
        before = after
    return balance(current)


def _shrink(tensor: Slices, factors: Factors, mode: int, bound: float) -> Factors:
    """Replace one factor by the least-norm one within the bound, the others at unit norm."""
    units = tuple(unit(factor)[0] for factor in factors)
    target = mttkrp_of(tensor, units, mode)
    values, vectors = np.linalg.eigh(others([gram(factor) for factor in units], mode))
    turned = target @ vectors
    values = np.maximum(values, 0.0)
    explained = tensor.energy * (1.0 + ROUNDING) - bound**2
    rho = secular_root(values, np.square(turned).sum(axis=0), explained)
    if rho is None:
        return factors
    return (*units[:mode], (turned / (values + rho)) @ vectors.T, *units[mode + 1 :])


def secular_root(values: Array, energies: Array, explained: float) -> float | None:
    """Return the largest rho at which sum_i energies_i (values_i + 2 rho) / (values_i + rho)^2 is ``explained``.

    ``values`` are the eigenvalues of Gamma and ``energies`` those of G along its eigenvectors: the sum is the energy
    U = G (Gamma + rho I)^-1 takes off ||X||^2, and falls as rho grows. None when not even the least rho explains
    enough (rounding, at a fit that is already optimal in this mode).
    """
    least = float(values.max()) * 1e-15
    if least <= 0.0 or explained <= 0.0:
        return None

    low = float(np.log(least))
    high = float(np.log(values.max() + 2.0 * energies.sum() / explained))
    for _ in range(ROUNDS):
        trials = np.linspace(low, high, TRIALS)
        rho = np.exp(trials)[:, None]
        enough = ((values + 2.0 * rho) / np.square(values + rho)) @ energies >= explained
        if not enough[0]:
            return None
        last = int(np.flatnonzero(enough)[-1])
        low, high = float(trials[last]), float(trials[min(last + 1, TRIALS - 1)])
    return float(np.exp(low))
