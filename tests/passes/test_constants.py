"""Constants: what counts as one, what it holds, and in words why another value is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser

from onnxlr_passes.base import PassError
from onnxlr_passes.constants import Constant, Constants
from onnxlr_passes.scopes import scopes

if TYPE_CHECKING:
    from pathlib import Path

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def model_of(
    *nodes: onnx.NodeProto, opset: int = 17, initializers: tuple[onnx.TensorProto, ...] = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(W, "w"), *initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def resolve(model: onnx.ModelProto, name: str, path: str = "", folder: Path | None = None) -> Constant | str:
    scope = next(scope for scope in scopes(model) if scope.path == path)
    return Constants(model, folder).resolve(scope, name)


def constant(model: onnx.ModelProto, name: str, path: str = "") -> Constant:
    found = resolve(model, name, path)
    assert isinstance(found, Constant), found
    return found


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


THROUGH = [
    ("identity", 17, [helper.make_node("Identity", ["w"], ["v"])], W),
    ("transpose", 17, [helper.make_node("Transpose", ["w"], ["v"])], W.T),
    ("transpose perm", 17, [helper.make_node("Transpose", ["w"], ["v"], perm=[0, 1])], W),
    ("cast", 17, [helper.make_node("Cast", ["w"], ["v"], to=TensorProto.DOUBLE)], W.astype(np.float64)),
    ("cast to half", 17, [helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT16)], W.astype(np.float16)),
    ("reshape", 17, [helper.make_node("Reshape", ["w", "s"], ["v"])], W.reshape(2, 3, 1)),
    ("reshape, opset 1", 1, [helper.make_node("Reshape", ["w"], ["v"], shape=[3, -1])], W.reshape(3, 2)),
    ("unsqueeze", 17, [helper.make_node("Unsqueeze", ["w", "a"], ["v"])], W[:, :, None, None]),
    ("unsqueeze, opset 7", 7, [helper.make_node("Unsqueeze", ["w"], ["v"], axes=[0, 3])], W[None, :, :, None]),
    (
        "squeeze",
        17,
        [helper.make_node("Unsqueeze", ["w", "a"], ["u"]), helper.make_node("Squeeze", ["u"], ["v"])],
        W,
    ),
    (
        "squeeze axes, opset 7",
        7,
        [
            helper.make_node("Unsqueeze", ["w"], ["u"], axes=[0, 1]),
            helper.make_node("Squeeze", ["u"], ["v"], axes=[0]),
        ],
        W[None],
    ),
    (
        "a chain",
        17,
        [
            helper.make_node("Identity", ["w"], ["i"]),
            helper.make_node("Transpose", ["i"], ["t"]),
            helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["c"], ["v"], to=TensorProto.FLOAT),
        ],
        W.T,
    ),
]


@pytest.mark.parametrize(("label", "opset", "nodes", "expected"), THROUGH, ids=[row[0] for row in THROUGH])
def test_constants_are_seen_through(label: str, opset: int, nodes: list[onnx.NodeProto], expected: np.ndarray) -> None:
    model = model_of(*nodes, opset=opset, initializers=(ints("s", 0, -1, 1), ints("a", -1, -2)))
    found = constant(model, "v")
    assert found.shape == expected.shape
    assert found.array.dtype == expected.dtype == helper.tensor_dtype_to_np_dtype(found.dtype)
    np.testing.assert_array_equal(found.array, expected)
    assert found.array.flags.c_contiguous
    assert not found.array.flags.writeable
    assert found.origin == "initializer 'w'"


VALUES = [
    ({"value": numpy_helper.from_array(W)}, W),
    ({"value_float": 2.5}, np.array(2.5, np.float32)),
    ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
    ({"value_int": 7}, np.array(7, np.int64)),
    ({"value_ints": [1, 2, 3]}, np.array([1, 2, 3], np.int64)),
]


@pytest.mark.parametrize(("attributes", "expected"), VALUES, ids=[next(iter(row[0])) for row in VALUES])
def test_constant_nodes_are_read(attributes: dict[str, object], expected: np.ndarray) -> None:
    found = constant(model_of(helper.make_node("Constant", [], ["v"], **attributes)), "v")
    assert found.array.dtype == expected.dtype
    np.testing.assert_array_equal(found.array, expected)
    assert found.origin == "Constant 'v'"


FILLED = [
    ({"value": numpy_helper.from_array(np.array([2.5], np.float16))}, np.full((2, 3, 1), 2.5, np.float16)),
    ({"value": numpy_helper.from_array(np.array(7, np.int64))}, np.full((2, 3, 1), 7, np.int64)),
    ({}, np.zeros((2, 3, 1), np.float32)),
]


@pytest.mark.parametrize(("attributes", "expected"), FILLED)
def test_filled_tensors_are_constants(attributes: dict[str, object], expected: np.ndarray) -> None:
    node = helper.make_node("ConstantOfShape", ["shape"], ["v"], **attributes)
    found = constant(model_of(node, initializers=(ints("shape", 2, 3, 1),)), "v")
    assert found.shape == (2, 3, 1)
    assert found.array.dtype == expected.dtype
    np.testing.assert_array_equal(found.array, expected)
    assert found.origin == "ConstantOfShape 'v'"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (ints("shape", 1 << 20, 1 << 20), "ConstantOfShape 'v' is larger than 2 GiB"),
        (ints("shape", 2, -1), "computed by ConstantOfShape (its shape or value is not valid)"),
        (numpy_helper.from_array(np.ones(2, np.float32), "shape"), "initializer 'shape' does not hold integers"),
    ],
)
def test_filled_tensors_of_impossible_shape_are_refused(shape: onnx.TensorProto, reason: str) -> None:
    node = helper.make_node("ConstantOfShape", ["shape"], ["v"])
    assert resolve(model_of(node, initializers=(shape,)), "v") == reason


TYPES = [(np.float16, 10), (np.float32, 1), (np.float64, 11), (ml_dtypes.bfloat16, 16)]


@pytest.mark.parametrize(("dtype", "proto"), TYPES, ids=[str(np.dtype(row[0])) for row in TYPES])
def test_every_float_type_is_read_from_raw_and_from_typed_fields(dtype: type, proto: int) -> None:
    raw = numpy_helper.from_array(W.astype(dtype), "raw")
    typed = helper.make_tensor("typed", proto, W.shape, W.ravel().tolist())
    model = model_of(initializers=(raw, typed))
    for name in ("raw", "typed"):
        found = constant(model, name)
        assert (found.dtype, found.array.dtype) == (proto, np.dtype(dtype))
        np.testing.assert_array_equal(found.array.astype(np.float32), W)


NOT_CONSTANT = [
    ("x", [], "graph input"),
    ("", [], "left out"),
    ("nowhere", [], "'nowhere' is not defined"),
    ("v", [helper.make_node("Relu", ["w"], ["v"])], "computed by Relu"),
    ("v", [helper.make_node("Identity", ["x"], ["v"])], "graph input"),
    ("v", [helper.make_node("Relu", ["w"], ["v"], domain="my.domain")], "computed by my.domain:Relu"),
    ("v", [helper.make_node("Identity", ["w"], ["v"], domain="my.domain")], "computed by my.domain:Identity"),
    ("v", [helper.make_node("DequantizeLinear", ["w", "s"], ["v"])], "output of DequantizeLinear"),
    ("v", [helper.make_node("Constant", [], ["v"], value_string="no")], "Constant given by 'value_string'"),
    ("v", [helper.make_node("Cast", ["w"], ["v"], to=TensorProto.STRING)], "cast to a type other than"),
    ("v", [helper.make_node("Reshape", ["w", "five"], ["v"])], "computed by Reshape (its shape does not fit [2, 3])"),
    ("v", [helper.make_node("Reshape", ["w", "x"], ["v"])], "graph input"),
    ("v", [helper.make_node("Squeeze", ["w", "zero"], ["v"])], "computed by Squeeze"),
    ("v", [helper.make_node("Transpose", ["w"], ["v"], perm=[0, 2])], "computed by Transpose (perm"),
    ("v", [helper.make_node("Identity", ["u"], ["v"]), helper.make_node("Identity", ["v"], ["u"])], "behind more than"),
    ("text", [], "initializer 'text' is not numeric"),
]


@pytest.mark.parametrize(("name", "nodes", "reason"), NOT_CONSTANT, ids=[row[2] for row in NOT_CONSTANT])
def test_other_values_are_refused_with_a_reason(name: str, nodes: list[onnx.NodeProto], reason: str) -> None:
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"a"])
    found = resolve(model_of(*nodes, initializers=(text, ints("five", 5), ints("zero", 0))), name)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_a_sparse_initializer_is_not_covered() -> None:
    model = model_of()
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [3.0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, ints("i", 2), [5]))
    assert resolve(model, "s") == "sparse initializer"


def test_an_initializer_listed_as_an_input_is_constant_and_says_so() -> None:
    model = model_of()
    assert not constant(model, "w").listed_as_input
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]))
    assert constant(model, "w").listed_as_input


def test_the_same_array_has_the_same_key_and_another_one_another() -> None:
    model = model_of(
        helper.make_node("Identity", ["w"], ["a"]),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Transpose", ["a"], ["t2"]),
        initializers=(numpy_helper.from_array(W, "w2"),),
    )
    keys = {name: constant(model, name).key for name in ("w", "a", "t", "t2", "w2")}
    assert keys["w"] == keys["a"]
    assert keys["t"] == keys["t2"]
    assert len(set(keys.values())) == 3


NESTED = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[2] x, bool flag) => (float[2] y)
<float[2] w = {1, 2}>
{
    v = Identity(w)
    m = my.domain.Block(x)
    y = If (flag) <
        then_branch = yes () => (float[2] yes_out) { yes_out = Mul(v, w) },
        else_branch = no () => (float[2] no_out) <float[2] w = {9, 9}> { u = Identity(w) no_out = Mul(u, v) }
    >
}
<domain: "my.domain", opset_import: ["" : 13]>
Block <factor> (a) => (b) { c = Constant <value_floats: floats = @factor> () d = Identity(a) b = Mul(d, c) }
"""


def test_names_mean_what_they_mean_in_their_scope() -> None:
    model = parser.parse_model(NESTED)
    np.testing.assert_array_equal(constant(model, "w", "If_2/then_branch").array, [1, 2])
    np.testing.assert_array_equal(constant(model, "v", "If_2/then_branch").array, [1, 2])
    np.testing.assert_array_equal(constant(model, "w", "If_2/else_branch").array, [9, 9])
    np.testing.assert_array_equal(constant(model, "u", "If_2/else_branch").array, [9, 9])
    np.testing.assert_array_equal(constant(model, "v", "If_2/else_branch").array, [1, 2])
    assert constant(model, "w", "If_2/else_branch").key != constant(model, "w").key
    block = "function my.domain:Block"
    assert resolve(model, "d", block) == "function input"
    assert resolve(model, "w", block) == "'w' is not defined"
    assert resolve(model, "c", block) == "Constant whose value is an attribute of the function"


def test_an_input_of_a_loop_body_is_not_constant_even_beside_an_initializer() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Add", ["state", "w"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [2, 3]),
        ],
        [numpy_helper.from_array(W, "state")],
    )
    model = model_of(helper.make_node("Loop", ["", "", "x"], ["y"], body=body, name="loop"))
    assert resolve(model, "state", "loop/body") == "subgraph input"
    assert constant(model, "w", "loop/body").shape == (2, 3)


def external(tmp_path: Path) -> onnx.ModelProto:
    model = model_of()
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "m.onnx")
    return onnx.load(tmp_path / "m.onnx", load_external_data=False)


def test_external_data_is_read_on_access_and_the_model_keeps_its_reference(tmp_path: Path) -> None:
    model = external(tmp_path)
    before = model.SerializeToString(deterministic=True)
    found = resolve(model, "w", folder=tmp_path)
    assert isinstance(found, Constant)
    np.testing.assert_array_equal(found.array, W)
    assert model.SerializeToString(deterministic=True) == before
    assert resolve(model, "w") == "initializer 'w' has external data and no folder to read it from"


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_external_data_that_cannot_be_read_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    model = external(tmp_path)
    if damage == "missing":
        (tmp_path / "weights.bin").unlink()
    else:
        (tmp_path / "weights.bin").write_bytes(b"1234")
    found = resolve(model, "w", folder=tmp_path)
    assert isinstance(found, Constant)
    assert found.shape == (2, 3)
    with pytest.raises(PassError, match="tensor 'w'"):
        _ = found.array


def test_integers_are_given_as_a_list_or_refused() -> None:
    model = model_of(initializers=(ints("s", 3, -1),))
    main = scopes(model)[0]
    assert Constants(model).integers(main, "s") == [3, -1]
    assert Constants(model).integers(main, "w") == "initializer 'w' does not hold integers"
    assert Constants(model).integers(main, "x") == "graph input"
