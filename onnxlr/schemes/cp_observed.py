"""CP in the metric of the data: Gauss-Newton on E||y - y^||^2, from a fit of the whitened kernel.

Whitening by the marginals of the modes takes the covariance C of the patches for a Kronecker product, which it is not.
Here every factor is fitted to C itself: W^ = A B^T with A (T, R) the last stage and B (D, R) the column-wise Kronecker
product of the others; ||(W - W^) C^1/2||^2 is lowered over all of them at once. J^T J is never formed: one product with
C per conjugate gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_als import ridged
from onnxlr.schemes.cp_tensor import along_tap, balance, tap_product
from onnxlr.schemes.krylov import conjugate_gradients, promised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors, Real

BUDGET = 1e10
"""Multiply-adds a polish may take."""

STEPS, ITERATIONS, LEAST = 10, 12, 4
"""Gauss-Newton steps, conjugate gradients in each, and the fewest of the latter where one alone is over the budget."""

GAIN = 4e-3
"""Relative gain in energy lost below which steps stop."""

DAMPING = 1e-3
"""First Levenberg-Marquardt parameter, relative to the mean diagonal of J^T J."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One group: ``kernel`` W (T, D) whose columns have the modes ``columns``; ``times`` gives M C of an M (p, D).

    ``marginals`` are the second moments of the column modes. ``cross`` is W C and ``total`` tr(W C W^T).
    """

    kernel: Real
    columns: tuple[int, ...]
    times: Callable[[Real], Real]
    marginals: tuple[Real, ...]
    cross: Real
    total: float

    @classmethod
    def of(
        cls, kernel: Array, columns: tuple[int, ...], times: Callable[[Array], Array], marginals: Sequence[Array]
    ) -> Problem:
        """Set the problem up; the marginals are scaled so that their Kronecker product has the trace of C."""
        cross = times(kernel)
        scale = [float(np.trace(one)) / len(one) for one in marginals]
        even = [marginals[0]]
        even += [one / mean if mean > 0.0 else one for one, mean in zip(marginals[1:], scale[1:], strict=True)]
        return cls(kernel, columns, times, tuple(even), cross, float(np.einsum("td,td->", cross, kernel)))


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """Factors (A, U_1, ..., U_n), B, (C B) transposed, the gradient and the energy lost."""

    factors: Factors
    joint: Real
    seen: Real
    gradient: Factors
    lost: float


def polish(problem: Problem, start: Factors) -> Factors:
    """Return balanced factors that lose no more than ``start`` (A (T, R), then one (size, R) per column mode)."""
    here = _look(problem, balance(start))
    steps, iterations = _effort(problem, here.joint.shape[1])
    blocks = _blocks(problem, here)
    damping = DAMPING * float(np.mean([np.trace(p) * np.trace(q) / (len(p) * len(q)) for p, q in blocks]))
    growth = 2.0
    for _ in range(steps):
        if here.lost <= 1e-12 * problem.total:
            break
        step, expected = _step(problem, here, damping, iterations)
        there = _look(problem, tuple(f + d for f, d in zip(here.factors, step, strict=True)))
        gain = here.lost - there.lost
        if expected <= 0.0 or not gain > 0.0:
            damping, growth = damping * growth, growth * 2.0
            if growth > 64.0:
                break
            continue
        damping *= max(0.2, 1.0 - (2.0 * gain / expected - 1.0) ** 3)
        growth = 2.0
        here = there
        if gain <= GAIN * here.lost:
            break
    return balance(here.factors)


def _effort(problem: Problem, rank: int) -> tuple[int, int]:
    """Return steps and conjugate gradients that fit into the budget."""
    t, d = problem.kernel.shape
    affordable = BUDGET / (t * d * d + 4 * t * d * rank)
    iterations = int(np.clip(affordable / STEPS, LEAST, ITERATIONS))
    return int(np.clip(affordable / iterations, 1, STEPS)), iterations


def _look(problem: Problem, factors: Factors) -> _Point:
    """Evaluate the energy lost and its gradient."""
    out, *columns = factors
    joint = tap_product(tuple(columns))
    seen = problem.times(np.ascontiguousarray(joint.T))
    apart = out @ joint.T - problem.kernel
    mixed = out @ seen - problem.cross
    gradient = (mixed @ joint, *_contract(problem, mixed.T @ out, tuple(columns)))
    return _Point(factors, joint, seen, gradient, float(np.einsum("td,td->", mixed, apart)))


def _contract(problem: Problem, field: Real, columns: Factors) -> Factors:
    """Return what a gradient with respect to B (D, R) is with respect to every factor of B."""
    shaped = field.reshape(*problem.columns, -1)
    return tuple(along_tap(shaped, columns, mode) for mode in range(len(columns)))


def _step(problem: Problem, here: _Point, damping: float, iterations: int) -> tuple[Factors, float]:
    """Return a step, and how much the quadratic model says the energy lost falls by it."""
    out, *columns = here.factors
    inverses = [
        (_inverse(p, damping / (_mean(q) or 1.0)), _inverse(q, 1e-6 * _mean(q))) for p, q in _blocks(problem, here)
    ]

    def solve(parts: Factors) -> Factors:
        return tuple(q @ part @ p for part, (p, q) in zip(parts, inverses, strict=True))

    def apply(direction: Factors) -> Factors:
        change, *changes = direction
        turned = reduce(
            np.add,
            (tap_product((*columns[:i], dU, *columns[i + 1 :])) for i, dU in enumerate(changes)),
        )
        image = change @ here.seen + problem.times(out @ turned.T)
        parts = (image @ here.joint, *_contract(problem, image.T @ out, tuple(columns)))
        return tuple(part + damping * v for part, v in zip(parts, direction, strict=True))

    target = tuple(-part for part in here.gradient)
    step, left = conjugate_gradients(apply, solve, target, iterations)
    return step, promised(step, target, left, damping)


def _blocks(problem: Problem, here: _Point) -> list[tuple[Real, Real]]:
    """Return the diagonal blocks of J^T J as Kronecker products, over R and over the mode's size; only A's is exact."""
    out, *columns = here.factors
    t = problem.kernel.shape[0]
    inner = [u.T @ q @ u for u, q in zip(columns, problem.marginals, strict=True)]
    found: list[tuple[Real, Real]] = [(here.seen @ here.joint, np.eye(t))]
    for mode, marginal in enumerate(problem.marginals):
        rest = [part for other, part in enumerate(inner) if other != mode]
        found.append((reduce(np.multiply, rest, out.T @ out), marginal))
    return found


def _mean(block: Real) -> float:
    return float(np.trace(block)) / len(block)


def _inverse(block: Real, damping: float) -> Real:
    """Return the inverse of a damped block; the identity where the block is zero."""
    return np.linalg.inv(ridged(block, damping)) if _mean(block) > 0.0 else np.eye(len(block))
