"""Conjugate gradients over the factors of a decomposition, taken together as one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxlr.schemes.cp_tensor import Factors

    Operator = Callable[[Factors], Factors]

FORCING = 1e-2
"""Relative norm of what is left, in the preconditioner's metric, at which iterations stop."""


def conjugate_gradients(
    operator: Operator, inverse: Operator, target: Factors, iterations: int
) -> tuple[Factors, Factors]:
    """Return x with operator(x) near ``target``, and what is left of it, ``target`` - operator(x).

    ``inverse`` is the preconditioner. Stops where the operator shows no positive curvature.
    """
    x = tuple(np.zeros_like(part) for part in target)
    left = target
    solved = inverse(left)
    direction = solved
    energy = dot(left, solved)
    goal = FORCING**2 * energy
    for _ in range(iterations):
        if energy <= goal or energy <= 0.0:
            break
        image = operator(direction)
        curvature = dot(direction, image)
        if curvature <= 0.0:
            break
        length = energy / curvature
        x = _axpy(length, direction, x)
        left = _axpy(-length, image, left)
        solved = inverse(left)
        before, energy = energy, dot(left, solved)
        direction = _axpy(energy / before, direction, solved)
    return x, left


def dot(left: Factors, right: Factors) -> float:
    """Return the inner product, summed in float64."""
    return float(sum(np.einsum("ir,ir->", a, b, dtype=np.float64) for a, b in zip(left, right, strict=True)))


def promised(step: Factors, target: Factors, left: Factors, damping: float) -> float:
    """Return how much the quadratic model of a damped Gauss-Newton step says the energy falls by it."""
    curvature = dot(step, target) - dot(step, left) - damping * dot(step, step)
    return 2.0 * dot(step, target) - curvature


def _axpy(scale: float, x: Factors, y: Factors) -> Factors:
    return tuple(a.dtype.type(scale) * a + b for a, b in zip(x, y, strict=True))
