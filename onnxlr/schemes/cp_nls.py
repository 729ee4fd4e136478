"""Non-linear least squares for CP: damped Gauss-Newton steps solved inexactly by conjugate gradients.

J^T J is never formed: its product with a direction costs a few R x R products of Gram matrices, free of the kernel
(Phan, Tichavsky and Cichocki 2013; Sorber, Van Barel and De Lathauwer 2013). One look at the kernel per step, none
per conjugate gradient. Several fits are worked on at once, each with its own damping.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_gram import inverted, ridged
from onnxlr.schemes.cp_tensor import apart, balance, beside, gram, mttkrp, others, relatives
from onnxlr.schemes.krylov import conjugate_gradients, dot, promised

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors, Real, Slices
    from onnxlr.schemes.krylov import Operator

    Chosen = np.ndarray[tuple[int], np.dtype[np.bool_ | np.intp]]


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
class _Points:
    """Fits with all their modes in one array (fits, N, R), the blocks of J^T J, the gradient and what is left.

    ``own[:, n]`` (fits, modes, R, R) is the product of the Gram matrices of all modes but n, ``mixed[:, n, m]`` that of
    all but n and m, zero where n = m. ``gradient`` is that of ||X - CP||^2 / 2, and ``residual`` (fits,) ||X - CP||^2.
    """

    factors: Real
    own: Real
    mixed: Real
    gradient: Real
    residual: Array

    def of(self, chosen: Chosen) -> _Points:
        """Return some of the fits."""
        return _Points(
            self.factors[chosen], self.own[chosen], self.mixed[chosen], self.gradient[chosen], self.residual[chosen]
        )

    def put(self, other: _Points, chosen: Chosen) -> _Points:
        """Return the fits with the ``chosen`` ones replaced by those of ``other``."""
        if chosen.all():
            return other
        for mine, theirs in (
            (self.factors, other.factors),
            (self.own, other.own),
            (self.mixed, other.mixed),
            (self.gradient, other.gradient),
            (self.residual, other.residual),
        ):
            mine[chosen] = theirs[chosen]
        return self


def nls(tensor: Slices, start: Factors, options: NlsOptions) -> tuple[Factors, Array]:
    """Return factors (fits, n, R), balanced, and relative errors (fits,) from ``start``, of these shapes.

    None is worse than its start. The precision is that of the kernel.
    """
    dtype = tensor.data.dtype
    spans = _spans(tensor)
    here = _look(tensor, np.concatenate(balance(tuple(f.astype(dtype, copy=False) for f in start)), axis=1))
    found = here.factors.copy()
    residual = here.residual.copy()
    running = np.arange(len(residual))
    damping = (
        options.damping * np.einsum("bmrr->b", here.own, dtype=np.float64) / (here.own.shape[1] * here.own.shape[2])
    )
    growth = np.full(len(residual), 2.0)
    for _ in range(options.steps):
        step, expected = _step(here, spans, damping, options)
        there = _look(tensor, here.factors + step)
        gain = here.residual - there.residual
        taken = (expected > 0.0) & (gain > 0.0)
        before = relatives(here.residual, tensor.energy)
        after = relatives(there.residual, tensor.energy)
        trust = np.divide(gain, expected, out=np.zeros_like(gain), where=taken)
        damping = damping * np.where(taken, np.maximum(0.2, 1.0 - (2.0 * trust - 1.0) ** 3), growth)
        growth = np.where(taken, 2.0, 2.0 * growth)
        here = here.put(there, taken)
        going = np.where(taken, before - after > options.tolerance * after, growth <= 64.0)
        if not going.all():
            found[running], residual[running] = here.factors, here.residual
            here, damping, growth, running = here.of(going), damping[going], growth[going], running[going]
            if not len(running):
                break
    found[running], residual[running] = here.factors, here.residual
    return balance(tuple(found[:, span] for span in spans)), relatives(residual, tensor.energy)


def _spans(tensor: Slices) -> list[slice]:
    """Return where every mode is among the rows of all."""
    ends = list(accumulate(tensor.shape))
    return [slice(end - size, end) for end, size in zip(ends, tensor.shape, strict=True)]


def _look(tensor: Slices, factors: Real) -> _Points:
    """Evaluate residuals and gradients."""
    fits = len(factors)
    units = [factors[:, span] for span in _spans(tensor)]
    parts = [gram(factor) for factor in units]
    modes = range(len(parts))
    own = np.stack([others(parts, mode) for mode in modes], axis=1)
    mixed = np.zeros((fits, len(parts), *own.shape[1:]), own.dtype)
    for mode in modes:
        for other in range(mode):
            mixed[:, mode, other] = mixed[:, other, mode] = others(parts, mode, other)
    products = [apart(product, fits) for product in mttkrp(tensor, tuple(beside(factor) for factor in units))]
    gradient = np.concatenate([units[m] @ own[:, m] - products[m] for m in modes], axis=1)
    square = np.einsum("brs,brs->b", own[:, 0], parts[0], dtype=np.float64)
    return _Points(factors, own, mixed, gradient, tensor.energy - 2.0 * dot(units[0], products[0]) + square)


def _step(points: _Points, spans: list[slice], damping: Array, options: NlsOptions) -> tuple[Real, Array]:
    """Return a step, and how much the quadratic model says ||X - CP||^2 falls by it."""
    target = -points.gradient
    step, left = conjugate_gradients(
        _damped(points, spans, damping), _preconditioner(points, spans, damping), target, options.iterations
    )
    return step, promised(step, target, left, damping)


def _damped(points: _Points, spans: list[slice], damping: Array) -> Operator:
    """Return what multiplies by J^T J + damping I."""
    units = [points.factors[:, span] for span in spans]
    level = damping.astype(points.factors.dtype)[:, None, None]

    def apply(direction: Real) -> Real:
        parts = [direction[:, span] for span in spans]
        crossed = np.stack([v.transpose(0, 2, 1) @ u for v, u in zip(parts, units, strict=True)], axis=1)
        mixed = np.einsum("bnrs,bmnrs->bmrs", crossed, points.mixed)
        image = level * direction
        for mode, (v, u, span) in enumerate(zip(parts, units, spans, strict=True)):
            image[:, span] += v @ points.own[:, mode] + u @ mixed[:, mode]
        return image

    return apply


def _preconditioner(points: _Points, spans: list[slice], damping: Array) -> Operator:
    """Return the inverse of the diagonal blocks of J^T J + damping I."""
    inverses = inverted(ridged(points.own, damping[:, None]))

    def apply(vector: Real) -> Real:
        found = np.empty_like(vector)
        for mode, span in enumerate(spans):
            np.matmul(vector[:, span], inverses[:, mode], out=found[:, span])
        return found

    return apply
