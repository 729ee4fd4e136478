"""The weights of a fold: shared, listed, behind nodes, in a file, of a branch or a function; each fold gets its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, helper, parser

from onnxlr_passes.fold_batchnorm import FoldBatchNorm
from tests.passes.conv_norm import conv_norm, image, ops, relative, run, uses

if TYPE_CHECKING:
    from pathlib import Path


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


def test_names_already_taken_are_not_used() -> None:
    model = conv_norm(extra=(helper.make_node("Abs", ["x"], ["n/folded_weight"]),), outputs=("y", "n/folded_weight"))
    result = FoldBatchNorm()(model)
    onnx.checker.check_model(result.model)
    assert result.model.graph.node[0].input[1] == "n/folded_weight_2"


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
