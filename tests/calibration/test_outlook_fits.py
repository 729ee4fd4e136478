"""Fits that go by what is made of a layer's errors behind it change the outputs less."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from onnxlr.calibrate import Calibration, fit_alone
from onnxlr.calibration.observe import gather
from onnxlr.calibration.views import Views
from onnxlr.drafts import Drafts
from onnxlr.layer_fit import FitOptions, Task, fit_layer
from onnxlr.planning.plan import Choice
from onnxlr.refit import refit
from onnxlr.schemes.base import Layer
from onnxlr.schemes.turn import FLOOR, Turn
from onnxlr.sensitivity import apart
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.geometry import Geometry
from tests.passes.one_conv import run
from tests.test_allocate import looked_at
from tests.test_refit import PADS, feeds, model_of, node, weight

if TYPE_CHECKING:
    from onnxlr.prepare import Prepared
    from onnxlr.target import Target
    from onnxlr_passes.chain import Chain


def test_turned_answers_weigh_errors_alike() -> None:
    rng = np.random.default_rng(3)
    root = rng.standard_normal((5, 5))
    turn = Turn.of(root.T @ root)
    matrix = root.T @ root / np.trace(root.T @ root) * 5
    np.testing.assert_allclose(turn.there @ turn.there, (1 - FLOOR) * matrix + FLOOR * np.eye(5), atol=1e-10)
    np.testing.assert_allclose(turn.there @ turn.back, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(Turn.of(np.zeros((5, 5))).there, np.eye(5), atol=1e-12)
    layer = Layer(rng.standard_normal((5, 3, 1, 1)), Geometry.plain((1, 1)))
    np.testing.assert_allclose(turn.layer(layer).weight[:, :, 0, 0], turn.there @ layer.weight[:, :, 0, 0])


def hardly_read() -> tuple[Prepared, Target, Calibration]:
    """The second layer hardly reads most channels of the first: what is lost of those is hardly lost."""
    kernel = (
        onnx.numpy_helper.to_array(weight("w1", 6, 16, 3, 3)) * np.where(np.arange(16) < 4, 1.0, 0.02)[:, None, None]
    )
    model = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["a"], "first", **PADS),
            node("Relu", ["a"], ["r"]),
            node("Conv", ["r", "w1"], ["y"], "second", **PADS),
        ],
        [weight("w0", 16, 6, 3, 3), weight("b0", 16), onnx.numpy_helper.from_array(kernel.astype(np.float32), "w1")],
        6,
        8,
        8,
    )
    return looked_at(model, feeds(np.random.default_rng(0).standard_normal((64, 6, 8, 8), np.float32)))


def blind(calibration: Calibration) -> Calibration:
    views = Views(calibration.seen, {})
    return replace(calibration, views=views, drafts=Drafts(views))


def lost_of(prepared: Prepared, calibration: Calibration, chains: dict[str, Chain]) -> float:
    rewritten = Decompose(chains, None)(prepared.proto).model
    outputs = [[[run(proto, **batch)[0] for batch in calibration.held]] for proto in (prepared.proto, rewritten)]
    return apart(*outputs)


@pytest.mark.parametrize(
    "scheme", ["basis", "projection", "separable-vh", "separable-hv", "tucker2", "cp3", "cp4", "asym3d-vh", "mixed"]
)
def test_fits_that_go_by_the_outlook_change_the_outputs_less(scheme: str) -> None:
    prepared, _, calibration = hardly_read()
    ranks = {"tucker2": (4, 6), "mixed": (2, 2, 2), "projection": (3,), "asym3d-vh": (4, 6)}.get(scheme, (6,))
    lost = []
    for each in (calibration, blind(calibration)):
        chains = fit_alone(prepared, each, [Choice("a", "first", scheme, ranks)])
        lost.append(lost_of(prepared, calibration, chains))
    assert lost[0] < 0.9 * lost[1]


def test_the_refit_goes_by_the_outlook() -> None:
    """The chains come without drafts and are fitted by the refit alone; the dense layer behind takes part."""
    prepared, target, calibration = hardly_read()
    lost = []
    for each in (calibration, blind(calibration)):
        found = refit(
            prepared.proto,
            None,
            target,
            each.batches,
            each.looks,
            each.seen,
            each.views.outlooks,
            {"a": Choice("a", "first", "basis", (6,))},
            {},
            FitOptions(),
            lambda _: None,
        )
        assert set(found) == {"a", "y"}
        lost.append(lost_of(prepared, calibration, {key: one.chain for key, one in found.items()}))
    assert lost[0] < 0.9 * lost[1]


def test_a_fit_that_goes_by_the_outlook_reports_its_error_with_all_channels_alike() -> None:
    _, _, calibration = hardly_read()
    place, where = calibration.looks[0]
    seen = calibration.seen["a"]
    rows = gather(place, [batch["x"] for batch in calibration.batches], where)
    choice = Choice("a", "first", "basis", (6,))
    told = Task(place, rows, seen.answers, None, FitOptions(), calibration.views.outlooks["a"])
    plain = replace(told, outlook=None)
    fitted = [fit_layer(task, choice, None) for task in (told, plain)]
    part = slice(0, told.fitted_rows)
    counted = [told.loss(told.answers(one.chain, part), part) for one in fitted]
    alike = [plain.loss(plain.answers(one.chain, part), part) for one in fitted]
    assert counted[0] < 0.9 * counted[1]
    assert alike[1] < 0.95 * alike[0]
    assert [one.error for one in fitted] == pytest.approx(alike)
