"""Targets through a ReLU and through maxout: the closed forms are the minimum, and their graphs are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxlr.calibration.activation import Maxout, Relu, activation_behind
from onnxlr_passes.constants import Constants
from onnxlr_passes.scopes import scopes

if TYPE_CHECKING:
    import onnx

values = st.floats(-5.0, 5.0)
weights = st.floats(1e-3, 10.0)
node = helper.make_node


def relu_loss(wanted: float, current: float, weight: float, z: np.ndarray) -> np.ndarray:
    return np.square(max(wanted, 0.0) - np.maximum(z, 0.0)) + weight * np.square(z - current)


@settings(deadline=None, derandomize=True, database=None)
@given(wanted=values, current=values, weight=weights)
def test_no_other_target_is_better_through_a_relu(wanted: float, current: float, weight: float) -> None:
    z = Relu().closest(np.array([wanted]), np.array([current]), weight)
    least = relu_loss(wanted, current, weight, np.linspace(-6.0, 6.0, 24_001)).min()
    assert relu_loss(wanted, current, weight, z)[0] <= least + 1e-12
    assert relu_loss(wanted, current, weight, z + 0.1)[0] > least, "a tenth off is seen"


def test_where_both_are_off_nothing_is_asked() -> None:
    assert Relu().closest(np.array([-3.0]), np.array([-0.5]), 0.1)[0] == -0.5


def maxout_loss(wanted: np.ndarray, current: np.ndarray, weight: float, z: np.ndarray) -> np.ndarray:
    """Of one unit: ``z`` (..., pieces)."""
    return np.square(wanted.max() - z.max(axis=-1)) + weight * np.square(z - current).sum(axis=-1)


@settings(deadline=None, derandomize=True, database=None)
@given(wanted=st.tuples(values, values), current=st.tuples(values, values), weight=weights)
def test_no_other_target_is_better_through_maxout(
    wanted: tuple[float, float], current: tuple[float, float], weight: float
) -> None:
    aim, now = np.array(wanted), np.array(current)
    z = Maxout(2, strided=False).closest(aim[None], now[None], weight)[0]
    axis = np.linspace(-5.5, 5.5, 441)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    least = maxout_loss(aim, now, weight, grid).min()
    found = maxout_loss(aim, now, weight, z)
    assert found <= least + 1e-12
    assert maxout_loss(aim, now, weight, z + 0.3) > found, "three tenths off are seen"


@settings(deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10_000), pieces=st.integers(2, 5), weight=weights)
def test_nothing_near_is_better_for_any_number_of_pieces(seed: int, pieces: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    aim, now = rng.standard_normal((2, pieces))
    z = Maxout(pieces, strided=False).closest(aim[None], now[None], weight)[0]
    near = z + rng.standard_normal((4000, pieces)) * rng.choice([1e-3, 1e-1, 1.0], (4000, 1))
    assert maxout_loss(aim, now, weight, z) <= maxout_loss(aim, now, weight, near).min() + 1e-12


def test_strided_pieces_are_the_same_in_another_order() -> None:
    rng = np.random.default_rng(0)
    aim, now = rng.standard_normal((2, 7, 6))
    order = np.arange(6).reshape(2, 3).T.reshape(-1)  # unit by unit
    z = Maxout(2, strided=True).closest(aim, now, 0.3)
    apart = Maxout(2, strided=False)
    np.testing.assert_array_equal(z[:, order], apart.closest(aim[:, order], now[:, order], 0.3))
    np.testing.assert_array_equal(Maxout(2, strided=True).of(aim), apart.of(aim[:, order]))


def found(nodes: list[onnx.NodeProto], *outputs: str, shape: tuple[int, ...] = (), opset: int = 17) -> object:
    """What is seen of ``c``, six channels."""
    x = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 6, 4, 4])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.array(shape, np.int64), "shape")]
    constants += [numpy_helper.from_array(np.array([2], np.int64), "two")]
    graph = helper.make_graph(nodes, "net", [x], ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return activation_behind(Constants(model), scopes(model)[0], "c", 6)


def reduced(axis: int) -> list[onnx.NodeProto]:
    return [node("Reshape", ["c", "shape"], ["r"]), node("ReduceMax", ["r"], ["y"], axes=[axis], keepdims=0)]


def test_what_hides_answers_is_found() -> None:
    assert found([node("Relu", ["c"], ["y"])], "y") == Relu()
    assert found(reduced(2), "y", shape=(0, 3, 2, 4, 4)) == Maxout(2, strided=False)
    assert found(reduced(1), "y", shape=(0, 3, 2, 4, 4)) == Maxout(3, strided=True)
    newer = [node("Reshape", ["c", "shape"], ["r"]), node("ReduceMax", ["r", "two"], ["y"], keepdims=0)]
    assert found(newer, "y", shape=(0, 3, 2, 4, 4), opset=18) == Maxout(2, strided=False)
    split = [node("Split", ["c"], ["a", "b"], axis=1), node("Max", ["b", "a"], ["y"])]
    assert found(split, "y") == Maxout(2, strided=True)


@pytest.mark.parametrize(
    ("nodes", "outputs", "shape"),
    [
        ([node("Sigmoid", ["c"], ["y"])], ["y"], ()),
        ([node("Relu", ["c"], ["y"])], ["y", "c"], ()),
        ([node("Relu", ["c"], ["y"]), node("Sigmoid", ["c"], ["z"])], ["y", "z"], ()),
        (reduced(3), ["y"], (0, 3, 2, 4, 4)),
        (reduced(2), ["y", "r"], (0, 3, 2, 4, 4)),
        (reduced(2), ["y"], (0, 6, 2, 2, 4)),
        ([node("Split", ["c"], ["a", "b"], axis=2), node("Max", ["b", "a"], ["y"])], ["y"], ()),
        ([node("Split", ["c"], ["a", "b"], axis=1), node("Max", ["b", "a"], ["y"])], ["y", "a"], ()),
        ([node("Split", ["c"], ["a", "b"], axis=1), node("Max", ["b", "c"], ["y"])], ["y", "a"], ()),
    ],
)
def test_what_shows_all_is_let_alone(nodes: list[onnx.NodeProto], outputs: list[str], shape: tuple[int, ...]) -> None:
    assert found(nodes, *outputs, shape=shape) is None
