"""CP fitted to data: what is expected of a rank is what its fit reaches."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlr.calibration.statistics import Moments, lifted
from onnxlr.schemes import fitted_cp
from onnxlr.schemes.base import Layer
from onnxlr.schemes.fitted import calibrations, fitted_solver
from onnxlr.schemes.metric import Covariance
from onnxlr.schemes.observed import Observed
from onnxlr.schemes.registry import by_name
from onnxlr_passes.geometry import Geometry

CHANNELS = 24
CLOSE = 0.15


def uneven_layer() -> Observed:
    """A layer whose input channels count for less and less, and which sees correlated patches."""
    rng = np.random.default_rng(0)
    decay = np.exp(-0.08 * np.arange(CHANNELS)).reshape(1, -1, 1, 1)
    weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * decay
    columns = 9 * CHANNELS
    mix = rng.standard_normal((columns, columns)) * np.exp(-0.02 * np.arange(columns))
    moments = Moments.of(rng.standard_normal((1, 4000, columns)) @ mix)
    layer = Layer(weight, Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1))
    return Observed(layer, Covariance(lifted(moments.covariance, 1e-3), moments.mean))


@pytest.mark.parametrize("name", ["cp3", "cp4"])
def test_expected_errors_are_those_reached(name: str) -> None:
    observed, scheme = uneven_layer(), by_name(name)
    known = calibrations([scheme], observed.sample())[name]
    solver = fitted_solver(scheme, observed, known)
    ranks = scheme.candidates(observed.layer.shape, 8)
    reached = [observed.error(solver.chain(each)) for each in ranks]
    np.testing.assert_allclose([solver.error(each) for each in ranks], reached, rtol=CLOSE)
    # At high ranks the whitened kernel alone promises far too little.
    blind = fitted_solver(scheme, observed)
    assert blind.error(ranks[-1]) > (1 + CLOSE) * reached[-1]


def test_of_few_terms_the_whitened_kernel_is_the_better_start(monkeypatch: pytest.MonkeyPatch) -> None:
    observed, scheme, ranks = uneven_layer(), by_name("cp3"), (24,)
    both = observed.error(fitted_solver(scheme, observed).chain(ranks))
    monkeypatch.setattr(fitted_cp, "FEW", 0.0)
    alone = observed.error(fitted_solver(scheme, observed).chain(ranks))
    assert both < 0.97 * alone
