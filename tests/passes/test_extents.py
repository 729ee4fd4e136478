"""How much each site sees: from fixed and given input shapes, in bodies, and in functions once per call."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxlr_passes.extents import Extent, extents
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.sites import locate
from tests.passes.one_conv import conv, full_chain, model_of, rewrite, tensor


def seen(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> dict[str, Extent]:
    return extents(model, shapes, {site.key: site.geometry for site in locate(model)[0]})


def test_fixed_and_given_shapes() -> None:
    constants = [tensor("w", 6, 4, 3, 3), tensor("b", 6)]
    assert seen(model_of([conv()], constants)) == {"y": Extent(2, (9, 8))}
    free = model_of([conv()], constants, ["n", 4, "h", "w_"])
    assert seen(free) == {}, "an unknown size is not guessed"
    assert seen(free, x=(5, 4, 20, 30)) == {"y": Extent(5, (20, 30))}


def test_sizes_behind_reshapes_whose_shape_is_computed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    integers = [("zero", [0]), ("one", [1]), ("rest", [4, 12, 6])]
    constants = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in integers]
    model = model_of(nodes, [*constants, tensor("w", 6, 4, 3, 3)], ["n", 4, 9, 8])
    assert seen(model, x=(3, 4, 9, 8)) == {"y": Extent(3, (12, 6))}


def test_a_size_that_the_kernel_does_not_fit_is_none() -> None:
    free = model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)], ["n", 4, "h", "w_"])
    assert seen(free, x=(1, 4, 2, 9)) == {}
    assert seen(free, x=(1, 4, 3, 9)) == {"y": Extent(1, (3, 9))}


@pytest.mark.parametrize("imported", ["", "ai.onnx"])
@pytest.mark.parametrize("called", ["", "ai.onnx"])
def test_the_default_domain_by_either_name(imported: str, called: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Conv", ["r", "w"], ["y"])]
    model = model_of(nodes, [tensor("w", 6, 4, 3, 3)])
    model.opset_import[0].domain = imported
    for node in model.graph.node:
        node.domain = called
    assert seen(model) == {"y": Extent(2, (9, 8))}


def test_linear_maps_count_rows() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor("w", 8, 5)], (2, 4, 9, 8))
    assert seen(model) == {"y": Extent(72, ())}
    site = locate(model)[0][0]
    assert seen(model)["y"].dense_macs(site) == 72 * 40
    assert seen(model)["y"].macs(full_chain(site)) == 72 * (5 * 8 + 5 * 5)


SAME = [("SAME_UPPER", 2, 5 * 4), ("SAME_LOWER", 2, 5 * 4), ("VALID", 2, 4 * 3), ("SAME_UPPER", 1, 9 * 8)]


@pytest.mark.parametrize(("mode", "stride", "positions"), SAME)
def test_dense_macs(mode: str, stride: int, positions: int) -> None:
    model = model_of([conv(auto_pad=mode, strides=[stride, stride])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    site = locate(model)[0][0]
    assert seen(model)["y"].dense_macs(site) == 2 * 216 * positions


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[2,4,9,8] x) => (float y)
{
    a = my.domain.Block(x)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
    b = my.domain.Block(p)
    y = my.domain.Twice(b)
}
<domain: "my.domain", opset_import: ["" : 17]>
Block (i) => (o)
{
    v = Constant <value = float[4,4,1,1] {1, 2, 3, 4, 0, 1, 2, 3, 1, 0, 1, 2, 1, 1, 0, 1}> ()
    o = Conv (i, v)
}
<domain: "my.domain", opset_import: ["" : 17, "my.domain" : 1]>
Twice (i) => (o)
{
    t = my.domain.Block(i)
    o = my.domain.Block(t)
}
"""


def test_a_function_counts_once_per_call_at_its_largest_size() -> None:
    found = seen(parser.parse_model(FUNCTION))
    assert found == {"function my.domain:Block:o": Extent(2, (9, 8), calls=4)}


def test_calls_multiply_the_macs() -> None:
    model = parser.parse_model(FUNCTION)
    site = locate(model)[0][0]
    extent = seen(model)[site.key]
    assert extent.dense_macs(site) == 4 * 2 * 16 * 72
    assert seen(rewrite(model)).popitem()[1].calls == 4


BODY = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[2,4,9,8] x, bool flag) => (float[2,4,9,8] y)
<float[4,4,1,1] w = {1, 2, 3, 4, 0, 1, 2, 3, 1, 0, 1, 2, 1, 1, 0, 1}>
{
    y = If (flag) <
        then_branch = yes () => (float[2,4,9,8] t) { t = Conv(x, w) },
        else_branch = no () => (float[2,4,9,8] e) { r = Relu(x) e = Conv(r, w) }
    >
}
"""


def test_bodies_see_the_outer_shapes() -> None:
    found = seen(parser.parse_model(BODY))
    assert list(found.values()) == [Extent(2, (9, 8))] * 2
    assert {key.split("/")[1] for key in found} == {"then_branch:t", "else_branch:e"}


def test_large_weights_are_not_needed() -> None:
    model = model_of([conv()], [tensor("w", 64, 4, 5, 5), tensor("b", 64)])
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="nowhere.data")
    geometry = Geometry((5, 5), (1, 1), (1, 1), ((0, 0), (0, 0)))
    assert extents(model, {}, {"y": geometry}) == {"y": Extent(2, (9, 8))}


def test_the_model_is_left_alone() -> None:
    model = parser.parse_model(FUNCTION)
    before = model.SerializeToString(deterministic=True)
    seen(model)
    assert model.SerializeToString(deterministic=True) == before
