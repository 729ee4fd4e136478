"""CP in the metric of the data: Gauss-Newton on E||y - y^||^2, from a fit of the whitened kernel.

Whitening by the marginals of the modes takes the covariance C of the patches for a Kronecker product, which it is not.
Here every factor is fitted to C itself: W^ = A B^T with A (T, R) the last stage and B (D, R) the column-wise Kronecker
product of the others; ||(W - W^) C^1/2||^2 is lowered over all of them at once. J^T J is never formed: one product with
C per conjugate gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_gram import inverted, ridged
from onnxlr.schemes.cp_tensor import along_tap, balance, tap_product
from onnxlr.schemes.krylov import conjugate_gradients, promised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors, Real

BUDGET = 1e11
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

    ``roughly`` does the same in float32. ``marginals`` are the second moments of the column modes. ``cross`` is W C and
    ``total`` tr(W C W^T).
    """

    kernel: Real
    columns: tuple[int, ...]
    times: Callable[[Real], Real]
    roughly: Callable[[Real], Real]
    marginals: tuple[Real, ...]
    cross: Real
    total: float

    @classmethod
    def of(
        cls,
        kernel: Array,
        columns: tuple[int, ...],
        times: Callable[[Array], Array],
        roughly: Callable[[Real], Real],
        marginals: Sequence[Array],
    ) -> Problem:
        """Set the problem up; the marginals are scaled so that their Kronecker product has the trace of C."""
        cross = times(kernel)
        scale = [float(np.trace(one)) / len(one) for one in marginals]
        even = [marginals[0]]
        even += [one / mean if mean > 0.0 else one for one, mean in zip(marginals[1:], scale[1:], strict=True)]
        return cls(kernel, columns, times, roughly, tuple(even), cross, float(np.einsum("td,td->", cross, kernel)))

    def modes(self, factors: Real) -> list[Real]:
        """Return views of the factors that stand one below the other."""
        ends = list(accumulate((len(self.kernel), *self.columns)))
        return [factors[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """Factors A, U_1, ..., U_n one below the other, B, (C B) transposed, the gradient and the energy lost."""

    factors: Real
    joint: Real
    seen: Real
    gradient: Real
    lost: float


def polish(problem: Problem, start: Factors) -> Factors:
    """Return balanced factors that lose no more than ``start`` (A (T, R), then one (size, R) per column mode)."""
    here = _look(problem, np.concatenate(balance(start)))
    steps, iterations = _effort(problem, here.joint.shape[1])
    blocks = _blocks(problem, here)
    damping = DAMPING * float(np.mean([np.trace(p) * np.trace(q) / (len(p) * len(q)) for p, q in blocks]))
    growth = 2.0
    for _ in range(steps):
        if here.lost <= 1e-12 * problem.total:
            break
        step, expected = _step(problem, here, damping, iterations)
        there = _look(problem, here.factors + step)
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
    return balance(tuple(problem.modes(here.factors)))


def _effort(problem: Problem, rank: int) -> tuple[int, int]:
    """Return steps and conjugate gradients that fit into the budget."""
    t, d = problem.kernel.shape
    affordable = BUDGET / (t * d * d + 4 * t * d * rank)
    iterations = int(np.clip(affordable / STEPS, LEAST, ITERATIONS))
    return int(np.clip(affordable / iterations, 1, STEPS)), iterations


def _look(problem: Problem, factors: Real) -> _Point:
    """Evaluate the energy lost and its gradient."""
    out, *columns = problem.modes(factors)
    joint = tap_product(tuple(columns))
    seen = problem.times(np.ascontiguousarray(joint.T))
    apart = out @ joint.T - problem.kernel
    mixed = out @ seen - problem.cross
    gradient = np.concatenate((mixed @ joint, *_contract(mixed.T @ out, columns)))
    return _Point(factors, joint, seen, gradient, float(np.einsum("td,td->", mixed, apart)))


def _contract(field: Real, columns: list[Real]) -> list[Real]:
    """Return what a gradient with respect to B (D, R) is with respect to every factor of B."""
    into, *taps = columns
    if not taps:
        return [field]
    weights = tap_product(tuple(taps))
    apart = field.reshape(len(into), *weights.shape)
    rest = np.einsum("skr,sr->kr", apart, into).reshape(*(len(tap) for tap in taps), -1)
    return [
        np.einsum("skr,kr->sr", apart, weights),
        *(along_tap(rest, tuple(taps), axis) for axis in range(len(taps))),
    ]


def _turned(columns: list[Real], changes: list[Real]) -> Real:
    """Return how the column-wise Kronecker product of the factors changes with them, to first order."""
    product, change = columns[-1], changes[-1]
    for factor, moved in zip(reversed(columns[:-1]), reversed(changes[:-1]), strict=True):
        change = tap_product((moved, product)) + tap_product((factor, change))
        product = tap_product((factor, product))
    return change


def _step(problem: Problem, here: _Point, damping: float, iterations: int) -> tuple[Real, float]:
    """Return a step, and how much the quadratic model says the energy lost falls by it.

    Conjugate gradients are float32: what the step is worth is seen in float64.
    """
    out, *columns = (part.astype(np.float32) for part in problem.modes(here.factors))
    joint, seen = here.joint.astype(np.float32), here.seen.astype(np.float32)
    inverses = [
        (_inverse(p, damping / (_mean(q) or 1.0)).astype(np.float32), _inverse(q, 1e-6 * _mean(q)).astype(np.float32))
        for p, q in _blocks(problem, here)
    ]

    def solve(vector: Real) -> Real:
        parts = problem.modes(vector[0])
        return np.concatenate([q @ part @ p for part, (p, q) in zip(parts, inverses, strict=True)])[None]

    def apply(vector: Real) -> Real:
        change, *changes = problem.modes(vector[0])
        image = change @ seen + problem.roughly(out @ _turned(columns, changes).T)
        parts = np.concatenate((image @ joint, *_contract(image.T @ out, columns)))
        return parts[None] + np.float32(damping) * vector

    target = -here.gradient.astype(np.float32)[None]
    step, left = conjugate_gradients(apply, solve, target, iterations)
    return step[0].astype(np.float64), float(promised(step, target, left, np.array([damping]))[0])


def _blocks(problem: Problem, here: _Point) -> list[tuple[Real, Real]]:
    """Return the diagonal blocks of J^T J as Kronecker products, over R and over the mode's size; only A's is exact."""
    out, *columns = problem.modes(here.factors)
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
    return inverted(ridged(block, damping)) if _mean(block) > 0.0 else np.eye(len(block))
