"""Pad in front of Conv: zeros on spatial axes fold, every other Pad stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from onnxlr_passes.fidelity import differences
from onnxlr_passes.fold_pad import FoldPad

OPSETS = [7, 9, 11, 13, 17, 18, 22, 25]


def pad_conv(
    opset: int,
    pads: list[int],
    *,
    conv: dict[str, object] | None = None,
    mode: str | None = None,
    value: float | None = None,
    axes: list[int] | None = None,
    extra: tuple[onnx.NodeProto, ...] = (),
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.random.default_rng(0).standard_normal((2, 3, 3, 2)).astype(np.float32), "w")]
    attributes: dict[str, object] = {} if mode is None else {"mode": mode}
    inputs = ["x"]
    if opset < 11:
        attributes |= {"pads": pads} | ({} if value is None else {"value": value})
    else:
        tensors.append(numpy_helper.from_array(np.array(pads, np.int64), "pads"))
        inputs.append("pads")
        if value is not None or axes is not None:
            inputs.append("" if value is None else "value")
        if value is not None:
            tensors.append(numpy_helper.from_array(np.array(value, np.float32), "value"))
        if axes is not None:
            inputs.append("axes")
            tensors.append(numpy_helper.from_array(np.array(axes, np.int64), "axes"))
    nodes = [
        helper.make_node("Pad", inputs, ["p"], name="pad", **attributes),
        helper.make_node("Conv", ["p", "w"], ["y"], name="conv", doc_string="kept", **(conv or {})),
        *extra,
    ]
    nodes[1].metadata_props.add(key="layer", value="1")
    four = ["n", "c", "h", "w"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "c", 6, 7])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, four) for name in outputs],
        tensors,
        value_info=[helper.make_tensor_value_info("p", TensorProto.FLOAT, four)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 7)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"x": x})[0]
    assert isinstance(output, np.ndarray)
    return output


def pads_of(model: onnx.ModelProto) -> list[int]:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    return next(list(attribute.ints) for attribute in conv.attribute if attribute.name == "pads")


FOLDS: list[tuple[list[int], dict[str, object], list[int]]] = [
    ([0, 0, 1, 2, 0, 0, 3, 4], {}, [1, 2, 3, 4]),
    ([0, 0, 0, 0, 0, 0, 1, 0], {"conv": {"pads": [1, 1, 0, 2]}}, [1, 1, 1, 2]),
    ([0, 0, 1, 1, 0, 0, 1, 1], {"conv": {"auto_pad": "VALID"}}, [1, 1, 1, 1]),
    ([0, 0, 1, 1, 0, 0, 1, 1], {"conv": {"auto_pad": "NOTSET", "strides": [2, 1], "dilations": [1, 2]}}, [1, 1, 1, 1]),
    ([0, 0, 1, 1, 0, 0, 1, 1], {"mode": "constant", "value": 0.0}, [1, 1, 1, 1]),
    ([0] * 8, {}, [0, 0, 0, 0]),
]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("pads", "options", "expected"), FOLDS)
def test_zeros_on_spatial_axes_fold(
    opset: int, pads: list[int], options: dict[str, object], expected: list[int]
) -> None:
    model = pad_conv(opset, pads, **options)  # type: ignore[arg-type]
    onnx.checker.check_model(model)
    before = model.SerializeToString(deterministic=True)
    result = FoldPad()(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert [node.op_type for node in result.model.graph.node] == ["Conv"]
    assert pads_of(result.model) == expected
    assert [tensor.name for tensor in result.model.graph.initializer] == ["w"]
    assert not result.model.graph.value_info
    conv = result.model.graph.node[0]
    assert (conv.name, conv.doc_string, list(conv.output)) == ("conv", "kept", ["y"])
    assert conv.metadata_props == model.graph.node[1].metadata_props
    assert differences(model, result.model, rewritten={"pad", "conv", "p", "pads", "value"}) == ()
    np.testing.assert_allclose(run(result.model), run(model), rtol=1e-5, atol=1e-5)
    assert result.changes[0].node == "conv"
    assert model.SerializeToString(deterministic=True) == before


def test_teeth_a_pad_on_the_other_side_is_seen() -> None:
    model = pad_conv(17, [0, 0, 1, 0, 0, 0, 0, 0])
    moved = pad_conv(17, [0, 0, 0, 0, 0, 0, 1, 0])
    assert np.abs(run(FoldPad()(moved).model) - run(model)).max() > 0.1


@pytest.mark.parametrize(("axes", "pads"), [([2, 3], [1, 2, 3, 4]), ([-1, -2], [2, 1, 4, 3]), ([0, 2], [0, 1, 0, 3])])
@pytest.mark.parametrize("opset", [18, 22])
def test_axes_are_honoured(opset: int, axes: list[int], pads: list[int]) -> None:
    model = pad_conv(opset, pads, axes=axes)
    result = FoldPad()(model)
    assert pads_of(result.model) == ([1, 0, 3, 0] if axes == [0, 2] else [1, 2, 3, 4])
    np.testing.assert_allclose(run(result.model), run(model), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    added=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    own=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    opset=st.sampled_from(OPSETS),
)
def test_any_zero_padding_folds_to_the_sum(added: list[int], own: list[int], opset: int) -> None:
    model = pad_conv(opset, [0, 0, *added[:2], 0, 0, *added[2:]], conv={"pads": own})
    result = FoldPad()(model)
    assert pads_of(result.model) == [one + other for one, other in zip(added, own, strict=True)]
    np.testing.assert_allclose(run(result.model), run(model), rtol=1e-5, atol=1e-5)


SPATIAL = [0, 0, 1, 1, 0, 0, 1, 1]
NOT_FOLDED: list[tuple[str, list[int], dict[str, object]]] = [
    ("reflect", SPATIAL, {"mode": "reflect"}),
    ("edge", SPATIAL, {"mode": "edge"}),
    ("another value", SPATIAL, {"value": 1.0}),
    ("not a number", SPATIAL, {"value": float("nan")}),
    ("batch", [1, 0, 1, 1, 0, 0, 1, 1], {}),
    ("channels", [0, 0, 1, 1, 0, 1, 1, 1], {}),
    ("cropping", [0, 0, -1, 0, 0, 0, 0, 0], {}),
    ("cropping one end", [0, 0, 2, 0, 0, 0, -1, 0], {}),
    ("same padding", SPATIAL, {"conv": {"auto_pad": "SAME_UPPER"}}),
    ("same padding, lower", SPATIAL, {"conv": {"auto_pad": "SAME_LOWER"}}),
    ("read twice", SPATIAL, {"extra": (helper.make_node("Abs", ["p"], ["z"]),)}),
    ("an output", SPATIAL, {"outputs": ("y", "p")}),
    ("five axes", [0, 0, 1, 1, 0, 0, 0, 1, 1, 0], {}),
]


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize(("label", "pads", "options"), NOT_FOLDED, ids=[row[0] for row in NOT_FOLDED])
def test_every_other_pad_stays(opset: int, label: str, pads: list[int], options: dict[str, object]) -> None:
    model = pad_conv(opset, pads, **options)  # type: ignore[arg-type]
    result = FoldPad()(model)
    assert result.model is model
    assert not result.modified


@pytest.mark.parametrize("name", ["pads", "value", "axes"])
def test_a_pad_given_at_run_time_stays(name: str) -> None:
    model = pad_conv(18, [1, 1, 1, 1], value=0.0, axes=[2, 3])
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    model.graph.initializer.remove(tensor)
    model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    assert FoldPad()(model).model is model


def test_a_pad_of_the_weight_stays() -> None:
    model = pad_conv(17, SPATIAL)
    model.graph.node[1].input[:] = ["x", "p"]
    assert FoldPad()(model).model is model


@pytest.mark.parametrize("position", [0, 1])
def test_nodes_of_another_domain_stay(position: int) -> None:
    model = pad_conv(17, SPATIAL)
    model.graph.node[position].domain = "my.domain"
    assert FoldPad()(model).model is model


def test_a_row_of_pads_folds_whole() -> None:
    model = pad_conv(17, SPATIAL)
    model.graph.node[0].output[0] = "first"
    model.graph.node.insert(1, helper.make_node("Pad", ["first", "pads"], ["p"], name="pad2"))
    result = FoldPad()(model)
    assert pads_of(result.model) == [2, 2, 2, 2]
    np.testing.assert_allclose(run(result.model), run(model), rtol=1e-5, atol=1e-5)


def test_pads_that_others_read_stay() -> None:
    model = pad_conv(17, SPATIAL, extra=(helper.make_node("Pad", ["y", "pads"], ["z"], name="other"),), outputs=("z",))
    result = FoldPad()(model)
    assert [tensor.name for tensor in result.model.graph.initializer] == ["w", "pads"]
    np.testing.assert_allclose(run(result.model), run(model), rtol=1e-5, atol=1e-5)


NESTED = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[1,1,4,4] x, bool flag) => (float[1,1,6,6] y)
<float[1,1,1,1] w = {3}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>
{
    y = If (flag) <
        then_branch = yes () => (float[1,1,6,6] t) { p = Pad(x, pads) t = Conv(p, w) },
        else_branch = no () => (float[1,1,6,6] e) { e = my.domain.Block(x) }
    >
}
<domain: "my.domain", opset_import: ["" : 13]>
Block (a) => (b) {
    w = Constant <value = float[1,1,1,1] {3}> ()
    pads = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
    p = Pad(a, pads)
    b = Conv(p, w)
}
"""


@pytest.mark.parametrize("flag", [True, False])
def test_branches_and_functions_fold(flag: bool) -> None:
    model = parser.parse_model(NESTED)
    result = FoldPad()(model)
    onnx.checker.check_model(result.model, full_check=True)
    branches = {attribute.name: attribute.g for attribute in result.model.graph.node[0].attribute}
    assert [node.op_type for node in branches["then_branch"].node] == ["Conv"]
    assert [node.op_type for node in result.model.functions[0].node] == ["Constant", "Conv"]
    assert [tensor.name for tensor in result.model.graph.initializer] == ["w"]
    feeds = {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4), "flag": np.array(flag)}
    outputs = [
        ort.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for one in (model, result.model)
    ]
    np.testing.assert_array_equal(*outputs)
