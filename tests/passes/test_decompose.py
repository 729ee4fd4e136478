"""What must be rewritten, wherever it stands and however it is written, and that it then computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr_passes.base import PassError
from onnxlr_passes.chain import Chain, Stage
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.sites import locate
from tests.passes.one_conv import assert_same, conv, full_chain, model_of, noise, rewrite, run, tensor

KINDS = [
    ("1-D", (6, 4, 3), (2, 4, 11), {"pads": [1, 2]}),
    ("2-D", (6, 4, 3, 3), (2, 4, 9, 8), {"pads": [1, 1, 1, 1]}),
    ("3-D", (5, 3, 3, 2, 3), (1, 3, 6, 5, 7), {"pads": [1, 0, 1, 1, 1, 1]}),
    ("groups", (6, 2, 3, 3), (2, 4, 9, 8), {"group": 2}),
    ("stride", (6, 4, 3, 3), (2, 4, 9, 8), {"strides": [2, 3]}),
    ("dilation", (6, 4, 3, 3), (2, 4, 9, 8), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    ("asymmetric pads", (6, 4, 3, 3), (2, 4, 9, 8), {"pads": [0, 2, 1, 3]}),
    ("pads wider than the kernel", (6, 4, 2, 2), (2, 4, 9, 8), {"pads": [3, 0, 0, 3]}),
    ("oblong", (6, 4, 1, 5), (2, 4, 9, 8), {"pads": [0, 2, 0, 2]}),
    ("even", (6, 4, 4, 2), (2, 4, 9, 8), {"pads": [1, 0, 2, 1]}),
    ("pointwise", (6, 4, 1, 1), (2, 4, 9, 8), {}),
    ("pointwise, strided", (6, 4, 1, 1), (2, 4, 9, 8), {"strides": [2, 2]}),
    ("VALID", (6, 4, 3, 3), (2, 4, 9, 8), {"auto_pad": "VALID", "strides": [2, 2]}),
    ("SAME_UPPER", (6, 4, 2, 4), (2, 4, 9, 8), {"auto_pad": "SAME_UPPER"}),
    ("SAME_LOWER", (6, 4, 2, 4), (2, 4, 9, 8), {"auto_pad": "SAME_LOWER"}),
    ("SAME_UPPER, stride 2", (6, 4, 3, 3), (2, 4, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("SAME_LOWER, stride 2", (6, 4, 3, 3), (2, 4, 9, 8), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("SAME_UPPER, stride 2 on one axis", (6, 4, 3, 3), (2, 4, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [1, 2]}),
    ("SAME_UPPER, kernel below stride", (6, 4, 1, 3), (2, 4, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
]
SCHEMES = ("basis", "projection", "separable-vh", "separable-hv", "tucker2", "asym3d-vh", "mixed", "cp3")


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("label", "shape", "size", "attributes"), KINDS, ids=[kind[0] for kind in KINDS])
def test_kinds_of_convolution(
    label: str, shape: tuple[int, ...], size: tuple[int, ...], attributes: dict[str, object], biased: bool
) -> None:
    constants = [tensor("w", *shape), *([tensor("b", shape[0], seed=2)] if biased else [])]
    node = conv("w", "b" if biased else "", **attributes)
    model = model_of([node], constants, size)
    free = model_of([node], constants, ["n", size[1], *(f"d{axis}" for axis in range(len(size) - 2))])
    site = locate(model)[0][0]
    layer = Layer(site.kernel(), site.geometry)
    for name in SCHEMES:
        if by_name(name).refusal(layer.shape) is None:
            assert_same(rewrite(model, name), model, x=noise(*size))
            assert_same(rewrite(free, name), free, x=noise(*size[:2], *(n + 3 for n in size[2:])))


SOURCES = [
    ("initializer", [], [tensor("w", 6, 4, 3, 3)]),
    ("Constant", [helper.make_node("Constant", [], ["w"], value=tensor("", 6, 4, 3, 3))], []),
    ("Identity", [helper.make_node("Identity", ["v"], ["w"])], [tensor("v", 6, 4, 3, 3)]),
    ("Transpose", [helper.make_node("Transpose", ["v"], ["w"], perm=[3, 2, 0, 1])], [tensor("v", 3, 3, 4, 6)]),
    (
        "Cast",
        [helper.make_node("Cast", ["v"], ["w"], to=TensorProto.FLOAT)],
        [tensor("v", 6, 4, 3, 3, dtype=TensorProto.FLOAT16)],
    ),
]


@pytest.mark.parametrize(("label", "before", "constants"), SOURCES, ids=[source[0] for source in SOURCES])
def test_sources_of_weights(label: str, before: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> None:
    model = model_of([*before, conv()], [*constants, tensor("b", 6)])
    changed = rewrite(model)
    assert_same(changed, model, x=noise(2, 4, 9, 8))
    assert [node.op_type for node in changed.graph.node] == ["Conv", "Conv"], "what only the weight needed is gone"
    assert {one.name for one in changed.graph.initializer} == {"b", "y/lr0_basis_weight", "y/lr1_mix_weight"}


def as_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for one in copy.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float32), one.name))
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return copy


# The type's rounding of two factors.
TYPES = [
    (TensorProto.DOUBLE, 2e-6),
    (TensorProto.FLOAT, 2e-6),
    (TensorProto.FLOAT16, 2e-3),
    (TensorProto.BFLOAT16, 2e-2),
]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES, ids=["double", "float", "float16", "bfloat16"])
def test_factors_are_written_in_the_type_of_the_weight(dtype: int, tolerance: float) -> None:
    constants = [tensor("w", 6, 4, 3, 3, dtype=dtype), tensor("b", 6, dtype=dtype)]
    model = model_of([conv()], constants, opset=22, dtype=dtype, ir=10)
    changed = rewrite(model)
    assert {one.data_type for one in changed.graph.initializer} == {dtype}
    assert_same(as_float32(changed), as_float32(model), tolerance, x=noise(2, 4, 9, 8))


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 19, 21, 22])
def test_opsets(opset: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "b"], ["g"], "fc1", alpha=0.5, beta=2.0),
        helper.make_node("MatMul", ["g", "n"], ["y"], "fc2"),
    ]
    constants = [tensor("w", 6, 4, 3, 3), tensor("m", 120, 8), tensor("b", 8), tensor("n", 8, 5)]
    model = model_of(nodes, constants, (2, 4, 4, 5), opset=opset, ir=3 if opset < 9 else 8, listed=opset < 9)
    changed = rewrite(model)
    assert len(changed.graph.node) == 7
    assert_same(changed, model, x=noise(2, 4, 4, 5))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("opset", [9, 11])
def test_gemm_without_bias(opset: int, transposed: int) -> None:
    inputs = ["x", "w"] if opset >= 11 else ["x", "w", "zero"]
    node = helper.make_node("Gemm", inputs, ["y"], "fc", transB=transposed, alpha=-1.5)
    weight = tensor("w", 5, 7) if transposed else tensor("w", 7, 5)
    model = model_of([node], [weight, numpy_helper.from_array(np.zeros(1, np.float32), "zero")], (3, 7), opset=opset)
    assert_same(rewrite(model), model, x=noise(3, 7))


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_listed_as_inputs(ir: int) -> None:
    constants = [tensor("w", 6, 4, 3, 3), tensor("b", 6)]
    model = model_of([conv()], constants, opset=8, ir=ir, listed=True)
    changed = rewrite(model)
    assert [value.name for value in changed.graph.input] == ["x", "b"], "nothing new, and the weight is gone"
    assert changed.ir_version >= 4, "initializers that are no inputs"
    assert_same(changed, model, x=noise(2, 4, 9, 8))


def test_a_shared_weight_is_written_once() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["y"], "two", pads=[0, 0, 0, 0]),
    ]
    model = model_of(nodes, [tensor("w", 4, 4, 3, 3)])
    changed = rewrite(model)
    assert len(changed.graph.node) == 4
    assert len(changed.graph.initializer) == 2
    assert_same(changed, model, x=noise(2, 4, 9, 8))


def test_a_shared_weight_stays_while_another_reads_it() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["y"], "two"),
    ]
    model = model_of(nodes, [tensor("w", 4, 4, 3, 3)])
    changed = Decompose({"a": full_chain(locate(model)[0][0])})(model).model
    assert [node.name for node in changed.graph.node] == ["a/lr0_basis", "a/lr1_mix", "two"]
    assert {one.name for one in changed.graph.initializer} == {"w", "a/lr0_basis_weight", "a/lr1_mix_weight"}
    assert_same(changed, model, x=noise(2, 4, 9, 8))


BODIES = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[2,4,9,8] x, bool flag) => (float[2,4,9,8] i, float[2,4,9,8] l, float[2,s,4,9,8] s, float[2,4,9,8] f)
{
    i = If (flag) <
        then_branch = yes () => (float[2,4,9,8] t) { t = Conv <pads = [1, 1, 1, 1]> (x, w) },
        else_branch = no () => (float[2,4,9,8] e) { e = Neg(x) }
    >
    three = Constant <value = int64 {3}> ()
    l = Loop (three, flag, x) <
        body = turn (int64 n, bool c, float[2,4,9,8] a) => (bool d, float[2,4,9,8] o)
        { d = Identity(c) o = Conv <pads = [1, 1, 1, 1]> (a, w) }
    >
    five = Unsqueeze(x, axes)
    s0 = Scan <num_scan_inputs = 1, body = step (float[4,9,8] v) => (float[1,4,9,8] u)
        { q = Unsqueeze(v, zero) u = Conv <pads = [1, 1, 1, 1]> (q, w) }> (x)
    s = Identity(s0)
    g = my.domain.Block(x)
    f = my.domain.Block(g)
}
<domain: "my.domain", opset_import: ["" : 17]>
Block (a) => (b)
{
    v = Constant <value = float[4,4,1,1] {1, 2, 3, 4, 0, 1, 2, 3, 1, 0, 1, 2, 1, 1, 0, 1}> ()
    b = Conv (a, v)
}
"""


def test_bodies_and_functions() -> None:
    model = parser.parse_model(BODIES)
    integers = {"axes": [1], "zero": [0]}
    model.graph.initializer.append(
        numpy_helper.from_array((numpy_helper.to_array(tensor("w", 4, 4, 3, 3)) / 6).astype(np.float32), "w")
    )
    for name, values in integers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    sites = {site.scope.split("/")[-1].split(":")[-1] for site in locate(model)[0]}
    assert sites == {"then_branch", "body", "Block"}
    assert len(locate(model)[0]) == 4
    changed = rewrite(model)
    for flag in (True, False):
        assert_same(changed, model, x=noise(2, 4, 9, 8), flag=np.array(flag))
    block = changed.functions[0]
    assert [node.op_type for node in block.node] == ["Constant", "Conv", "Constant", "Conv"]


def test_taken_names_are_avoided() -> None:
    taken = ["y/lr0_basis", "y/lr0_basis_weight", "y/lr1_mix", "y/lr1_mix_weight"]
    nodes = [
        helper.make_node("Relu", ["x"], [taken[0]], taken[0]),
        helper.make_node("Add", [taken[0], taken[1]], ["p"]),
    ]
    nodes[1].name = taken[2]
    last = helper.make_node("Conv", ["p", "w"], ["y"], "conv1")
    model = model_of([*nodes, last], [tensor("w", 6, 4, 3, 3), tensor(taken[1], 1), tensor(taken[3], 1)])
    changed = rewrite(model)
    assert_same(changed, model, x=noise(2, 4, 9, 8))
    names = [node.name for node in changed.graph.node]
    assert len(set(names)) == len(names)
    assert {"y/lr0_basis_2", "y/lr1_mix_2"} <= set(names)
    assert {taken[1], taken[3]} <= {one.name for one in changed.graph.initializer}


def test_a_new_bias_replaces_the_old_one() -> None:
    model = model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    site = locate(model)[0][0]
    bias = np.arange(6.0)
    changed = Decompose({"y": full_chain(site).with_bias(bias)})(model).model
    expected = model_of([conv()], [tensor("w", 6, 4, 3, 3), numpy_helper.from_array(bias.astype(np.float32), "b")])
    assert_same(changed, expected, x=noise(2, 4, 9, 8))


ADDED = [
    (conv(), tensor("v", 6), "computed"),
    (helper.make_node("Gemm", ["r", "w", "x"], ["y"], "conv1"), tensor("v", 8), "an input"),
    (helper.make_node("Gemm", ["r", "w", "b"], ["y"], "conv1"), tensor("b", 2, 8), "a row for each sample"),
]


@pytest.mark.parametrize(("node", "constant", "label"), ADDED, ids=[row[2] for row in ADDED])
def test_what_is_added_and_is_no_bias_stays(node: onnx.NodeProto, constant: onnx.TensorProto, label: str) -> None:
    before = "b" if label == "computed" else "r"
    nodes = [helper.make_node("Relu", ["v" if label == "computed" else "x"], [before]), node]
    linear = node.op_type == "Gemm"
    kernel = tensor("w", 8, 8) if linear else tensor("w", 6, 4, 3, 3)
    model = model_of(nodes, [kernel, constant], (2, 8) if linear else (2, 4, 9, 8))
    site = locate(model)[0][0]
    assert site.adds
    assert not site.biased
    assert_same(rewrite(model), model, x=noise(2, 8) if linear else noise(2, 4, 9, 8))
    with pytest.raises(PassError, match="conv1: a new bias would replace its third input, which is not a bias"):
        Decompose({"y": full_chain(site).with_bias(np.zeros(site.out_channels))})(model)


def dense(weight: np.ndarray) -> Chain:
    return Chain(((Stage("dense", weight, Geometry.plain(weight.shape[2:])),),))


ERRORS = [
    ({"nowhere": dense(np.ones((6, 4, 3, 3)))}, "no such site in the model: nowhere"),
    ({"y": dense(np.ones((5, 4, 3, 3)))}, "conv1: the chain is not one from 4 to 6 channels"),
    ({"y": dense(np.full((6, 4, 3, 3), 1e300))}, "conv1: a factor overflows float32"),
]


@pytest.mark.parametrize(("chains", "message"), ERRORS, ids=["unknown site", "other channels", "overflow"])
def test_what_does_not_fit_is_refused(chains: dict[str, Chain], message: str) -> None:
    model = model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    with pytest.raises(PassError, match=message):
        Decompose(chains)(model)


def test_nothing_asked_is_nothing_done() -> None:
    model = model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    result = Decompose({})(model)
    assert result.model is model
    assert not result.modified


def test_the_comparison_can_fail() -> None:
    model = model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    changed = rewrite(model)
    factor = next(one for one in changed.graph.initializer if one.name == "y/lr1_mix_weight")
    factor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(factor) * np.float32(1.01), factor.name))
    assert run(changed, x=noise(2, 4, 9, 8))
    with pytest.raises(AssertionError):
        assert_same(changed, model, x=noise(2, 4, 9, 8))
