"""What is made of a layer's errors behind it: the matrices carried back are those of real networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from onnxlr.calibration import outlook
from onnxlr.calibration.activation import Maxout, Relu
from onnxlr.calibration.outlook import half, linear, outlooks
from onnxlr_passes.sites import locate
from tests.passes.one_conv import run
from tests.test_allocate import looked_at
from tests.test_refit import PADS, correlated, feeds, model_of, node, weight

if TYPE_CHECKING:
    from onnxlr.calibrate import Calibration

Array = np.ndarray[Any, np.dtype[Any]]


def calibrated(model: onnx.ModelProto, size: int = 6) -> Calibration:
    _, _, calibration = looked_at(model, feeds(correlated(64, 0)[:, :, :size, :size]))
    return calibration


def shift(model: onnx.ModelProto, cut: str, at: Array) -> float:
    """Squared change of the outputs of what follows the value ``cut``, which ``at`` disturbs; all there is linear."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.node[:], rest.graph.input[:]
    after = next(i for i, one in enumerate(model.graph.node) if cut in one.output) + 1
    rest.graph.node.extend(model.graph.node[after:])
    rest.graph.input.append(onnx.helper.make_tensor_value_info(cut, onnx.TensorProto.FLOAT, at.shape))
    zero, moved = (run(rest, **{cut: values.astype(np.float32)}) for values in (np.zeros_like(at), at))
    return float(sum(np.square(a - b, dtype=np.float64).sum() for a, b in zip(moved, zero, strict=True)))


def chain(*nodes: onnx.NodeProto, weights: list[onnx.TensorProto], size: int = 6, out: int = 4) -> onnx.ModelProto:
    first = node("Conv", ["x", "w0"], ["a"], "first", **PADS)
    return model_of([first, *nodes], [weight("w0", 8, 6, 3, 3), *weights], 6, size, size, out=out)


LINEAR = {
    "taps": chain(node("Conv", ["a", "w1"], ["y"], "c", **PADS), weights=[weight("w1", 5, 8, 3, 3)]),
    "groups": chain(node("Conv", ["a", "w1"], ["y"], "c", group=4, **PADS), weights=[weight("w1", 12, 2, 3, 3)]),
    "depthwise": chain(node("Conv", ["a", "w1"], ["y"], "c", group=8, **PADS), weights=[weight("w1", 8, 1, 3, 3)]),
    "parts side by side": chain(
        node("Conv", ["a", "w1"], ["b"], "c"),
        node("Conv", ["a", "w2"], ["c"], "d"),
        node("Concat", ["b", "c"], ["e"], axis=1),
        node("Identity", ["e"], ["y"]),
        weights=[weight("w1", 3, 8, 1, 1), weight("w2", 4, 8, 1, 1, seed=1)],
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_errors_count_as_they_change_the_outputs(name: str) -> None:
    """The errors stand at one position far from the border."""
    model = LINEAR[name]
    found = calibrated(model).views.outlooks["a"]
    np.testing.assert_array_equal(found.before, found.behind)
    rng = np.random.default_rng(0)
    for _ in range(3):
        error = rng.standard_normal(8)
        at = np.zeros((1, 8, 6, 6))
        at[0, :, 3, 2] = error
        assert error @ found.before @ error == pytest.approx(shift(model, "a", at), rel=1e-4)


def test_ways_that_meet_again_are_taken_as_uncorrelated() -> None:
    nodes = [node("Conv", ["a", "w1"], ["b"], "c"), node("Add", ["a", "b"], ["y"])]
    found = calibrated(chain(*nodes, weights=[weight("w1", 8, 8, 1, 1)])).views.outlooks
    kernel = onnx.numpy_helper.to_array(weight("w1", 8, 8, 1, 1)).reshape(8, 8)
    np.testing.assert_allclose(found["a"].before, np.eye(8) + kernel.T @ kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["b"].before, np.eye(8))


def test_every_position_of_what_is_flattened_counts() -> None:
    model = chain(
        node("Flatten", ["a"], ["f"]),
        node("Gemm", ["f", "w1"], ["y"], "fc", transB=1),
        weights=[weight("w1", 7, 8 * 36)],
        out=2,
    )
    found = calibrated(model).views.outlooks["a"]
    kernel = onnx.numpy_helper.to_array(model.graph.initializer[1]).reshape(7, 8, 36)
    np.testing.assert_allclose(found.before, np.einsum("tsk,tuk->su", kernel, kernel), rtol=1e-5, atol=1e-6)


def test_strides_and_pools_see_fewer_errors() -> None:
    strided = chain(node("Conv", ["a", "w1"], ["y"], "c", strides=[2, 2]), weights=[weight("w1", 5, 8, 1, 1)])
    kernel = onnx.numpy_helper.to_array(strided.graph.initializer[1]).reshape(5, 8)
    found = calibrated(strided).views.outlooks["a"].before
    np.testing.assert_allclose(found, kernel.T @ kernel / 4.0, rtol=1e-5, atol=1e-7)
    pooled = chain(node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2]), weights=[])
    np.testing.assert_allclose(calibrated(pooled).views.outlooks["a"].before, np.eye(8) / 16.0)


def test_a_layer_before_what_is_not_known_has_no_outlook_and_the_one_before_it_sees_its_kernel() -> None:
    nodes = [
        node("Conv", ["a", "w1"], ["b"], "c"),
        node("Transpose", ["b"], ["t"], perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["y"]),
    ]
    found = calibrated(chain(*nodes, weights=[weight("w1", 5, 8, 1, 1)])).views.outlooks
    assert "b" not in found
    kernel = onnx.numpy_helper.to_array(weight("w1", 5, 8, 1, 1)).reshape(5, 8)
    np.testing.assert_allclose(found["a"].before, kernel.T @ kernel, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", [Relu(), Maxout(2, strided=False), Maxout(3, strided=True)])
def test_behind_an_activation_only_what_it_lets_through_counts(activation: Relu | Maxout) -> None:
    rng = np.random.default_rng(1)
    answers = rng.standard_normal((40, 12))
    units = activation.of(answers).shape[1]
    root = rng.standard_normal((units, units))
    behind = root.T @ root
    before = activation.carried_back(answers, behind)
    for _ in range(3):
        error = rng.standard_normal(12)
        seen = (activation.of(answers + 1e-6 * error) - activation.of(answers)) / 1e-6
        assert error @ before @ error == pytest.approx(float(np.einsum("nu,uv,nv->n", seen, behind, seen).mean()), 1e-4)


def test_a_relu_of_what_no_layer_answers_is_taken_to_be_on_half_of_the_time() -> None:
    rng = np.random.default_rng(2)
    on = (rng.standard_normal((200_000, 3)) > 0.0).astype(float)
    matrix = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])
    np.testing.assert_allclose(half(matrix), matrix * (on.T @ on) / len(on), atol=0.02)


def test_the_answers_of_the_network_say_what_a_relu_lets_through() -> None:
    nodes = [node("Relu", ["a"], ["r"]), node("Conv", ["r", "w1"], ["y"], "c")]
    model = chain(*nodes, weights=[weight("w1", 5, 8, 1, 1)])
    calibration = calibrated(model)
    found = calibration.views.outlooks["a"]
    kernel = onnx.numpy_helper.to_array(model.graph.initializer[1]).reshape(5, 8)
    on = (calibration.seen["a"].answers > 0.0).astype(float)
    np.testing.assert_allclose(found.behind, kernel.T @ kernel, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.before, found.behind * (on.T @ on) / len(on), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["reshape", "split"])
def test_layers_before_maxout_have_an_outlook_through_it(way: str) -> None:
    if way == "reshape":
        shape = onnx.numpy_helper.from_array(np.array([0, 4, 2, 6, 6]), "shape")
        maxout = [node("Reshape", ["a", "shape"], ["p"]), node("ReduceMax", ["p"], ["m"], axes=[2], keepdims=0)]
        extra = [shape]
        activation = Maxout(2, strided=False)
    else:
        maxout, extra = [node("Split", ["a"], ["p", "q"], axis=1), node("Max", ["p", "q"], ["m"])], []
        activation = Maxout(2, strided=True)
    model = chain(*maxout, node("Conv", ["m", "w1"], ["y"], "c"), weights=[weight("w1", 5, 4, 1, 1), *extra])
    calibration = calibrated(model)
    found = calibration.views.outlooks
    kernel = onnx.numpy_helper.to_array(weight("w1", 5, 4, 1, 1)).reshape(5, 4)
    np.testing.assert_allclose(found["a"].behind, kernel.T @ kernel, rtol=1e-5, atol=1e-7)
    expected = activation.carried_back(calibration.seen["a"].answers, kernel.T @ kernel)
    np.testing.assert_allclose(found["a"].before, expected, rtol=1e-5, atol=1e-7)


def test_constant_factors_count_and_shapes_do_not() -> None:
    nodes = [
        node("Shape", ["a"], ["s"]),
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Mul", ["a", "by"], ["b"]),
        node("Add", ["b", "zeros"], ["y"]),
    ]
    by = np.linspace(0.1, 2.0, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    found = calibrated(chain(*nodes, weights=[onnx.numpy_helper.from_array(by, "by")])).views.outlooks["a"].before
    np.testing.assert_allclose(found, np.diag(by.reshape(-1).astype(np.float64) ** 2), rtol=1e-6)


def test_what_a_body_reads_or_a_matrix_product_along_another_axis_has_no_outlook() -> None:
    body = onnx.helper.make_graph(
        [node("Relu", ["a"], ["r"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)],
    )
    branch = onnx.numpy_helper.from_array(np.array(True), "yes")
    captured = chain(
        node("If", ["yes"], ["z"], then_branch=body, else_branch=body),
        node("Conv", ["a", "w1"], ["b"], "c"),
        node("Conv", ["z", "w1"], ["c"], "d"),
        node("Add", ["b", "c"], ["y"]),
        weights=[weight("w1", 5, 8, 1, 1), branch],
    )
    assert "a" not in calibrated(captured).views.outlooks
    along = chain(node("MatMul", ["a", "w1"], ["y"], "m"), weights=[weight("w1", 8, 3)], size=8)
    assert "a" not in calibrated(along, 8).views.outlooks


def test_a_layer_too_large_to_carry_through_counts_the_mean_of_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    (site,) = (one for one in locate(LINEAR["taps"])[0] if one.output == "y")
    rng = np.random.default_rng(4)
    matrix = np.diag(rng.random(5) + 0.1)
    whole = linear(site, 8, matrix)
    monkeypatch.setattr(outlook, "WORK", 0.0)
    rough, blind = linear(site, 8, matrix), linear(site, 8, None)
    assert whole is not None
    assert rough is not None
    assert blind is not None
    np.testing.assert_allclose(rough, np.trace(matrix) / 5 * blind)
    assert not np.allclose(rough, whole, rtol=0.1)


def test_outputs_of_very_many_channels_need_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "MOST", 7)
    found = calibrated(chain(node("Conv", ["a", "w1"], ["y"], "c"), weights=[weight("w1", 5, 8, 1, 1)])).views.outlooks
    assert list(found) == ["y"]


def test_outlooks_need_no_order_of_the_layers() -> None:
    model = LINEAR["parts side by side"]
    calibration = calibrated(model)
    places = [place for place, _ in calibration.looks]
    again = outlooks(model, None, places[::-1], calibration.seen)
    assert {key: one.before.tolist() for key, one in again.items()} == {
        key: one.before.tolist() for key, one in calibration.views.outlooks.items()
    }
