"""What is found and in which form, beside what must stay as it is and the words that say why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr_passes.base import PassError
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.sites import locate
from tests.passes.one_conv import conv, full_chain, model_of, tensor

W, B = tensor("w", 6, 4, 3, 3), tensor("b", 6)


def custom(op: str, domain: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs) or ["x", "w"], ["y"], "node", domain=domain)


def standard(op: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs) or ["x", "w"], ["y"], "node", **attributes)


def quantised() -> list[onnx.NodeProto]:
    return [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), standard("Conv")]


def computed() -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", ["v"], ["w"]), standard("Conv")]


def int8(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.int8), name)


# What must not change, and the reason given for it.
SKIPPED = [
    ("depthwise", [standard("Conv", group=4)], [tensor("w", 4, 1, 3, 3)]),
    ("depthwise", [standard("Conv", group=4)], [tensor("w", 8, 1, 3, 3)]),
    ("weights behind DequantizeLinear: already quantised", quantised(), [int8("q", 6, 4, 3, 3), tensor("s")]),
    ("dynamic weights (graph input)", [standard("Conv", "x", "x")], []),
    ("dynamic weights (computed by Relu)", computed(), [tensor("v", 6, 4, 3, 3)]),
    ("operator of the custom domain com.microsoft", [custom("FusedConv", "com.microsoft")], [W]),
    ("operator of the custom domain com.microsoft", [custom("FusedMatMul", "com.microsoft")], [W]),
    ("operator of the custom domain com.microsoft.nchwc", [custom("Conv", "com.microsoft.nchwc")], [W]),
    ("operator of the custom domain my.domain", [custom("Conv", "my.domain")], [W]),
    ("transposed convolutions are not covered", [standard("ConvTranspose")], [tensor("w", 4, 6, 3, 3)]),
    ("deformable convolutions are not covered", [standard("DeformConv", "x", "w", "x")], [W]),
    ("already quantised", [standard("QLinearConv", "x", "s", "z", "w", "s", "z", "s", "z")], [int8("w", 6, 4, 3, 3)]),
    ("already quantised", [standard("ConvInteger")], [int8("w", 6, 4, 3, 3)]),
    ("already quantised", [standard("MatMulInteger")], [int8("w", 8, 5)]),
    ("already quantised", [standard("QLinearMatMul", "x", "s", "z", "w", "s", "z", "s", "z")], [int8("w", 8, 5)]),
    ("attributes do not fit the weight's shape", [standard("Conv", kernel_shape=[5, 5])], [W]),
    ("attributes do not fit the weight's shape", [standard("Conv", strides=[2])], [W]),
    ("attributes do not fit the weight's shape", [standard("Conv", pads=[1, 1])], [W]),
    ("strides or dilations below 1", [standard("Conv", strides=[0, 1])], [W]),
    ("negative pads", [standard("Conv", pads=[-1, 0, 0, 0])], [W]),
    ("auto_pad 'EVEN' is unknown", [standard("Conv", auto_pad="EVEN")], [W]),
    ("6 output channels do not divide into 4 groups", [standard("Conv", group=4)], [tensor("w", 6, 2, 3, 3)]),
    ("a group that is not a positive number", [standard("Conv", group=0)], [W]),
    ("an empty weight", [standard("Conv")], [tensor("w", 0, 4, 3, 3)]),
    ("a weight without spatial axes", [standard("Conv")], [tensor("w", 6, 4)]),
    ("weights are not floating-point", [standard("MatMul")], [int8("w", 8, 5)]),
    ("the constant is the left operand", [standard("MatMul", "w", "x")], [tensor("w", 5, 9)]),
    ("a weight that is not a matrix", [standard("MatMul")], [tensor("w", 2, 8, 5)]),
    ("a weight that is not a matrix", [standard("MatMul")], [tensor("w", 8)]),
    ("Gemm with transA", [standard("Gemm", transA=1)], [tensor("w", 8, 5)]),
    ("no weight", [standard("Conv", "x")], []),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "nodes", "constants"), SKIPPED, ids=[f"{i}-{s[0]}" for i, s in enumerate(SKIPPED)])
def test_what_is_skipped_says_why(reason: str, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> None:
    model = model_of(nodes, constants)
    sites, skipped = locate(model)
    assert sites == ()
    assert [(other.reason, other.label, other.op) for other in skipped] == [(reason, "node", nodes[-1].op_type)]
    assert skipped[0].key == "y"
    with pytest.raises(PassError, match="no such site in the model: y"):
        Decompose({"y": full_chain(locate(model_of([conv()], [W, B]))[0][0])})(model)


IGNORED = [standard("Relu", "x"), custom("Gelu", "com.microsoft", "x"), standard("Add")]


@pytest.mark.parametrize("node", IGNORED, ids=[node.op_type for node in IGNORED])
def test_other_operators_are_none_of_our_business(node: onnx.NodeProto) -> None:
    assert locate(model_of([node], [W])) == ((), ())


def test_gemm_before_opset_7_is_skipped() -> None:
    model = model_of([standard("Gemm", "x", "w", "b")], [tensor("w", 8, 5), tensor("b", 5)], (3, 8), opset=6)
    assert [other.reason for other in locate(model)[1]] == ["Gemm before opset 7"]


def test_attributes_of_functions_are_skipped() -> None:
    node = helper.make_node("Conv", ["a", "w"], ["b"], "inner")
    node.attribute.add(name="group", ref_attr_name="groups", type=onnx.AttributeProto.INT)
    made = helper.make_node("Constant", [], ["w"], value=W)
    function = helper.make_function(
        "my.domain", "Block", ["a"], ["b"], [made, node], [helper.make_opsetid("", 17)], ["groups"]
    )
    model = model_of([custom("Block", "my.domain", "x")], [])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    sites, skipped = locate(model)
    assert sites == ()
    assert [other.reason for other in skipped] == ["an attribute is a parameter of the function"]


def test_a_call_of_a_local_function_is_not_a_custom_operator() -> None:
    made = helper.make_node("Constant", [], ["w"], value=W)
    inner = helper.make_node("Conv", ["a", "w"], ["b"])
    function = helper.make_function(
        "my.domain", "ConvBlock", ["a"], ["b"], [made, inner], [helper.make_opsetid("", 17)]
    )
    model = model_of([custom("ConvBlock", "my.domain", "x")], [])
    model.functions.append(function)
    sites, skipped = locate(model)
    assert [site.key for site in sites] == ["function my.domain:ConvBlock:b"]
    assert skipped == ()


SAME = [
    ("SAME_UPPER", (2, 4), (1, 1), ((0, 1), (1, 2))),
    ("SAME_LOWER", (2, 4), (1, 1), ((1, 0), (2, 1))),
    ("SAME_UPPER", (3, 3), (2, 1), ((2, 2), (1, 1))),
    ("SAME_LOWER", (2, 2), (3, 2), ((2, 1), (1, 1))),
    ("VALID", (3, 3), (1, 1), ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(("mode", "kernel", "dilations", "pads"), SAME)
def test_pads_that_do_not_depend_on_the_input_are_resolved(
    mode: str, kernel: tuple[int, int], dilations: tuple[int, int], pads: tuple[tuple[int, int], ...]
) -> None:
    model = model_of([conv(auto_pad=mode, dilations=dilations)], [tensor("w", 6, 4, *kernel), B])
    assert locate(model)[0][0].geometry == Geometry(kernel, (1, 1), dilations, pads)


def test_pads_that_do_are_left_to_the_runtime() -> None:
    model = model_of([conv(auto_pad="SAME_LOWER", strides=[2, 1])], [W, B])
    assert locate(model)[0][0].geometry == Geometry((3, 3), (2, 1), (1, 1), ((0, 0), (0, 0)), auto_pad="SAME_LOWER")


LINEAR = [
    ("MatMul", {}, lambda w: w.T),
    ("Gemm", {}, lambda w: w.T),
    ("Gemm", {"transB": 1}, lambda w: w),
    ("Gemm", {"alpha": 0.5}, lambda w: 0.5 * w.T),
]


@pytest.mark.parametrize(("op", "attributes", "form"), LINEAR)
def test_linear_kernels_are_out_by_in(op: str, attributes: dict[str, object], form: object) -> None:
    weight = tensor("w", 8, 5)
    site = locate(model_of([standard(op, **attributes)], [weight], (3, 8)))[0][0]
    expected = form(numpy_helper.to_array(weight).astype(np.float64))  # type: ignore[operator]
    np.testing.assert_array_equal(site.kernel(), expected)
    assert (site.out_channels, site.in_channels) == expected.shape
    assert site.geometry == Geometry.plain(())
    assert site.parameters == 40


BIASES = [("b", tensor("b", 5)), ("b", tensor("b", 1, 5)), ("b", tensor("b", 1)), ("b", tensor("b")), ("", B)]


@pytest.mark.parametrize(("name", "constant"), BIASES)
def test_one_constant_a_channel_is_a_bias(name: str, constant: onnx.TensorProto) -> None:
    model = model_of([standard("Gemm", "x", "w", name)], [tensor("w", 8, 5), constant], (2, 8))
    (site,), _ = locate(model)
    assert site.biased
    assert not site.adds


def test_a_matmul_has_no_bias_and_adds_nothing() -> None:
    (site,), _ = locate(model_of([standard("MatMul")], [tensor("w", 8, 5)], (2, 8)))
    assert not site.biased
    assert not site.adds


def test_a_convolution_in_full() -> None:
    node = conv(strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3], group=2)
    site = locate(model_of([node], [tensor("w", 6, 2, 3, 3), B]))[0][0]
    assert site.geometry == Geometry((3, 3), (2, 1), (1, 2), ((0, 2), (1, 3)), group=2)
    assert (site.key, site.label, site.op, site.scope, site.output) == ("y", "conv1", "Conv", "", "y")
    assert (site.out_channels, site.in_channels, site.parameters, site.dtype) == (6, 4, 108, TensorProto.FLOAT)
    assert site.kernel().dtype == np.float64


def test_equal_kernels_share_a_key() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    one, two, other = locate(model_of(nodes, [W]))[0]
    assert one.shared_key == two.shared_key != other.shared_key
    assert len({one.key, two.key, other.key}) == 3
    assert one.label == "a", "a node without a name is called by its output"
