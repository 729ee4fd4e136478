"""Moments: halves merge to the whole, order does not matter, large means and empty channels do no harm."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlr.calibration.statistics import Moments

ROWS = np.random.default_rng(0).standard_normal((2, 5000, 7)).astype(np.float32)


def same(one: Moments, other: Moments, tolerance: float = 1e-6) -> bool:
    return np.allclose(one.covariance, other.covariance, atol=tolerance) and np.allclose(
        one.mean, other.mean, atol=tolerance
    )


def test_two_halves_make_the_whole_in_any_order() -> None:
    whole = Moments.of(ROWS)
    halves = Moments.of(ROWS[:, :1234]), Moments.of(ROWS[:, 1234:])
    assert same(whole, halves[0].merged(halves[1]))
    assert same(whole, halves[1].merged(halves[0]))
    assert same(whole, Moments.of(ROWS[:, np.random.default_rng(1).permutation(5000)]))
    assert not same(whole, Moments.of(ROWS * np.float32(1.01)))


@pytest.mark.parametrize("mean", [0.0, 1.0, 3000.0])
def test_a_large_mean_costs_no_precision(mean: float) -> None:
    rows = ROWS + np.float32(mean)
    rows[:, :, 3] = mean
    expected = np.stack([np.cov(group.astype(np.float64).T, bias=True) for group in rows])
    assert np.allclose(Moments.of(rows).covariance, expected, atol=1e-5)
    assert np.abs(Moments.of(rows).covariance[:, 3]).max() <= 1e-5


def test_uncentred_is_the_second_moment() -> None:
    expected = np.einsum("gni,gnj->gij", ROWS, ROWS, dtype=np.float64) / 5000
    assert np.allclose(Moments.of(ROWS + 0).uncentred().covariance, expected, atol=1e-6)
