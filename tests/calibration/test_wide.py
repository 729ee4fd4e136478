"""The fit from rows: the kernel it makes is that of the fit from their covariance, drawn back as held-out rows ask."""

from __future__ import annotations

import numpy as np

from onnxlr.calibration.observe import Place
from onnxlr.calibration.wide import fit_wide
from onnxlr_passes.sites import locate
from tests.test_refit import PADS, model_of, node, weight

ROWS, HELD = 640, 320


def place_of() -> Place:
    model = model_of([node("Conv", ["x", "w"], ["y"], "layer", **PADS)], [weight("w", 12, 8, 3, 3)], 8, 6, 6)
    (site,), _ = locate(model)
    return Place(site, "x", None, None, None)


def kernel_of(rows: np.ndarray, wanted: np.ndarray, held: int, pulls: tuple[float, ...]) -> np.ndarray:
    place = place_of()
    chain, _ = fit_wide(place, rows.copy(), wanted, None, held, pulls, 1e-3)
    return chain.contract(place.site.geometry).reshape(12, 72)


def sample(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((1, ROWS, 72)) @ np.diag(0.97 ** np.arange(72))).astype(np.float32)
    own = place_of().site.kernel().reshape(12, 72)
    return rows, own, 2.0 * rng.standard_normal((ROWS, 12))


def test_the_kernel_is_the_ridge_regression_of_what_it_lacks() -> None:
    rows, own, noise = sample(0)
    wanted = rows[0] @ (0.5 * own).T + noise
    for pull in (1e-3, 1.0):
        x = rows[0].astype(np.float64) - rows[0].mean(axis=0)
        lacks = wanted - wanted.mean(axis=0) - x @ own.T
        gram = x.T @ x + pull * np.square(x).mean() * ROWS * np.eye(72)
        expected = own + np.linalg.solve(gram, x.T @ lacks).T
        np.testing.assert_allclose(kernel_of(rows, wanted, 0, (pull,)), expected, atol=1e-5 * np.abs(own).max())


def test_the_pull_is_what_the_rows_held_out_ask_for() -> None:
    pulls = (1e-3, 3.0, 1e3)
    rows, own, noise = sample(1)
    for wanted, best in ((rows[0] @ own.T + noise, 1e3), (rows[0] @ np.roll(own, 1, axis=0).T, 1e-3)):
        chosen = kernel_of(rows, wanted, HELD, pulls)
        np.testing.assert_array_equal(chosen, kernel_of(rows, wanted, HELD, (best,)))
        assert not np.allclose(chosen, kernel_of(rows, wanted, HELD, (3.0,)), rtol=1e-2)


def test_with_no_rows_held_out_the_pull_is_the_strongest() -> None:
    rows, own, noise = sample(2)
    wanted = rows[0] @ own.T + noise
    np.testing.assert_array_equal(kernel_of(rows, wanted, 0, (1e-3, 1e3)), kernel_of(rows, wanted, 0, (1e3,)))
