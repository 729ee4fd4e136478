"""BatchNormalization behind Conv: what folds keeps its numbers and everything else, what must not fold stays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxlr_passes.fidelity import differences
from onnxlr_passes.fold_batchnorm import FoldBatchNorm
from tests.passes.conv_norm import BATCH_NORM, conv_norm, image, ops, relative, run, uses, weights

OPSETS = [7, 9, 13, 14, 17, 22, 25]
DEFAULT_EPSILON = 1e-5


FOLDS = [
    ("plain", {}),
    ("no bias", {"bias": False}),
    ("epsilon", {"norm": {"epsilon": 0.5, "momentum": 0.1}}),
    ("strides and pads", {"conv": {"strides": [2, 1], "pads": [1, 0, 0, 1], "dilations": [1, 2]}}),
    ("same padding", {"conv": {"auto_pad": "SAME_UPPER"}}),
]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("label", "options"), FOLDS, ids=[row[0] for row in FOLDS])
def test_folding_keeps_the_numbers_and_all_else(opset: int, label: str, options: dict[str, object]) -> None:
    model = conv_norm(opset, **options)  # type: ignore[arg-type]
    onnx.checker.check_model(model)
    before = model.SerializeToString(deterministic=True)
    result = FoldBatchNorm()(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert ops(result.model) == ["Conv", "Relu"]
    conv = result.model.graph.node[0]
    assert (conv.name, conv.doc_string, list(conv.output)) == ("conv", "kept", ["n"])
    assert list(conv.input) == ["x", "n/folded_weight", "n/folded_bias"]
    assert conv.attribute == model.graph.node[0].attribute
    assert conv.metadata_props == model.graph.node[0].metadata_props
    assert [tensor.name for tensor in result.model.graph.initializer] == ["n/folded_weight", "n/folded_bias"]
    assert [value.name for value in result.model.graph.value_info] == ["n"]
    assert differences(model, result.model, rewritten={"conv", "norm", "c", "n", "w", "b", *BATCH_NORM}) == ()
    assert relative(run(result.model), run(model)) < 1e-6
    assert model.SerializeToString(deterministic=True) == before
    assert result.changes[0].node == "conv"


def test_teeth_a_wrong_epsilon_is_seen() -> None:
    model = conv_norm(norm={"epsilon": 0.05})
    wrong = conv_norm(norm={"epsilon": DEFAULT_EPSILON})
    assert relative(run(FoldBatchNorm()(wrong).model), run(model)) > 1e-3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2), (np.float32, 1e-6), (np.float64, 1e-14)]
)
def test_every_float_type_is_written_as_it_came(dtype: object, tolerance: float) -> None:
    model = conv_norm(22, dtype=dtype)
    result = FoldBatchNorm()(model)
    kinds = {tensor.data_type for tensor in result.model.graph.initializer}
    assert kinds == {model.graph.initializer[0].data_type}
    x = image(np.float64)
    exact = conv_norm(22, dtype=np.float64)  # the same weights, rounded as the model's type rounds them
    for tensor, rounded in zip(exact.graph.initializer, weights(dtype).items(), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(rounded[1].astype(np.float64), rounded[0]))
    expected = ReferenceEvaluator(exact).run(None, {"x": x})[0]
    widened = onnx.ModelProto()
    widened.CopyFrom(FoldBatchNorm()(exact).model)
    for tensor, written in zip(widened.graph.initializer, result.model.graph.initializer, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(written).astype(np.float64), tensor.name))
    assert relative(ReferenceEvaluator(widened).run(None, {"x": x})[0], expected) < tolerance


def test_normalization_in_float32_behind_a_half_conv_folds_in_double_and_writes_half() -> None:
    model = conv_norm(17, dtype=np.float16)
    for tensor in model.graph.initializer:
        if tensor.name in BATCH_NORM:
            tensor.CopyFrom(numpy_helper.from_array(weights()[tensor.name], tensor.name))
    result = FoldBatchNorm()(model)
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {TensorProto.FLOAT16}


def test_a_row_of_normalizations_folds_whole() -> None:
    second = helper.make_node("BatchNormalization", ["n", "shift", "scale", "mean", "var"], ["n2"], name="norm2")
    model = conv_norm()
    model.graph.node.insert(2, second)
    model.graph.node[3].input[0] = "n2"
    result = FoldBatchNorm()(model)
    assert ops(result.model) == ["Conv", "Relu"]
    assert relative(run(result.model), run(model)) < 1e-6


def test_an_output_of_the_graph_keeps_its_name() -> None:
    model = conv_norm()
    model.graph.output[0].name = "n"
    result = FoldBatchNorm()(model)
    assert differences(model, result.model, rewritten={"c", "n", "w", "b", *BATCH_NORM}) == ()
    assert relative(run(result.model), run(model)) < 1e-6


NOT_FOLDED = [
    ("training", {"opset": 14, "norm": {"training_mode": 1}, "norm_outputs": ("n", "m", "v")}),
    ("training without the moments", {"opset": 17, "norm": {"training_mode": 1}, "norm_outputs": ("n",)}),
    ("moments asked for", {"opset": 9, "norm_outputs": ("n", "m", "v", "sm", "sv")}),
    ("moments asked for by position", {"opset": 9, "norm_outputs": ("n", "", "", "sm")}),
    ("per element", {"opset": 7, "norm": {"spatial": 0}}),
    ("the Conv's output read twice", {"extra": (uses("c"),)}),
    ("the Conv's output an output", {"outputs": ("y", "c")}),
]


@pytest.mark.parametrize(("label", "options"), NOT_FOLDED, ids=[row[0] for row in NOT_FOLDED])
def test_what_is_more_than_a_scale_and_a_shift_stays(label: str, options: dict[str, object]) -> None:
    model = conv_norm(**options)  # type: ignore[arg-type]
    result = FoldBatchNorm()(model)
    assert result.model is model
    assert not result.modified


@pytest.mark.parametrize("name", ["w", "b", *sorted(BATCH_NORM)])
def test_a_weight_that_is_not_constant_stops_the_fold(name: str) -> None:
    model = conv_norm()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.dims)))
    model.graph.initializer.remove(tensor)
    assert FoldBatchNorm()(model).model is model


@pytest.mark.parametrize("op", ["Conv", "BatchNormalization"])
def test_nodes_of_another_domain_stay(op: str) -> None:
    model = conv_norm()
    next(node for node in model.graph.node if node.op_type == op).domain = "my.domain"
    assert FoldBatchNorm()(model).model is model


def test_another_op_in_front_stays() -> None:
    model = conv_norm()
    model.graph.node[0].op_type = "ConvTranspose"
    assert FoldBatchNorm()(model).model is model


@pytest.mark.parametrize(("variance", "dtype"), [(-1.0, np.float32), (0.0, np.float16), (np.nan, np.float32)])
def test_a_fold_that_is_not_finite_is_left_alone(variance: float, dtype: object) -> None:
    model = conv_norm(17, dtype=dtype, norm={"epsilon": 1e-12})
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "var")
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, variance).astype(dtype), "var"))  # type: ignore[call-overload]
    assert FoldBatchNorm()(model).model is model
