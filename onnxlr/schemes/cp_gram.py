"""Systems of Gram matrices, many at once: blocks keep the work in matrix products, which LAPACK's own loops are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Real

LEAF = 24
"""Rows up to which LAPACK inverts as fast."""


def solve(matrix: Real, target: Real) -> Real:
    """Return U (fits, n, R) with U (matrix + ridge) = target; the ridge is 10 eps of the mean diagonal.

    One step of refinement takes up the rounding of the inverse. A zero matrix gives zeros.
    """
    safe = ridged(matrix)
    inverse = inverted(safe)
    solution = target @ inverse
    solution += (target - solution @ safe) @ inverse
    empty = ~(np.einsum("brr->b", matrix) > 0.0)
    if empty.any():
        solution[empty] = 0.0
    return solution


def inverted(matrix: Real) -> Real:
    """Return the inverses of ``ridged`` matrices (..., R, R), computed in float64.

    Rounding leaves the Gram matrices of nearly dependent terms with negative eigenvalues beyond the ridge. Halves
    without pivots may then give anything: what is larger than the ridge allows is replaced by the pseudoinverse.
    """
    wide: Array = matrix.astype(np.float64)
    with np.errstate(all="ignore"):
        try:
            inverse = _by_halves(wide)
        except np.linalg.LinAlgError:
            inverse = np.full_like(wide, np.nan)
    precision = float(np.finfo(matrix.dtype).eps)
    level = np.einsum("...rr->...r", wide).mean(axis=-1)
    lost = ~(np.abs(inverse).max(axis=(-1, -2)) * level * precision <= 1.0)
    if lost.any():
        inverse[lost] = np.linalg.pinv(wide[lost], rcond=10.0 * precision, hermitian=True)
    return inverse.astype(matrix.dtype)


def _by_halves(matrix: Array) -> Array:
    """Invert by halves and their Schur complements."""
    size = matrix.shape[-1]
    if size <= LEAF:
        return np.asarray(np.linalg.inv(matrix), np.float64)
    half = size // 2
    inverse = np.empty_like(matrix)
    first = _by_halves(matrix[..., :half, :half])
    across = matrix[..., half:, :half]
    turned = across @ first
    second = _by_halves(matrix[..., half:, half:] - turned @ across.swapaxes(-1, -2))
    below = second @ turned
    inverse[..., half:, half:] = second
    inverse[..., half:, :half] = -below
    inverse[..., :half, half:] = -below.swapaxes(-1, -2)
    inverse[..., :half, :half] = first + turned.swapaxes(-1, -2) @ below
    return inverse


def ridged(matrix: Real, damping: Array | float = 0.0) -> Real:
    """Return matrices (..., R, R) made invertible: ``damping`` (...) and 10 eps of the mean diagonal on the diagonal.

    A zero matrix becomes the identity.
    """
    safe = matrix.copy()
    diagonal = np.einsum("...rr->...r", safe)
    mean = diagonal.mean(axis=-1)
    level = damping + 10.0 * float(np.finfo(matrix.dtype).eps) * mean
    diagonal += np.where(level > 0.0, level, 1.0).astype(matrix.dtype)[..., None]
    return safe
