"""Conjugate gradients over all factors of a decomposition, for several fits at once: vectors are (fits, N, R)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Real

    Operator = Callable[[Real], Real]

FORCING = 1e-2
"""Relative norm of what is left, in the preconditioner's metric, at which iterations stop."""


def conjugate_gradients(operator: Operator, inverse: Operator, target: Real, iterations: int) -> tuple[Real, Real]:
    """Return x with operator(x) near ``target``, and what is left of it, ``target`` - operator(x).

    ``inverse`` is the preconditioner. A fit stops, while others go on, where the operator shows no positive curvature.
    """
    x = np.zeros_like(target)
    left = target
    direction = inverse(left)
    energy = dot(left, direction)
    goal = FORCING**2 * energy
    going = energy > 0.0
    for _ in range(iterations):
        going &= energy > goal
        if not going.any():
            break
        image = operator(direction)
        curvature = dot(direction, image)
        going &= curvature > 0.0
        length = _ratio(energy, curvature, going, target)
        x += length * direction
        left = left - length * image
        solved = inverse(left)
        before, energy = energy, dot(left, solved)
        direction = solved + _ratio(energy, before, going, target) * direction
    return x, left


def dot(left: Real, right: Real) -> Array:
    """Return the inner product of every fit, (fits,), summed in float64."""
    product: Array = np.einsum("bir,bir->b", left, right, dtype=np.float64)
    return product


def promised(step: Real, target: Real, left: Real, damping: Array) -> Array:
    """Return how much the quadratic model of a damped Gauss-Newton step says the energy falls by it, (fits,)."""
    along = dot(step, target)
    return along + dot(step, left) + damping * dot(step, step)


def _ratio(above: Array, below: Array, going: np.ndarray[tuple[int], np.dtype[np.bool_]], like: Real) -> Real:
    """Return a factor for every fit, (fits, 1, 1), 0 for those that have stopped."""
    ratio: Real = np.divide(above, below, out=np.zeros_like(above), where=going).astype(like.dtype)
    return ratio[:, None, None]
