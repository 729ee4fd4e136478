"""BatchNormalization behind Conv: what folds keeps its numbers and everything else, what must not fold stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from onnxlr_passes.fidelity import differences
from onnxlr_passes.fold_batchnorm import FoldBatchNorm

if TYPE_CHECKING:
    from pathlib import Path

OPSETS = [7, 9, 13, 14, 17, 22, 25]
BATCH_NORM = {"scale", "shift", "mean", "var"}
DEFAULT_EPSILON = 1e-5


def weights(dtype: object = np.float32, channels: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = {
        "w": rng.standard_normal((channels, 3, 3, 3)),
        "b": rng.standard_normal(channels),
        "scale": rng.uniform(0.5, 2, channels),
        "shift": rng.standard_normal(channels),
        "mean": rng.standard_normal(channels),
        "var": rng.uniform(0.1, 3, channels),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}


def conv_norm(
    opset: int = 17,
    *,
    conv: dict[str, object] | None = None,
    norm: dict[str, object] | None = None,
    bias: bool = True,
    dtype: object = np.float32,
    norm_outputs: tuple[str, ...] = ("n",),
    extra: tuple[onnx.NodeProto, ...] = (),
    outputs: tuple[str, ...] = ("y",),
    ir_version: int = 8,
) -> onnx.ModelProto:
    arrays = weights(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], "conv", "kept", **(conv or {})),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "var"], norm_outputs, "norm", **(norm or {})
        ),
        helper.make_node("Relu", ["n"], ["y"], name="act"),
        *extra,
    ]
    nodes[0].metadata_props.add(key="layer", value="1")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))  # type: ignore[call-overload]
    if not bias:
        del arrays["b"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(name, kind, shape(name)) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        value_info=[helper.make_tensor_value_info(name, kind, shape(name)) for name in ("c", "n")],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def shape(name: str) -> list[int | str]:
    return {"also_w": [4, 3, 3, 3], "also_scale": [4], "n/folded_weight": ["n", 3, 8, 8]}.get(name, ["n", 4, "h", "w"])


def image(dtype: object = np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(dtype)


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"x": image(), **feeds})[0]
    assert isinstance(output, np.ndarray)
    return output


def relative(new: np.ndarray, old: np.ndarray) -> float:
    old64 = old.astype(np.float64)
    return float(np.linalg.norm(new.astype(np.float64) - old64) / np.linalg.norm(old64))


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


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


def uses(name: str) -> onnx.NodeProto:
    return helper.make_node("Abs", [name], [f"also_{name}"], name=f"also_{name}")


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


def test_a_weight_that_others_read_stays_and_is_not_changed() -> None:
    model = conv_norm(extra=(uses("w"), uses("scale")), outputs=("y", "also_w", "also_scale"))
    result = FoldBatchNorm()(model)
    left = {tensor.name: tensor for tensor in result.model.graph.initializer}
    assert set(left) == {"w", "scale", "n/folded_weight", "n/folded_bias"}
    assert left["w"] == model.graph.initializer[0]
    assert relative(run(result.model), run(model)) < 1e-6


def test_two_convs_of_one_weight_get_a_weight_each() -> None:
    model = conv_norm(
        extra=(
            helper.make_node("Conv", ["x", "w"], ["c2"], name="conv2"),
            helper.make_node("BatchNormalization", ["c2", "shift", "scale", "mean", "var"], ["n2"], name="norm2"),
        ),
        outputs=("y", "n2"),
    )
    result = FoldBatchNorm()(model)
    assert ops(result.model) == ["Conv", "Relu", "Conv"]
    assert {"n/folded_weight", "n2/folded_weight"} <= {tensor.name for tensor in result.model.graph.initializer}
    assert relative(run(result.model), run(model)) < 1e-6


def test_a_row_of_normalizations_folds_whole() -> None:
    second = helper.make_node("BatchNormalization", ["n", "shift", "scale", "mean", "var"], ["n2"], name="norm2")
    model = conv_norm()
    model.graph.node.insert(2, second)
    model.graph.node[3].input[0] = "n2"
    result = FoldBatchNorm()(model)
    assert ops(result.model) == ["Conv", "Relu"]
    assert relative(run(result.model), run(model)) < 1e-6


def test_names_already_taken_are_not_used() -> None:
    model = conv_norm(extra=(helper.make_node("Abs", ["x"], ["n/folded_weight"]),), outputs=("y", "n/folded_weight"))
    result = FoldBatchNorm()(model)
    onnx.checker.check_model(result.model)
    assert result.model.graph.node[0].input[1] == "n/folded_weight_2"


def test_an_output_of_the_graph_keeps_its_name() -> None:
    model = conv_norm()
    model.graph.output[0].name = "n"
    result = FoldBatchNorm()(model)
    assert differences(model, result.model, rewritten={"c", "n", "w", "b", *BATCH_NORM}) == ()
    assert relative(run(result.model), run(model)) < 1e-6


def test_listed_initializers_fold_and_the_change_says_that_feeding_them_is_over() -> None:
    model = conv_norm(9, ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model)
    result = FoldBatchNorm()(model)
    onnx.checker.check_model(result.model)
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert result.model.ir_version == 4
    assert "initializer 'w'" in result.changes[0].what
    assert any("IR version 3" in change.what for change in result.changes)


def test_constants_behind_nodes_fold_and_the_nodes_go() -> None:
    model = conv_norm()
    model.graph.node.insert(0, helper.make_node("Identity", ["w"], ["w2"]))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["mean2"], value=model.graph.initializer[4]))
    model.graph.node[2].input[1] = "w2"
    model.graph.node[3].input[3] = "mean2"
    result = FoldBatchNorm()(model)
    assert ops(result.model) == ["Conv", "Relu"]
    assert [tensor.name for tensor in result.model.graph.initializer] == ["mean", "n/folded_weight", "n/folded_bias"]
    assert relative(run(result.model), run(model)) < 1e-6


def test_external_data_is_read_from_the_folder(tmp_path: Path) -> None:
    whole = conv_norm()
    external_data_helper.convert_model_to_external_data(whole, location="weights.bin", size_threshold=0)
    onnx.save(whole, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert FoldBatchNorm()(model).model is model
    assert relative(run(FoldBatchNorm(tmp_path)(model).model), run(conv_norm())) < 1e-6


SCALE = "scale = {1.5, 2}, float[2] shift = {1, -1}, float[2] mean = {0.5, 0.25}, float[2] var = {2, 3}"
NESTED = f"""
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[1,1,2,2] x, bool flag) => (float[1,2,2,2] y)
<float[2,1,1,1] w = {{3, 4}}, float[2] {SCALE}>
{{
    y = If (flag) <
        then_branch = yes () => (float[1,2,2,2] t) {{
            c = Conv(x, w)
            t = BatchNormalization(c, scale, shift, mean, var)
        }},
        else_branch = no () => (float[1,2,2,2] e) <float[2,1,1,1] inner = {{5, 6}}> {{
            c2 = Conv(x, inner)
            e = BatchNormalization(c2, scale, shift, mean, var)
        }}
    >
}}
"""


@pytest.mark.parametrize("flag", [True, False])
def test_branches_fold_with_weights_of_their_own_and_of_the_graph_around(flag: bool) -> None:
    model = parser.parse_model(NESTED)
    result = FoldBatchNorm()(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert len(result.model.graph.initializer) == 0
    for attribute in result.model.graph.node[0].attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv"]
        assert len(attribute.g.initializer) == 2
    feeds = {"x": image()[:1, :1, :2, :2], "flag": np.array(flag)}
    assert relative(run(result.model, **feeds), run(model, **feeds)) < 1e-6


def test_a_conv_of_the_graph_around_does_not_fold_into_a_branch() -> None:
    model = parser.parse_model(
        NESTED.replace("y = If", "c = Conv(x, w) y = If").replace("            c = Conv(x, w)\n", "")
    )
    result = FoldBatchNorm()(model)
    branches = {attribute.name: attribute.g for attribute in result.model.graph.node[1].attribute}
    assert [node.op_type for node in branches["then_branch"].node] == ["BatchNormalization"]
    assert [node.op_type for node in branches["else_branch"].node] == ["Conv"]


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[1,1,2,2] x) => (float[1,2,2,2] y) { y = my.domain.Block(x) }
<domain: "my.domain", opset_import: ["" : 17]>
Block (a) => (n) {
    w = Constant <value = float[2,1,1,1] {3, 4}> ()
    scale = Constant <value_floats = [1.5, 2.0]> ()
    shift = Constant <value_floats = [1.0, -1.0]> ()
    var = Constant <value_floats = [2.0, 3.0]> ()
    c = Conv(a, w)
    n = BatchNormalization(c, scale, shift, shift, var)
}
"""


def test_a_function_body_folds_into_new_constants() -> None:
    model = parser.parse_model(FUNCTION)
    result = FoldBatchNorm()(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert sorted(node.op_type for node in result.model.functions[0].node) == ["Constant", "Constant", "Conv"]
    x = image()[:1, :1, :2, :2]
    assert relative(run(result.model, x=x), run(model, x=x)) < 1e-6


def test_a_function_that_is_handed_its_weight_stays() -> None:
    model = parser.parse_model(
        FUNCTION.replace("Block (a)", "Block (a, w)").replace(
            "    w = Constant <value = float[2,1,1,1] {3, 4}> ()\n", ""
        )
    )
    assert FoldBatchNorm()(model).model is model


def test_an_epsilon_that_is_an_attribute_of_the_function_stays() -> None:
    model = parser.parse_model(
        FUNCTION.replace("Block (a)", "Block <eps> (a)").replace(
            "BatchNormalization(", "BatchNormalization <epsilon: float = @eps> ("
        )
    )
    assert FoldBatchNorm()(model).model is model
