"""Initializers listed as inputs: what is removed from the inputs, and what stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr_passes.fidelity import differences
from onnxlr_passes.unlist_initializers import UnlistInitializers, allow_unlisted_initializers


def listed(*names: str, ir_version: int = 8) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("unused", *names, "x")]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "net",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array([2, 3], np.float32), name) for name in ("w", "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=ir_version)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    zeros = np.zeros(2, np.float32)
    output = session.run(None, {"x": np.array([5, 7], np.float32), "unused": zeros})[0]
    assert isinstance(output, np.ndarray)
    return output


@pytest.mark.parametrize("names", [("w",), ("b", "w")])
def test_listed_initializers_leave_the_inputs_and_the_rest_stays(names: tuple[str, ...]) -> None:
    model = listed(*names)
    before = model.SerializeToString(deterministic=True)
    result = UnlistInitializers()(model)
    onnx.checker.check_model(result.model)
    assert [value.name for value in result.model.graph.input] == ["unused", "x"]
    assert [change.node for change in result.changes] == list(names)
    assert differences(model, result.model) == tuple(f"graph.input[{name}]: vanished" for name in names)
    assert model.SerializeToString(deterministic=True) == before
    np.testing.assert_array_equal(run(result.model), run(model))


def test_a_model_with_nothing_listed_is_returned_itself() -> None:
    model = listed()
    result = UnlistInitializers()(model)
    assert result.model is model
    assert not result.modified


def test_an_old_ir_version_is_raised_and_said() -> None:
    model = listed("w", "b", ir_version=3)
    onnx.checker.check_model(model)
    result = UnlistInitializers()(model)
    onnx.checker.check_model(result.model)
    assert result.model.ir_version == 4
    assert result.changes[-1].what == "IR version 3 raised to 4 for unlisted initializers"
    assert model.ir_version == 3


def test_a_newer_ir_version_is_not_touched() -> None:
    model = listed(ir_version=7)
    assert allow_unlisted_initializers(model) == []
    assert model.ir_version == 7


def test_inputs_of_a_subgraph_stay() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])],
        "branch",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2])],
    )
    branch.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    branch.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    model = listed()
    model.graph.node.append(helper.make_node("If", ["f"], ["i"], then_branch=branch, else_branch=branch))
    assert UnlistInitializers()(model).model is model
