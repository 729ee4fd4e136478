"""Non-linear least squares for CP: damped Gauss-Newton steps solved inexactly by conjugate gradients.

J^T J is never formed: its product with a direction costs a few R x R products of Gram matrices, free of the kernel
(Phan, Tichavsky and Cichocki 2013; Sorber, Van Barel and De Lathauwer 2013). One look at the kernel per step, none
per conjugate gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_als import ridged
from onnxlr.schemes.cp_tensor import balance, grams, mttkrp, others, relative

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxlr.schemes.cp_tensor import Factors, Real, Slices

    Operator = Callable[[Factors], Factors]


@dataclass(frozen=True, slots=True)
class NlsOptions:
    """``steps`` of Gauss-Newton, each of at most ``iterations`` conjugate gradients or to the relative ``forcing``.

    It stops when a step gains less than ``tolerance`` of the error. ``damping`` is the first Levenberg-Marquardt
    parameter, relative to the mean diagonal of J^T J.
    """

    steps: int
    iterations: int
    tolerance: float
    forcing: float = 1e-2
    damping: float = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """Factors, the blocks of J^T J, the gradient of ||X - CP||^2 / 2, and that residual energy ||X - CP||^2.

    ``blocks[n][n]`` is the product of the Gram matrices of all modes but n; ``blocks[n][m]`` of all but n and m.
    """

    factors: Factors
    blocks: list[list[Real]]
    gradient: Factors
    residual: float


def nls(tensor: Slices, start: Factors, options: NlsOptions) -> tuple[Factors, float]:
    """Return factors (balanced) and relative error from ``start``, never worse than it, in the kernel's precision."""
    dtype = tensor.data.dtype
    here = _look(tensor, balance(tuple(factor.astype(dtype, copy=False) for factor in start)))
    damping = options.damping * float(np.mean([np.diag(row[mode]).mean() for mode, row in enumerate(here.blocks)]))
    growth = 2.0
    for _ in range(options.steps):
        step, promised = _step(here, damping, options)
        there = _look(tensor, tuple(f + d for f, d in zip(here.factors, step, strict=True)))
        gain = here.residual - there.residual
        if promised <= 0.0 or not gain > 0.0:
            damping, growth = damping * growth, growth * 2.0
            if growth > 64.0:
                break
            continue
        damping *= max(0.2, 1.0 - (2.0 * gain / promised - 1.0) ** 3)
        growth = 2.0
        before, here = relative(here.residual, tensor.energy), there
        error = relative(here.residual, tensor.energy)
        if before - error <= options.tolerance * error:
            break
    return balance(here.factors), relative(here.residual, tensor.energy)


def _look(tensor: Slices, factors: Factors) -> _Point:
    """Evaluate the residual and its gradient."""
    parts = grams(factors)
    modes = range(len(parts))
    blocks = [[others(parts, mode, other) for other in modes] for mode in modes]
    products = mttkrp(tensor, factors)
    gradient = tuple(factors[mode] @ blocks[mode][mode] - products[mode] for mode in modes)
    square = float(np.einsum("rs,rs->", blocks[0][0], parts[0], dtype=np.float64))
    inner = _dot((factors[0],), (products[0],))
    return _Point(factors, blocks, gradient, tensor.energy - 2.0 * inner + square)


def _step(point: _Point, damping: float, options: NlsOptions) -> tuple[Factors, float]:
    """Return a step, and how much the quadratic model says ||X - CP||^2 falls by it."""
    target = tuple(-part for part in point.gradient)
    step, left = _conjugate_gradients(
        lambda v: _damped(point, v, damping), _preconditioner(point, damping), target, options
    )
    curvature = _dot(step, target) - _dot(step, left) - damping * _dot(step, step)
    return step, 2.0 * _dot(step, target) - curvature


def _damped(point: _Point, direction: Factors, damping: float) -> Factors:
    """Return (J^T J + damping I) times ``direction``."""
    crossed = [v.T @ u for v, u in zip(direction, point.factors, strict=True)]
    product = []
    for mode, (factor, v) in enumerate(zip(point.factors, direction, strict=True)):
        row = point.blocks[mode]
        mixed = reduce(np.add, (part * row[other] for other, part in enumerate(crossed) if other != mode))
        product.append(v @ row[mode] + factor @ mixed + v.dtype.type(damping) * v)
    return tuple(product)


def _preconditioner(point: _Point, damping: float) -> Operator:
    """Return the inverse of the diagonal blocks of J^T J + damping I."""
    inverses = [np.linalg.inv(ridged(row[mode], damping)) for mode, row in enumerate(point.blocks)]
    return lambda v: tuple(part @ inverse for part, inverse in zip(v, inverses, strict=True))


def _conjugate_gradients(
    operator: Operator, inverse: Operator, target: Factors, options: NlsOptions
) -> tuple[Factors, Factors]:
    """Return x with operator(x) near ``target``, and what is left of it, ``target`` - operator(x)."""
    x = tuple(np.zeros_like(part) for part in target)
    left = target
    solved = inverse(left)
    direction = solved
    energy = _dot(left, solved)
    goal = options.forcing**2 * energy
    for _ in range(options.iterations):
        if energy <= goal or energy <= 0.0:
            break
        image = operator(direction)
        curvature = _dot(direction, image)
        if curvature <= 0.0:
            break
        length = energy / curvature
        x = _axpy(length, direction, x)
        left = _axpy(-length, image, left)
        solved = inverse(left)
        before, energy = energy, _dot(left, solved)
        direction = _axpy(energy / before, direction, solved)
    return x, left


def _dot(left: Factors, right: Factors) -> float:
    return float(sum(np.einsum("ir,ir->", a, b, dtype=np.float64) for a, b in zip(left, right, strict=True)))


def _axpy(scale: float, x: Factors, y: Factors) -> Factors:
    return tuple(a.dtype.type(scale) * a + b for a, b in zip(x, y, strict=True))
