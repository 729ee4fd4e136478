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
from onnxlr.schemes.krylov import conjugate_gradients, dot, promised

if TYPE_CHECKING:
    from onnxlr.schemes.cp_tensor import Factors, Real, Slices
    from onnxlr.schemes.krylov import Operator


@dataclass(frozen=True, slots=True)
class NlsOptions:
    """``steps`` of Gauss-Newton, each of at most ``iterations`` conjugate gradients.

    It stops when a step gains less than ``tolerance`` of the error. ``damping`` is the first Levenberg-Marquardt
    parameter, relative to the mean diagonal of J^T J.
    """

    steps: int
    iterations: int
    tolerance: float
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
        step, expected = _step(here, damping, options)
        there = _look(tensor, tuple(f + d for f, d in zip(here.factors, step, strict=True)))
        gain = here.residual - there.residual
        if expected <= 0.0 or not gain > 0.0:
            damping, growth = damping * growth, growth * 2.0
            if growth > 64.0:
                break
            continue
        damping *= max(0.2, 1.0 - (2.0 * gain / expected - 1.0) ** 3)
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
    inner = dot((factors[0],), (products[0],))
    return _Point(factors, blocks, gradient, tensor.energy - 2.0 * inner + square)


def _step(point: _Point, damping: float, options: NlsOptions) -> tuple[Factors, float]:
    """Return a step, and how much the quadratic model says ||X - CP||^2 falls by it."""
    target = tuple(-part for part in point.gradient)
    step, left = conjugate_gradients(
        lambda v: _damped(point, v, damping), _preconditioner(point, damping), target, options.iterations
    )
    return step, promised(step, target, left, damping)


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
