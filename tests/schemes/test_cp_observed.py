"""CP in the metric of the data: the energy falls, the gradient is that of the energy, an exact fit stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlr.schemes.cp_observed import Problem, _look, polish
from onnxlr.schemes.cp_tensor import tap_product
from onnxlr.schemes.metric import Covariance, Rows

COLUMNS = (5, 3, 2)


def problem_of(seed: int, kernel: np.ndarray | None = None) -> Problem:
    rng = np.random.default_rng(seed)
    d = int(np.prod(COLUMNS))
    mix = rng.standard_normal((d, d))
    covariance = mix @ mix.T / d
    shaped = covariance.reshape(COLUMNS * 2)
    sums = [np.einsum(pattern, shaped) for pattern in ("abcdbc->ad", "abcadc->bd", "abcabd->cd")]
    marginals = [one * len(one) / d for one in sums]
    weight = rng.standard_normal((6, d)) if kernel is None else kernel
    single = covariance.astype(np.float32)
    return Problem.of(weight, COLUMNS, lambda rows: rows @ covariance, lambda rows: rows @ single, marginals)


def factors_of(seed: int, rank: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng([seed, rank])
    return tuple(rng.standard_normal((size, rank)) for size in (6, *COLUMNS))


def lost(problem: Problem, factors: tuple[np.ndarray, ...]) -> float:
    gap = factors[0] @ tap_product(tuple(factors[1:])).T - problem.kernel
    return float(np.einsum("td,td->", problem.times(gap), gap))


@pytest.mark.parametrize("rank", [2, 3, 8])
def test_it_lowers_the_energy_lost(rank: int) -> None:
    problem, start = problem_of(0), factors_of(1, rank)
    found = polish(problem, start)
    assert lost(problem, found) < 0.95 * lost(problem, start)
    assert lost(problem, found) < problem.total


def test_the_gradient_is_that_of_half_the_energy() -> None:
    problem, factors = problem_of(2), factors_of(3, 4)
    gradient = _look(problem, np.concatenate(factors)).gradient
    for mode, part in enumerate(problem.modes(gradient)):
        step = np.zeros_like(part)
        step[1, 2] = 1e-6
        moved = [tuple(f + sign * step if i == mode else f for i, f in enumerate(factors)) for sign in (1, -1)]
        slope = (lost(problem, moved[0]) - lost(problem, moved[1])) / 4e-6
        assert part[1, 2] == pytest.approx(slope, rel=1e-5)
        assert abs(part[1, 2] * 1.01 - slope) > 1e-3 * abs(slope), "one percent is seen"


def test_an_exact_fit_stays() -> None:
    factors = factors_of(4, 3)
    problem = problem_of(5, factors[0] @ tap_product(tuple(factors[1:])).T)
    assert lost(problem, polish(problem, factors)) <= 1e-20 * problem.total


def test_rough_products_are_the_products_in_float32() -> None:
    rng = np.random.default_rng(6)
    rows, ridge = rng.standard_normal((2, 40, 12)).astype(np.float32), np.array([0.1, 0.3])
    seen = rows.astype(np.float64)
    covariance = seen.transpose(0, 2, 1) @ seen / 40 + ridge[:, None, None] * np.eye(12)
    kernels = rng.standard_normal((5, 12))
    for metric in (Covariance(covariance, np.zeros((2, 12))), Rows(rows, np.zeros((2, 12)), ridge)):
        found = metric.roughly(1)(kernels.astype(np.float32))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, kernels @ covariance[1], rtol=0.0, atol=1e-5)
