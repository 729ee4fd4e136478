"""Two-stage fits: the first stage is really improved, in single precision, whatever the scale of inputs and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import onnxlr.schemes.lift
from onnxlr.schemes.lift import Lift, make_lift

if TYPE_CHECKING:
    from onnxlr.schemes.lift import Fit

Array = np.ndarray[Any, np.dtype[np.float64]]
K, RANK = 5, 6


def problem(inputs: float = 1.0, weights: float = 1.0) -> Lift:
    """A layer of 12 channels on 16 with 9 taps, whose inputs are correlated over channels and taps."""
    rng = np.random.default_rng(3)
    n, b, t = 16, 9, 12
    mix = rng.standard_normal((n * b, n * b)) * np.exp(-np.arange(n * b) / 20.0)
    rows = np.maximum(rng.standard_normal((600, n * b)) @ mix.T, 0.0)
    covariance = inputs * (rows.T @ rows / len(rows)).reshape(n, b, n, b)
    return make_lift(weights * rng.standard_normal((t, n, b)), covariance, n)


def lost(lift: Lift, fit: Fit) -> float:
    """The share of the energy that a fit loses."""
    made = np.einsum("tr,rkb,kn->tnb", fit.out, fit.core, fit.first)
    off = made - lift.kernel
    return float(np.einsum("tnb,nbmc,tmc->", off, lift.covariance, off, optimize=True)) / lift.total


def test_alternating_pays_and_single_precision_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lift = problem()
    found = lost(lift, lift.fit(K, RANK))
    assert found < 0.98 * lift.lost(K, RANK), "better than the start"
    monkeypatch.setattr(onnxlr.schemes.lift, "_STEPS", 60)
    monkeypatch.setattr(onnxlr.schemes.lift, "_ENOUGH", 0.0)
    assert found == pytest.approx(lost(lift, lift.fit(K, RANK)), rel=3e-3), "more steps find hardly more"


@pytest.mark.parametrize(("inputs", "weights"), [(1e-60, 1.0), (1e60, 1.0), (1.0, 1e-25), (1.0, 1e25), (1e-40, 1e22)])
def test_a_fit_does_not_depend_on_the_scale(inputs: float, weights: float) -> None:
    """Single precision ends at 1e38: layers that have died away, or were never normalised, are beyond."""
    scaled, plain = problem(inputs, weights), problem()
    assert lost(scaled, scaled.fit(K, RANK)) == pytest.approx(lost(plain, plain.fit(K, RANK)), rel=1e-4)
